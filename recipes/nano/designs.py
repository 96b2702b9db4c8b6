"""What a poster says and how it is set: random contents, and their typesetting on a grid of any size.

The same content is set anew on the small grid and on the large one: same texts, same order, same place, larger type
where there is room.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path

from renderer import PALETTE, BackgroundCodebook, Design, Line, Shape, build_codebook
from type_tokens import CHARS, INKS, STYLES

ROW_NAMES = ("top", "middle", "bottom")
ALIGNMENTS = ("left", "center", "right")
SHAPE_KINDS = ("circle", "ring", "frame", "stripe", "box", "star", "arrow", "triangle", "badge")
SIZES = (  # width, height in px: the presets, then what lies between
    ((512, 512), 10),
    ((1024, 1024), 4),
    ((768, 1024), 1),
    ((1024, 768), 1),
    ((576, 1024), 1),
    ((1024, 576), 1),
    ((640, 640), 1),
    ((768, 768), 1),
    ((512, 768), 1),
    ((768, 512), 1),
)
LARGE_GRID_COLUMNS = 22  # from here on headlines are set in display type where they fit


@dataclass(frozen=True)
class Content:
    """What a picture says and what was asked of it; the `say_` fields tell what the prompt mentions."""

    headline: str
    subtitle: str = ""
    footer: str = ""
    style: str = "sans"
    ink: str = "white"
    second_ink: str = "white"
    row: str = "middle"
    align: str = "center"
    size: str = ""  # large, small, or as it comes
    color: str = "navy"
    bottom_color: str = ""
    shape: str = ""
    shape_color: str = ""
    shape_place: float = 0.5  # across the picture, 0 left, 1 right
    shape_size: float = 1.0  # of the room there is
    panel_color: str = ""  # a box behind the headline
    say: frozenset[str] = frozenset()

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(t for t in (self.headline, self.subtitle, self.footer) if t)


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
    if kind < 0.85:
        return rng.choice(["&", "-", "+", "AI", "vs", "v2.0", "24/7", "50/50", "A", "I", "(new)", "of", "the", "and"])
    alphabet = rng.choice([CHARS[:26], CHARS[26:52], CHARS[:62], CHARS[:62]])
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(2, 9)))


def random_text(rng: random.Random, words: list[str], max_chars: int, num_words: int) -> str:
    """Join random words, of one case more often than not, to a text of at most `max_chars` characters."""
    parts = [random_word(rng, words)[:max_chars]]
    for _ in range(num_words - 1):
        word = random_word(rng, words)
        if len(" ".join([*parts, word])) <= max_chars:
            parts.append(word)
    text = " ".join(parts)
    case = rng.random()
    text = text.upper() if case < 0.2 else text.title() if case < 0.35 else text
    text = text.replace("'S", "'s")
    if rng.random() < 0.06:
        text = "".join(rng.choice(ACCENTED.get(c, c)) for c in text)
    if rng.random() < 0.12 and len(text) < max_chars:
        text += rng.choice("!?.!:")
    return text


def random_content(seed: int, words: list[str]) -> Content:
    """Draw a content: up to three texts, a background, at most one shape; plain where nothing is said."""
    rng = random.Random(seed)
    headline = random_text(rng, words, rng.choice([14, 14, 24, 30]), rng.choice([1, 1, 2, 2, 3, 4]))
    if rng.random() < 0.03:
        return _decorate(rng, Content("", color=rng.choice(list(PALETTE)), say=frozenset(["color"])))
    subtitle = random_text(rng, words, 28, rng.choice([1, 2, 3, 4])) if rng.random() < 0.3 else ""
    footer = random_text(rng, words, 20, rng.choice([1, 2, 2, 3])) if rng.random() < 0.12 else ""
    say = {k for k, share in SHARE_SAID.items() if rng.random() < share}
    color = rng.choice(list(PALETTE))
    ink = contrasting_ink(color)
    if rng.random() < 0.45:
        ink = rng.choice([i for i in INKS if contrast(INKS[i], PALETTE[color]) > 75])
    if ink not in ("white", "black") or ink != contrasting_ink(color):
        say.add("ink")  # the unusual is always said
    content = Content(
        headline,
        subtitle,
        footer,
        style=rng.choices(STYLES, [4, 3, 2, 1, 1, 1])[0],
        ink=ink,
        second_ink=ink if rng.random() < 0.8 else contrasting_ink(color),
        row=rng.choice(ROW_NAMES) if "row" in say else "middle",
        align=rng.choice(ALIGNMENTS) if "align" in say else "center",
        size=rng.choice(["large", "small"]) if "size" in say else "",
        color=color,
        say=frozenset(say),
    )
    if content.style not in ("sans",):
        content = replace(content, say=content.say | {"style"})
    return _decorate(rng, content)


SHARE_SAID = {"row": 0.45, "align": 0.25, "size": 0.15, "style": 0.6, "color": 0.9, "ink": 0.25}


def _decorate(rng: random.Random, content: Content) -> Content:
    chance = rng.random()
    if chance < 0.1:
        is_darker = lambda c: luminance(PALETTE[c]) < luminance(INKS[content.ink])  # noqa: E731 - all the way down
        similar = [c for c in PALETTE if c != content.color and contrast(PALETTE[c], INKS[content.ink]) > 75]
        similar = [c for c in similar if is_darker(c) == is_darker(content.color)]
        return replace(content, bottom_color=rng.choice(similar)) if similar else content
    if chance < 0.35:
        others = [c for c in PALETTE if c != content.color and contrast(PALETTE[c], PALETTE[content.color]) > 25]
        return replace(
            content,
            shape=rng.choice(SHAPE_KINDS),
            shape_color=rng.choice(others),
            shape_place=rng.choice([0.5, 0.5, 0.5, 0.25, 0.75]),
            shape_size=rng.choice([0.5, 0.75, 1.0]),
        )
    if chance < 0.43 and content.headline:
        panels = [c for c in PALETTE if c != content.color and contrast(PALETTE[c], PALETTE[content.color]) > 25]
        panel = rng.choice(panels)
        second_ink = contrasting_ink(content.color)
        return replace(content, panel_color=panel, ink=contrasting_ink(panel), second_ink=second_ink)
    return content


def luminance(color: tuple[int, int, int]) -> float:
    """Return the luminance of a colour, 0 to 255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Return the difference in luminance."""
    return abs(luminance(one) - luminance(other))


def contrasting_ink(name: str) -> str:
    """Choose black or white, whichever reads best on a palette colour."""
    return "black" if luminance(PALETTE[name]) > 140 else "white"


def wrap(text: str, max_chars: int) -> list[str]:
    """Break a text into lines as full as possible; a word longer than a line is cut."""
    lines: list[str] = []
    for word in text.split():
        while word:
            piece, word = word[:max_chars], word[max_chars:]
            if lines and len(lines[-1]) + 1 + len(piece) <= max_chars:
                lines[-1] += " " + piece
            else:
                lines.append(piece)
    return lines


def _set_block(content: Content, columns: int, rows: int, small_only: bool) -> list[tuple[str, str, int]]:
    """Choose type sizes: (text, size, empty rows before it) of every line of headline and subtitle."""
    longest = max(map(len, " ".join(content.texts).split()), default=0)
    width = columns - max(2, columns // 4)  # room to spare: a line that begins a little late still fits
    display, words_whole = wrap(content.headline, width // 2), longest <= width // 2
    width = width if longest <= width else columns - 2
    headline = wrap(content.headline, width)
    room = rows - (7 if content.subtitle or content.footer else 4)
    is_large = columns >= LARGE_GRID_COLUMNS or content.size == "large"
    fits = words_whole and 3 * len(display) <= room and len(display) <= max(3, len(headline) + 1)
    if is_large and fits and content.size != "small" and not small_only:
        lines = [(text, "display", 0) for text in display]
        second = "headline" if columns >= LARGE_GRID_COLUMNS else "small"
    else:
        lines = [(text, "headline", 0) for text in headline]
        second = "small"
    lines += [(text, second, int(i == 0)) for i, text in enumerate(wrap(content.subtitle, width))]
    return lines


def typeset(content: Content, rows: int, columns: int) -> Design:
    """Set a content on a grid of cells."""
    lines = _set_block(content, columns, rows, small_only=False)
    height = lambda ls: sum({"small": 1, "headline": 2, "display": 3}[s] + gap for _, s, gap in ls)  # noqa: E731
    footer = wrap(content.footer, columns - 2)
    room = rows - 2 - (len(footer) + 1 if footer else 0)
    if height(lines) > room:
        lines = _set_block(content, columns, rows, small_only=True)
    while height(lines) > room:
        lines.pop()
    margin = 1 if rows < 24 else 2
    block = height(lines)
    first = {"top": margin, "middle": (rows - block) // 2, "bottom": rows - margin - block}[content.row]
    if footer:
        first = min(first, rows - 2 - len(footer) - block)
    first = max(first, 0)
    placed, row = [], first
    for text, size, gap in lines:
        row += gap
        is_headline = size == lines[0][1]
        ink = content.ink if is_headline else content.second_ink
        placed.append(_line(content, text, row, columns, size, ink))
        row += placed[-1].num_rows
    for i, text in enumerate(footer):
        placed.append(_line(content, text, rows - 1 - len(footer) + i, columns, "small", content.second_ink))
    top = PALETTE[content.color]
    bottom = PALETTE[content.bottom_color] if content.bottom_color else top
    last = rows - len(footer) - 1 if footer else rows
    headline_rows = sum(line.num_rows for line in placed if line.size == lines[0][1])
    shapes = _shapes(content, (first, first + block), (first, first + headline_rows), last, rows, columns, placed)
    return Design(rows, columns, top, bottom, tuple(placed), shapes)


def _line(content: Content, text: str, row: int, columns: int, size: str, ink: str) -> Line:
    length = len(text) * (2 if size == "display" else 1)
    column = {"left": 1, "center": (columns - length) // 2, "right": columns - 1 - length}[content.align]
    return Line(text, row, max(column, 0), content.style, size, ink)


def _shapes(content, text_rows, headline_rows, last_row, rows, columns, lines) -> tuple[Shape, ...]:
    if content.panel_color:
        own = [line for line in lines if line.row < headline_rows[1]]
        left = min(line.column for line in own) - 1
        right = max(line.column + line.num_columns for line in own) + 1
        y, half = (headline_rows[0] + headline_rows[1]) / 2, (headline_rows[1] - headline_rows[0]) / 2
        x, half_width = (left + right) / 2, (right - left) / 2
        return (Shape("box", y, x, half + 0.25, half_width - 0.25, PALETTE[content.panel_color]),)
    if not content.shape:
        return ()
    color = PALETTE[content.shape_color]
    if content.shape == "frame":
        return (Shape("frame", rows / 2, columns / 2, rows / 2, columns / 2, color),)
    above, below = text_rows[0], last_row - text_rows[1]
    start, room = (0, above) if above >= below else (text_rows[1], below)
    if room < 3:
        return ()
    y = start + room / 2
    if content.shape == "stripe":
        return (Shape("stripe", y, columns / 2, max(0.5, round(content.shape_size * room / 6) * 0.5), columns, color),)
    radius = max(1.0, round(content.shape_size * (room - 1)) / 2)
    radius = min(radius, columns / 2 - 1)
    x = min(max(content.shape_place * columns, radius + 0.5), columns - radius - 0.5)
    if content.shape == "ring":
        return (Shape("ring", y, x, 0.5, radius - 0.5, color),)
    if content.shape == "badge":
        inner = Shape("ring", y, x, 0.15, radius - 0.5, PALETTE[contrasting_ink(content.shape_color)])
        return (Shape("circle", y, x, radius, radius, color), inner)
    half_height = radius * 0.6 if content.shape == "arrow" else radius
    return (Shape(content.shape, y, x, half_height, radius, color),)


def small_grid(rows: int, columns: int) -> tuple[int, int]:
    """Return the small grid's (rows, columns) for a large grid, as the reference does."""
    return int((rows / columns) ** 0.5 * 16), int((columns / rows) ** 0.5 * 16)


def random_grid(rng: random.Random) -> tuple[int, int]:
    """Draw a large grid (rows, columns): a common size, or any with sides from 512 to 1024 px."""
    if rng.random() < 0.2:
        return rng.randrange(16, 33), rng.randrange(16, 33)
    width, height = rng.choices([s for s, _ in SIZES], [w for _, w in SIZES])[0]
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
    color = PALETTE[rng.choice(list(PALETTE))] if rng.random() < 0.85 else any_color
    lines, row = [], rng.randrange(2)
    inks = [i for i in INKS if contrast(INKS[i], color) > 70]
    favourite = "black" if luminance(color) > 140 else "white"
    while row < num_rows - 2:
        size = rng.choices(["headline", "display", "small"], [5, 3, 2])[0]
        step = 2 if size == "display" else 1
        text = ""
        while len(text) * step < num_columns:
            text += random_word(rng, words) + " " * rng.choice([1, 1, 1, 2])
        indent = rng.choice([0, 0, 0, 1, 3])
        ink = favourite if rng.random() < 0.4 else rng.choice(inks)
        style = rng.choice(STYLES)
        line = Line(text[: (num_columns - indent) // step], row, indent, style, size, ink)
        lines.append(line)
        row += line.num_rows + rng.choice([0, 0, 0, 1])
    return Design(num_rows, num_columns, color, color, tuple(lines))
