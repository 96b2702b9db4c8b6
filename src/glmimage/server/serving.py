"""What a running server leaves in its data folder, so that commands beside it find it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic_file import replace_file
from ..config import Settings
from ..errors import InvalidSettings

if TYPE_CHECKING:
    from ..jobs import JobStore

FIRST_KEY_NAME = "first"
_ANSWER_S = 1.0


@dataclass(frozen=True)
class Serving:
    """Say where a server listens. https: `host:port`; ca: None with a certificate of one's own."""

    process_id: int
    http: str
    https: str
    ca: str | None
    auth: bool

    def save(self, data_dir: Path) -> None:
        replace_file(_address_file(data_dir), json.dumps(asdict(self)).encode())

    def remove(self, data_dir: Path, former: Serving | None = None) -> None:
        """Take the file away, unless another server has written its own.

        former: what it said before; put back when that server still listens.
        """
        if find_serving(data_dir) != self:
            return
        if former is not None and former.http != self.http and former.listens():
            former.save(data_dir)
        else:
            _address_file(data_dir).unlink(missing_ok=True)

    def listens(self) -> bool:
        """Say whether anybody takes connections at the http address."""
        host, _, port = self.http.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
        except (OSError, ValueError):
            return False
        return True


def make_data_folder(data_dir: Path) -> None:
    """Make the folder that only its owner reads, and try to write; raise InvalidSettings."""
    try:
        for folder in (data_dir, data_dir / "keys", data_dir / "policy"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = data_dir / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidSettings(
            f"The data folder '{data_dir}' cannot be used: {error.strerror}.",
            hint="Name another with GLMIMAGE_DATA_DIR or --data-dir.",
        ) from None


def find_serving(data_dir: Path) -> Serving | None:
    """Return what the newest server of this folder wrote; it may be gone."""
    try:
        return Serving(**json.loads(_address_file(data_dir).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def reachable(settings: Settings, port: int) -> str:
    """Return `host:port` as a client on this machine dials it."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def make_first_key(store: JobStore, data_dir: Path) -> str | None:
    """Make a key where there has never been one, and keep a copy for its owner; return its text."""
    if await store.list_keys():
        return None
    text, _ = await store.create_key(FIRST_KEY_NAME)
    replace_file(first_key_file(data_dir), f"{text}\n".encode(), 0o600)
    return text


def read_first_key(data_dir: Path) -> str | None:
    """Return the copy of the first key, or None when there is none that we may read."""
    try:
        return first_key_file(data_dir).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def first_key_file(data_dir: Path) -> Path:
    """Return where the copy of the first key lies."""
    return data_dir / "keys" / "first-key"


def _address_file(data_dir: Path) -> Path:
    return data_dir / "serving.json"
