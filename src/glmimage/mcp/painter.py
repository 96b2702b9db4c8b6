"""What the tools need of whoever paints: a server, or a pipeline in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

State = Literal["waiting", "working", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Wish:
    """Ask for pictures. images: data URIs or http(s) addresses, the subject first."""

    prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int | None
    num_images: int
    output_format: Literal["jpeg", "png"]
    text_check: bool
    best_of: int
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Say how far a request is. fraction: 0 to 1."""

    fraction: float
    message: str


@dataclass(frozen=True)
class Painted:
    """Hold what became of a request. facts: seed, size, timings ..., for people and programs."""

    id: str
    state: State
    pictures: tuple[bytes, ...] = ()
    picture_format: str = "jpeg"
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Listed:
    """Name a request in a list of them. prompt: None when it is not kept any more."""

    request_id: str
    prompt: str | None
    state: State


class Paints(Protocol):
    """Take wishes and tell what becomes of them; raise PaintingFailed with one sentence."""

    async def submit(self, wish: Wish) -> str:
        """Take a wish on and return its id."""

    def follow(self, request_id: str) -> AsyncIterator[Progress]:
        """Yield progress until the request has ended."""

    async def result(self, request_id: str) -> Painted:
        """Return what became of a request so far."""

    async def cancel(self, request_id: str) -> None:
        """Let go of a request; nothing happens when it has ended."""

    async def recent(self, limit: int) -> list[Listed]:
        """Return the latest requests, unfinished ones and then the newest first."""

    async def condition(self) -> dict[str, Any]:
        """Return whether pictures can be painted now, and by what."""

    async def close(self) -> None:
        """Release what is held."""


class PaintingFailed(Exception):
    """Say in one sentence why there is no picture."""
