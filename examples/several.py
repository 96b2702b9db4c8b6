"""Ask for several pictures in one call instead of several calls, and follow the log."""

import fal_client

printed = []


def show(update):
    if isinstance(update, fal_client.InProgress):
        for entry in (update.logs or [])[len(printed) :]:  # every update holds the whole log
            print(entry["message"])
            printed.append(entry)


result = fal_client.subscribe(
    "fal-ai/glm-image",
    arguments={
        "prompt": "A coffee bag with the label 'Morning Roast', product photo",
        "image_size": "square",
        "num_inference_steps": 10,
        "num_images": 3,
        "seed": 42,
    },
    with_logs=True,
    on_queue_update=show,
)
for image, is_flagged in zip(result["images"], result["has_nsfw_concepts"], strict=True):
    if not is_flagged:
        print(image["url"], f"{image['width']}x{image['height']}")
print("seed", result["seed"])
