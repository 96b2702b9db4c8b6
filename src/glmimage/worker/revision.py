"""Name what a picture depends on besides its request."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import __version__

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
SAMPLE_BYTES = 64 * 1024
NUM_SAMPLES = 16


def model_revision(folder: Path, *numerics: str) -> str:
    """Return a name for package, checkpoint and number formats; equal names, equal pictures.

    Small files count whole, weights by size and samples: a checkpoint of 30 GB is not read twice.
    """
    digest = hashlib.sha256("\n".join((__version__, *numerics)).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix not in (".json", ".safetensors", ".jinja", ".txt", ".model"):
            continue
        size = path.stat().st_size
        digest.update(f"\n{name}\n{size}\n".encode())
        with path.open("rb") as file:
            if size <= MAX_DOCUMENT_BYTES:
                digest.update(file.read())
                continue
            for sample in range(NUM_SAMPLES):
                file.seek((size - SAMPLE_BYTES) * sample // (NUM_SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]
