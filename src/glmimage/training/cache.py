"""What was read off the pictures, kept beside the adapters so that going on need not read again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..atomic_file import replace_file
from .dataset import Example
from .progress import Encoded

AnyItem = TypeVar("AnyItem")


def kept(
    path: Path,
    kind: type[AnyItem],
    version: str,
    encode: Generator[Encoded, None, list[AnyItem]],
) -> Generator[Encoded, None, list[AnyItem]]:
    """Return the items in `path` when they are of this version, else encode and keep them.

    A disk without room for them is no reason to stop: they are then read again next time.
    """
    try:
        content = path.read_bytes()
        stored: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
        if stored["version"] == version:
            return [kind(**item) for item in stored["items"]]
    except Exception:  # absent, damaged, or of another version of this class
        path.unlink(missing_ok=True)
    items = yield from encode
    rows = [{f.name: getattr(item, f.name) for f in fields(kind)} for item in items]  # type: ignore[arg-type]
    buffer = io.BytesIO()
    torch.save({"version": version, "items": rows}, buffer)
    try:
        replace_file(path, buffer.getvalue(), 0o644)
    except OSError:
        path.unlink(missing_ok=True)
    return items


def version_of(examples: Sequence[Example], *circumstances: object) -> str:
    """Name what the items depend on: pictures by size and time, captions, model, number format."""
    digest = hashlib.sha256(repr(circumstances).encode())
    for example in examples:
        parts: list[object] = [example.caption, example.width, example.height]
        for path in (example.path, example.prior_path):
            stat = path.stat()
            parts += [str(path), stat.st_size, stat.st_mtime_ns]
        digest.update(repr(parts).encode())
    return digest.hexdigest()
