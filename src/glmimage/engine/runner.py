"""Execute what the scheduler plans: own the rows, the paintings and the references."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from PIL import Image

from ..errors import GlmImageError
from ..memory import memory_errors
from ..model.reference_cache import ReferenceCache
from ..picture import Picture
from ..pipeline import encode_prompts, encode_references, paint, paint_preview, show_expected
from ..stages import Stages
from ..token_loop import TokenLoop
from ..types import Event, Failed, PictureReady
from .figures import Figures
from .scheduler import Key, Limits, Plan


@dataclass(eq=False)
class _Painting:
    """Pictures on their way through denoise and decode; `events` does the work when drawn from."""

    pictures: list[Picture]
    events: Iterator[Event]


class Runner:
    """Run plans; an error is the request's own and never its neighbours'."""

    def __init__(
        self, stages: Stages, limits: Limits, measured: Callable[[str, float], None]
    ) -> None:
        self.stages, self.limits = stages, limits
        self.pictures: dict[Key, Picture] = {}
        self.figures = Figures()
        self._measured = measured
        self._loop: TokenLoop | None = None
        self._paintings: deque[_Painting] = deque()
        # of one request at a time: they are by far the largest thing a request holds
        self._references: tuple[str, ReferenceCache | None] = ("", None)

    def run(self, plan: Plan) -> list[Event]:
        """Do what one step's plan says."""
        events: list[Event] = []
        for request_id, keys in groupby(plan.admit, key=lambda key: key[0]):
            events += self._admit(request_id, [self.pictures[key] for key in keys])
        events += self._write_tokens(plan.num_prior_tokens, wait=bool(plan.start or plan.denoise))
        if plan.start:
            self._start([self.pictures[key] for key in plan.start])
        if plan.denoise:
            events += self._denoise()
        return events

    def drop(self, request_id: str) -> None:
        """Free all a request holds: rows, latents, references."""
        for key in [key for key in self.pictures if key[0] == request_id]:
            picture = self.pictures.pop(key)
            if self._loop is not None:
                self._loop.leave(picture)
        kept = deque(one for one in self._paintings if one.pictures[0].request_id != request_id)
        self._paintings = kept
        if self._references[0] == request_id:
            self._references = ("", None)

    def preview(
        self, key: Key, grid: tuple[int, int], prior_token_ids: Sequence[int]
    ) -> Image.Image | None:
        """Paint a preview of a grid; None where the decoder would have to be loaded for it."""
        picture = self.pictures.get(key)
        if picture is None or not self.stages.plan.resident:
            return None
        prompt, stage = picture.request.prompt, self.stages.decode()
        with memory_errors():
            return paint_preview(stage, prompt, picture.seed, grid, prior_token_ids)

    def show_expected(self, key: Key) -> Image.Image | None:
        """Show what a picture in the denoise loop will become; None when it is not there."""
        picture = self.pictures.get(key)
        if picture is None:
            return None
        with memory_errors():
            return show_expected(self.stages.decode(), picture)

    def _admit(self, request_id: str, pictures: list[Picture]) -> list[Event]:
        """Encode a request's prompt once, and let its pictures into the token loop."""
        try:
            with memory_errors():
                if pictures[0].inputs is None and _needs_prior_stage(pictures):
                    mates = [p for p in self.pictures.values() if p.request_id == request_id]
                    encode_prompts(self.stages.prior(), mates)
                unwritten = [picture for picture in pictures if picture.prior is None]
                if unwritten:
                    self._token_loop().enter(unwritten)
        except Exception as error:
            return [self._fail(request_id, error)]
        return [picture.prior for picture in pictures if picture.prior is not None]

    def _token_loop(self) -> TokenLoop:
        if self._loop is None:
            if not self.stages.plan.resident:
                self._references = ("", None)
            stage = self.stages.prior()
            self._loop = TokenLoop(stage, self.limits.num_slots, self.limits.kv_tokens)
        return self._loop

    def _write_tokens(self, count: int, *, wait: bool) -> list[Event]:
        """Take `count` rounds of the token loop.

        wait: until the device has done them, so that their time is not counted as that of painting.
        """
        events, started_s, rounds = list[Event](), time.perf_counter(), 0
        while rounds < count and self._loop is not None and self._loop.rows:
            events += self._write(self._loop)
            rounds += 1
        if rounds:
            if wait and self._loop is not None:
                self._loop.wait()
            took_s = time.perf_counter() - started_s
            self._measured("prior", took_s / rounds)
            self.figures.worked("prior", took_s)
        return events

    def _write(self, loop: TokenLoop) -> list[Event]:
        """Write one token a row; when that fails, row by row, so that only the culprits fail."""
        loop.gains.clear()
        self.figures.rows[len(loop.rows)] += 1
        try:
            events = loop.step()
        except Exception:
            events = []
            for picture in [row.picture for row in loop.rows.values()]:
                events += self._write_alone(loop, picture)
        self.figures.gains.update(loop.gains)
        return events

    def _write_alone(self, loop: TokenLoop, picture: Picture) -> list[Event]:
        if picture.key not in loop.rows:
            return []  # another picture of its request has failed
        try:
            with memory_errors():
                return loop.step([picture])
        except Exception as error:
            return [self._fail(picture.request_id, error)]

    def _start(self, pictures: list[Picture]) -> None:
        if not self.stages.plan.resident:
            self._loop = None  # it holds the prior's weights, which have to go now
        self._paintings.append(_Painting(pictures, self._paint(pictures)))

    def _paint(self, pictures: list[Picture]) -> Iterator[Event]:
        request_id = pictures[0].request_id
        if self._references[0] != request_id:
            self._references = ("", None)
            references = encode_references(self.stages.decode(), pictures[0])
            self._references = (request_id, references)
        yield from paint(self.stages.decode(), pictures, self._references[1])

    def _denoise(self) -> list[Event]:
        """Take the painting one step further: an event for each of its pictures."""
        painting, started_s = self._paintings[0], time.perf_counter()
        try:
            with memory_errors():
                events = list(islice(painting.events, len(painting.pictures)))
        except Exception as error:
            self._paintings.popleft()
            if len(painting.pictures) == 1:
                return [self._fail(painting.pictures[0].request_id, error)]
            for picture in painting.pictures:
                self._start([picture])
            return []
        took_s = time.perf_counter() - started_s
        if all(isinstance(event, PictureReady) for event in events):
            self._paintings.popleft()
            self.figures.worked("decode", took_s)
        else:
            self._measured("decode", took_s)
            self.figures.worked("denoise", took_s)
            self.figures.pictures[len(painting.pictures)] += 1
        return events

    def _fail(self, request_id: str, error: Exception) -> Failed:
        """Free the request, and the frames its error holds on to."""
        text = "".join(traceback.format_exception(error))
        if not isinstance(error, GlmImageError):
            error = GlmImageError(
                f"The picture could not be made: {type(error).__name__}: {error}."
            )
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error.add_note(text)
        self.drop(request_id)
        return Failed(request_id, error)


def _needs_prior_stage(pictures: Sequence[Picture]) -> bool:
    return any(p.prior is None or p.request.source_images for p in pictures)
