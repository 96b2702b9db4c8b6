"""Save the pictures at once: their addresses expire. `python save.py [folder]`."""

import sys
from pathlib import Path

import fal_client
import httpx

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
result = fal_client.subscribe(
    "fal-ai/glm-image",
    arguments={
        "prompt": "A slide with the title 'Quarterly Review', clean layout",
        "image_size": {"width": 768, "height": 512},
        "num_inference_steps": 10,
        "num_images": 2,
        "output_format": "png",
    },
)
for number, image in enumerate(result["images"], start=1):
    name = f"slide-{result['seed']}-{number}.png"
    with httpx.stream("GET", image["url"], follow_redirects=True) as response:
        response.raise_for_status()
        with open(folder / name, "wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
    print(folder / name)
