"""Paint one poster and print where it is."""

import fal_client

result = fal_client.subscribe(
    "fal-ai/glm-image",
    arguments={
        "prompt": "A conference poster with the headline 'AI Summit 2026' in bold sans-serif",
        "image_size": "landscape_16_9",
        "num_inference_steps": 30,
    },
)
print(result["images"][0]["url"])
