"""`glmimage mcp`: let assistants paint, by a running server or in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..errors import GlmImageError, InvalidSettings
from .clients import NO_KEY, find_target
from .options import DataDir, Device, Dtype, Memory, Model

if TYPE_CHECKING:
    from ..config import Settings
    from ..mcp.painter import Paints
    from ..mcp.remote import RemotePainter
    from ..pipeline import Pipeline

LOOPBACK = ("127.0.0.1", "::1", "localhost")

OverHttp = Annotated[
    bool, typer.Option("--http", help="Speak streamable HTTP at /mcp instead of stdio.")
]
Host = Annotated[str, typer.Option(help="Where --http listens; a loopback address.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Where --http listens; 0 is any free.")]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="A glmimage server; its key: GLMIMAGE_API_KEY, a CA of its own: SSL_CERT_FILE.",
    ),
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Use no server, even when one runs here.")
]


def mcp(
    over_http: OverHttp = False,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    server: ServerUrl = None,
    in_process: InProcess = False,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
) -> None:
    """Offer the tools generate, edit, status and list to assistants (Model Context Protocol).

    Pictures are painted by the server named with --server, else by the one that runs with this data
    folder, else in this process with --model.
    """
    from ..config import load_settings

    if over_http and host not in LOOPBACK:
        raise InvalidSettings(
            f"--host is '{host}'; over http no key is asked for, so it must be a loopback address.",
            hint=f"Use one of {', '.join(LOOPBACK)}.",
        )
    settings = load_settings(
        data_dir=data_dir, model=model, device=device, dtype=dtype, memory=memory
    )
    try:
        from ..mcp.serving import serve_http, serve_stdio
    except ImportError as error:
        raise InvalidSettings(
            f"The Model Context Protocol is not installed: {error}.",
            hint="Install it with: pip install 'glmimage[mcp]'",
        ) from None
    painter = _choose_painter(settings, server, in_process)
    if over_http:
        serve_http(painter, __version__, host, port, typer.echo)
    else:
        serve_stdio(painter, __version__)


def _choose_painter(settings: Settings, url: str | None, in_process: bool) -> Paints:
    """Return a server's painter, or this process's own; raise InvalidSettings."""
    if url is not None:
        if in_process:
            raise InvalidSettings("Give either --server or --in-process.")
        if not url.startswith(("http://", "https://")):
            raise InvalidSettings(f"--server is '{url}'; it must begin with http:// or https://.")
        return _remote(url, settings.api_key or "")
    if not in_process and (found := _running_here(settings)) is not None:
        return found
    from ..mcp.local import LocalPainter

    return LocalPainter(settings, lambda: _load(settings))


def _running_here(settings: Settings) -> Paints | None:
    """Return the painter of the server that runs with this data folder, or None."""
    import httpx2

    from ..server.serving import find_serving

    serving = find_serving(settings.data_dir)
    if serving is None:
        return None
    url = f"http://{serving.http}"
    try:
        httpx2.get(f"{url}/health/live", timeout=5, trust_env=False)
        key = find_target(settings, os.environ).api_key
    except (httpx2.HTTPError, GlmImageError):
        return None
    return _remote(url, "" if key == NO_KEY else key)


def _remote(url: str, key: str) -> RemotePainter:
    """Return a server's painter, which trusts what SSL_CERT_FILE names; raise InvalidSettings."""
    from ..mcp.remote import RemotePainter

    ca = os.environ.get("SSL_CERT_FILE")
    try:
        return RemotePainter(url, key, Path(ca) if ca else None)
    except OSError as error:
        raise InvalidSettings(
            f"SSL_CERT_FILE is '{ca}'; it cannot be read as certificates: {error.strerror}.",
            hint="Name a PEM file, such as the server's tls/ca.pem.",
        ) from None


def _load(settings: Settings) -> Pipeline:
    os.environ.update(settings.hub_environment())
    from ..loading.hub import resolve_model
    from ..pipeline import Pipeline

    return Pipeline.load(
        str(resolve_model(settings.model)),
        device=None if settings.device == "auto" else settings.device,
        dtype=None if settings.dtype == "auto" else settings.dtype,
        memory=settings.memory,
        lossy=settings.lossy,
        fast=settings.fast,
    )
