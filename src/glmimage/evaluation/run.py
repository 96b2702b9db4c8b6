"""Paint a set, judge every picture, write what was found; goes on where it stopped.

In the folder: NAME.jsonl (the settings, then a line a picture), NAME.json and NAME.md (figures),
NAME.png (the first 24, unpicked) and NAME/ (the pictures).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..errors import InvalidRequest, OutputError
from ..source_images import open_source_image
from .judge import Reads, Verdict, judge
from .report import as_markdown, compare, summarise
from .rows import Row

SHEET_PICTURES, SHEET_COLUMNS, SHEET_SIDE = 24, 6, 256
JUDGE = 1
"""Version of the judge: results of another are not continued or compared."""


class Paints(Protocol):
    def __call__(self, row: Row, sources: Sequence[Image.Image]) -> Image.Image: ...


@dataclass(frozen=True)
class Results:
    """The verdicts of a run and what it was made with."""

    settings: dict[str, Any]
    verdicts: tuple[Verdict, ...]


def set_fingerprint(path: Path) -> str:
    """Return what tells one version of a set from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def checkpoint_fingerprint(folder: Path) -> str:
    """Return what tells one version of a checkpoint from another, from a little of each file."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".safetensors", ".json"}:
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder)} {size}".encode())
            with path.open("rb") as file:
                for part in range(8):
                    file.seek(max(0, size * part // 7 - 65536))
                    digest.update(file.read(65536))
    return digest.hexdigest()[:12]


def load_results(path: Path) -> Results:
    """Read a NAME.jsonl; raise InvalidRequest."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # a process that was killed may leave half a line, always the last
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        settings = whole[0]["settings"]
        verdicts = tuple(Verdict(**one) for one in whole[1:])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidRequest(
            f"{str(path)!r} is no result file of glmimage eval: {error}.",
            hint="Name the .jsonl file that a run wrote.",
        ) from error
    if settings.get("judge") != JUDGE:
        raise InvalidRequest(
            f"{str(path)!r} is of version {settings.get('judge')} of the judge, not {JUDGE}.",
            hint="Judge its pictures again with --pictures.",
        )
    return Results(settings, verdicts)


def evaluate(
    rows: Sequence[Row],
    settings: dict[str, Any],
    path: Path,
    paint: Callable[[], Paints],
    reader: Reads,
) -> Iterator[Verdict]:
    """Yield a verdict a row, in order, and keep it in `path`; rows judged before are not painted.

    paint: called once, when the first picture is needed. Raise InvalidRequest when `path` holds
    results of other settings.
    """
    settings = {**settings, "judge": JUDGE}
    done = _begin(path, settings)
    painter: Paints | None = None
    for row in rows:
        if row.id not in done:
            painter = painter or paint()
            sources = tuple(open_source_image(source) for source in row.sources)
            picture = painter(row, sources)
            done[row.id] = judge(picture, row, reader, sources)
            picture.save(_picture_path(path, row))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(done[row.id]), ensure_ascii=False) + "\n")
        yield done[row.id]


def write_report(
    rows: Sequence[Row], verdicts: Sequence[Verdict], path: Path, old: Results | None
) -> dict[str, Any]:
    """Write NAME.json, NAME.md and NAME.png beside the results; return what the JSON says."""
    summary = summarise(verdicts)
    comparison = compare(old.verdicts, verdicts) if old is not None else None
    if comparison is not None and not comparison:
        raise InvalidRequest("The two results have no prompt in common: nothing to compare.")
    document = {"settings": load_results(path).settings, **summary}
    if old is not None:
        document["compared_with"] = {"settings": old.settings, "figures": comparison}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(summary, comparison), encoding="utf-8")
    first = [Image.open(_picture_path(path, row)) for row in rows[:SHEET_PICTURES]]
    contact_sheet(first).save(path.with_suffix(".png"))
    return document


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Lay pictures out in rows, in their order, each whole."""
    num_columns = min(SHEET_COLUMNS, len(pictures))
    num_rows = -(-len(pictures) // num_columns)
    side = SHEET_SIDE
    sheet = Image.new("RGB", (num_columns * side, num_rows * side), "white")
    for index, picture in enumerate(pictures):
        small = picture.convert("RGB")
        small.thumbnail((side - 4, side - 4), Image.Resampling.LANCZOS)
        x, y = index % num_columns * side, index // num_columns * side
        sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
    return sheet


class PicturesOf:
    """Take pictures that are painted already: FOLDER/ID.png, .jpg or .webp."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InvalidRequest(f"There is no folder {str(folder)!r}.")
        self._folder = folder

    def __call__(self, row: Row, sources: Sequence[Image.Image]) -> Image.Image:
        for suffix in (".png", ".jpg", ".jpeg", ".webp"):
            path = self._folder / f"{row.id}{suffix}"
            if path.exists():
                return open_source_image(path)
        raise InvalidRequest(
            f"{str(self._folder)!r} has no picture of {row.id!r}.",
            hint="Pictures are named by the id of their row, such as free-01.png.",
        )


def _begin(path: Path, settings: dict[str, Any]) -> dict[str, Verdict]:
    """Return the verdicts of an interrupted run, or start the file."""
    try:
        path.with_suffix("").mkdir(parents=True, exist_ok=True)
        if not path.exists() or not path.read_bytes().count(b"\n"):
            path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
            return {}
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    before = load_results(path)
    differing = [n for n in settings if settings[n] != before.settings.get(n)]
    if differing:
        raise InvalidRequest(
            f"{str(path)!r} holds results of another {', '.join(differing)}.",
            hint="Choose another --out, or delete it.",
        )
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind(b"\n") + 1])  # half a line of a killed process
    return {verdict.id: verdict for verdict in before.verdicts}


def _picture_path(path: Path, row: Row) -> Path:
    return path.with_suffix("") / f"{row.id}.png"
