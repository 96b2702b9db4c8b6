"""The server's own secret, which signs tokens; the same for all servers of one deployment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..config import Settings
from ..errors import InvalidSettings

MIN_CHARACTERS = 16


def load_secret(settings: Settings) -> bytes:
    """Return GLMIMAGE_SECRET, or what is kept in the data folder; raise InvalidSettings."""
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    path = settings.data_dir / "keys" / "secret"
    try:
        return _read(path) or _make(path)
    except OSError as error:
        raise InvalidSettings(
            f"The secret {str(path)!r} cannot be read or written: {error.strerror}.",
            hint="Make the folder writable for whoever runs the server, or set GLMIMAGE_SECRET.",
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return b""


def _make(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was faster
        return _read(path)
    text = secrets.token_hex(32).encode()
    with open(file, "wb") as stream:
        stream.write(text + b"\n")
    return text
