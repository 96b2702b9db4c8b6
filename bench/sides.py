"""Two sides of a comparison: glmimage, and diffusers' GlmImagePipeline on the same checkpoint."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from ceiling import denoise_flop, machine_ceiling, prior_bytes

PROMPT = "A conference poster with the headline 'AI Summit 2026' in bold sans-serif"
Case = dict[str, Any]


def references(case: Case) -> tuple[Any, ...]:
    """Draw the case's references, 512 px each."""
    from PIL import Image

    shades = (Image.linear_gradient("L").rotate(90 * turn) for turn in range(case["references"]))
    return tuple(shade.resize((512, 512)).convert("RGB") for shade in shades)


def mend_references(pipe: Any) -> None:
    """Let diffusers 0.42.1 read references with transformers 5.23, which shapes them otherwise."""
    encoder = pipe.vision_language_encoder
    features_of = encoder.get_image_features

    def get_image_features(*arguments: Any, **options: Any) -> Any:
        output = features_of(*arguments, **options)
        if "return_dict" not in options:  # called by diffusers, not by generate()
            output.pooler_output = [one.flatten(1).T for one in output.pooler_output]
        return output

    def get_image_tokens(features: Any, grids: Any) -> Any:
        parts = features.split(grids.prod(-1).tolist())
        sizes = grids[:, 1:].tolist()
        maps = [part.T.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]
        return encoder.model.get_image_tokens(maps)

    encoder.get_image_features = get_image_features
    encoder.get_image_tokens = get_image_tokens


def prior_format(stages: Any) -> str:
    """Name the number format of our prior, and that of its products where it is another."""
    packed = stages.prior().packed
    own, products = stages.dtypes.prior, packed and packed.products
    name = f"{own}" if products in (None, own) else f"{own} (products {products})"
    return name.replace("torch.", "")


class Ours:
    """Run glmimage as a user of the library does."""

    def __init__(self, options: argparse.Namespace, dtype: str) -> None:
        from glmimage import Pipeline
        from glmimage.token_loop import TokenLoop

        self.passes, step = 0, TokenLoop.step

        def counted(loop: TokenLoop, *arguments: Any) -> Any:
            self.passes += bool(loop.rows)
            return step(loop, *arguments)

        TokenLoop.step = counted  # type: ignore[method-assign]
        self.pipe = Pipeline.load(
            options.model,
            options.device,
            None if dtype == "auto" else dtype,
            "resident",
            fast=options.fast,
        )
        self.device, dtypes = self.pipe.stages.device, self.pipe.stages.dtypes
        self.dtype = f"{prior_format(self.pipe.stages)} prior, {dtypes.decode} decoder"

    def ceiling(self) -> dict[str, float]:
        return machine_ceiling(self.device, self.pipe.stages.dtypes.decode)

    def work(self, case: Case) -> dict[str, float]:
        """Count what a picture of the last run cost: the denoise loop's products, weights read."""
        stages = self.pipe.stages
        return {
            "denoise_flop": denoise_flop(stages.decode().dit, case),
            "prior_bytes": prior_bytes(stages.prior(), self.passes / case["requests"]),
        }

    def run(self, case: Case) -> dict[str, float]:
        self.passes = 0
        if case["requests"] > 1:
            return self._run_many(case)
        started = time.perf_counter()
        result = self.pipe.generate(
            PROMPT,
            width=case["width"],
            height=case["height"],
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance"],
            seed=case["seed"],
            source_images=references(case),
        )
        return {**result.timings, "total_s": time.perf_counter() - started}

    def _run_many(self, case: Case) -> dict[str, float]:
        """Let all requests wait at once, and take the seconds a picture."""
        from glmimage import GenerationRequest

        requests = [
            GenerationRequest(
                PROMPT,
                case["width"],
                case["height"],
                num_inference_steps=case["steps"],
                guidance_scale=case["guidance"],
                seed=1000 * case["seed"] + number,
                source_images=references(case),
            )
            for number in range(case["requests"])
        ]
        return paint_together(self.pipe.stages, requests)


def paint_together(
    stages: Any, requests: Sequence[Any], engine: Any = None, until: float = 0.0
) -> dict[str, float]:
    """Make requests that all wait at once, of one picture each; return the seconds a picture.

    engine: one that is warm already. until: time.monotonic() of the end, when what is not finished
    is given up; all the time until the last of the `finished` pictures counts as theirs.
    """
    from glmimage.engine.engine import Engine
    from glmimage.memory import synchronize
    from glmimage.types import Failed, PictureReady

    engine, spent = (
        engine or Engine(stages),
        dict.fromkeys(("prior_s", "denoise_s", "decode_s"), 0.0),
    )
    synchronize(stages.device)
    started, last, finished = time.perf_counter(), time.perf_counter(), 0
    ids = [engine.add_request(request) for request in requests]
    while engine.has_work and not (until and time.monotonic() > until):
        for event in engine.step():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, PictureReady):
                finished, last = finished + 1, time.perf_counter()
                for name in spent:
                    spent[name] += event.timings[name]
    for request_id in ids:
        engine.abort(request_id)
    spent["total_s"] = last - started
    return {name: seconds / max(finished, 1) for name, seconds in spent.items()} | {
        "finished": finished
    }


class Upstream:
    """Run the reference pipeline with a plain call; its stages are timed from outside."""

    def __init__(self, options: argparse.Namespace, dtype: str) -> None:
        import torch
        from diffusers import GlmImagePipeline

        from glmimage.loading.checkpoint import resolve_model
        from glmimage.memory import choose_device

        device = choose_device(options.device)
        pipe = GlmImagePipeline.from_pretrained(
            resolve_model(options.model), dtype=getattr(torch, dtype)
        ).to(device)
        pipe.set_progress_bar_config(disable=True)
        self._take(pipe, device, dtype)

    @classmethod
    def of(cls, pipe: Any, device: Any) -> Upstream:
        """Take a pipeline that is built already."""
        side = cls.__new__(cls)
        side._take(pipe, device, str(pipe.dtype))
        return side

    def _take(self, pipe: Any, device: Any, dtype: str) -> None:
        self.pipe, self.device, self.dtype = pipe, device, dtype
        mend_references(pipe)
        self.spent: dict[str, float] = {}
        self._time(self.pipe, "generate_prior_tokens", "prior_s")
        self._time(self.pipe.vae, "decode", "decode_s")
        self._time(self.pipe.image_processor, "postprocess", "decode_s")

    def _time(self, owner: Any, name: str, stage: str) -> None:
        from glmimage.memory import synchronize

        call = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            synchronize(self.device)
            started = time.perf_counter()
            result = call(*arguments, **options)
            synchronize(self.device)
            self.spent[stage] = self.spent.get(stage, 0.0) + time.perf_counter() - started
            return result

        setattr(owner, name, timed)

    def run(self, case: Case) -> dict[str, float]:
        """Make one picture, or several one after the other: seconds a picture."""
        runs = [self._run_one(case | {"seed": case["seed"] + n}) for n in range(case["upstream"])]
        return {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}

    def _run_one(self, case: Case) -> dict[str, float]:
        import torch

        self.spent = {}
        started = time.perf_counter()
        self.pipe(
            PROMPT,
            height=case["height"],
            width=case["width"],
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance"],
            generator=torch.Generator(self.device).manual_seed(case["seed"]),
            image=list(references(case)) or None,
        )
        total = time.perf_counter() - started
        rest = total - self.spent["prior_s"] - self.spent["decode_s"]
        return {**self.spent, "denoise_s": rest, "total_s": total}


def peak_memory(torch: Any, device: Any) -> float:
    """Return the most the process has held so far: on the device, or in RAM on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
