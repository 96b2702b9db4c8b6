"""Measure a checkpoint on the held-out sets with `glmimage eval text`, and compare it with the one measured last.

Tables, figures and the first 24 pictures go to results/; all pictures to runs/eval/, where a stopped run goes on.
On two CPU cores a picture of 512 px takes about 10 s, one of 1024 px about a minute: hours for everything.
"""

import argparse
import shutil
import sys
from pathlib import Path

from glmimage.cli import run
from glmimage.evaluation.run import checkpoint_fingerprint
from glmimage.loading.hub import resolve_model

HERE = Path(__file__).parent
SETS = ("freely_written", "held_out", "own_edits", "edits", "one_line")


def main() -> None:
    """Measure set by set; what was measured last is what results/ holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--first", type=int, help="only the first prompts of each set")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args, options = parser.parse_known_args()
    work = HERE / "runs/eval" / checkpoint_fingerprint(resolve_model(args.model))
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        command = ["eval", "text", str(HERE / f"eval/{name}.json"), "--model", args.model, "--out", str(work), *options]
        if args.first:
            command += ["--first", str(args.first)]
        last = args.out / f"{name}.jsonl"
        if last.exists():
            command += ["--compare", str(last)]
        code = run(command)
        if code:
            sys.exit(code)
        for suffix in (".jsonl", ".json", ".md", ".png"):
            shutil.copyfile(work / f"{name}{suffix}", args.out / f"{name}{suffix}")


if __name__ == "__main__":
    main()
