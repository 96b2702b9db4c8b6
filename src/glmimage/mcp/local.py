"""Paint in this process, with no server: one request after the other."""

from __future__ import annotations

import asyncio
import io
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..config import Settings
from ..errors import GlmImageError, InvalidImage
from ..evaluation.text_check import TextCheck, check_choice, check_text, choose_best
from ..output import encode_picture
from ..policy.errors import PolicyError
from ..policy.fetch import fetch_public
from ..policy.references import OPENED_FORMATS, check_reference
from ..source_images import normalise_source_image
from ..types import (
    DenoiseStep,
    Event,
    GenerationRequest,
    PictureReady,
    PriorProgress,
)
from .painter import Listed, Painted, PaintingFailed, Progress, State, Wish

if TYPE_CHECKING:
    from ..pipeline import Pipeline

MAX_REMEMBERED = 50
"""Requests, with their pictures."""
PRIOR_SHARE = 0.3


@dataclass
class _Request:
    wish: Wish
    created: float
    state: State = "waiting"
    news: asyncio.Queue[Progress | None] = field(default_factory=asyncio.Queue)
    painted: Painted | None = None
    cancelled: bool = False
    task: asyncio.Task[None] | None = None


class LocalPainter:
    """Own the pipeline, loaded with the first request in a thread of its own."""

    def __init__(self, settings: Settings, load: Callable[[], Pipeline]) -> None:
        self._settings, self._load = settings, load
        self._pipeline: Pipeline | None = None
        self._reader: Any = None
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "painter")

    async def submit(self, wish: Wish) -> str:
        try:
            if wish.best_of > 1:
                check_choice(wish.prompt, wish.num_images, wish.best_of)
            sources = [await _open(url, number) for number, url in enumerate(wish.images, 1)]
            asked = GenerationRequest(
                wish.prompt,
                wish.width,
                wish.height,
                num_inference_steps=wish.num_inference_steps,
                guidance_scale=wish.guidance_scale,
                seed=wish.seed,
                num_images=max(wish.num_images, wish.best_of),
                source_images=tuple(sources),
            ).seeded()
        except (GlmImageError, PolicyError) as error:
            raise PaintingFailed(f"{error.message} {error.hint}".strip()) from None
        request_id = str(uuid.uuid4())
        request = self._requests[request_id] = _Request(wish, time.time())
        request.task = asyncio.create_task(self._paint(request_id, request, asked))
        while len(self._requests) > MAX_REMEMBERED:
            self._requests.popitem(last=False)
        return request_id

    async def follow(self, request_id: str) -> AsyncIterator[Progress]:
        request = self._find(request_id)
        while request.painted is None:
            news = await request.news.get()
            if news is not None:
                yield news

    async def result(self, request_id: str) -> Painted:
        request = self._find(request_id)
        return request.painted or Painted(request_id, request.state)

    async def cancel(self, request_id: str) -> None:
        if request_id in self._requests:
            self._requests[request_id].cancelled = True

    async def recent(self, limit: int) -> list[Listed]:
        return [
            Listed(request_id, request.wish.prompt, request.state)
            for request_id, request in list(reversed(self._requests.items()))[:limit]
        ]

    async def condition(self) -> dict[str, Any]:
        waiting = sum(request.painted is None for request in self._requests.values())
        return {
            "painted_by": f"{self._settings.model}, in this process",
            "loaded": self._pipeline is not None,
            "unfinished": waiting,
        }

    async def close(self) -> None:
        for request in self._requests.values():
            request.cancelled = True
        tasks = [request.task for request in self._requests.values() if request.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.shutdown()

    def _find(self, request_id: str) -> _Request:
        if request_id not in self._requests:
            raise PaintingFailed(f"There is no request {request_id[:60]!r}.")
        return self._requests[request_id]

    async def _paint(self, request_id: str, request: _Request, asked: GenerationRequest) -> None:
        loop = asyncio.get_running_loop()

        def tell(news: Progress) -> None:
            loop.call_soon_threadsafe(request.news.put_nowait, news)

        try:
            request.painted = await loop.run_in_executor(
                self._thread, self._work, request_id, request, asked, tell
            )
        except GlmImageError as error:
            message = f"{error.message} {error.hint}".strip()
            request.painted = Painted(request_id, "failed", error=message)
        except Exception as error:
            message = f"The picture could not be made: {type(error).__name__}: {error}."
            request.painted = Painted(request_id, "failed", error=message)
        request.state = request.painted.state
        request.news.put_nowait(None)

    def _work(
        self,
        request_id: str,
        request: _Request,
        asked: GenerationRequest,
        tell: Callable[[Progress], None],
    ) -> Painted:
        """Make the pictures, in the painting thread."""
        started, ready = time.monotonic(), {}
        request.state = "working"
        cancelled = Painted(request_id, "cancelled", error="The request was cancelled.")
        reader = (
            self._load_reader() if request.wish.text_check or request.wish.best_of > 1 else None
        )
        if request.cancelled:
            return cancelled
        if self._pipeline is None:
            tell(Progress(0.0, f"loading {self._settings.model}"))
            self._pipeline = self._load()
        for event in self._pipeline.stream(asked):
            if request.cancelled:
                return cancelled
            if isinstance(event, PictureReady):
                ready[event.image_index] = event
            elif (news := _news(event, asked)) is not None:
                tell(news)
        pictures = [ready[index] for index in sorted(ready)]
        checks: list[TextCheck] = []
        if reader is not None:
            checks = [check_text(one.image, asked.prompt, reader) for one in pictures]
            if request.wish.best_of > 1:
                best = choose_best(checks, request.wish.num_images)
                pictures, checks = [pictures[i] for i in best], [checks[i] for i in best]
        kind = request.wish.output_format
        facts: dict[str, Any] = {
            "seed": asked.seed,
            "seeds": [one.seed for one in pictures],
            "prompt": asked.prompt,
            "size": f"{asked.width}x{asked.height}",
            "timings": {"inference": round(time.monotonic() - started, 3)},
        }
        if checks:
            facts["text_check"] = [check.as_document() for check in checks]
        contents = tuple(encode_picture(one.image, kind) for one in pictures)
        return Painted(request_id, "done", contents, kind, facts)

    def _load_reader(self) -> Any:
        if self._reader is None:
            from ..evaluation.reading import Reader

            self._reader = Reader()
        return self._reader


def _news(event: Event, asked: GenerationRequest) -> Progress | None:
    if isinstance(event, PriorProgress):
        part = event.num_tokens / event.total_tokens
        return Progress(PRIOR_SHARE * part, f"prior {round(100 * part)} %")
    if isinstance(event, DenoiseStep):
        done = (event.image_index + event.step / event.num_inference_steps) / asked.num_images
        message = f"picture {event.image_index + 1}/{asked.num_images}: "
        message += f"step {event.step}/{event.num_inference_steps}"
        return Progress(PRIOR_SHARE + (1 - PRIOR_SHARE) * done, message)
    return None


async def _open(url: str, number: int) -> Image.Image:
    """Read a reference; raise PolicyError or InvalidImage."""
    label = f"the reference image {number}"
    content = (await fetch_public(url)).content
    await check_reference(content, label)
    try:
        return normalise_source_image(
            Image.open(io.BytesIO(content), formats=OPENED_FORMATS), label
        )
    except (OSError, ValueError, SyntaxError):
        raise InvalidImage(f"{label} is not a picture.") from None
