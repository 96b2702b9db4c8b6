"""What a poster says and how it is set: random contents, and their typesetting on a grid of any size.

The small grid is the plan: every line spelt out from the left in small type, below it how and where it is set. What
has to be counted (the length of a line, hence where it begins) is written down before it is needed; the large grid
carries the plan out. Small grid and prompt hold the decisions, the large grid only follows.
"""

import itertools
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from renderer import (
    LIGHT,
    BackgroundCodebook,
    Design,
    Line,
    Shape,
    build_codebook,
    contrast,
    contrasting_ink,
    form,
    form_height,
    form_message,
    luminance,
)
from type_tokens import (
    ALIGN,
    ALIGNMENTS,
    CHARS,
    COLORS,
    COLUMNS,
    FIRST_BACKGROUND,
    FORM_KINDS,
    FORM_SIDES,
    GLYPH_CELLS,
    INK,
    LAST,
    LENGTH,
    LINE,
    MAX_COLUMNS,
    MAX_LENGTH,
    MAX_LINES,
    MAX_ROWS,
    PALETTE,
    PLACE,
    PLACES,
    ROWS,
    SIZE,
    SIZES,
    STYLE,
    STYLES,
    message,
    text_token,
)

SHAPE_KINDS = ("circle", "ring", "frame", "stripe", "box", "star", "arrow", "triangle", "badge")
PLANNED_SHAPES = (*SHAPE_KINDS, "panel")
BELOW = 7  # column of the plan that tells how far the next line is, behind a line's style, size, place and so on
LEFT_OF_SHAPE = 4  # columns that tell where it begins and ends, and which it is (renderer.py)
PICTURE_SIZES = (  # width, height in px: the presets, then what lies between
    ((512, 512), 10),
    ((1024, 1024), 4),
    ((768, 1024), 1),
    ((1024, 768), 1.5),
    ((576, 1024), 1.5),
    ((1024, 576), 2),
    ((640, 640), 1),
    ((768, 768), 1),
    ((512, 768), 1),
    ((768, 512), 1),
    ((1536, 1024), 0.8),
    ((1024, 1536), 0.4),
    ((1920, 1088), 0.2),
    ((1088, 1920), 0.2),
)
LEAST_CONTRAST = 60  # in luminance, of the ink against what is behind it
SHORT_WORD = 3
LARGE_GRID_COLUMNS = 22  # from here on headlines are set in display type where they fit


@dataclass(frozen=True)
class Content:
    """What a picture says and what was asked of it; `say` holds what the prompt mentions.

    place: of the headline; second_place and third_place: of the other texts, "" when they just follow.
    """

    headline: str
    subtitle: str = ""
    footer: str = ""
    style: str = "sans"
    ink: str = "white"
    place: str = "middle"
    second_place: str = ""
    third_place: str = ""
    align: str = "center"
    size: str = ""  # large, small, or as it comes
    color: str = "navy"
    bottom_color: str = ""
    shape: str = ""
    shape_color: str = ""
    shape_place: float = 0.5  # across the picture, 0 left, 1 right
    shape_size: float = 1.0  # of the room there is
    panel_color: str = ""  # a box behind the text
    say: frozenset[str] = frozenset()

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(t for t in (self.headline, self.subtitle, self.footer) if t)

    @property
    def placed_texts(self) -> list[tuple[str, str]]:
        """The texts, each with its place, from top to bottom."""
        places = (self.place, self.second_place, self.third_place)
        found: list[tuple[str, str]] = []
        for text, place in zip((self.headline, self.subtitle, self.footer), places, strict=True):
            if text:
                found.append((text, place or found[-1][1]))
        return sorted(found, key=lambda one: PLACES.index(one[1]))


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


MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


ACCENTED = {"e": "eé", "a": "aaaä", "o": "oooö", "u": "uuuü"}


def random_number(rng: random.Random) -> str:
    """Draw a number as posters show them: counts, years, prices, times, dates, shares."""
    month = rng.choice(MONTHS)
    return rng.choice(
        [
            str(rng.randrange(10 ** rng.randrange(1, 5))),
            f"{rng.randrange(1950, 2050)}",
            f"${rng.randrange(1, 999)}",
            f"{rng.randrange(5, 100)}%",
            f"{rng.randrange(1, 13)}:{rng.randrange(60):02d}",
            f"${rng.randrange(1, 99)}.{rng.randrange(100):02d}",
            f"{month[: rng.choice([3, 12])]} {rng.randrange(1, 32)}",
            f"{rng.randrange(1, 32)} {month[: rng.choice([3, 12])]}",
            f"{rng.randrange(1, 13)}/{rng.randrange(1, 32)}/{rng.randrange(2020, 2040)}",
            f"{rng.randrange(1, 13)} {rng.choice(['AM', 'PM', 'am', 'pm'])}",
            f"{rng.randrange(5, 90)}% off",
            f"No. {rng.randrange(1, 100)}",
            f"#{rng.randrange(1, 500)}",
            f"€{rng.randrange(1, 999)}",
            f"€{rng.randrange(1, 99)}.{rng.randrange(100):02d}",
            f"{rng.randrange(1, 99)} €",
            f"£{rng.randrange(1, 99)}",
            f"{rng.randrange(-9, 40)}°",
            f"{rng.randrange(1, 12)}-{rng.randrange(1, 13)}",
            f"{rng.randrange(6, 13)}-{rng.randrange(13, 24)} h",
            "-".join(day[:3] for day in rng.sample(DAYS, 2)),
            f"{rng.randrange(100, 1000)}-{rng.randrange(10000):04d}",
            f"-{rng.randrange(5, 90)}%",
            f"{rng.randrange(1, 1000)} {rng.choice(['g', 'kg', 'ml', 'km', 'pm', 'cm'])}",
        ]
    )


def random_word(rng: random.Random, words: list[str]) -> str:
    """Draw a word in one of the cases people use, a number, or a meaningless string."""
    kind = rng.random()
    if kind < 0.70:
        word = rng.choice(words)
        case = rng.random()
        return word.title() if case < 0.4 else word.upper() if case < 0.7 else word
    if kind < 0.82:
        return random_number(rng)
    if kind < 0.84:
        return _address(rng, words)
    if kind < 0.87:
        return rng.choice(["&", "-", "+", "AI", "vs", "v2.0", "24/7", "50/50", "A", "I", "(new)", "of", "the", "and"])
    alphabet = rng.choice([CHARS[:26], CHARS[26:52], CHARS[:62], CHARS[:62]])
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(2, 9)))


def _address(rng: random.Random, words: list[str]) -> str:
    word = rng.choice(words).lower()
    return rng.choice(
        [f"{word}.{rng.choice(['com', 'org', 'net', 'io'])}", f"@{word}", f"#{word}", f"{word}-{word[:3]}"]
    )


# words between words, as texts have them: {w} is a word, {n} a number, {i} an initial, {r} a word that comes twice
PHRASES = (
    "the {w};{w} the {w};{w} of the {w};{w} and {w};{w} & {w};{w} or {w};{w} for {w};for {w};by {w} {w};{w} is {w};"
    "{w} in {w};{w} in the {w};to {w};{w} to {w};at {w};{w} at {n};every {w} at {n};up to {n} {w};from {n} to {n};"
    "{n} for {n};{n} + {n};our {w};your {w};my {w};{w} your {w};not {w};no {w};{w} it {w};{w} with {w};{w} on {w};"
    "{w} - {w};{n} - {n};{w} a {w};a {w};I {w} {w};{w} if {w};we {w};be {w};"
    "{n} {w};{w} {n};{n} {w} {w};{w}: {w};{w} by {w};this {w};all {w};{w} all {w};so {w};{w} as {w};{w} up;{w} off;"
    "Dr. {w};Dr. {w} {w};Mr. {w};St. {w};{i}. {w};{i}. {w};by {i}. {w};{i}. {i}. {w};{w} {i}. {w};{w} vs. {w};"
    "{w}. {w}.;{w} {w}. {w} {w}.;{r} {r};{r} {r} {r};{r} by {r};{r} after {r};{r} {w} {r} {w};no {r} no {r};"
    "{r}, {r};{r} and {r};the {r} of the {r}"
).split(";")


def random_text(rng: random.Random, words: list[str], max_chars: int, num_words: int) -> str:
    """Join random words, of one case more often than not, to a text of at most `max_chars` characters."""
    parts = [random_word(rng, words)[:max_chars]]
    for _ in range(num_words - 1):
        word = random_word(rng, words)
        if len(" ".join([*parts, word])) <= max_chars:
            parts.append(word)
    text = " ".join(parts)
    if rng.random() < 0.25:
        said = rng.choice(PHRASES).replace("{r}", rng.choice(words))
        said = re.sub("{i}", lambda _: rng.choice(CHARS[:26]), said)
        said = re.sub("{n}", lambda _: random_number(rng), said)
        said = re.sub("{w}", lambda _: rng.choice(words), said)
        text = said if len(said) <= max_chars else text
    if len(text) < max_chars and rng.random() < 0.12:  # within the text, where it has words enough
        gaps = [gap.start() for gap in re.finditer(r"(?<=\w) ", text)]
        at = rng.choice(gaps) if gaps else len(text)
        text = text[:at] + (rng.choice(",,,,:;") if gaps else "") + text[at:]
    case = rng.random()
    if case < 0.15:
        text = text[0].upper() + text[1:].lower()
    else:
        text = text.upper() if case < 0.3 else text.title() if case < 0.45 else text
    text = text.replace("'S", "'s")
    if rng.random() < 0.06:
        text = "".join(rng.choice(ACCENTED.get(c, c)) for c in text)
    if rng.random() < 0.12 and len(text) < max_chars and not text.endswith((".", ":")):
        text += rng.choice("!?.!:")
    return text


def random_content(seed: int, words: list[str]) -> Content:
    """Draw a content: up to three texts, a background, at most one shape; what is not said is drawn too."""
    rng = random.Random(seed)
    headline = random_text(rng, words, rng.choice([14, 14, 18, 26, 36]), rng.choice([1, 1, 2, 2, 2, 3, 4]))
    if rng.random() < 0.03:
        return _decorate(rng, Content("", color=rng.choice(COLORS), say=frozenset(["color"])))
    subtitle = random_text(rng, words, 24, rng.choice([1, 1, 2, 3])) if rng.random() < 0.55 else ""
    footer = random_text(rng, words, 16, rng.choice([1, 1, 2])) if subtitle and rng.random() < 0.65 else ""
    say = {k for k, share in SHARE_SAID.items() if rng.random() < share}
    places_all = bool(subtitle) and rng.random() < 0.3  # what is hardest to tell apart
    if places_all:
        say.add("place")
    place, second, third = rng.choices(PLACES, [3, 6, 1])[0], "", ""
    if "place" in say:
        place = rng.choice(PLACES)
    if subtitle and (places_all or rng.random() < 0.3):
        second = rng.choice([p for p in PLACES if p != place])
        say.add("second place")
    elif subtitle and not footer and rng.random() < 0.1:
        second = "bottom"  # of its own accord
    if footer and rng.random() < 0.4:
        third = rng.choice([p for p in PLACES if p not in (place, second)])
        say.add("third place")
    elif footer and "bottom" not in (place, second) and rng.random() < 0.6:
        third = "bottom"  # a footer, and so called
    if rng.random() < 0.9:  # people name the texts in the order they are read in
        reading = iter(sorted((p for p in (place, second, third) if p), key=PLACES.index))
        place, second, third = next(reading), second and next(reading), third and next(reading)
    color = rng.choice(COLORS)
    ink = contrasting_ink(color)
    if rng.random() < 0.5:
        ink = rng.choice([i for i in COLORS if contrast(PALETTE[i], PALETTE[color]) > LEAST_CONTRAST])
    if ink not in ("white", "black") or ink != contrasting_ink(color):
        say.add("ink")  # the unusual is always said
    content = Content(
        headline,
        subtitle,
        footer,
        style=rng.choices(STYLES, [4, 3, 2, 1, 1, 1])[0],
        ink=ink,
        place=place,
        second_place=second,
        third_place=third,
        align=rng.choice(ALIGNMENTS) if "align" in say else rng.choices(ALIGNMENTS, [3, 4, 0])[0],
        size=rng.choice(["large", "small"]) if "size" in say else "",
        color=color,
        say=frozenset(say),
    )
    if content.style not in ("sans",):
        content = replace(content, say=content.say | {"style"})
    return _decorate(rng, content)


SHARE_SAID = {"place": 0.45, "align": 0.35, "size": 0.12, "style": 0.6, "color": 0.9, "ink": 0.25}


def _decorate(rng: random.Random, content: Content) -> Content:
    """Add a gradient, a shape or a panel, more often than people ask for them: they are learnt last."""
    chance = rng.random()
    under = [c for c in COLORS if c != content.color and contrast(PALETTE[c], PALETTE[content.color]) > 25]
    if chance < 0.25:
        ink = PALETTE[content.ink]
        similar = [c for c in COLORS if c != content.color and contrast(PALETTE[c], ink) > LEAST_CONTRAST]
        is_darker = luminance(PALETTE[content.color]) < luminance(ink)  # all the way down
        similar = [c for c in similar if (luminance(PALETTE[c]) < luminance(ink)) == is_darker]
        return replace(content, bottom_color=rng.choice(similar)) if similar else content
    if chance < 0.75:
        return replace(
            content,
            shape=rng.choices(
                SHAPE_KINDS, [3 if kind == "frame" else 1 + (kind in FORM_KINDS) for kind in SHAPE_KINDS]
            )[0],
            shape_color=rng.choice(under),
            shape_place=rng.choice([0.5, 0.5, 0.5, 0.25, 0.75]),
            shape_size=rng.choice([0.5, 0.75, 1.0]),
        )
    if chance < 0.82 and content.headline and not content.subtitle:
        panel = rng.choice(under)
        return replace(content, panel_color=panel, ink=contrasting_ink(panel))
    return content


def stack(text: str, max_chars: int) -> list[str]:
    """Set every word on a line of its own, but for words that follow one of at most SHORT_WORD characters.

    Whether a line goes on can then be read off the letters before: the prior reads the prompt from the left, where no
    letter knows how long the next word is. Short words alone on a line are found badly: too many are alike.
    """
    return _fill(text, max_chars, SHORT_WORD)


def wrap(text: str, max_chars: int) -> list[str]:
    """Break a text into lines as full as possible."""
    return _fill(text, max_chars, max_chars)


def _fill(text: str, max_chars: int, goes_on_to: int) -> list[str]:
    """Break a text; lines of at most `goes_on_to` characters go on where they can. Words longer than a line are cut."""
    lines: list[str] = []
    for word in text.split():
        for start in range(0, len(word), max_chars):
            piece = word[start : start + max_chars]
            if lines and len(lines[-1]) <= goes_on_to and len(lines[-1]) + 1 + len(piece) <= max_chars:
                lines[-1] += " " + piece
            else:
                lines.append(piece)
    return lines


def plan_columns(rows: int, columns: int) -> int:
    """Return how many characters a line of the plan holds beside its number and its end."""
    return small_grid(rows, columns)[1] - 2


def _break_lines(content: Content, rows: int, columns: int) -> list[tuple[str, str, str, int]]:
    """Break the texts into lines: (text, size, place, empty rows before it), as many as the plan holds.

    Words are stacked; only where that takes too many lines do they stand side by side.
    """
    most = min(MAX_LINES, (small_grid(rows, columns)[0] - 1) // 2)
    room, limit = rows - 2, min(plan_columns(rows, columns), columns - 2)
    is_large = content.size == "large" or (columns >= LARGE_GRID_COLUMNS and content.size != "small")
    for sizes, broken in (
        (("display", "headline"), stack),
        (("headline", "headline"), stack),
        (("headline", "headline"), wrap),
        (("small", "small"), wrap),
    ):
        if sizes[0] == "display" and not is_large:
            continue
        lines: list[tuple[str, str, str, int]] = []
        for text, place in content.placed_texts:
            size = sizes[0] if text == content.headline else sizes[1]
            pieces = broken(text, limit)
            starts_zone = not lines or lines[-1][2] != place
            lines += [(p, size, place, int(i == 0 and not starts_zone)) for i, p in enumerate(pieces)]
        widest = max((len(t) * GLYPH_CELLS[s][1] for t, s, *_ in lines), default=0)
        zones = {place for *_, place, _ in lines}
        height = sum(GLYPH_CELLS[s][0] + gap for _, s, _, gap in lines) + len(zones) - 1
        if widest <= columns - 2 and height <= room and len(lines) <= most:
            return lines
    kept = lines[:most]
    while kept and sum(GLYPH_CELLS[s][0] + 1 for _, s, *_ in kept) > room:
        kept.pop()
    return kept


def typeset(content: Content, rows: int, columns: int) -> Design:
    """Set a content on a grid of cells."""
    lines = _break_lines(content, rows, columns)
    margin = 1 if rows < 24 else 2
    heights = {p: sum(GLYPH_CELLS[s][0] + g for _, s, q, g in lines if q == p) for p in PLACES}
    starts = {"top": margin, "middle": (rows - heights["middle"]) // 2, "bottom": rows - margin - heights["bottom"]}
    if heights["top"]:
        starts["middle"] = max(starts["middle"], margin + heights["top"] + 1)
    if heights["bottom"]:
        starts["middle"] = min(starts["middle"], starts["bottom"] - 1 - heights["middle"])
    placed, row, zone = [], 0, ""
    for text, size, place, gap in lines:
        row = max(starts[place], row) if place != zone else row + gap
        zone = place
        length = len(text) * GLYPH_CELLS[size][1]
        column = {"left": margin, "center": (columns - length) // 2, "right": columns - margin - length}
        first = min(max(column[content.align], 1), columns - length)
        placed.append(Line(text, max(row, 1), first, content.style, size))
        row = placed[-1].row + placed[-1].num_rows
    top = PALETTE[content.color]
    bottom = PALETTE[content.bottom_color] if content.bottom_color else top
    shapes = _shapes(content, rows, columns, placed)
    return Design(rows, columns, top, bottom, tuple(placed), shapes, content.ink)


def plan_tokens(content: Content, design: Design) -> np.ndarray:
    """Return the small grid, int64 (rows, columns): ink and colours, then two rows a line, from top to bottom.

    The first row's left half has the colour at the top of the picture, its right half that at the bottom.
    A line's first row gives its number, spells it in small type and tells its length, then goes on to the next line's
    letters and length as far as there is room, while it is known where in the prompt they are; the second says style,
    size, place, alignment and the rows left empty above it, then the number again, the column at which it begins, and
    the rows left empty below it or that it is the last. The rows that remain count down to the picture; the first of
    them tells the shape, if there is one: its kind, as the picture does or else as a length is named, then in its
    colour its first row and column, its height and width.
    """
    rows, columns = small_grid(design.num_rows, design.num_columns)
    color = COLORS.index(content.color)
    bottom = COLORS.index(content.bottom_color or content.color)
    tokens = np.full((rows, columns), FIRST_BACKGROUND + color, np.int64)
    tokens[-1] = tokens[0, columns // 2 :] = FIRST_BACKGROUND + bottom
    first_free = 2 * len(design.lines) + 1
    if design.shapes and first_free < rows:
        kind = "panel" if content.panel_color else content.shape
        top, left, height, width = design.shapes[0].cells
        color_of_shape = COLORS.index(content.panel_color or content.shape_color)
        tokens[first_free, 1:6] = [
            form_message(design.shapes[0]) if kind in FORM_KINDS else LENGTH + PLANNED_SHAPES.index(kind),
            message(color_of_shape, ROWS + min(top, MAX_ROWS)),
            message(color_of_shape, COLUMNS + min(max(left, 1), MAX_COLUMNS) - 1),
            message(color_of_shape, ROWS + min(height, MAX_ROWS)),
            message(color_of_shape, COLUMNS + min(width, MAX_COLUMNS) - 1),
        ]
    if not design.lines:
        return tokens
    tokens[0] = [message(int(c) - FIRST_BACKGROUND, INK + COLORS.index(content.ink)) for c in tokens[0]]
    for row in range(first_free, rows):
        own = int(tokens[row, 0]) - FIRST_BACKGROUND
        tokens[row, 0] = message(own, ROWS + min(rows - 1 - row, MAX_ROWS))
    places = [place for *_, place, _ in _break_lines(content, design.num_rows, design.num_columns)]
    ends = [0, *(line.row + line.num_rows for line in design.lines)]
    gaps = [line.row - end for line, end in zip(design.lines, ends, strict=False)]
    above = [ROWS + min(gap, MAX_ROWS) for gap in gaps]
    below = [*above[1:], LAST]
    for i, (line, place) in enumerate(zip(design.lines, places, strict=True)):
        number = message(color, LINE + i)
        spelt = [number, *(t for follows in design.lines[i : i + 2] for t in _spell(follows.text, color))][:columns]
        tokens[2 * i + 1, : len(spelt)] = spelt
        tokens[2 * i + 2, : BELOW + 1] = [
            STYLE + STYLES.index(line.style),
            SIZE + SIZES.index(line.size),
            PLACE + PLACES.index(place),
            ALIGN + ALIGNMENTS.index(content.align),
            message(color, above[i]),
            number,
            message(color, COLUMNS + min(line.column, MAX_COLUMNS) - 1),
            message(color, below[i]),
        ]
    return tokens


def _spell(text: str, color: int) -> list[int]:
    """Return the letters in small type, then the length."""
    plain = FIRST_BACKGROUND + color
    letters = [plain if c == " " else text_token(c, "small", 0, 0, "sans") for c in text]
    return [*letters, LENGTH + min(len(text), MAX_LENGTH) - 1]


def _shapes(content: Content, rows: int, columns: int, lines: list[Line]) -> tuple[Shape, ...]:
    first = min((line.row for line in lines), default=rows // 2)
    last = max((line.row + line.num_rows for line in lines), default=first)
    if content.panel_color:
        left = max(min(line.column for line in lines) - 1, 0)
        right = min(max(line.column + line.num_columns for line in lines) + 1, columns)
        y, half = (first + last) / 2, (last - first) / 2
        x, half_width = (left + right) / 2, (right - left) / 2
        return (Shape("box", y, x, half + 1, half_width, PALETTE[content.panel_color]),)
    if not content.shape:
        return ()
    if content.shape == "frame":
        return (_shape("frame", content.shape_color, 0, 0, rows, columns),)
    gaps = [(a.row + a.num_rows, b.row) for a, b in itertools.pairwise(lines)]
    gaps = [(1, first), *gaps, (last, rows)]  # the first row names the ink
    start, end = max(gaps, key=lambda gap: gap[1] - gap[0])
    room = end - start
    if room < 3:
        return ()
    width = min(max(2, round(content.shape_size * (room - 1))), columns - LEFT_OF_SHAPE - 1)
    if content.shape in FORM_KINDS:
        fitting = [s for s in FORM_SIDES if form_height(content.shape, s) < room and s < columns - LEFT_OF_SHAPE]
        if not fitting:
            return ()
        width = min(fitting, key=lambda side: abs(side - width))
    height = form_height(content.shape, width)
    if content.shape == "stripe":
        height = max(1, round(content.shape_size * room / 3))
    top = start + (room - height) // 2
    left = min(max(round(content.shape_place * columns - width / 2), LEFT_OF_SHAPE), columns - width - 1)
    if content.shape == "stripe":
        left, width = 0, columns
    return (_shape(content.shape, content.shape_color, top, left, height, width),)


def _shape(kind: str, color: str, top: int, left: int, height: int, width: int) -> Shape:
    """Return the shape that fills a box of cells; one that is as high as wide takes the box's width."""
    if kind in FORM_KINDS:
        return form(kind, top, left, width, PALETTE[color])
    return Shape(kind, top + height / 2, left + width / 2, height / 2, width / 2, PALETTE[color])


def small_grid(rows: int, columns: int) -> tuple[int, int]:
    """Return the small grid's (rows, columns) for a large grid, as the reference does."""
    return int((rows / columns) ** 0.5 * 16), int((columns / rows) ** 0.5 * 16)


def random_grid(rng: random.Random) -> tuple[int, int]:
    """Draw a large grid (rows, columns): a common size, or any with sides from 512 to 1024 px."""
    if rng.random() < 0.2:
        return rng.randrange(16, 33), rng.randrange(16, 33)
    width, height = rng.choices([s for s, _ in PICTURE_SIZES], [w for _, w in PICTURE_SIZES])[0]
    return height // 32, width // 32


def load_codebook(path: Path, words: list[str]) -> BackgroundCodebook:
    """Load the background codebook, or make it from random designs and save it."""
    if not path.exists():

        def design(seed: int) -> Design:
            grid = random_grid(random.Random(seed))
            return typeset(random_content(seed, words), *grid)

        build_codebook(design).save(path)
    return BackgroundCodebook.load(path)


def text_wall(seed: int, words: list[str], num_rows: int = 16, num_columns: int = 16) -> Design:
    """Draw a picture full of type on one colour: what the decoder practises glyphs on."""
    rng = random.Random(seed)
    any_color = tuple(rng.randrange(256) for _ in range(3))
    color = PALETTE[rng.choice(COLORS)] if rng.random() < 0.85 else any_color
    lines, row = [], rng.randrange(2)
    ink = rng.choice([i for i in COLORS if contrast(PALETTE[i], color) > 50])
    if rng.random() < 0.5:
        ink = "black" if luminance(color) > LIGHT else "white"
    while row < num_rows - 2:
        size = rng.choices(["headline", "display", "small"], [6, 3, 1])[0]
        step = 2 if size == "display" else 1
        text = ""
        while len(text) * step < num_columns:
            text += random_word(rng, words) + " " * rng.choice([1, 1, 1, 2])
        indent = rng.choice([0, 0, 0, 1, 3])
        line = Line(text[: (num_columns - indent) // step], row, indent, rng.choice(STYLES), size)
        lines.append(line)
        row += line.num_rows + rng.choice([0, 0, 0, 1])
    return Design(num_rows, num_columns, color, color, tuple(lines), ink=ink)


def shape_wall(seed: int, num_rows: int = 16, num_columns: int = 16) -> Design:
    """Draw a picture full of shapes, no two in one place, whose edges a decoder sees too seldom in designs."""
    rng = random.Random(seed)
    name = rng.choice(COLORS)
    color = PALETTE[name]
    bottom = PALETTE[rng.choice(COLORS)] if rng.random() < 0.15 else color
    shapes: list[Shape] = []
    is_free = np.ones((num_rows, num_columns), bool)
    if rng.random() < 0.3:
        shapes.append(_shape("frame", rng.choice(COLORS), 0, 0, num_rows, num_columns))
        is_free[[0, -1]] = is_free[:, [0, -1]] = False
    colors = [c for c in COLORS if contrast(PALETTE[c], color) > 25]
    color_of_forms = rng.choice(colors)  # stencils do not tell which of two colours is theirs
    for _ in range(30):
        kind = rng.choice([k for k in SHAPE_KINDS if k != "frame"])
        size = rng.choice(FORM_SIDES) if kind in FORM_KINDS else rng.choice([2, 2, 3, 4, 6, 9, 12])
        height = form_height(kind, size)
        top, left = rng.randrange(num_rows - height + 1), rng.randrange(1, num_columns - size + 1)
        first = left - (kind in FORM_KINDS)  # the cells that name it are its own as well
        box = is_free[top : top + height, first : left + size]
        if box.all():
            box[:] = False
            shape_color = color_of_forms if kind in FORM_KINDS else rng.choice(colors)
            shapes.append(_shape(kind, shape_color, top, left, height, size))
    return Design(num_rows, num_columns, color, bottom, (), tuple(shapes), contrasting_ink(name))
