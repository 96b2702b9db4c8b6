"""What a machine can reach, and how much work a picture is: to say how near the engine comes."""

from __future__ import annotations

import time
from typing import Any

Case = dict[str, Any]
MATRIX = {"cpu": 1536, "cuda": 8192}
COPY_BYTES = {"cpu": 2**27, "cuda": 2**31}
HOST_BYTES = 2**28


def machine_ceiling(device: Any, dtype: Any) -> dict[str, float]:
    """Measure the best of several large products, and of several copies, on an idle device.

    host_bytes_per_s, of CUDA alone: from page-locked memory of the host to the device.
    """
    import torch

    from glmimage.memory import synchronize

    def best(work: Any) -> float:
        seconds = []
        for _ in range(7):
            synchronize(device)
            started = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    kind = "cuda" if device.type == "cuda" else "cpu"
    side, size = MATRIX[kind], COPY_BYTES[kind]
    a = torch.randn(side, side, device=device).to(dtype)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    found = {
        "flop_per_s": 2 * side**3 / best(lambda: a @ a),
        # read and written
        "bytes_per_s": 2 * size / best(lambda: target.copy_(source)),
    }
    if kind == "cuda":
        host = torch.empty(HOST_BYTES, dtype=torch.uint8, pin_memory=True)
        there = torch.empty_like(host, device=device)
        found["host_bytes_per_s"] = HOST_BYTES / best(lambda: there.copy_(host, non_blocking=True))
    return found


def denoise_flop(dit: Any, case: Case) -> float:
    """Count the products of the denoise loop: layers and attention, without glyph tokens."""
    config = dit.config
    patches, width = (case["width"] // 16) * (case["height"] // 16), config.inner_dim
    keys = patches + case["references"] * (512 // 16) ** 2
    linear = 2 * patches * 12 * width**2
    guided = 4 * patches * keys * width
    unguided = 4 * patches * patches * width
    passes = linear + guided
    if case["guidance"] > 1:
        passes += linear + unguided
    return float(case["steps"] * config.num_layers * passes)


def prior_bytes(stage: Any, passes: float) -> float:
    """Count the weights that so many passes of the prior read: not its embedding, nor the cache."""
    count = sum(p.numel() for p in stage.prior.parameters()) - stage.prior.embed.weight.numel()
    weight = stage.prior.embed.weight
    dtype = weight.dtype if stage.packed is None else stage.packed.products
    return float(count * dtype.itemsize * passes)
