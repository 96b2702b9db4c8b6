"""Write own_edits.json and its source pictures: the edits of edits.json, of posters set in nano's own type.

What image to image is trained on, with texts and instructions that the training data does not hold; edits.json has
the same in any type, and photographs. `python make_own_edits.py`
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from make_edits import HERE, INSTRUCTIONS, POSTERS, make_poster_edit, take_turns
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from designs import Content, stack, typeset
from renderer import draw

SIDE = 16  # cells: 512 px


def content_of(name: str) -> Content:
    """Return a poster as nano sets it."""
    texts, color, ink, places, align, style, weight = POSTERS[name]
    return Content(
        texts[0],
        subtitle=texts[1] if len(texts) > 1 else "",
        place=places[0],
        second_place=places[1] if len(places) > 1 else "",
        style=style if weight == "bold" else f"{style} regular",
        color=color,
        ink=ink,
        align=align,
    )


def text_boxes(content: Content) -> list[tuple[float, ...]]:
    """Return the box of what can be seen of each text: left, top, right, bottom, 0..1."""
    design, boxes = typeset(content, SIDE, SIDE), []
    for text in (t for t, _ in content.placed_texts):
        pieces = set(stack(text, SIDE))
        lines = tuple(line for line in design.lines if line.text in pieces)
        seen = np.abs(draw(replace(design, lines=lines)).astype(int) - draw(replace(design, lines=()))).max(2) > 40
        y, x = np.nonzero(seen)
        sides = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / (32 * SIDE)
        boxes.append(tuple(round(float(side), 4) for side in sides))
    return boxes


def main() -> None:
    """Write the set."""
    rows, contents = [], {name: content_of(name) for name in POSTERS}
    for number, (kind, case) in enumerate(take_turns({k: v for k, v in INSTRUCTIONS.items() if k != "scene"}), 1):
        _, _, row = make_poster_edit(kind, case)
        used = [case[0]] + [case[1]] * (kind == "layout and palette")
        names = [f"sources/own-{name}.png" for name in used]
        for name, path in zip(used, names, strict=True):
            Image.fromarray(draw(typeset(contents[name], SIDE, SIDE))).save(HERE / path, optimize=True)
        row["change"]["boxes"] = text_boxes(contents[case[0]])
        row_id = f"own-edit-{number:02d}"
        common = {"id": row_id, "kind": kind, "sources": names, "seed": 9500 + number, "width": 512, "height": 512}
        rows.append(common | row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "own_edits.json").write_text(f"[\n{lines}\n]\n")
    print(len(rows), "edits")


if __name__ == "__main__":
    main()
