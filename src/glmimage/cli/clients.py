"""`glmimage exec` and `env`: lead programs that were written for fal to this server."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidRequest, ServerNotFound
from .options import DataDir

if TYPE_CHECKING:
    from ..config import Settings
    from ..redirect.environment import Target

ANSWER_WITHIN_S = 5.0
NO_KEY = "none:asked-for"  # clients insist on some key even where the server asks for none

Command = Annotated[list[str], typer.Argument(metavar="PROGRAM", help="After --, as in a shell.")]


def execute(command: Command, data_dir: DataDir = None) -> None:
    """Run a program so that what it sends to fal comes to this server, and never to fal."""
    from ..config import load_settings
    from ..redirect.connect_proxy import ConnectProxy, Upstream
    from ..redirect.environment import child_environment, outer_proxy

    target = find_target(load_settings(data_dir=data_dir), os.environ)
    host, _, port = target.address.rpartition(":")
    server = (host.strip("[]"), int(port))
    _expect_answer(server)
    outside = outer_proxy(os.environ)
    with ConnectProxy(server, Upstream(outside) if outside else None) as proxy:
        code = _run(command, child_environment(os.environ, target, proxy.port))
    raise typer.Exit(code)


def env(data_dir: DataDir = None) -> None:
    """Print what `exec` sets, without uploads and Node: for eval in a shell."""
    from ..config import load_settings
    from ..redirect.environment import client_variables

    target = find_target(load_settings(data_dir=data_dir), os.environ)
    for name, value in client_variables(target, os.environ).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def find_target(settings: Settings, inherited: Mapping[str, str]) -> Target:
    """Find address, key and CA of the server of this data folder; raise ServerNotFound."""
    from ..redirect.environment import Target, write_bundle
    from ..server.serving import find_serving, reachable, read_first_key

    serving = find_serving(settings.data_dir)
    if serving is None and not settings.data_dir.is_dir():
        raise ServerNotFound(
            f"No server has run with the data folder '{settings.data_dir}'.",
            hint="Start one with: glmimage serve",
        )
    key = settings.api_key or read_first_key(settings.data_dir)
    if key is None and serving is not None and not serving.auth:
        key = NO_KEY
    if key is None:
        raise ServerNotFound(
            f"The text of no key is kept in '{settings.data_dir}'.",
            hint="Set GLMIMAGE_API_KEY to one; `glmimage keys create NAME` makes one.",
        )
    if serving is None:
        ca: Path | None = settings.data_dir / "tls" / "ca.pem"
    else:
        ca = None if serving.ca is None else Path(serving.ca)
    target = Target(
        serving.https if serving is not None else reachable(settings, settings.https_port),
        key,
        ca,
        settings.data_dir / "tls" / "bundle.pem",
    )
    write_bundle(target, inherited)
    return target


def _expect_answer(server: tuple[str, int]) -> None:
    try:
        socket.create_connection(server, timeout=ANSWER_WITHIN_S).close()
    except OSError:
        host, port = server
        raise ServerNotFound(
            f"No server answers on {host}, port {port}.", hint="Start one with: glmimage serve"
        ) from None


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    """Wait for the program; return its code, or 128 + N when signal N ended it."""
    try:
        child = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise InvalidRequest(f"'{command[0]}' cannot be run: {error.strerror}.") from None
    # Ctrl-C reaches the program from the terminal, as without us; it decides, and we wait
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: child.send_signal(received))
    code = child.wait()
    return code if code >= 0 else 128 - code
