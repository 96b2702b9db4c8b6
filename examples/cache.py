"""Pay for a picture once: keep it under what it was asked with. `python cache.py [folder]`."""

import hashlib
import json
import sys
from pathlib import Path

import fal_client
import httpx


def cached_picture(folder, arguments):
    """Return a local file; the same arguments, seed included, are generated only once."""
    key = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
    path = folder / f"{key[:32]}.jpg"
    if path.exists():
        return path, True
    result = fal_client.subscribe("fal-ai/glm-image", arguments=arguments)
    content = httpx.get(result["images"][0]["url"]).raise_for_status().content
    partial = path.with_suffix(".part")
    partial.write_bytes(content)
    partial.rename(path)
    return path, False


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
folder.mkdir(parents=True, exist_ok=True)
wanted = {
    "prompt": "A diagram of the water cycle with the labels 'Rain' and 'Sea'",
    "image_size": "square",
    "num_inference_steps": 10,
    "seed": 2026,  # without one, every picture is another
}
for _ in range(2):
    file, found = cached_picture(folder, wanted)
    print("found" if found else "painted", file)
