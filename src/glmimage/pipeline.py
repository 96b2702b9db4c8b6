"""From a prompt to a picture: five stages as functions, and `generate()` that chains them.

    encode_prompts     the prompt, and the references as the prior sees them     -> PriorInputs
    write_priors       the token loop: rows enter and leave it at any step       -> PriorReady
    encode_references  the references as the decoder sees them, once a request   -> ReferenceCache
    denoise            noise becomes latents, step by step
    decode             latents become pixels

The first two need the prior's stage, the others the decoder's; a few kilobytes of prior tokens
join them. Every picture has its own prior and its own random stream; global random state is neither
read nor written, so that a picture depends on its request and its seed alone.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from types import TracebackType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .loading.tensors import OnProgress
from .memory import memory_errors, synchronize
from .model.prior import upsample_prior
from .model.reference_cache import ReferenceCache
from .model.sampling import RandomStream
from .model.schedule import euler_step, make_schedule
from .model.step_cache import StepCache
from .picture import Picture, make_pictures, share_time
from .prompt import fill_sources, get_glyph_texts
from .side_by_side import side_by_side
from .stages import DecodeStage, PriorStage, Stages
from .token_loop import KV_TOKENS, NUM_SLOTS, TokenLoop
from .types import (
    DenoiseStep,
    Event,
    GenerationRequest,
    GenerationResult,
    PictureReady,
    PriorReady,
    Queued,
)

PRIOR_STRIDE = 32
"""px a prior token."""
MIN_TILE = 512
"""px: of the published VAE half a GiB, for which there is always room (`memory.RESERVE_BYTES`)."""
PREVIEW_TOKENS = 8
"""Tokens on a preview's longer side that stay apart when its latents are averaged."""


@torch.inference_mode()
def encode_prompts(stage: PriorStage, pictures: Sequence[Picture]) -> None:
    """Tokenise the prompts, and their references with the vision encoder, once a request."""
    for _, group in groupby(pictures, key=lambda picture: picture.request_id):
        started_s, images = time.perf_counter(), list(group)
        request = images[0].request
        inputs = stage.prompt.encode(
            request.prompt, request.height, request.width, request.source_images
        )
        source_ids: list[Tensor] = []
        if inputs.pixel_values is not None:
            pixel_values = inputs.pixel_values.to(stage.device)
            source_ids = stage.vision(pixel_values, inputs.source_grid_thw)
            source_ids = [ids.cpu() for ids in source_ids]
            inputs = replace(fill_sources(inputs, source_ids), pixel_values=None)
        for picture in images:
            picture.inputs, picture.source_ids = inputs, tuple(source_ids)
        share_time(images, "prior_s", started_s)


def write_priors(
    stage: PriorStage,
    pictures: Sequence[Picture],
    num_slots: int = NUM_SLOTS,
    kv_tokens: int = KV_TOKENS,
) -> Iterator[Event]:
    """Write the priors of any pictures together; each enters as soon as there is room."""
    loop = TokenLoop(stage, num_slots, kv_tokens)
    waiting = deque(picture for picture in pictures if picture.prior is None)
    while waiting or loop.rows:
        while waiting and (room := loop.room(waiting[0].encoded.max_length)):
            mates = [waiting.popleft()]
            while waiting and waiting[0].inputs is mates[0].inputs and len(mates) < room:
                mates.append(waiting.popleft())
            loop.enter(mates)
        yield from loop.step()


@torch.inference_mode()
def encode_references(stage: DecodeStage, picture: Picture) -> ReferenceCache | None:
    """Compute the decoder's keys and values of a request's references; None without references.

    A reference is scaled to the grid its tokens were read on, so that both cover the same patches.
    """
    if not picture.source_ids:
        return None
    started_s = time.perf_counter()
    stage = stage.adapted(picture.request.loras)
    latents, prior_ids, sizes = [], [], []
    grids = picture.encoded.source_grids
    for image, ids, grid in zip(
        picture.request.source_images, picture.source_ids, grids, strict=True
    ):
        size = grid[0] * PRIOR_STRIDE, grid[1] * PRIOR_STRIDE
        _tile(stage, size[0] * size[1])
        latents.append(stage.vae.encode(image, size))
        prior_ids.append(upsample_prior(ids, grid).to(stage.device))
        sizes.append(size)
    references = stage.dit.encode_references(latents, prior_ids, sizes)
    share_time([picture], "denoise_s", started_s)
    return references


@torch.inference_mode()
def denoise(
    stage: DecodeStage, pictures: Sequence[Picture], references: ReferenceCache | None = None
) -> Iterator[Tensor]:
    """Yield the latents (B, C, H/8, W/8), float32, after each step.

    The pictures are of one request: they share size, steps, guidance, glyphs and references. Each
    is told where the step sees its latents end.
    """
    request, device, batch = pictures[0].request, stage.device, len(pictures)
    stage = stage.adapted(request.loras)
    dit, scale = stage.dit, stage.vae.scale_factor
    height, width = request.height, request.width
    shape = (stage.vae.latent_channels, height // scale, width // scale)
    latents = torch.stack([RandomStream(p.seed).noise(shape) for p in pictures]).to(device)
    prior_ids = torch.stack([_decoder_ids(picture) for picture in pictures]).to(device)
    none = torch.zeros(batch, dtype=torch.bool, device=device)
    contexts = [
        dit.prepare(
            _glyph_embeds(stage, request.prompt, batch),
            prior_ids,
            prior_drop=none,
            reference_cache=ReferenceCache.stack([references] * batch),
        )
    ]
    guided = request.guidance_scale > 1
    if guided:
        # without prior, glyphs and references: this pass must not read the cache
        contexts.append(dit.prepare(_glyph_embeds(stage, "", batch), prior_ids, ~none))
    schedule = make_schedule(request.num_inference_steps, height, width, stage.scheduler_config)
    target_size = torch.tensor([[height, width]], device=device)
    all_times = dit.prepare_times(
        schedule.model_timesteps[:, None].to(device), target_size, torch.zeros_like(target_size)
    )
    threshold, num_steps = stage.lossy.step_cache, len(all_times)
    caches = [StepCache(threshold) if threshold else None for _ in contexts]
    for step, times in enumerate(all_times):
        passes = [
            partial(dit.velocity, latents, context, times, cache)
            for context, cache in zip(contexts, caches, strict=True)
        ]
        guides = guided and stage.lossy.guides(step, num_steps)
        with side_by_side(guides and stage.side_by_side) as run:
            if guides:
                velocity, unguided = run(*passes)
                velocity = unguided + request.guidance_scale * (velocity - unguided)
            else:
                velocity = passes[0]()
            for picture, end in zip(
                pictures, euler_step(latents, velocity, schedule.sigmas[step], 0), strict=True
            ):
                picture.expected = end
            latents = euler_step(latents, velocity, *schedule.sigmas[step : step + 2])
        yield latents


@torch.inference_mode()
def decode(stage: DecodeStage, latents: Tensor) -> list[Image.Image]:
    """Turn latents (B, C, H/8, W/8) into RGB pictures, one by one: the VAE takes much memory."""
    _tile(stage, latents.shape[-2] * latents.shape[-1] * stage.vae.scale_factor**2)
    return [Image.fromarray(stage.vae.decode(one).numpy()) for one in latents]


def paint(
    stage: DecodeStage, pictures: Sequence[Picture], references: ReferenceCache | None = None
) -> Iterator[Event]:
    """Denoise and decode written pictures of one request."""
    num_steps, started_s = pictures[0].request.num_inference_steps, time.perf_counter()
    latents = torch.empty(0)
    for step, latents in enumerate(denoise(stage, pictures, references), start=1):  # noqa: B007
        synchronize(stage.device)
        share_time(pictures, "denoise_s", started_s)
        for picture in pictures:
            yield DenoiseStep(*picture.key, step, num_steps)
        started_s = time.perf_counter()
    for picture, one in zip(pictures, latents, strict=True):
        started_s = time.perf_counter()
        (image,) = decode(stage, one[None])
        image.info["seed"] = picture.seed
        share_time([picture], "decode_s", started_s)
        yield PictureReady(*picture.key, image, picture.seed, picture.timings)


def generate(stages: Stages, pictures: Sequence[Picture]) -> Iterator[Event]:
    """Make pictures of any requests: all priors together, then picture by picture."""
    for request_id in dict.fromkeys(picture.request_id for picture in pictures):
        yield Queued(request_id)
    # stages are not bound to names here: staged, one must be gone before the other is loaded
    unread = [p for p in pictures if p.prior is None or p.request.source_images]
    if unread:
        encode_prompts(stages.prior(), unread)
        yield from write_priors(stages.prior(), unread, kv_tokens=stages.plan.kv_tokens)
    for _, group in groupby(pictures, key=lambda picture: picture.request_id):
        images = list(group)
        references = encode_references(stages.decode(), images[0])
        for picture in images:
            yield from paint(stages.decode(), [picture], references)


@torch.inference_mode()
def paint_preview(
    stage: DecodeStage,
    prompt: str,
    seed: int,
    grid: tuple[int, int],
    prior_token_ids: Sequence[int],
) -> Image.Image:
    """Show soon what a grid of prior tokens will become: small and soft.

    One pass from noise gives the mean of what could be painted, and no detail; latents are averaged
    before they become pixels, about 256 on the longer side. Nothing of it reaches the picture.
    """
    height, width = grid[0] * PRIOR_STRIDE, grid[1] * PRIOR_STRIDE
    scale, device = stage.vae.scale_factor, stage.device
    shape = (stage.vae.latent_channels, height // scale, width // scale)
    noise = RandomStream(seed).noise(shape)[None].to(device)
    prior_ids = upsample_prior(torch.tensor(prior_token_ids), grid)[None].to(device)
    painted = stage.dit.prepare(
        _glyph_embeds(stage, prompt, 1),
        prior_ids,
        prior_drop=torch.zeros(1, dtype=torch.bool, device=device),
        reference_cache=None,
    )
    schedule = make_schedule(1, height, width, stage.scheduler_config)
    size = torch.tensor([[height, width]], device=device)
    timesteps = schedule.model_timesteps[:, None].to(device)
    (times,) = stage.dit.prepare_times(timesteps, size, torch.zeros_like(size))
    velocity = stage.dit.velocity(noise, painted, times)
    latents = euler_step(noise, velocity, *schedule.sigmas[:2])
    pooled = torch.nn.functional.avg_pool2d(latents, max(2, max(grid) // PREVIEW_TOKENS))
    (image,) = decode(stage, pooled)
    return image


@torch.inference_mode()
def show_expected(stage: DecodeStage, picture: Picture) -> Image.Image | None:
    """Show what a picture in the denoise loop will become; None before it. One decode, no pass.

    In full size: from averaged latents, small letters could not be read.
    """
    if picture.expected is None:
        return None
    (image,) = decode(stage, picture.expected[None])
    return image


class Pipeline:
    """Make pictures with one loaded model; not for several threads at once.

    with Pipeline.load("nano") as pipe:
        pipe.generate("A sign that says 'OPEN'", width=512, height=512).images[0].save("open.png")
    """

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    @classmethod
    def load(
        cls,
        model: str = "nano",
        device: str | None = None,
        dtype: str | None = None,
        memory: str = "auto",
        on_progress: OnProgress | None = None,
        lossy: str = "",
        fast: str = "",
    ) -> Pipeline:
        """Load a model: "nano", a folder in the diffusers layout, or a Hugging Face id.

        device, dtype: None has them chosen. memory: "resident", "staged" (only one of the two
        stages is in memory at a time), "layered" (their layers are read as they run) or "auto";
        the pictures are the same, but for one too large for the VAE to decode at once, which is
        blended from tiles. lossy: what may be traded for speed or memory, see `Lossy`.
        fast: "compile", "graphs" or both.
        Raises ModelError, InvalidSettings or OutOfMemory.
        """
        return cls(Stages.load(model, device, dtype, memory, on_progress, lossy, fast))

    def stream(self, prompt: str | GenerationRequest, **options: Any) -> Iterator[Event]:
        """Make what a request asks for, and say what happens while it happens.

        options: the fields of GenerationRequest. Leaving the loop early stops the work. Raises
        GlmImageError; a wrong request is refused here, before the first event is asked for.
        """
        if not isinstance(prompt, GenerationRequest):
            prompt = GenerationRequest(prompt, **options)
        elif options:
            raise TypeError("give either a GenerationRequest, or a prompt and its options")
        return self._events(make_pictures("0", prompt))

    def generate(self, prompt: str | GenerationRequest, **options: Any) -> GenerationResult:
        """Make what a request asks for; see `stream` for options and errors."""
        started_s = time.perf_counter()
        priors, pictures = {}, {}
        for event in self.stream(prompt, **options):
            if isinstance(event, PriorReady):
                priors[event.image_index] = event.prior_token_ids
            elif isinstance(event, PictureReady):
                pictures[event.image_index] = event
        done = [pictures[index] for index in sorted(pictures)]
        timings = {name: sum(one.timings[name] for one in done) for name in done[0].timings}
        return GenerationResult(
            images=tuple(one.image for one in done),
            seeds=tuple(one.seed for one in done),
            timings=timings | {"total_s": time.perf_counter() - started_s},
            prior_token_ids=tuple(priors[one.image_index] for one in done),
        )

    def close(self) -> None:
        """Release the model's memory."""
        self.stages.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _events(self, pictures: list[Picture]) -> Iterator[Event]:
        with memory_errors():
            yield from generate(self.stages, pictures)


def _decoder_ids(picture: Picture) -> Tensor:
    """Return the prior as the decoder reads it, at 1/16."""
    if picture.prior is None:
        raise ValueError("the picture's prior is not written yet; see write_priors")
    return upsample_prior(torch.tensor(picture.prior.prior_token_ids), picture.prior.large_grid)


def _tile(stage: DecodeStage, num_pixels: int) -> None:
    """Have a larger picture than fits taken in tiles, each as large as fits."""
    autoencoder = stage.vae.autoencoder
    autoencoder.use_tiling = num_pixels > stage.vae_pixels
    # its own tiles are of the checkpoint's sample_size: 1024 px, whatever there is room for
    side = max(MIN_TILE, math.isqrt(stage.vae_pixels) // PRIOR_STRIDE * PRIOR_STRIDE)
    autoencoder.tile_sample_min_size = side
    autoencoder.tile_latent_min_size = side // stage.vae.scale_factor


def _glyph_embeds(stage: DecodeStage, prompt: str, batch: int) -> Tensor:
    return stage.glyph.encode(get_glyph_texts(prompt)).expand(batch, -1, -1)
