"""Count the recolourings of foreign pictures that a checkpoint's prior writes as asked, without painting.

    python written_recolors.py --model runs/packed

Scenes and instructions as training draws them (foreign.py), with held-out words, and the drawn scenes of
eval/edits.json, in instructions that training does not have. 512 px.
"""

import argparse
import itertools
import json
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
from designs import load_codebook, load_words
from foreign import random_foreign_edit
from PIL import Image
from renderer import CELL, draw
from training import CODEBOOK
from type_tokens import FIRST_BACKGROUND, FIRST_COLORLESS, NAMES, PALETTE
from written_words import write_grids

from glmimage import GenerationRequest
from glmimage.evaluation.rows import load_rows

EVAL = Path(__file__).parent / "eval"
GRID = (16, 16)
FIRST_SEED = 90_000_000
LEAST_CELLS = 3  # that are wholly of what is recoloured
NEAR = 75  # how far a cell's mean may be from a colour, in 0..255 of three channels together
ENOUGH_PAINTED, ENOUGH_KEPT = 0.8, 0.9  # of the cells, for an edit to count


def means_of_tokens() -> np.ndarray:
    """Return the mean colour of what every token shows, float32 (tokens, 3); NaN for type and stencils."""
    means = np.full((len(NAMES.background), 3), np.nan, np.float32)
    centres = load_codebook(CODEBOOK, load_words()[0]).centres
    means[FIRST_BACKGROUND:] = centres.reshape(len(centres), -1, 3).mean(1) * 255
    said = (NAMES.message >= 0) & (NAMES.color >= 0)
    said[FIRST_COLORLESS:] = False
    means[said] = np.float32(list(PALETTE.values()))[NAMES.color[said]]
    return means


class Asked(NamedTuple):
    """A request, the cells that are to be recoloured wholly and kept wholly, bool GRID, and all cells' colours then."""

    request: GenerationRequest
    filled: np.ndarray
    kept: np.ndarray
    colors: np.ndarray


def drawn(number: int) -> list[Asked]:
    """Draw recolourings as training does."""
    words, found = load_words()[1], []
    for seed in itertools.count(FIRST_SEED):
        edit = random_foreign_edit(random.Random(seed), words, GRID)
        if edit.filled.sum() < LEAST_CELLS:
            continue
        colors = cell_means(draw(edit.target))
        picture = Image.fromarray(draw(edit.source))
        request = GenerationRequest(edit.prompt, 512, 512, seed=seed, source_images=(picture,))
        found.append(Asked(request, edit.filled, ~edit.repainted, colors))
        if len(found) == number:
            return found
    raise AssertionError


def of_the_set() -> list[Asked]:
    """Take the scenes of eval/edits.json; only the cells within the boxes that are judged there count."""
    found = []
    for row in load_rows(EVAL / "edits.json"):
        if row.change is None or not row.change.regions:
            continue
        picture = Image.open(row.sources[0]).convert("RGB")
        colors, filled, kept = cell_means(np.asarray(picture)), np.zeros(GRID, bool), np.zeros(GRID, bool)
        for region in row.change.regions:
            filled |= inside(region.box)
            colors[inside(region.box)] = PALETTE[region.color]
        for region in row.change.kept_regions:
            kept |= inside(region.box)
        request = GenerationRequest(row.prompt, 512, 512, seed=row.seed, source_images=(picture,))
        found.append(Asked(request, filled, kept, colors))
    return found


def cell_means(picture: np.ndarray) -> np.ndarray:
    """Return the mean colours of a picture's cells, float32 (rows, columns, 3)."""
    rows, columns = picture.shape[0] // CELL, picture.shape[1] // CELL
    return picture.reshape(rows, CELL, columns, CELL, 3).astype(np.float32).mean((1, 3))


def inside(box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the cells whose centre lies in a box (left, top, right, bottom; 0..1), bool GRID."""
    y, x = (np.mgrid[: GRID[0], : GRID[1]] + 0.5) / GRID[0]
    left, top, right, bottom = box
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def main() -> None:
    """Print every instruction with the shares of cells that are as asked, then the share of edits, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--drawn", type=int, default=48, help="how many are drawn")
    args = parser.parse_args()
    means, shares = means_of_tokens(), {}
    for name, asked in (("drawn", drawn(args.drawn)), ("set", of_the_set())):
        counts = {"painted": 0, "kept": 0, "both": 0}
        for edit, (_, grid) in zip(asked, write_grids(args.model, [a.request for a in asked]), strict=True):
            is_right = np.abs(means[grid] - edit.colors).sum(-1) < NEAR
            painted, kept = is_right[edit.filled].mean(), is_right[edit.kept].mean()
            counts["painted"] += painted >= ENOUGH_PAINTED
            counts["kept"] += kept >= ENOUGH_KEPT
            counts["both"] += painted >= ENOUGH_PAINTED and kept >= ENOUGH_KEPT
            print(edit.request.prompt, round(float(painted), 2), round(float(kept), 2), flush=True)
        shares[name] = {"edits": len(asked), **{k: round(int(n) / len(asked), 3) for k, n in counts.items()}}
    print(json.dumps(shares))


if __name__ == "__main__":
    main()
