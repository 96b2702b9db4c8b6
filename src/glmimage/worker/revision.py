"""Name what a picture depends on besides its request."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import __version__

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
SAMPLE_BYTES = 64 * 1024
NUM_SAMPLES = 16


def model_revision(folder: Path, *numerics: str) -> str:
    """Return a name for package, torch, checkpoint and numerics; equal names, equal pictures.

    numerics: the kind of device and the number formats; the stages may run on GPUs of two models.
    Small files count whole, weights by size and samples: a checkpoint of 30 GB is not read twice.
    """
    import torch

    # without what says how torch was built: "2.9.1" of "2.9.1+cpu"
    torch_version = torch.__version__.partition("+")[0]
    digest = hashlib.sha256("\n".join((__version__, torch_version, *numerics)).encode())
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
