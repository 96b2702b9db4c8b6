"""Run the tools over stdio or streamable HTTP, until the client or a signal ends it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from ..errors import InvalidSettings
from .painter import Paints
from .tools import build_server

PATH = "/mcp"
MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""A request may carry pictures."""


def serve_stdio(painter: Paints, version: str) -> None:
    """Speak on stdin and stdout until stdin ends."""

    async def run() -> None:
        try:
            await build_server(painter, version, reads_files=True).run_stdio_async()
        finally:
            await painter.close()

    asyncio.run(run())


def serve_http(
    painter: Paints, version: str, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Listen on a loopback address until Ctrl-C or SIGTERM; raise InvalidSettings."""
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    server = build_server(painter, version, reads_files=False)
    app = server.streamable_http_app(
        streamable_http_path=PATH, host=host, max_request_body_size=MAX_REQUEST_BYTES
    )
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)

    async def run() -> None:
        try:
            say(f"glmimage mcp: http://{shown}:{listener.getsockname()[1]}{PATH}")
            await uvicorn.Server(config).serve(sockets=[listener])
        finally:
            await painter.close()

    asyncio.run(run())


def _listen(host: str, port: int) -> socket.socket:
    """Whoever reads the address may come at once: they wait until they are served."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise InvalidSettings(
            f"Port {port} on {host} cannot be used: {error.strerror}.",
            hint="Choose another with --port (0 takes any free one).",
        ) from None
    return listener
