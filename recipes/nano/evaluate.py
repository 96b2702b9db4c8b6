"""Measure word accuracy and NED of a checkpoint on a fixed set of prompts; write the figures and a contact sheet."""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scoring import score

from glmimage import Pipeline

HERE = Path(__file__).parent


def confidence_interval(values: list[float], num_draws: int = 2000) -> list[float]:
    """Return the bootstrap 95 % interval of a mean, drawn over prompts."""
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values), (num_draws, len(values))).mean(1)
    return [round(float(v), 3) for v in np.quantile(means, [0.025, 0.975])]


def contact_sheet(pictures: list[Image.Image], num_columns: int = 6, side: int = 256) -> Image.Image:
    """Lay pictures out in rows, in their order."""
    rows = -(-len(pictures) // num_columns)
    sheet = Image.new("RGB", (num_columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        small = picture.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % num_columns * side, i // num_columns * side))
    return sheet


def main() -> None:
    """Paint every prompt of a set with its seed, read the pictures, print one JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--set", type=Path, default=HERE / "eval/one_line.json")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--first", type=int, help="only the first prompts of the set")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    rows = json.loads(args.set.read_text())[: args.first]
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, results = [], []
    with Pipeline.load(args.model, dtype=args.dtype) as pipe:
        for row in rows:
            width, height = args.size
            picture = pipe.generate(
                row["prompt"], width=width, height=height, num_inference_steps=args.steps, seed=row["seed"]
            ).images[0]
            found, similarity = score(np.asarray(picture), row["texts"])
            pictures.append(picture)
            results.append({**row, "found": found, "ned": [round(s, 3) for s in similarity]})
            print(row["texts"], found, flush=True)
    words = [float(f) for r in results for f in r["found"]]
    neds = [n for r in results for n in r["ned"]]
    summary = {
        "set": args.set.stem,
        "size": list(args.size),
        "steps": args.steps,
        "num_prompts": len(rows),
        "num_words": len(words),
        "word_accuracy": round(float(np.mean(words)), 3),
        "word_accuracy_ci95": confidence_interval([float(np.mean(r["found"])) for r in results]),
        "ned": round(float(np.mean(neds)), 3),
    }
    name = f"{args.set.stem}-{args.size[0]}x{args.size[1]}"
    (args.out / f"{name}.json").write_text(json.dumps({"summary": summary, "rows": results}, indent=1) + "\n")
    contact_sheet(pictures[:24]).save(args.out / f"{name}.png")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
