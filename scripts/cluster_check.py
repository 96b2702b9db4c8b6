"""Check a cluster: fal's own client sends requests through both gateways while parts are killed.

    make cluster-check
    python scripts/cluster_check.py [--requests 100]

Starts the cluster of cluster.py on the toy checkpoint, kills a gateway after a quarter of the
requests and a worker of each stage after a half, and compares every picture, byte for byte, with
what the library paints for its seed. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "A sign 'OPEN'"
STEPS = 10
GUIDANCE_SCALE = 1.0  # one pass a step
NUM_SEEDS = 8
# run under `glmimage exec`: nothing in it knows of this server
SENDER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import fal_client, httpx

folder, number, num_seeds, prompt, steps, guidance_scale = sys.argv[1:]

def send(index):
    seed = 1 + index % int(num_seeds)
    result = fal_client.subscribe("fal-ai/glm-image", arguments={
        "prompt": prompt, "image_size": "square", "num_inference_steps": int(steps),
        "guidance_scale": float(guidance_scale), "seed": seed, "output_format": "png"})
    assert result["seed"] == seed
    for attempt in range(10):
        try:
            content = httpx.get(result["images"][0]["url"], timeout=60).raise_for_status().content
            break
        except httpx.TransportError:
            if attempt == 9:
                raise
    Path(folder, f"{index}.part").write_bytes(content)
    Path(folder, f"{index}.part").rename(Path(folder, f"{index}-{seed}.png"))

with ThreadPoolExecutor(8) as pool:
    list(pool.map(send, range(int(number))))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()

    from cluster import Cluster

    from glmimage.loading.tiny import make_tiny

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        model = make_tiny(folder / "toy", seed=0)
        print("Starting the cluster.", flush=True)
        cluster = Cluster(
            *(str(model), 1, 2),
            GLMIMAGE_DEVICE="cpu",
            GLMIMAGE_DTYPE="float32",
            GLMIMAGE_RESULT_CACHE="0",
            OMP_NUM_THREADS="1",
        )
        try:
            print(cluster.describe(), flush=True)
            cluster.wait_until_ready()
            began = time.monotonic()
            code = _send(cluster, pictures, options.requests)
            seconds = time.monotonic() - began
            served = list(cluster.https.num_served.values())
        finally:
            cluster.stop()
        report = _compare(pictures, model)
    report |= {
        "requests": options.requests,
        "client's exit code": code,
        "seconds": round(seconds, 1),
        "connections to each gateway": served,
    }
    print(json.dumps(report))
    right = report["pictures equal to generate()"] == options.requests
    return 0 if code == 0 and right and all(served) else 1


def _send(cluster, pictures: Path, number: int) -> int:  # type: ignore[no-untyped-def]
    """Send everything, and kill on the way."""
    kills = [(number // 4, ["gateway-1"]), (number // 2, ["decode-1", "prior-1"])]
    arguments = [
        str(pictures),
        str(number),
        str(NUM_SEEDS),
        PROMPT,
        str(STEPS),
        str(GUIDANCE_SCALE),
    ]
    sender = subprocess.Popen(
        [sys.executable, "-m", "glmimage", "exec", "--", sys.executable, "-c", SENDER, *arguments],
        env=os.environ | {"GLMIMAGE_DATA_DIR": str(cluster.data_dir)},
    )
    shown = -1
    while sender.poll() is None:
        done = len(list(pictures.glob("*.png")))
        if done != shown and done % 10 == 0:
            shown = done
            print(f"{done} of {number} pictures", flush=True)
        if kills and done >= kills[0][0]:
            for part in kills.pop(0)[1]:
                print(f"killing {part} with SIGKILL", flush=True)
                cluster.part(part).process.kill()
        time.sleep(0.2)
    return sender.wait()


def _compare(pictures: Path, model: Path) -> dict[str, int]:
    """Paint every seed once more, without a service."""
    import torch

    from glmimage.output import encode_picture
    from glmimage.pipeline import Pipeline

    torch.set_num_threads(1)
    expected: dict[int, bytes] = {}
    equal = different = 0
    with Pipeline.load(str(model), "cpu", "float32") as pipe:
        for file in sorted(pictures.glob("*.png")):
            seed = int(file.stem.partition("-")[2])
            if seed not in expected:
                options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE_SCALE}
                (image,) = pipe.generate(PROMPT, width=512, height=512, seed=seed, **options).images
                expected[seed] = encode_picture(image, "png")
            same = file.read_bytes() == expected[seed]
            equal, different = equal + same, different + (not same)
    return {"pictures equal to generate()": equal, "pictures that differ": different}


if __name__ == "__main__":
    sys.exit(main())
