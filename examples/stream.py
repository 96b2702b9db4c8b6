"""Watch a picture being made: progress as it happens, the result as the last event."""

import fal_client

for event in fal_client.stream(
    "fal-ai/glm-image",
    arguments={
        "prompt": "A neon sign that says 'Jazz Tonight'",
        "image_size": "square",
        "num_inference_steps": 10,
    },
):
    print(event)
