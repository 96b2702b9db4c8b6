"""A folder of pictures with captions, in one of two forms.

    name.png + name.txt     the caption beside its picture
    metadata.jsonl          {"file_name": "name.png", "text": "the caption"}, a line a picture:
                            the form of Hugging Face's imagefolder

The decoder learns to paint a picture from its own prior tokens. Where a second picture is given,
`name.prior.png` or "prior_file_name", the tokens are read from that one: of the same layout, in a
look that the model knows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import GlmImageError, InvalidDataset, InvalidImage
from ..source_images import check_source_size, open_source_image
from ..types import MAX_SIDE, MIN_SIDE, SIDE_STEP, check_prompt

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
METADATA = "metadata.jsonl"
PRIOR_MARK = ".prior"


@dataclass(frozen=True)
class Example:
    """One picture to learn from. width, height: px, what it is scaled and cropped to."""

    path: Path
    caption: str
    width: int
    height: int
    prior_path: Path

    def picture(self, path: Path | None = None) -> Image.Image:
        """Return the picture, or the one in `path`, filled to the size; raise InvalidDataset."""
        try:
            image = open_source_image(path or self.path)
        except InvalidImage as error:
            raise InvalidDataset(error.message, hint="Remove it, or save it anew.") from None
        return fill_size(image, self.width, self.height)


def read_folder(folder: Path, resolution: int) -> list[Example]:
    """Return the examples of a folder, by name; raise InvalidDataset, naming the file."""
    if not folder.is_dir():
        raise InvalidDataset(f"There is no folder {str(folder)!r}.")
    if (folder / METADATA).is_file():
        found = _from_metadata(folder)
    else:
        found = _from_text_files(folder)
    if not found:
        raise InvalidDataset(
            f"There are no pictures in {str(folder)!r}.",
            hint=f"Put {', '.join(sorted(SUFFIXES))} files there, each with its caption in a .txt "
            f"file of the same name, or in {METADATA}.",
        )
    examples = []
    for path, caption, prior_path in sorted(found):
        try:
            check_prompt(caption)
        except GlmImageError as error:
            raise InvalidDataset(
                f"The caption of {path.name!r} cannot be used: {error.message}",
                hint="Describe the picture; put the words that stand in it in quotes.",
            ) from None
        examples.append(Example(path, caption, *_size_of(path, resolution), prior_path))
    return examples


def split(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Return those to learn from and those to measure with; one at least is learnt from."""
    count = min(round(share * len(examples)), len(examples) - 1)
    kept_out = set(random.Random(seed).sample(range(len(examples)), count))
    learnt = [example for i, example in enumerate(examples) if i not in kept_out]
    return learnt, [examples[i] for i in sorted(kept_out)]


def training_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Return the size (width, height) nearest in shape with about resolution squared pixels."""
    scale = resolution / (width * height) ** 0.5
    scale = max(scale, MIN_SIDE / min(width, height))
    sides = (round(side * scale / SIDE_STEP) * SIDE_STEP for side in (width, height))
    first, second = (min(max(side, MIN_SIDE), MAX_SIDE) for side in sides)
    return first, second


def fill_size(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale a picture so that it covers the size, and cut off evenly what stands out."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    part_width, part_height = width / scale, height / scale
    left, top = (image.width - part_width) / 2, (image.height - part_height) / 2
    box = (left, top, left + part_width, top + part_height)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _from_text_files(folder: Path) -> list[tuple[Path, str, Path]]:
    found = []
    for path in folder.iterdir():
        if path.suffix.lower() not in SUFFIXES or path.stem.endswith(PRIOR_MARK):
            continue
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise InvalidDataset(
                f"{path.name!r} has no caption.",
                hint=f"Write one into {text.name!r} beside it, or into {METADATA}.",
            )
        try:
            caption = text.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidDataset(f"{text.name!r} cannot be read: {error}.") from None
        twins = [path.with_name(f"{path.stem}{PRIOR_MARK}{suffix}") for suffix in sorted(SUFFIXES)]
        prior_path = next((twin for twin in twins if twin.is_file()), path)
        found.append((path, caption, prior_path))
    return found


def _from_metadata(folder: Path) -> list[tuple[Path, str, Path]]:
    found = []
    try:
        lines = (folder / METADATA).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataset(f"{METADATA} cannot be read: {error}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{METADATA}, line {number}"
        try:
            row = json.loads(line)
            name, caption = row["file_name"], row.get("text", row.get("caption"))
            path, prior_path = folder / name, folder / row.get("prior_file_name", name)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidDataset(
                f"{where} is not a JSON object with file_name and text.",
                hint='A line looks like {"file_name": "a.png", "text": "A sign that says \'A\'"}.',
            ) from None
        if not isinstance(caption, str) or not caption.strip():
            raise InvalidDataset(f"{where}: {name!r} has no caption.", hint='Put it in "text".')
        for one in (path, prior_path):
            if not one.is_file():
                raise InvalidDataset(f"{where}: there is no file {str(one)!r}.")
        found.append((path, caption.strip(), prior_path))
    return found


def _size_of(path: Path, resolution: int) -> tuple[int, int]:
    """Return the size to train at, from the header alone; raise InvalidDataset when too small."""
    try:
        with Image.open(path) as image:
            # a picture taken on its side is turned when it is read
            turned = image.getexif().get(0x0112, 1) >= 5
            own = image.size[::-1] if turned else image.size
        check_source_size(*own, f"the picture {path.name!r}")
    except InvalidImage as error:
        raise InvalidDataset(error.message, hint=error.hint) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InvalidDataset(
            f"{path.name!r} is not a picture that can be read.", hint="Remove it, or save it anew."
        ) from None
    width, height = training_size(*own, resolution)
    if max(width / own[0], height / own[1]) > 1 + SIDE_STEP / MIN_SIDE:
        raise InvalidDataset(
            f"{path.name!r} is {own[0]}x{own[1]} px; for a resolution of {resolution} it must have "
            f"about {width}x{height} px.",
            hint=f"Give larger pictures, or a smaller --resolution (at least {MIN_SIDE}).",
        )
    return width, height
