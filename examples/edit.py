"""Give a photo another style: `python edit.py photo.jpg [style.jpg]`. The first is the subject."""

import sys

import fal_client

urls = [fal_client.upload_file(path) for path in sys.argv[1:]]
result = fal_client.subscribe(
    "fal-ai/glm-image/image-to-image",
    arguments={
        "prompt": "Apply a watercolor style while preserving the subject",
        "image_urls": urls,
        "image_size": "square",
        "num_inference_steps": 20,
    },
)
print(result["images"][0]["url"])
