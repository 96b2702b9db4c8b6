"""The numbers that tie nano's parts together: vocabulary, network sizes, and how a design becomes a sequence."""

from dataclasses import dataclass

import numpy as np
from type_tokens import CODEBOOK_SIZE

IMAGE_START, IMAGE_END = CODEBOOK_SIZE, CODEBOOK_SIZE + 1
VISION_VOCAB_SIZE = CODEBOOK_SIZE + 16
FIRST_BYTE = VISION_VOCAB_SIZE  # text is bytes: id = FIRST_BYTE + byte
GRID_START, GRID_END, IMAGE_PLACEHOLDER, PAD = (FIRST_BYTE + 256 + i for i in range(4))
VOCAB_SIZE = FIRST_BYTE + 260

PRIOR_CONFIG = {
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 640,
    "vocab_size": VOCAB_SIZE,
    "vision_vocab_size": VISION_VOCAB_SIZE,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "pad_token_id": PAD,
    "eos_token_id": IMAGE_END,
    # Interleaved sections and a small theta: with the real model's [8, 12, 12] and 10000 the width axis gets only
    # frequencies below 0.003 rad a column, and a model this small cannot count columns.
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1000.0,
        "partial_rotary_factor": 1.0,
        "mrope_section": [1] * 32,
    },
}

# An instruction is as long as the next one, so that from any cell it is as far as from any other to the source's cell
# at the same place: the prior can look it up by its position. Most are shorter than this.
PROMPT_BYTES = 96


@dataclass(frozen=True)
class Sequence:
    """Ids (S,), positions (3, S) and, for each id, whether it is a prior token to be learnt."""

    ids: np.ndarray
    positions: np.ndarray
    is_target: np.ndarray


def text_ids(prompt: str) -> list[int]:
    """Return the ids of a prompt's bytes."""
    return [FIRST_BYTE + b for b in prompt.encode()]


def grid_ids(rows: int, columns: int) -> list[int]:
    """Return the ids that announce a grid."""
    return [GRID_START, *text_ids(f"{rows} {columns}"), GRID_END]


def grid_positions(base: int, rows: int, columns: int) -> np.ndarray:
    """Return the M-RoPE positions of a grid that starts at `base`, int (3, rows * columns)."""
    y, x = np.mgrid[:rows, :columns]
    return np.stack([np.full(rows * columns, base), base + y.ravel(), base + x.ravel()])


def text_to_image_sequence(
    prompt: str, grids: list[np.ndarray], kept_rows: list[np.ndarray] | None = None, picture_grid=None
) -> Sequence:
    """Lay out prompt, announced grids, start, then the grids' tokens, small grid first.

    Args:
        prompt: the text.
        grids: token grids in the order they are written: [small] or [small, large].
        kept_rows: for each grid the rows to keep, bool (the curriculum's short sequences); all when None.
        picture_grid: (rows, columns) of the large grid where it is announced but not written.
    """
    text = [*text_ids(prompt), *grid_ids(*(picture_grid or grids[-1].shape)), *grid_ids(*grids[0].shape), IMAGE_START]
    return _join([text, *grids], kept_rows)


def padded(prompt: str) -> str:
    """Return an instruction with spaces behind it, a multiple of PROMPT_BYTES bytes, as pack.CHAT_TEMPLATE does."""
    return prompt + " " * (-len(prompt.encode()) % PROMPT_BYTES)


def image_to_image_sequence(
    prompt: str, sources: list[np.ndarray], target: np.ndarray, kept_rows: np.ndarray | None = None
) -> Sequence:
    """Lay out the sources' tokens, each between its marks, the padded prompt, and the large grid alone.

    kept_rows: the rows of every grid to keep, bool; all when None.
    """
    segments: list[list[int] | np.ndarray] = []
    for source in sources:
        segments += [[IMAGE_START], source, [IMAGE_END]]
    segments += [[*text_ids(padded(prompt)), *grid_ids(*target.shape), IMAGE_START], target]
    return _join(segments, None if kept_rows is None else [kept_rows] * (len(sources) + 1))


def _join(segments: list[list[int] | np.ndarray], kept_rows: list[np.ndarray] | None = None) -> Sequence:
    """Place text (lists) and grids (arrays) one after the other; the grids behind the last text are the targets."""
    ids, positions, base, prompt_length = [], [], 0, 0
    kept = iter(kept_rows or ())
    for segment in segments:
        if isinstance(segment, list):
            ids.append(np.asarray(segment))
            positions.append(np.tile(np.arange(base, base + len(segment)), (3, 1)))
            base += len(segment)
            prompt_length = sum(map(len, ids))
        else:
            where, rows = grid_positions(base, *segment.shape), slice(None)
            if kept_rows is not None:
                rows = next(kept)
                where = where.reshape(3, *segment.shape)[:, rows].reshape(3, -1)
            ids.append(segment[rows].ravel())
            positions.append(where)
            base += max(segment.shape)
    is_target = np.arange(sum(map(len, ids))) >= prompt_length
    return Sequence(np.concatenate(ids), np.concatenate(positions, axis=1), is_target)
