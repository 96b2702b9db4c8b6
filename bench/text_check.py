"""Measure what choosing among several pictures by OCR does for the words in them.

    apt-get install tesseract-ocr
    python bench/text_check.py --minutes 5     again until it says that all is painted

Every prompt is painted NUM times, as `best_of` does it: one request, each picture with its own
seed and prior. rapidocr, the package's reader, chooses among the first 1, 2 ... NUM; tesseract
judges what was chosen, and had no part in choosing. The pictures of one to NUM are the same, so the
columns are paired. Intervals: 95 %, bootstrapped over prompts.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.append(str(Path(__file__).parent))  # last, so that queue.py stays the standard library's

import record
from record import ROOT, Row

SET = ROOT / "recipes" / "nano" / "eval" / "one_line.json"
NUM_PROMPTS, SIDE = 40, 512
RESAMPLES = 10_000
READERS = {"judge": "as the judge reads", "chooser": "as the chooser reads"}
CHOSEN = "chosen by the judge itself"


class Tesseract:
    """Read with tesseract. mode: its page segmentation, 11 is "sparse text, in no order"."""

    def __init__(self, folder: Path, mode: int = 11) -> None:
        self._page, self._mode = folder / "page.png", str(mode)

    def read(self, picture: Image.Image) -> tuple[Any, ...]:
        from glmimage.evaluation.reading import Line

        # it is made for print at 300 dpi, so small type is read better when enlarged
        large = picture.convert("L").resize((picture.width * 2, picture.height * 2))
        large.save(self._page)
        command = ["tesseract", str(self._page), "stdout", "--psm", self._mode, "-l", "eng"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        return tuple(Line(line, (0, 20 * row, 99, 20 * row + 10)) for row, line in enumerate(lines))


def paint(options: argparse.Namespace, rows: list[dict[str, Any]], folder: Path) -> bool:
    """Paint what is missing until the time is over; True when nothing is."""
    missing = [
        number
        for number in range(len(rows))
        if not all((folder / f"{number}-{index}.png").exists() for index in range(options.num))
    ]
    if not missing:
        return True
    from glmimage import Pipeline

    ends = time.monotonic() + 60 * options.minutes
    with Pipeline.load(options.model, "cpu") as pipe:
        for number in missing:
            if time.monotonic() > ends:
                print(f"{len(missing)} prompts are left; start it again")
                return False
            row = rows[number]
            made = pipe.generate(
                row["prompt"],
                width=SIDE,
                height=SIDE,
                seed=row["seed"],
                num_images=options.num,
                num_inference_steps=options.steps,
            )
            for index, image in enumerate(made.images):
                # whole or not at all: it may be ended at any moment
                image.save(folder / "unfinished.png")
                (folder / "unfinished.png").replace(folder / f"{number}-{index}.png")
    return True


def judge(
    options: argparse.Namespace, rows: list[dict[str, Any]], folder: Path
) -> list[dict[str, Any]]:
    """Read every picture with both engines; return per prompt what each found in each picture."""
    from glmimage.evaluation.reading import Reader
    from glmimage.evaluation.text_check import check_text

    reader, tesseract = Reader(), Tesseract(folder)
    found = []
    for number, row in enumerate(rows):
        pictures = [Image.open(folder / f"{number}-{k}.png") for k in range(options.num)]
        found.append(
            {
                "chooser": [check_text(one, row["prompt"], reader) for one in pictures],
                "judge": [check_text(one, row["prompt"], tesseract) for one in pictures],
            }
        )
    return found


def compare(found: list[dict[str, Any]], num: int) -> list[Row]:
    """Return for best of 1 ... num the words that either engine reads in the chosen picture."""
    from glmimage.evaluation.text_check import choose_best

    table: list[Row] = []
    alone: list[tuple[int, int]] = []
    for best_of in range(1, num + 1):
        chosen = [choose_best(one["chooser"][:best_of], 1)[0] for one in found]
        for name, reads in READERS.items():
            checks = [one[name][index] for one, index in zip(found, chosen, strict=True)]
            words = counted(checks)
            case = f"best of {best_of}, {reads}"
            sure: dict[str, Any] = {"interval": interval(words)}
            if name == "judge" and best_of == 1:
                alone = words
            elif name == "judge":
                gain = round(share(words) - share(alone), 4)
                sure |= {"gain": gain, "gain_interval": interval(words, alone)}
            similarity = sum(check.similarity for check in checks) / len(checks)
            whole = sum(not check.missing for check in checks)
            table.append(record.row(case, "word_accuracy", share(words), **sure))
            table.append(record.row(case, "ned", similarity))
            table.append(record.row(case, "pictures with all words", whole))
    # the best the judge itself could have chosen: what any chooser could reach
    best = [one["judge"][choose_best(one["judge"], 1)[0]] for one in found]
    reached = share(counted(best))
    return [*table, record.row(f"best of {num}, {CHOSEN}", "word_accuracy", reached)]


def counted(checks: list[Any]) -> list[tuple[int, int]]:
    """Return the words found and all words, of each prompt."""
    return [(len(check.found), len(check.found) + len(check.missing)) for check in checks]


def share(words: list[tuple[int, int]]) -> float:
    """Return found words over all words, given (found, all) of each prompt."""
    return round(sum(found for found, _ in words) / sum(total for _, total in words), 4)


def interval(
    words: list[tuple[int, int]], before: list[tuple[int, int]] | None = None
) -> list[float]:
    """Return the 95 % interval of the share, or of what it gains over another of the same prompts.

    Prompts are resampled, each with both of its pictures.
    """
    draw, prompts = random.Random(1), range(len(words))
    values = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(prompts, k=len(words))
        value = share([words[prompt] for prompt in drawn])
        if before is not None:
            value -= share([before[prompt] for prompt in drawn])
        values.append(round(value, 4))
    values.sort()
    return [values[RESAMPLES * 25 // 1000], values[RESAMPLES * 975 // 1000]]


def tesseract_version() -> str:
    """Return its name and version; end with one sentence where it is missing."""
    if shutil.which("tesseract") is None:
        raise SystemExit("tesseract, the judge, is missing: apt-get install tesseract-ocr")
    command = ["tesseract", "--version"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return " ".join(printed.split()[:2])


def card(
    options: argparse.Namespace, rows: list[dict[str, Any]], checkpoint: str
) -> dict[str, Any]:
    """Say what was measured with what. checkpoint: its fingerprint."""
    from glmimage.evaluation.run import set_fingerprint

    return record.card(
        packages=("torch", "rapidocr"),
        chooser=f"rapidocr {version('rapidocr')}",
        judge=tesseract_version(),
        model=f"{Path(options.model).name}, {checkpoint}",
        set=f"{SET.stem}, {set_fingerprint(SET)}",
        prompts=len(rows),
        words=sum(len(" ".join(row["texts"]).split()) for row in rows),
        size=[SIDE, SIDE],
        num_inference_steps=options.steps,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what best_of does for the words.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--first", type=int, default=NUM_PROMPTS, help="prompts")
    parser.add_argument("--num", type=int, default=4, help="pictures a prompt")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "text_check")
    options = parser.parse_args()
    from glmimage.evaluation.run import checkpoint_fingerprint
    from glmimage.loading.hub import resolve_model

    tesseract_version()  # now, and not when all is painted
    rows = json.loads(SET.read_text(encoding="utf-8"))[: options.first]
    checkpoint = checkpoint_fingerprint(resolve_model(options.model))
    # pictures of another model or of other steps are not taken for these
    folder = options.out / f"{checkpoint}-{options.steps}-steps"
    folder.mkdir(parents=True, exist_ok=True)
    if not paint(options, rows, folder):
        return
    table = compare(judge(options, rows, folder), options.num)
    result = {"card": card(options, rows, checkpoint), "rows": table}
    part = f"-first-{options.first}" if options.first < NUM_PROMPTS else ""
    record.write_result(result, f"text-check{part}")


if __name__ == "__main__":
    main()
