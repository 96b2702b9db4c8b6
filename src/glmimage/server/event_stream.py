"""Server-sent events, and the caller who hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .responses import to_json

KEEP_ALIVE_S = 15.0
_KEEP_ALIVE = b": keep-alive\n\n"


async def until_hang_up(receive: Receive) -> None:
    """Return when the client is gone; its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Send each value as one event, whole; call `on_hang_up` when the client leaves early.

    named: every event is a mapping, and its "type" is the event's name too.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Any],
        headers: Mapping[str, str] | None = None,
        on_hang_up: Callable[[], Awaitable[None]] | None = None,
        *,
        named: bool = False,
    ) -> None:
        # no buffering: nginx would hold events back
        always = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(None, 200, {**always, **(headers or {})})
        if "content-length" in self.headers:
            del self.headers["content-length"]
        self._events, self._on_hang_up, self._named = events, on_hang_up, named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(until_hang_up(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif self._on_hang_up is not None:
                await self._on_hang_up()
        finally:
            for task in (sending, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await task

    async def _send_all(self, send: Send) -> None:
        async def write(chunk: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

        events = aiter(self._events)
        upcoming: asyncio.Future[Any] | None = None
        try:
            while True:
                if upcoming is None:
                    upcoming = asyncio.ensure_future(anext(events, None))
                done, _ = await asyncio.wait({upcoming}, timeout=KEEP_ALIVE_S)
                if not done:
                    await write(_KEEP_ALIVE)
                    continue
                event, upcoming = upcoming.result(), None
                if event is None:
                    break
                name = f"event: {event['type']}\n".encode() if self._named else b""
                await write(name + b"data: " + to_json(event) + b"\n\n")
            await write(b"", more=False)
        finally:
            if upcoming is not None:
                upcoming.cancel()
                with suppress(asyncio.CancelledError):
                    await upcoming
