"""What makes two requests equal: for their pictures, and for their priors alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .fal.schemas import TextToImageInput

VERSION = 1
"""Counted up when the same input begins to mean another picture."""


def result_key(
    endpoint: str,
    valid: TextToImageInput,
    seed: int,
    references: Sequence[str],
    model: str,
    encoding: Mapping[str, Any] | None = None,
    loras: Sequence[Sequence[Any]] = (),
) -> str:
    """Name everything the pictures depend on. references, loras: their identities."""
    width, height = valid.size()
    # what is rarely asked for is left out, so that the keys of all else stay as they were
    rare: dict[str, Any] = (
        {"checks": [valid.text_check, valid.best_of]} if valid.checks_text else {}
    )
    if encoding is not None:
        rare["encoding"] = list(encoding.items())
    if loras:
        rare["loras"] = [list(lora) for lora in loras]
    return _key(
        "result",
        endpoint=endpoint,
        model=model,
        prompt=valid.prompt,
        size=[width, height],
        steps=valid.num_inference_steps,
        guidance=valid.guidance_scale,
        seed=seed,
        num_images=valid.num_images,
        safety=valid.enable_safety_checker,
        format=valid.output_format,
        expansion=valid.enable_prompt_expansion,
        references=list(references),
        **rare,
    )


def prior_key(
    prompt: str,
    size: tuple[int, int],
    seed: int,
    num_images: int,
    references: Sequence[str],
    model: str,
    loras: Sequence[Sequence[Any]] = (),
) -> str:
    """Name everything the prior tokens depend on. prompt: as painted, after expansion."""
    return _key(
        "prior",
        model=model,
        prompt=prompt,
        size=list(size),
        seed=seed,
        num_images=num_images,
        references=list(references),
        **({"loras": [list(lora) for lora in loras]} if loras else {}),
    )


def _key(kind: str, **parts: Any) -> str:
    document = json.dumps([kind, VERSION, parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode("ascii")).hexdigest()
