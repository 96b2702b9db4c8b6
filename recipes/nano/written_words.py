"""Count the words that a checkpoint's prior writes, without painting: in its plan, and in the picture's tokens.

    python written_words.py held_out --size 512x512 --first 40

What is lost before a pixel is painted, in half a minute on two CPU cores; `glmimage eval text` measures the rest.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from links import read_back
from pack import is_numbered_by_these_names
from type_tokens import LENGTH, STYLE

from glmimage import GenerationRequest, Pipeline
from glmimage.engine.engine import Engine
from glmimage.evaluation.rows import Row, load_rows
from glmimage.loading.hub import resolve_model
from glmimage.types import PriorReady, SmallGridReady

HERE = Path(__file__).parent


def write_grids(model: str, requests: list[GenerationRequest]) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """Return the small grid (None with references) and the large one of every request, int (rows, columns) each.

    All are written together.
    """
    if not is_numbered_by_these_names(resolve_model(model)):
        raise SystemExit(f"The tokens of {model} have other numbers than type_tokens.py gives: pack a newer one.")
    engine = Engine(Pipeline.load(model).stages, paints=False)
    numbers, small, large = {}, {}, {}
    for number, request in enumerate(requests):
        numbers[engine.add_request(request)] = number
    while len(large) < len(requests):
        for event in engine.step():
            if isinstance(event, SmallGridReady):
                small[numbers[event.request_id]] = np.reshape(event.prior_token_ids, event.grid)
            elif isinstance(event, PriorReady):
                large[numbers[event.request_id]] = np.reshape(event.prior_token_ids, event.large_grid)
                engine.abort(event.request_id)
    return [(small.get(number), large[number]) for number in range(len(requests))]


def request_of(row: Row) -> GenerationRequest:
    """Return what asks for a row's picture, without references."""
    return GenerationRequest(row.prompt, width=row.width, height=row.height, seed=row.seed)


def plan_lines(plan: np.ndarray) -> list[str]:
    """Read the lines that a plan spells: every second row, from the second on, up to where it tells the length."""
    lines = []
    for row in plan[1::2]:
        ends = np.flatnonzero((row >= LENGTH) & (row < STYLE))
        lines += read_back(row[None, : ends[0] if len(ends) else None])
    return lines


def main() -> None:
    """Print what was asked for, planned and set, then the shares of words that are there, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("held_out", "freely_written", "one_line"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", help="only the prompts of this size, as WxH")
    parser.add_argument("--first", type=int, help="only the first prompts")
    args = parser.parse_args()
    rows = [r for r in load_rows(HERE / f"eval/{args.set}.json") if args.size in (None, f"{r.width}x{r.height}")]
    rows = rows[: args.first]
    num_words, found = 0, {"plan": 0, "picture": 0}
    for row, (small, large) in zip(rows, write_grids(args.model, list(map(request_of, rows))), strict=True):
        wanted = " ".join(row.texts).split()
        num_words += len(wanted)
        lines = {"plan": plan_lines(small), "picture": read_back(large)}
        for name, written in lines.items():
            words = set(" ".join(written).split())
            found[name] += sum(word in words for word in wanted)
        print(row.id, list(row.texts), *lines.values(), flush=True)
    shares = {name: round(number / num_words, 3) for name, number in found.items()}
    print(json.dumps({"prompts": len(rows), "words": num_words, **shares}))


if __name__ == "__main__":
    main()
