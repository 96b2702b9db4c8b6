"""Requests over a WebSocket: msgpack or JSON in, msgpack out, one at a time (spec 10)."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

import msgpack
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..body import check_object, parse_json
from ..responses import to_json
from ..routing import Route
from ..services import Services
from ..submission import submission_of, submit
from .caller import Caller, read_caller
from .errors import ModelError, WireError
from .render import result_body
from .run import HUNG_UP
from .schemas import INPUTS

IDLE_S = 300.0
MAX_BUFFERING = 60
POLICY_VIOLATION = 1008


async def realtime(services: Services, socket: WebSocket) -> None:
    """Answer each message; of those that pile up, the oldest are dropped."""
    text = socket.query_params.get("max_buffering", str(MAX_BUFFERING))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= MAX_BUFFERING):
        await socket.close(POLICY_VIOLATION, f"max_buffering must be 1 to {MAX_BUFFERING}")
        return
    try:
        caller = read_caller(socket)
    except WireError as error:
        await socket.close(POLICY_VIOLATION, str(error.body["detail"])[:120])
        return
    await socket.accept()
    session = _Session(services, socket, caller, int(text))
    await session.run()


class _Session:
    def __init__(
        self, services: Services, socket: WebSocket, caller: Caller, max_buffering: int
    ) -> None:
        self._services, self._socket, self._caller = services, socket, caller
        self._inbox: deque[dict[str, Any]] = deque(maxlen=max_buffering)
        self._arrived = asyncio.Event()
        self._working_on: str | None = None

    async def run(self) -> None:
        """Read and work side by side until the client leaves or falls silent."""
        working = asyncio.create_task(self._work())
        reading = asyncio.create_task(self._read())
        await asyncio.wait({working, reading}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, reading):
            task.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await task
        if self._working_on is not None:
            await self._services.store.cancel(self._working_on, HUNG_UP)

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    message = await self._socket.receive()
            except TimeoutError:
                if self._working_on is not None:
                    continue
                await self._fail("TIMEOUT", f"Nothing was sent for {IDLE_S:g} s.")
                await self._socket.close(1000)
                return
            if message["type"] == "websocket.disconnect":
                return
            try:
                self._inbox.append(_decode(message))
                self._arrived.set()
            except ModelError as error:
                await self._fail("INVALID_MESSAGE", error.body["detail"][0]["msg"], error.body)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            while self._inbox:
                try:
                    await self._answer(self._inbox.popleft())
                except WireError as error:
                    kind = error.body.get("error_type", "REQUEST_FAILED")
                    await self._fail(str(kind), str(error.body.get("detail")), error.body)
            self._arrived.clear()

    async def _answer(self, body: dict[str, Any]) -> None:
        services = self._services
        endpoint = self._socket.scope["route"].endpoint
        asked = submission_of(self._socket, services, endpoint, body, self._caller, "realtime")
        job, _ = await submit(services, asked)
        self._working_on = job.id
        await services.live.until_ended(job.id)
        ended = await services.store.get(job.id)
        self._working_on = None
        found = (
            None if ended is None else result_body(ended, services.addresses.files(self._socket))
        )
        if found is None:
            return
        status, answer = found
        if status == 200:
            await self._socket.send_bytes(msgpack.packb(answer, use_bin_type=True))
        else:
            detail = answer.get("detail")
            first = detail[0] if isinstance(detail, list) else answer
            kind = first.get("type") or first.get("error_type") or "REQUEST_FAILED"
            await self._fail(str(kind), str(first.get("msg") or detail), answer)
        if ended is not None and not ended.store_io:
            await services.store.delete_payload(ended.id)

    async def _fail(self, kind: str, reason: str, body: dict[str, Any] | None = None) -> None:
        message = {"type": "x-fal-error", "error": kind, "reason": reason, **(body or {})}
        await self._socket.send_text(to_json(message).decode())


def _decode(message: Message) -> dict[str, Any]:
    """Return the input in a frame; raise ModelError."""
    if message.get("text") is not None:
        return check_object(parse_json(message["text"].encode("utf-8", "surrogatepass")))
    try:
        value = msgpack.unpackb(message.get("bytes") or b"", raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise ModelError(
            [
                {
                    "loc": ["body"],
                    "msg": f"The message is not valid msgpack: {error}",
                    "type": "value_error",
                }
            ]
        ) from None
    return check_object(value)


ROUTES = [
    Route(
        "run", "WEBSOCKET", f"/{endpoint}/realtime", realtime, takes_token=True, endpoint=endpoint
    )
    for endpoint in INPUTS
]
