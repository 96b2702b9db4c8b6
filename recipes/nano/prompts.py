"""Random designs and the prompts people would write for them, deterministic by seed."""

import random
from pathlib import Path

from renderer import (
    CHARS,
    HEADLINE_STYLES,
    PALETTE,
    BackgroundCodebook,
    Design,
    Line,
    Shape,
    build_codebook,
    contrasting_ink,
    shuffled,
)

THINGS = (
    "poster sign banner card label flyer cover slide ticket billboard badge notice placard book_cover shop_sign "
    "street_sign conference_poster movie_poster event_poster business_card greeting_card product_label title_slide "
    "web_banner social_media_post album_cover menu invitation advertisement logo headline_graphic store_front "
    "road_sign packaging_label magazine_cover concert_poster picture graphic wall_sign door_sign postcard "
).split()
ADJECTIVES = (
    "minimalist modern clean simple bold elegant retro vintage bright colorful dark professional playful flat "
    "beautiful striking stylish friendly large small high-contrast eye-catching festive corporate warm "
).split()
TOPICS = (
    "a coffee shop;a conference;a summer sale;a school;a museum;a bakery;a music festival;a startup;a garage;a gym;"
    "a birthday party;a book fair;a hotel;a restaurant;a bike store;an airport;a library;a science fair;a charity;"
    "a farmers market;a film night;an online course;a winter event;a flower shop;the office;the team;the city"
).split(";")
LEADS = (
    "",
    "",
    "",
    "Design ",
    "Create ",
    "Make ",
    "Draw ",
    "Please make ",
    "Generate ",
    "I need ",
    "I want ",
    "Show ",
)
SAYS = (
    "that says;with the headline;reading;with the text;with the words;saying;titled;with the title;that reads;"
    "showing the text;with the slogan;with the message;with the heading;labelled;with big letters;with the word;"
    "with the name;displaying;with a headline that says;bearing the words;containing the text;which says"
).split(";")
SUBTITLES = (
    "with the subtitle;and the subtitle;subtitle;and smaller text;and below it;with small text;and a tagline;"
    "and a footer;footer;and the caption"
).split(";")
STYLE_WORDS = {
    "sans": "bold sans-serif;sans-serif;sans;clean sans-serif letters;a bold sans-serif font;modern type".split(";"),
    "serif": "bold serif;serif;serif letters;a serif font;classic serif type;an elegant serif".split(";"),
    "mono": "monospace;mono;typewriter letters;a monospaced font;code-like type;fixed-width type".split(";"),
}
ROW_WORDS = {
    "top": "at the top;on top;near the top;in the upper part;top".split(";"),
    "middle": "in the middle;in the center;centered;in the centre;middle".split(";"),
    "bottom": "at the bottom;near the bottom;in the lower part;bottom;at the foot".split(";"),
}
ALIGN_WORDS = {
    "left": "aligned left;left-aligned;on the left;flush left".split(";"),
    "center": "centered;centred;center-aligned".split(";"),
    "right": "aligned right;right-aligned;on the right;flush right".split(";"),
}
COLOR_WORDS = {
    "gray": ("gray", "grey"),
    "charcoal": ("charcoal", "dark gray", "dark grey"),
    "navy": ("navy", "navy blue", "dark blue"),
    "beige": ("beige", "cream"),
}
SHAPE_WORDS = {
    "circle": "a {c} circle;a {c} dot;a {c} sun;with a {c} circle".split(";"),
    "ring": "a {c} ring;a {c} hoop;with a {c} ring".split(";"),
    "frame": "a {c} frame;a {c} border;with a {c} border;with a {c} frame".split(";"),
    "stripe": "a {c} stripe;a {c} band;with a {c} stripe".split(";"),
    "box": "a {c} box;a {c} square;with a {c} box".split(";"),
}
QUOTES = (("'", "'"),) * 3 + (('"', '"'),) * 2 + (("“", "”"),)


def load_words(path: Path = Path("/usr/share/dict/words")) -> tuple[list[str], list[str]]:
    """Read the dictionary (Debian package wamerican-small) as (training words, held-out words), split by hash."""
    if not path.exists():
        raise SystemExit(f"{path} not found: apt-get install wamerican-small")
    words = sorted({w for w in path.read_text().split() if w.isascii() and w.isalpha() and 2 <= len(w) <= 12})
    held_out = [w for w in words if _hash(w.lower()) % 20 == 0]
    return [w for w in words if _hash(w.lower()) % 20], held_out


def _hash(word: str) -> int:
    value = 2166136261
    for byte in word.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value >> 7


def random_word(rng: random.Random, words: list[str]) -> str:
    """Draw a word in one of the cases people use, a number, a price, or a meaningless string."""
    kind = rng.random()
    if kind < 0.70:
        word = rng.choice(words)
        case = rng.random()
        return word.title() if case < 0.4 else word.upper() if case < 0.7 else word
    if kind < 0.80:
        return rng.choice(
            [
                str(rng.randrange(10 ** rng.randrange(1, 5))),
                f"{rng.randrange(1990, 2040)}",
                f"${rng.randrange(1, 999)}",
                f"{rng.randrange(5, 100)}%",
                f"{rng.randrange(1, 13)}:{rng.randrange(60):02d}",
                f"${rng.randrange(1, 99)}.{rng.randrange(100):02d}",
            ]
        )
    if kind < 0.83:
        return rng.choice(["&", "-", "+", "AI", "vs", "v2.0", "No.1", "24/7", "50/50", "A", "I", "#1", "(new)"])
    alphabet = rng.choice([CHARS[:26], CHARS[26:52], CHARS[:62], CHARS[:62]])
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(2, 9)))


def random_line(rng: random.Random, words: list[str], max_chars: int) -> str:
    """Join random words to a text of at most `max_chars` characters, no word longer than a line of 14."""
    line = random_word(rng, words)[:14]
    num_more = rng.choice([0, 0, 1, 1, 2]) if max_chars <= 14 else max_chars // 14 + rng.choice([0, 1, 2])
    for _ in range(num_more):
        word = random_word(rng, words)[:14]
        if len(line) + 1 + len(word) <= max_chars:
            line += " " + word
    if rng.random() < 0.12 and len(line) < max_chars and len(line.split()[-1]) < 14:
        line += rng.choice("!?.!")
    return line


def wrap(text: str, max_chars: int) -> list[str]:
    """Break a text into lines as full as possible; a word longer than a line is cut."""
    lines: list[str] = []
    for word in text.split():
        word = word[:max_chars]
        if lines and len(lines[-1]) + 1 + len(word) <= max_chars:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def random_design(seed: int, words: list[str], num_rows: int = 16, num_columns: int = 16) -> Design:
    """Draw a design: one to three headline lines, sometimes a small line, a background and at most one shape."""
    rng = random.Random(seed)
    style = rng.choice(HEADLINE_STYLES)
    texts = wrap(random_line(rng, words, rng.choices([1, 2, 3], [0.75, 0.16, 0.09])[0] * 14), num_columns - 2)[:3]
    small = random_line(rng, words, num_columns - 2) if rng.random() < 0.25 else ""
    # What a prompt does not say is nearly always the plain choice, so that there is something to be sure of.
    say_row, say_align = rng.random() < 0.6, rng.random() < 0.3
    row_name = rng.choice(list(ROW_WORDS)) if say_row or rng.random() < 0.1 else "middle"
    align = rng.choice(list(ALIGN_WORDS)) if say_align or rng.random() < 0.05 else "center"
    block = 2 * len(texts) + (2 if small else 0)
    row = {"top": 1, "middle": (num_rows - block) // 2, "bottom": num_rows - 1 - block}[row_name]
    lines, first_row = [], row
    for text in texts:
        lines.append(Line(text, row, _column(align, len(text), num_columns), style))
        row += 2
    if small:
        lines.append(Line(small, row + 1, _column(align, len(small), num_columns), "small"))
    color_name = rng.choice(list(PALETTE))
    top = bottom = PALETTE[color_name]
    names = {"style": style, "row": row_name, "align": align, "color": color_name, "small": small}
    names |= {"say_row": "yes" * say_row, "say_align": "yes" * say_align}
    ink = contrasting_ink(top)
    if rng.random() < 0.15:
        similar = [c for c in PALETTE if c != color_name and contrasting_ink(PALETTE[c]) == ink]
        names["bottom_color"] = rng.choice(similar)
        bottom = PALETTE[names["bottom_color"]]
    shapes: tuple[Shape, ...] = ()
    if rng.random() < 0.3:
        names["shape_color"] = rng.choice([c for c in PALETTE if c != color_name])
        shape = random_shape(rng, (first_row, first_row + block), num_rows, num_columns, names["shape_color"])
        if shape:
            shapes, names["shape"] = (shape,), shape.kind
    names["text"] = " ".join(texts)
    return Design(num_rows, num_columns, top, bottom, ink, tuple(lines), shapes, names)


def _column(align: str, length: int, num_columns: int) -> int:
    return {"left": 1, "center": (num_columns - length) // 2, "right": num_columns - 1 - length}[align]


def random_shape(
    rng: random.Random, text_rows: tuple[int, int], num_rows: int, num_columns: int, color: str
) -> Shape | None:
    """Draw a shape in the larger free band above or below the text, or a frame round the picture."""
    above, below = text_rows[0], num_rows - text_rows[1]
    start, size = (0, above) if above >= below else (text_rows[1], below)
    kind = rng.choice(list(SHAPE_WORDS))
    rgb = PALETTE[color]
    if kind == "frame":
        return Shape("frame", num_rows / 2, num_columns / 2, num_rows / 2, num_columns / 2, rgb)
    if size < 4:
        return None
    radius = rng.choice([r / 2 for r in range(2, size - 1)])
    y = start + size / 2
    if kind == "stripe":
        return Shape("stripe", y, num_columns / 2, rng.choice([0.5, 1.0]), num_columns, rgb)
    x = rng.choice([0.5, 0.5, 0.3, 0.7]) * num_columns
    thin = 0.5 if kind == "ring" else radius
    return Shape(kind, y, min(max(x, radius + 0.5), num_columns - radius - 0.5), thin, radius, rgb)


def color_word(rng: random.Random, name: str) -> str:
    """Choose one of the words for a palette colour."""
    return rng.choice(COLOR_WORDS.get(name, (name,)))


def write_prompt(design: Design, seed: int) -> str:
    """Write a prompt for a design: the headline is always quoted, every other property is named more often than not."""
    rng = random.Random(seed ^ 0x5EED)
    names = design.names
    opening, closing = rng.choice(QUOTES)
    if "'" in names["text"] + names["small"]:
        opening, closing = '"', '"'
    thing = rng.choice(THINGS).replace("_", " ")
    noun = f"{rng.choice(ADJECTIVES)} {thing}" if rng.random() < 0.4 else thing
    lead = rng.choice(LEADS)
    article = "an" if noun[0] in "aeiou" else "a"
    color = color_word(rng, names["color"])
    in_noun = "bottom_color" not in names and rng.random() < 0.2
    if in_noun:
        noun, article = f"{color} {noun}", "an" if color[0] in "aeiou" else "a"
    head = f"{lead}{article} {noun}"
    if rng.random() < 0.35:
        head += f" for {rng.choice(TOPICS)}"
    clauses = []
    if not in_noun and rng.random() < 0.85:
        clauses.append(_background_clause(rng, names, color))
    if names["say_row"]:
        clauses.append(rng.choice(ROW_WORDS[names["row"]]))
    if names["say_align"]:
        clauses.append(rng.choice(ALIGN_WORDS[names["align"]]))
    if "shape" in names:
        shape = rng.choice(SHAPE_WORDS[names["shape"]]).format(c=color_word(rng, names["shape_color"]))
        clauses.append(shape.replace("a orange", "an orange"))
    if rng.random() < 0.25:
        clauses.append(f"{design.ink} text" if rng.random() < 0.6 else f"{design.ink} letters")
    says = f" {rng.choice(SAYS)} {opening}{names['text']}{closing}"
    if rng.random() < 0.75:
        says += f" in {rng.choice(STYLE_WORDS[names['style']])}"
    if names["small"]:
        says += f"{rng.choice(['', ','])} {rng.choice(SUBTITLES)} {opening}{names['small']}{closing}"
    clauses = shuffled(rng, clauses)
    early = clauses.pop() if clauses and rng.random() < 0.25 else ""
    prompt = head + (f", {early}," if early else "") + says + "".join(f", {c}" for c in clauses)
    prompt = prompt[0].upper() + prompt[1:] if rng.random() < 0.8 else prompt
    return prompt + (rng.choice([".", ""]) if rng.random() < 0.5 else "")


def _background_clause(rng: random.Random, names: dict[str, str], color: str) -> str:
    if "bottom_color" not in names:
        return rng.choice(["{} background", "on {}", "on a {} background", "background {}", "in {}"]).format(color)
    other = color_word(rng, names["bottom_color"])
    return rng.choice(["gradient from {} to {}", "{} to {} gradient background", "a {} to {} gradient"]).format(
        color, other
    )


def load_codebook(path: Path, words: list[str]) -> BackgroundCodebook:
    """Load the background codebook, or make it from random designs and save it."""
    if not path.exists():
        build_codebook(lambda seed: random_design(seed, words)).save(path)
    return BackgroundCodebook.load(path)


def text_wall(seed: int, words: list[str], num_rows: int = 16, num_columns: int = 16) -> Design:
    """Draw a picture full of type on one colour: what the decoder practises glyphs on."""
    rng = random.Random(seed)
    any_color = tuple(rng.randrange(256) for _ in range(3))
    color = PALETTE[rng.choice(list(PALETTE))] if rng.random() < 0.85 else any_color
    lines, row = [], rng.randrange(2)
    while row < num_rows - 1:
        style = rng.choice([*HEADLINE_STYLES, *HEADLINE_STYLES, "small"])
        text = ""
        while len(text) < num_columns:
            text += random_word(rng, words) + " " * rng.choice([1, 1, 1, 2])
        indent = rng.choice([0, 0, 0, 1, 3])
        lines.append(Line(text[: num_columns - indent], row, indent, style))
        row += (1 if style == "small" else 2) + rng.choice([0, 0, 0, 1])
    return Design(num_rows, num_columns, color, color, contrasting_ink(color), tuple(lines), (), {})
