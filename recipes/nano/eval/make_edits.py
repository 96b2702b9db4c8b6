"""Write edits.json and its source pictures: 78 edits of drawn designs and of photograph-like scenes.

python make_edits.py                  write edits.json and sources/
python make_edits.py --expected DIR   draw what each edit should give, to measure the judge itself
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from draw import FACES, Design, Shape, Text, add_noise, design_of, draw, load_font, text_box
from PIL import Image, ImageFilter, ImageOps
from scenes import SCENES, paint_scene

from glmimage.evaluation.colours import PALETTE
from glmimage.evaluation.rows import Asked, Row

HERE = Path(__file__).parent
# texts, background, ink, positions, alignment, style, weight
POSTERS = {
    "open": (["OPEN"], "green", "white", ["middle"], "center", "sans", "bold"),
    "tea": (["Tea House", "since 1988"], "beige", "brown", ["top", "bottom"], "center", "serif", "regular"),
    "sale": (["WINTER SALE"], "navy", "white", ["top"], "center", "sans", "bold"),
    "jazz": (["Jazz Night", "Friday 21:00"], "purple", "yellow", ["top", "bottom"], "left", "serif", "bold"),
    "menu": (["Lunch Menu"], "white", "black", ["top"], "center", "serif", "regular"),
    "code": (["hello world"], "black", "lime", ["middle"], "left", "mono", "regular"),
    "yoga": (["Yoga Class", "Room 4"], "mint", "navy", ["middle", "bottom"], "center", "sans", "regular"),
    "taxi": (["TAXI"], "yellow", "black", ["middle"], "center", "sans", "bold"),
    "book": (["Silent River"], "teal", "white", ["bottom"], "center", "serif", "bold"),
    "gym": (["PUSH", "Join today"], "red", "white", ["top", "bottom"], "center", "sans", "bold"),
    "card": (["Anna Weber"], "sky blue", "black", ["middle"], "left", "sans", "regular"),
    "film": (["Film Club", "May 12"], "charcoal", "white", ["middle", "bottom"], "right", "mono", "bold"),
    "farm": (["Fresh Eggs"], "orange", "black", ["top"], "center", "serif", "bold"),
    "gift": (["For You"], "pink", "maroon", ["middle"], "center", "serif", "regular"),
    "lab": (["Lab 7", "Keep out"], "gray", "white", ["top", "middle"], "center", "mono", "bold"),
    "sun": (["Sunny Days"], "coral", "white", ["bottom"], "center", "sans", "bold"),
}
INSTRUCTIONS: dict[str, list[tuple]] = {
    "replace text": [
        ("open", 0, "CLOSED", "Replace 'OPEN' with 'CLOSED'"),
        (
            "tea",
            0,
            "Coffee Bar",
            "The house sells coffee now: change the words “Tea House” to “Coffee Bar”, nothing else",
        ),
        ("sale", 0, "SPRING SALE", "make it say 'SPRING SALE' instead of 'WINTER SALE'"),
        ("jazz", 1, "Sunday 20:00", 'The concert moved. Swap "Friday 21:00" for "Sunday 20:00"'),
        ("menu", 0, "Dinner Menu", "Same card, but the heading should read 'Dinner Menu' rather than 'Lunch Menu'"),
        ("code", 0, "goodbye", "edit the text 'hello world' so that it becomes 'goodbye'"),
        ("yoga", 1, "Room 9", "Please correct the room: 'Room 9' instead of 'Room 4'"),
        ("taxi", 0, "BUS", "TAXI -> 'BUS'"),
        ("book", 0, "Loud Forest", "New title for this cover: 'Loud Forest'. Keep the design as it is."),
        ("card", 0, "Omar Haddad", 'Change the name on the card to "Omar Haddad"'),
        ("film", 1, "June 3", "update the date 'May 12' to 'June 3'"),
        ("farm", 0, "Ripe Plums", "Write 'Ripe Plums' where it now says 'Fresh Eggs'"),
    ],
    "background": [
        ("open", "red", "Make the background red"),
        ("sale", "maroon", "same thing on a burgundy background please"),
        ("menu", "yellow", "Put this on yellow instead of white"),
        ("yoga", "pink", "Change the mint background to pink and keep the text"),
        ("taxi", "orange", "turn the yellow into orange"),
        ("book", "purple", "I'd like a purple background here"),
        ("card", "beige", "Background: cream. Leave everything else alone."),
        ("film", "navy", "recolour the backdrop to navy"),
        ("farm", "green", "The background should be green, not orange"),
        ("lab", "black", "black background"),
    ],
    "text colour": [
        ("open", "yellow", "Make the letters yellow"),
        ("sale", "orange", "Change the text colour to orange"),
        ("menu", "red", "the writing should be red, the paper stays white"),
        ("jazz", "white", "White text instead of yellow"),
        ("code", "white", "recolor the text in white"),
        ("card", "navy", "Could the name be in dark blue?"),
        ("gift", "white", "turn the lettering white"),
        ("book", "yellow", "yellow title, same everything"),
    ],
    "move": [
        ("open", ["top"], None, "Move the word to the top"),
        ("sale", ["bottom"], None, "Put the text at the bottom of the picture"),
        ("menu", ["middle"], None, "the heading belongs in the middle"),
        ("book", ["top"], None, "Shift the title from the bottom up to the top"),
        ("card", ["middle"], "right", "Align the name to the right side"),
        ("code", ["middle"], "center", "Center the text"),
    ],
    "enlarge": [
        ("card", 1.7, "Make the name much bigger"),
        ("gift", 1.5, "enlarge the text"),
        ("open", 1.6, "The word is too small, blow it up"),
        ("book", 1.35, "Larger title please"),
    ],
    "frame or shape": [
        ("menu", "frame", "red", "Add a red frame around the card"),
        ("open", "frame", "white", "put a white border along the edges"),
        ("taxi", "frame", "black", "Give it a thick black frame"),
        ("sale", "shape", "red", "Add a big red circle below the text"),
        ("book", "shape", "orange", "draw an orange sun above the title"),
        ("farm", "shape", "white", "Add a white stripe across the lower half"),
    ],
    "type style": [
        ("open", "serif", "Set the word in a serif typeface"),
        ("menu", "sans", "use a clean sans-serif font instead"),
        ("card", "mono", "Typewriter font for the name, please: monospaced"),
        ("code", "serif", "Change the monospace type to serif"),
    ],
    "effect": [
        ("open", "inverted", "Invert all colours"),
        ("menu", "inverted", "make a negative of this picture"),
        ("sale", "sepia", "Give it a sepia look"),
        ("card", "sepia", "turn this into an old sepia print"),
        ("taxi", "blueprint", "Make it look like a blueprint"),
        ("gift", "blueprint", "as a technical blueprint, white on blue"),
        ("open", "pixel", "pixel art version"),
        ("book", "pixel", "Pixelate it like an old video game"),
        ("farm", "watercolour", "Repaint this as a watercolour"),
        ("sale", "watercolour", "watercolor style"),
        ("jazz", "grayscale", "Black and white version"),
    ],
    "layout and palette": [
        ("open", "jazz", "Use the layout of the first picture and the colours of the second"),
        ("tea", "sale", "Keep the words and their places from image 1, take the palette from image 2"),
        ("book", "taxi", "first picture, but in the second picture's colours"),
        ("menu", "gym", "Recolour the first design with the palette of the second design"),
        ("yoga", "film", "Composition and text as in the first, colour scheme as in the second"),
        ("farm", "card", "Make the first look like it belongs to the second: same colours as there"),
    ],
    "scene": [
        ("hills", "sky", "orange", "Make the sky orange"),
        ("car", "body", "blue", "The car should be blue"),
        ("mug", "mug", "green", "change the colour of the mug to green"),
        ("flower", "petals", "yellow", "yellow petals instead of pink ones"),
        ("house", "roof", "black", "Paint the roof black"),
        ("balloon", "balloon", "purple", "turn the balloon purple"),
        ("house", "wall", "yellow", "Give the house yellow walls"),
        ("car", None, "grayscale", "Make this photo black and white"),
        ("mug", None, "sepia", "sepia photo"),
        ("balloon", None, "inverted", "invert the colours of the photo"),
        ("flower", "meadow", "navy", "put the flower in front of a dark blue background"),
    ],
}
SMALL = ("move", "enlarge")  # type must have room to grow, and to stand left, in the middle or right
ALL = ["texts", "background", "text_color", "positions"]


def poster(name: str) -> Design:
    """Return a source design: one line a string, without decoration."""
    texts, background, ink, positions, align, style, weight = POSTERS[name]
    asked = Asked(background, None, ink, tuple(positions), align, style, weight)
    design = design_of(Row(name, name, tuple(texts), list(POSTERS).index(name) + 1, 512, 512, asked))
    lines = []
    for number, text in enumerate(texts):
        own = [line for line in design.texts if line.string == number]
        y = (own[0].y + own[-1].y) / 2
        lines.append(fit(replace(own[0], text=text, y=y)))
    return replace(design, texts=tuple(lines), shapes=())


def fit(text: Text) -> Text:
    """Make a line small enough for the picture."""
    length = load_font(text.face, 100).getlength(text.text) / 100
    return replace(text, size=min(text.size, 0.86 / length))


def color_of(name: str) -> tuple[int, int, int]:
    """Return the first patch of a palette name."""
    return tuple(int(PALETTE[name][0][i : i + 2], 16) for i in (1, 3, 5))


def repaint(design: Design, background=None, ink=None) -> Design:
    """Return the design in other colours."""
    texts = tuple(replace(text, color=ink or text.color) for text in design.texts)
    return replace(design, background=background or design.background, texts=texts)


def change_text(before: Design, number: int, text: str) -> Design:
    """Return the design with another string."""
    texts = [fit(replace(t, text=text)) if t.string == number else t for t in before.texts]
    return replace(before, texts=tuple(texts))


def move(before: Design, places: list[str], align: str | None) -> Design:
    """Return the design with its first string elsewhere."""
    y = {"top": 1 / 6, "middle": 1 / 2, "bottom": 5 / 6}[places[0]]
    align = align or before.texts[0].align
    x = {"left": 0.07, "center": 0.5, "right": 0.93}[align]
    return replace(before, texts=(replace(before.texts[0], x=x, y=y, align=align),))


def add_shape(before: Design, kind: str, color: str) -> Design:
    """Return the design with a frame, or a circle where there is room."""
    if kind == "frame":
        return replace(before, shapes=(Shape("frame", (0.0, 0.0, 1.0, 1.0), color_of(color)),))
    y = 0.7 if before.texts[0].y < 0.5 else 0.3
    return replace(before, shapes=(Shape("circle", (0.33, y - 0.17, 0.67, y + 0.17), color_of(color)),))


def sepia(picture: Image.Image) -> Image.Image:
    tones = np.float32([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
    return Image.fromarray(np.clip(np.float32(picture) @ tones.T, 0, 255).astype(np.uint8))


def blueprint(picture: Image.Image) -> Image.Image:
    """Draw what differs from the corner in white on blue."""
    pixels = np.float32(picture)
    ink = np.clip(np.abs(pixels - pixels[4, 4]).max(-1, keepdims=True) / 120, 0, 1)
    return Image.fromarray((np.float32([24, 72, 160]) * (1 - ink) + 245 * ink).astype(np.uint8))


def pixel(picture: Image.Image) -> Image.Image:
    small = picture.resize((picture.width // 8, picture.height // 8), Image.Resampling.BOX)
    return small.resize(picture.size, Image.Resampling.NEAREST)


def watercolour(picture: Image.Image) -> Image.Image:
    soft = np.float32(picture.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.GaussianBlur(2)))
    paper = np.random.default_rng(0).normal(1, 0.03, (*soft.shape[:2], 1))
    return Image.fromarray(np.clip((soft * 0.9 + 25) * paper, 0, 255).astype(np.uint8))


EFFECTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "inverted": ImageOps.invert,
    "sepia": sepia,
    "blueprint": blueprint,
    "pixel": pixel,
    "watercolour": watercolour,
    "grayscale": lambda picture: picture.convert("L").convert("RGB"),
}


def make_poster_edit(kind: str, case: tuple) -> tuple[list[Image.Image], Image.Image, dict]:
    """Return the sources, the expected picture, and the row's prompt, texts, asked and change."""
    before = poster(case[0])
    if kind in SMALL:
        before = replace(before, texts=tuple(replace(text, size=0.55 * text.size) for text in before.texts))
    after, asked, change = before, {}, {"keep": ALL}
    style = POSTERS[case[0]][5]
    if kind == "replace text":
        after = change_text(before, case[1], case[2])
        keep = ["background", "text_color"]
        change = {"gone": [before.texts[case[1]].text], "keep": keep + ["positions"] * (case[0] != "code")}
        asked = {"style": style}
    elif kind == "background":
        after, asked = repaint(before, background=color_of(case[1])), {"background": case[1]}
        change = {"keep": ["texts", "text_color", "positions"]}
    elif kind == "text colour":
        after, asked = repaint(before, ink=color_of(case[1])), {"text_color": case[1]}
        change = {"keep": ["texts", "background", "positions"]}
    elif kind == "move":
        after, asked = move(before, case[1], case[2]), {"positions": case[1], "alignment": case[2]}
        change = {"keep": ["texts", "background", "text_color"]}
    elif kind == "enlarge":
        bigger = fit(replace(before.texts[0], size=before.texts[0].size * case[1], align="center", x=0.5))
        after, change = replace(before, texts=(bigger,)), {"grown": True, "keep": ["texts", "background", "text_color"]}
    elif kind == "frame or shape":
        after = add_shape(before, case[1], case[2])
        change = {"added": [case[1], case[2]], "keep": ALL}
    elif kind == "type style":
        face = FACES[case[1], POSTERS[case[0]][6]][0]
        after = replace(before, texts=tuple(fit(replace(t, face=face)) for t in before.texts))
        asked = {"style": case[1]}
    elif kind == "effect":
        change = {"effect": case[1], "keep": ["texts", "positions"]}
    elif kind == "layout and palette":
        other = poster(case[1])
        after = repaint(before, other.background, other.texts[0].color)
        change = {"palette_of": 1, "keep": ["texts", "positions"]}
    sources = [draw(before)] + ([draw(poster(case[1]))] if kind == "layout and palette" else [])
    expected = EFFECTS[case[1]](sources[0]) if kind == "effect" else draw(after)
    change["boxes"] = [text_box(before, number) for number in range(len(before.texts))]
    row = {"prompt": case[-1], "texts": [t.text for t in after.texts], "asked": asked, "change": change}
    return sources, expected, row


def make_scene_edit(case: tuple) -> tuple[list[Image.Image], Image.Image, dict]:
    """Return the source, the expected picture, and the row of a scene."""
    name, part, wanted, prompt = case
    seed = list(SCENES).index(name)
    source = paint_scene(name, seed)
    if part is None:
        expected, change = EFFECTS[wanted](source), {"effect": wanted}
        change["keep"] = [] if wanted == "inverted" else ["light"]
    else:
        expected = paint_scene(name, seed, **{part: color_of(wanted)})
        kept = [{"box": one.box} for other, one in SCENES[name].items() if other != part]
        change = {
            "regions": [{"box": SCENES[name][part].box, "color": wanted}],
            "keep": ["regions"],
            "kept_regions": kept,
        }
    return [source], expected, {"prompt": prompt, "texts": [], "asked": {}, "change": change}


def take_turns(instructions: dict[str, list[tuple]]) -> list[tuple[str, tuple]]:
    """Return (kind, case), kinds taking turns, so that the first N are a fair sample."""
    longest = max(map(len, instructions.values()))
    return [(kind, cases[i]) for i in range(longest) for kind, cases in instructions.items() if i < len(cases)]


def main() -> None:
    """Write the set, or what it should give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expected", type=Path)
    args = parser.parse_args()
    folder = args.expected or HERE / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (kind, case) in enumerate(take_turns(INSTRUCTIONS), 1):
        made = make_scene_edit(case) if kind == "scene" else make_poster_edit(kind, case)
        sources, expected, row = made
        row_id = f"edit-{number:02d}"
        if args.expected:
            add_noise(expected, number).save(folder / f"{row_id}.png")
        suffix = "jpg" if kind == "scene" else "png"
        names = [f"sources/{name}{'-small' * (kind in SMALL)}.{suffix}" for name in case[: len(sources)]]
        if not args.expected:
            for name, source in zip(names, sources, strict=True):
                source.save(HERE / name, optimize=True, quality=92)
        common = {"id": row_id, "kind": kind, "sources": names, "seed": 9000 + number, "width": 512, "height": 512}
        rows.append(common | row)
    if not args.expected:
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (HERE / "edits.json").write_text(f"[\n{lines}\n]\n")
        print(len(rows), "edits")


if __name__ == "__main__":
    main()
