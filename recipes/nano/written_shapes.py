"""Count the round and slanted shapes that a checkpoint's prior plans and draws as asked, without painting.

    python written_shapes.py --model runs/packed

The prompts ask in phrasings that the training data does not contain, with held-out words.
"""

import argparse
import itertools
import json
import random
import re

import numpy as np
from designs import LEAST_CONTRAST, load_words
from renderer import contrast, form, stencil_tokens
from type_tokens import COLORS, FORM, FORM_KINDS, FORMS, NAMES, PALETTE
from written_words import request_of, write_grids

from glmimage.evaluation.rows import Row

PHRASINGS = (
    'Poster that says "{text}" and shows a {color} {kind}, {ground} background',
    'A {ground} card with "{text}" above a {color} {kind}',
    '"{text}" and one {color} {kind} on {ground}',
    'Design a {ground} sign: the word "{text}", decorated with a {color} {kind}',
    'A {color} {kind} and the title "{text}" on a {ground} ground',
    'Logo with a {color} {kind}, lettering "{text}", background {ground}',
    'make me a {ground} flyer, "{text}" written big, {color} {kind} underneath',
    'Minimal {ground} cover featuring a {color} {kind}; it reads "{text}"',
    'Sticker, {ground}, "{text}", {color} {kind}',
    'Please draw a {color} {kind} under the words "{text}" ({ground} background)',
    'An invitation in {ground} with a single {color} {kind} and the text "{text}"',
)
ENOUGH = 0.9  # of a form's cells, for it to count as drawn


def asked_for(seed: int = 0) -> list[tuple[str, str, Row]]:
    """Return every kind in every phrasing, as (kind, colour, row) at 512x512."""
    rng, words = random.Random(seed), load_words()[1]
    asked = []
    for number, (kind, phrasing) in enumerate(itertools.product(FORM_KINDS, PHRASINGS)):
        ground = rng.choice(COLORS)
        color = rng.choice([c for c in COLORS if contrast(PALETTE[c], PALETTE[ground]) > LEAST_CONTRAST])
        text = rng.choice([w for w in words if len(w) <= 6]).capitalize()
        prompt = phrasing.format(text=text, color=color, kind=kind, ground=ground)
        prompt = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", prompt)
        asked.append((kind, color, Row(f"shape-{number}", prompt, (text,), seed=number, width=512, height=512)))
    return asked


def named(grid: np.ndarray) -> tuple[str, int, str] | None:
    """Return (kind, width, colour) of the form that most cells of a grid name; None where none does."""
    names, counts = np.unique(grid[(NAMES.message[grid] >= FORM) & (NAMES.color[grid] >= 0)], return_counts=True)
    if not len(names):
        return None
    name = names[counts.argmax()]
    return *FORMS[NAMES.message[name] - FORM], COLORS[NAMES.color[name]]


def share_drawn(grid: np.ndarray) -> float:
    """Return the share of the form's cells that are as its name wants them, from the first cell that names one."""
    kind, width, color = named(grid)
    is_name = (NAMES.message[grid] >= FORM) & (NAMES.color[grid] == COLORS.index(color))
    top, left = np.argwhere(is_name)[0]
    wanted = stencil_tokens(form(kind, 0, 0, width, PALETTE[color]))
    box = grid[top : top + len(wanted), left + 1 : left + 1 + wanted.shape[1]]
    shown = np.full_like(wanted, -2)
    shown[: len(box), : box.shape[1]] = box
    return float((shown == wanted)[wanted >= 0].mean())


def main() -> None:
    """Print what was asked for, planned and drawn, then the shares that are as asked, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    args = parser.parse_args()
    asked = asked_for()
    counts = {"plan": 0, "picture_kind": 0, "picture": 0, "drawn": 0}
    grids = write_grids(args.model, [request_of(row) for *_, row in asked])
    for (kind, color, row), (small, large) in zip(asked, grids, strict=True):
        plan, picture = named(small), named(large)
        share = share_drawn(large) if picture else 0.0
        is_kind = picture is not None and picture[0] == kind
        counts["plan"] += plan is not None and (plan[0], plan[2]) == (kind, color)
        counts["picture_kind"] += is_kind
        counts["picture"] += is_kind and picture[2] == color
        counts["drawn"] += is_kind and picture[2] == color and share >= ENOUGH
        print(row.prompt, plan, picture, round(share, 2), flush=True)
    print(json.dumps({"prompts": len(asked), **{k: round(n / len(asked), 3) for k, n in counts.items()}}))


if __name__ == "__main__":
    main()
