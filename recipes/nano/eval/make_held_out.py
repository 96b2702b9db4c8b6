"""Write held_out.json: 264 prompts of held-out words, in phrasings that the training data does not contain.

Every 24 rows hold the same mix of sizes, numbers of strings, lengths and type styles, so that the first N are a fair
sample. Run once; the file is what is kept, so that every checkpoint answers the same prompts.
"""

import json
import random
import re
import sys
from pathlib import Path

import numpy as np

from glmimage.evaluation.colours import PALETTE, to_lab

sys.path.insert(0, str(Path(__file__).parents[1]))
NUM_ROUNDS = 11
PLAIN = (512, 512)
BIG = ((1024, 1536), (1536, 1024), (1088, 1920), (1920, 1088))
BETWEEN = ((640, 640), (896, 512), (512, 896), (704, 960), (832, 640), (768, 768))
SIZES = [PLAIN] * 9 + [(1024, 1024)] * 4 + [(768, 1024), (1024, 768), (576, 1024), (1024, 576)] * 2
NUM_STRINGS = [1] * 9 + [2] * 9 + [3] * 6
LENGTHS = ["short", "medium", "long"] * 8
STYLES = [None, "sans", "serif", "mono"] * 6
COLOURS = "red maroon orange coral yellow gold green mint teal turquoise blue navy purple lavender pink magenta".split()
COLOURS += ["sky blue", "dark green", "brown", "beige", "white", "gray", "charcoal", "black", "olive"]
WORDS_FOR = {"navy": ("navy", "dark blue"), "sky blue": ("sky blue", "light blue"), "maroon": ("burgundy", "maroon")}
WORDS_FOR |= {"beige": ("beige", "cream"), "gray": ("gray", "grey"), "turquoise": ("turquoise", "cyan")}

ONE = (
    "I want a wall print of {t1}",
    "{A}placard, the only wording being {t1}",
    "typography study: {t1}",
    "could you make {a}fridge magnet that reads {t1}",
    "Something for our lobby screen - {t1}",
    "{A}luggage sticker bearing the inscription {t1}",
    "Design the front of {a}matchbox. Inscription: {t1}",
    "{t1} as a plain lettering piece",
    "{A}door hanger for a guest room. It tells people {t1}",
    "Cover art for an audiobook; across it the reader finds {t1}",
    "For the newsletter I need {a}header graphic containing {t1}",
    "{A}calendar page whose sole text is {t1}",
    "Bookmark, lettered {t1}",
    "Draft {a}shelf card for a library. Wording: {t1}",
    "big bold idea: {a}canvas and on it {t1}",
    "{A}seed packet named {t1}",
    "Stencil look, {t1}",
)
TWO = (
    "{A}handout with {t1} plus {t2}",
    "Make {a}wine label; name {t1}, second line {t2}",
    "{A}museum banner announcing {t1}, with the note {t2}",
    "two lines of type, {t1} followed by {t2}",
    "I am making {a}club card. Put {t1} on it and also {t2}",
    "Bus stop ad. It opens with {t1}. It ends with {t2}",
    "{A}recipe card headed {t1}; the remark says {t2}",
    "Lettering for a van: main name {t1}, slogan {t2}",
    "{A}app onboarding screen. Heading {t1}. Helper text {t2}",
    "record cover by the artist {t1}, album {t2}",
    "An office memo picture where {t1} is the heading and {t2} the detail",
    "Festival wristband artwork: {t1} / {t2}",
    "{A}pharmacy box, product {t1}, strength {t2}",
    "Slide divider reading {t1} with {t2} as its subline",
    "{t1} set large, after it {t2} set small",
)
THREE = (
    "{A}programme sheet listing {t1}, {t2} and {t3}",
    "Price board: {t1}; {t2}; {t3}",
    "{A}timetable card. Lines: {t1}, then {t2}, then {t3}",
    "An announcement in three steps, {t1}, {t2}, {t3}",
    "{A}packaging front with the brand {t1}, the flavour {t2}, the weight {t3}",
    "Festival bill. Headliner {t1}, support {t2}, place {t3}",
    "Business card for {t1}, job {t2}, contact {t3}",
    "{A}museum label giving title {t1}, maker {t2}, year {t3}",
    "Make me a save-the-date with {t1} and {t2} and finally {t3}",
    "sticker sheet, three stickers, {t1}, {t2}, {t3}",
    "{A}trail sign naming {t1} and {t2}, with {t3} in addition",
    "Score card that shows {t1} above {t2} above {t3}",
)
INLINE = {
    "top": (" in the top part", " up at the top", " close to the upper edge"),
    "middle": (" halfway down", " in the very middle", " at mid-height"),
    "bottom": (" in the bottom part", " down at the bottom", " close to the lower edge"),
}
BACKGROUND = (
    "{c} background",
    "everything on {c}",
    "the ground is {c}",
    "set against flat {c}",
    "use {c} for the background",
)
GRADIENT = ("background fading from {c} to {d}", "a {c}-to-{d} gradient behind it")
INK = ("lettering in {c}", "the type is {c}", "{c} letters", "text colour {c}", "words coloured {c}")
STYLE = {
    "sans": ("a {w}sans-serif face", "{w}sans type", "set in a clean {w}sans serif"),
    "serif": ("a {w}serif face", "{w}serif type", "set in a classic {w}serif"),
    "mono": ("a {w}monospace face", "{w}monospaced type", "set in {w}fixed-width mono letters"),
}
ALIGN = {
    "left": ("flush left", "aligned with the left side", "left-aligned text"),
    "center": ("text centered horizontally", "everything centred", "center-aligned text"),
    "right": ("flush right", "aligned with the right side", "right-aligned text"),
}
PLACES = {
    1: [("top", "middle", "bottom")],
    2: [("top",), ("middle", "bottom")],
    3: [("top",), ("middle",), ("bottom",)],
}
QUOTES = (("'", "'"), ('"', '"'), ("“", "”"))


def colour_distance(a: str, b: str) -> float:
    """Return the lightness-weighted distance of two palette names: type needs contrast in lightness."""
    codes = [[int(PALETTE[name][0][i : i + 2], 16) for i in (1, 3, 5)] for name in (a, b)]
    difference = np.abs(np.subtract(*to_lab(np.array(codes))))
    return float(difference[0])


def make_text(rng: random.Random, words: list[str], budget: int, kind: str) -> str:
    """Return words, a price, a date or a number of at most `budget` characters."""
    if kind == "price":
        return rng.choice(["$", "$", "€", ""]) + f"{rng.randint(1, 99)}.{rng.choice(['00', '50', '95', '99'])}"
    if kind == "date":
        month = rng.choice("Jan Feb Mar Apr May June July Aug Sept Oct Nov Dec".split())
        return rng.choice(
            [f"{rng.randint(1, 28)} {month}", f"{month} {rng.randint(1, 28)}", f"{month} 20{rng.randint(25, 39)}"]
        )
    if kind == "number":
        return rng.choice(
            [
                f"No. {rng.randint(2, 99)}",
                f"{rng.randint(10, 95)}%",
                f"{rng.randint(100, 9999)}",
                f"{rng.randint(1, 12)}:30",
            ]
        )
    chosen: list[str] = []
    for _ in range(60):
        word = rng.choice(words)
        if len(word) >= 3 and len(" ".join([*chosen, word])) <= budget:
            chosen.append(word)
    text = " ".join(chosen)
    text = rng.choice([text.capitalize(), text.title(), text.title(), text.upper(), text])
    return text + (rng.choice("!?.") if len(text) < budget and rng.random() < 0.15 else "")


def make_texts(rng: random.Random, words: list[str], num: int, length: str) -> list[str]:
    """Return the strings of one prompt; short, medium and long are told by their characters together."""
    total = {"short": 6 + 3 * num, "medium": 11 + 5 * num, "long": 20 + 6 * num}[length]
    first = max(5, round(total * (0.5 if num > 1 else 1)))
    kinds = ["words"] + [rng.choice(["words", "words", "price", "date", "number"]) for _ in range(num - 1)]
    if num == 1 and rng.random() < 0.12:
        kinds = [rng.choice(["price", "date", "number"])]
    rest = max(4, (total - first) // max(1, num - 1))
    texts = [make_text(rng, words, first if i == 0 else rest, kind) for i, kind in enumerate(kinds)]
    return texts if len(set(texts)) == num and all(texts) else make_texts(rng, words, num, length)


def ask(rng: random.Random, num: int, style: str | None, previous: list[str]) -> dict:
    """Choose what a prompt asks for besides its strings; colours take turns."""
    has_background, is_gradient = rng.random() < 0.8, rng.random() < 0.1
    background = rng.choice([c for c in COLOURS if c not in previous[-8:]])
    previous.append(background)
    inks = [c for c in COLOURS if colour_distance(c, background) > 42]
    inks += [c for c in ("white", "black") if c in inks] * 4
    places = [rng.choice(PLACES[num][i]) if rng.random() < 0.5 else None for i in range(num)]
    if rng.random() < 0.35:
        places = [None] * num
    ends = None
    if is_gradient:
        near = [c for c in COLOURS if c != background and 25 < colour_distance(c, background) < 45]
        ends = [background, rng.choice(near)] if near else None
    return {
        "background": background if has_background and not ends else None,
        "gradient": ends,
        "text_color": rng.choice(inks) if has_background and not ends and rng.random() < 0.6 else None,
        "positions": places,
        "alignment": rng.choice(["left", "center", "right"]) if rng.random() < 0.35 else None,
        "style": style,
        "weight": rng.choice([None, "bold", "bold", "regular"]) if style else None,
    }


def write(rng: random.Random, opening: str, texts: list[str], asked: dict) -> str:
    """Phrase a prompt: an opening with its strings, then what is asked for, in any order."""
    say = lambda name: rng.choice(WORDS_FOR.get(name, (name,)))  # noqa: E731
    safe = [pair for pair in QUOTES if pair[0] not in "".join(texts)]
    left, right = rng.choice(safe)
    parts = {
        f"t{i}": left + text + right + (rng.choice(INLINE[place]) if place else "")
        for i, (text, place) in enumerate(zip(texts, asked["positions"], strict=True), 1)
    }
    adjective, clauses = "", []
    if asked["background"] and "{a}" in opening.lower() and rng.random() < 0.4:
        adjective = say(asked["background"]) + " "
    elif asked["background"]:
        clauses.append(rng.choice(BACKGROUND).format(c=say(asked["background"])))
    if asked["gradient"]:
        c, d = map(say, asked["gradient"])
        clauses.append(rng.choice(GRADIENT).format(c=c, d=d))
    if asked["text_color"]:
        clauses.append(rng.choice(INK).format(c=say(asked["text_color"])))
    if asked["style"]:
        weight = f"{asked['weight']} " if asked["weight"] else ""
        clauses.append(rng.choice(STYLE[asked["style"]]).format(w=weight))
    if asked["alignment"]:
        clauses.append(rng.choice(ALIGN[asked["alignment"]]))
    rng.shuffle(clauses)
    parts |= {"a": "a " + adjective, "A": "A " + adjective}
    separator = rng.choice([", ", ", ", "; ", ". "])
    if separator == ". ":
        clauses = [clause[0].upper() + clause[1:] for clause in clauses]
    prompt = separator.join([opening.format_map(parts).rstrip("."), *clauses]) + rng.choice(["", "", "."])
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", prompt)


def main() -> None:
    """Write the rows beside this file."""
    from designs import load_words

    rng = random.Random(20261122)
    words = [
        word
        for word in load_words()[1]
        if not re.fullmatch("[ivxlcdm]+|asses|Jews?|harem|.*(damn|shit|fuck|whore|slut|tits|turd).*", word)
    ]
    rows: list[dict] = []
    previous: list[str] = []
    for number in range(NUM_ROUNDS):
        sizes = [*SIZES, BETWEEN[number % len(BETWEEN)], *(BIG[(2 * number + k) % 4] for k in range(2))]
        columns = [rng.sample(column, 24) for column in (sizes, NUM_STRINGS, LENGTHS, STYLES)]
        for (width, height), num, length, style in zip(*columns, strict=True):
            texts = make_texts(rng, words, num, length)
            asked = ask(rng, num, style, previous)
            openings = {1: ONE, 2: TWO, 3: THREE}[num]
            opening = openings[sum(len(r["texts"]) == num for r in rows) % len(openings)]
            row = {"id": f"held-{len(rows) + 1:03d}", "prompt": write(rng, opening, texts, asked), "texts": texts}
            row |= {"seed": 3001 + len(rows), "width": width, "height": height, "asked": asked}
            rows.append(row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (Path(__file__).parent / "held_out.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
