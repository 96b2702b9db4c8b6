"""Pairs for image to image: one or two pictures, an instruction, and the picture it asks for."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from designs import (
    LEAST_CONTRAST,
    SHAPE_KINDS,
    Content,
    random_content,
    random_grid,
    random_text,
    typeset,
)
from foreign import random_foreign_edit
from prompts import (
    ALIGN_WORDS,
    GRADIENT_WORDS,
    PLACE_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    STYLE_WORDS,
    TREATMENT_WORDS,
    color_word,
    quoted,
    say_colors,
)
from renderer import Design, contrast, contrasting_ink, luminance, nearest_color, text_cells
from type_tokens import ALIGNMENTS, PALETTE, PLACES, STYLES

Grid = tuple[int, int]
SHARE_OF_FOREIGN = 0.5  # sources that are no designs (foreign.py)


@dataclass(frozen=True)
class Edit:
    """Sources and target as designs, and the instruction between them.

    repainted, filled: of a picture that is no design, the cells whose backdrop is another, and of those the ones that
    show nothing but one new colour, bool (rows, columns); colors: what that one replaces, and itself.
    """

    sources: tuple[Design, ...]
    target: Design
    prompt: str
    repainted: np.ndarray | None = None
    filled: np.ndarray | None = None
    colors: tuple[str, str] | None = None


def random_edit(seed: int, words: list[str], grid: Grid | None = None) -> Edit:
    """Draw an edit; sources and target have the same grid unless two sources are mixed."""
    rng = random.Random(seed ^ 0xED17)
    grid = grid or ((16, 16) if rng.random() < 0.6 else random_grid(rng))
    if rng.random() < SHARE_OF_FOREIGN:
        return _of_foreign(rng, words, grid)
    if rng.random() < 0.1:
        return _mix(rng, _content(rng, seed, words), random_content(seed + 500_009, words), grid)
    change = rng.choices(list(CHANGES), list(CHANGES.values()))[0]
    while True:
        content = _content(rng, seed, words)
        target, instruction = change(rng, content, words)
        before, after = typeset(content, *grid), typeset(target, *grid)
        if not _look_alike(before, after):  # type may have no room to grow
            break
        seed += 1_000_003
    if rng.random() < 0.15:
        second, more = rng.choice([_recolor, _move, _reshape])(rng, target, words)
        after, instruction = typeset(second, *grid), f"{instruction} and {more[0].lower()}{more[1:]}"
    return Edit((before,), after, _polish(rng, instruction))


def random_recoloring(seed: int, words: list[str], grid: Grid) -> Edit:
    """Draw an edit of a picture that is no design, of which a part gets another colour."""
    rng = random.Random(seed ^ 0x4EC0)
    while True:
        edit = _of_foreign(rng, words, grid)
        if edit.colors is not None and edit.filled.any():
            return edit


def _of_foreign(rng: random.Random, words: list[str], grid: Grid) -> Edit:
    edit = random_foreign_edit(rng, words, grid)
    instruction = _polish(rng, edit.prompt)
    return Edit((edit.source,), edit.target, instruction, edit.repainted, edit.filled, edit.colors)


def _content(rng: random.Random, seed: int, words: list[str]) -> Content:
    """Draw a content that has a headline; most pictures that people change say little more."""
    content = random_content(seed, words)
    while not content.headline:
        seed += 10_000_019
        content = random_content(seed, words)
    few = rng.random()
    if few < 0.45:
        return replace(content, subtitle="", footer="", second_place="", third_place="")
    return replace(content, footer="", third_place="") if few < 0.7 else content


def _look_alike(one: Design, other: Design) -> bool:
    plain = [replace(design, lines=()) for design in (one, other)]
    return plain[0] == plain[1] and np.array_equal(text_cells(one), text_cells(other))


def _polish(rng: random.Random, instruction: str) -> str:
    keep = "keep everything else;leave the rest as it is;keep the rest;nothing else changes;keep the layout"
    if rng.random() < 0.25:
        instruction += f", {rng.choice(keep.split(';'))}"
    if rng.random() < 0.15:
        instruction = f"please {instruction[0].lower()}{instruction[1:]}"
    if rng.random() < 0.7:
        instruction = instruction[0].upper() + instruction[1:]
    return instruction + (rng.choice([".", ""]) if rng.random() < 0.5 else "")


def _phrase(rng: random.Random, phrases: str, **values: str) -> str:
    return rng.choice(phrases.split(";")).format(**values)


def _on(color: str, ink: str) -> str:
    """Keep an ink where it can be read on a colour."""
    return ink if contrast(PALETTE[ink], PALETTE[color]) > LEAST_CONTRAST else contrasting_ink(color)


def _recolor(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    color = rng.choice([c for c in PALETTE if c != content.color])
    ink = content.ink if content.panel_color else _on(color, content.ink)
    changed = replace(content, color=color, bottom_color="", ink=ink)
    if rng.random() < 0.12:
        others = [c for c in PALETTE if c != color and contrast(PALETTE[c], PALETTE[ink]) > 75]
        if others and not content.panel_color:
            changed = replace(changed, bottom_color=rng.choice(others))
            gradient = _phrase(
                rng, ";".join(GRADIENT_WORDS), c=color_word(rng, color), d=color_word(rng, changed.bottom_color)
            )
            return changed, _phrase(rng, "make the background {g};change the background to {g};use {g}", g=gradient)
    phrases = (
        "change the background to {c};make the background {c};{c} background instead;set it on {c};put it on {c};"
        "turn the background {c};recolour the background to {c};use a {c} background;a {c} version of this;"
        "change the background colour to {c};I want the background in {c};make it {c};{c} behind the text;"
        "give it a {c} ground;the ground should be {c};on {c} instead;paint what is behind the words {c}"
    )
    if not content.bottom_color and rng.random() < 0.25:
        phrases = (
            "change the {o} background to {c};turn the {o} background {c};{c} instead of {o} for the background;"
            "replace the {o} background by {c};the {o} should become {c};from {o} to {c};"
            "recolour the {o} ground in {c};make what is {o} {c};swap the {o} for {c}"
        )
    instruction = _phrase(rng, phrases, c=color_word(rng, color), o=color_word(rng, content.color))
    if ink == content.ink and rng.random() < 0.12:
        kept = ", the text stays {i};, keep the {i} letters;, the words remain {i};, with the {i} type as it is"
        instruction += _phrase(rng, kept, i=color_word(rng, ink))
    return changed, instruction


def _reink(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    under = content.panel_color or content.color
    inks = [i for i in PALETTE if i != content.ink and contrast(PALETTE[i], PALETTE[under]) > LEAST_CONTRAST]
    ink = rng.choice(inks or [contrasting_ink(under)])
    phrases = (
        "make the text {c};change the text colour to {c};{c} letters instead;write it in {c};turn the letters {c};"
        "recolour the text in {c};the text should be {c};use {c} for the text;change the lettering to {c};"
        "{c} text please;change the font color to {c};print the words in {c};{c} type instead;"
        "the characters should be {c};colour the words {c}"
    )
    if rng.random() < 0.25:
        phrases = (
            "change the {o} text to {c};turn the {o} letters {c};{c} letters, not {o} ones;letters in {c}, not in {o};"
            "the {o} type should be {c};recolour the {o} letters in {c};replace the {o} of the text by {c}"
        )
    instruction = _phrase(rng, phrases, c=color_word(rng, ink), o=color_word(rng, content.ink))
    if not content.bottom_color and rng.random() < 0.2:
        kept = ", keep the {g} background;, the background stays {g};, still on {g};, on the same {g} as before"
        instruction += _phrase(rng, kept, g=color_word(rng, under))
    return replace(content, ink=ink), instruction


def _replace_text(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    which = rng.choice([f for f in ("headline", "headline", "subtitle", "footer") if getattr(content, f)])
    old = getattr(content, which)
    new = random_text(rng, words, max(14, len(old)), max(1, len(old.split())))
    a, b = quoted(rng, old, new)
    name = {"headline": "headline", "subtitle": "subtitle", "footer": "footer"}[which]
    phrases = (
        "replace {a} with {b};change {a} to {b};change the text {a} to {b};it should say {b} instead of {a};"
        "write {b} instead of {a};swap {a} for {b};change the {n} to {b};the {n} should say {b};"
        "make the {n} say {b};replace the {n} with {b};edit the {n}: {b};rewrite {a} as {b};not {a} but {b};"
        "{a} becomes {b};the {n} is {b}, no longer {a};where it says {a}, write {b};put {b} in place of {a};"
        "correct {a} to {b};use the words {b} for the {n};keep everything but write {b} for {a}"
    )
    if not (content.subtitle or content.footer):
        phrases += ";make it say {b};change the text to {b};now it reads {b};replace the text with {b}"
    return replace(content, **{which: new}), _phrase(rng, phrases, a=a, b=b, n=name)


def _move(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    verb = _phrase(rng, "move the text {{w}};put the text {{w}};place it {{w}};text {{w}};shift the words {{w}}")
    if rng.random() < 0.6:
        row = rng.choice([r for r in PLACES if r != content.place])
        if rng.random() < 0.2:
            verb += rng.choice([f", not at the {content.place}", f" instead of the {content.place}"])
        return replace(content, place=row, second_place="", third_place=""), verb.format(
            w=rng.choice(PLACE_WORDS[row].split(";"))
        )
    align = rng.choice([a for a in ALIGNMENTS if a != content.align])
    return replace(content, align=align), verb.format(w=rng.choice(ALIGN_WORDS[align].split(";")))


def _resize(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    size = "large" if content.size != "large" else "small"
    phrases = "use {w};set it in {w};make it {w};change to {w}"
    if rng.random() < 0.7:
        more, very, verb, less = {
            "large": ("bigger;larger", "huge;very large", "enlarge;grow;scale up;increase the size of", "small"),
            "small": ("smaller", "tiny;very small", "shrink;reduce;scale down;decrease the size of", "big"),
        }[size]
        what = rng.choice("text;letters;words;type;headline;title;lettering;name".split(";"))
        it = "it" if what in ("text", "type", "headline", "title", "lettering", "name") else "them"
        phrases = (
            f"make the {what} {{m}};make the {what} much {{m}};{{m}} {what};{{m}} {what} please;a {{m}} font;"
            f"the {what} should be {{m}};{{v}} the {what};{{v}} the {what};set the {what} {{m}};"
            f"too {less}: make {it} {{m}};the {what} could be {{m}};make the {what} {{e}};use a {{m}} font size"
        )
        m, v, e = (rng.choice(words.split(";")) for words in (more, verb, very))
        return replace(content, size=size), _phrase(rng, phrases, m=m, v=v, e=e)
    return replace(content, size=size), _phrase(rng, phrases, w=rng.choice(SIZE_WORDS[size].split(";")))


def _reshape(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    if content.shape and rng.random() < 0.5:
        phrases = "remove the {s};take the {s} away;no {s};without the {s};delete the {s}"
        return replace(content, shape=""), _phrase(rng, phrases, s=content.shape)
    shape = "frame" if rng.random() < 0.5 else rng.choice(SHAPE_KINDS)
    colors = [c for c in PALETTE if contrast(PALETTE[c], PALETTE[content.color]) > 25]
    color = rng.choice(colors)
    changed = replace(content, shape=shape, shape_color=color, shape_place=0.5, shape_size=0.75, panel_color="")
    if content.panel_color:
        changed = replace(changed, ink=contrasting_ink(content.color))
    words_of = [w.removeprefix("with ") for w in SHAPE_WORDS[shape].split(";")]
    words_of = [w for w in words_of if not any(said in w for said in ("framed", "surrounded", "around"))]
    what = say_colors(rng.choice(words_of), c=color_word(rng, color))
    phrases = "add {w};put {w} in;also show {w};with {w};add {w} to it;draw {w};give it {w}"
    if shape == "frame":
        phrases += (
            ";add {w} around it;put {w} around everything;draw {w} around the picture;put {w} along the edge;"
            "surround it with {w};{w} around the whole picture;it needs {w}"
        )
    return changed, _phrase(rng, phrases, w=what)


def _restyle(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    style = rng.choice([s for s in STYLES if s != content.style])
    phrases = (
        "set it in {w};change the font to {w};use {w};make it {w};set the text in {w};switch to {w};"
        "change the typeface to {w};the text in {w}"
    )
    if rng.random() < 0.25:
        phrases = (
            "change the {o} type to {w};{w} instead of the {o};replace the {o} type by {w};from {o} to {w};"
            "not {o} but {w};turn the {o} letters into {w}"
        )
    old = content.style.removesuffix(" regular") if style.split()[0] != content.style.split()[0] else content.style
    return replace(content, style=style), _phrase(rng, phrases, w=rng.choice(STYLE_WORDS[style].split(";")), o=old)


def _treat(rng: random.Random, content: Content, words: list[str]) -> tuple[Content, str]:
    """Invert, tone in sepia, or turn into a blueprint, in the colours that the palette has."""
    invert = lambda color: tuple(255 - v for v in color)  # noqa: E731
    kind = rng.choice(["invert", "invert", "invert", "sepia", "blueprint", "grey"])  # it has most to learn
    if kind == "invert":
        color = nearest_color(invert(PALETTE[content.color]))
        shape_color = nearest_color(invert(PALETTE[content.shape_color])) if content.shape_color else ""
        ink = nearest_color(invert(PALETTE[content.ink]))
    elif kind == "sepia":
        is_light = luminance(PALETTE[content.color]) > 120
        color, ink = ("beige", "black") if is_light else ("brown", "white")
        shape_color = "brown" if is_light else "beige"
    elif kind == "blueprint":
        color, ink, shape_color = "blue", "white", "white"
    else:
        is_light = luminance(PALETTE[content.color]) > 120
        color, ink = ("white", "black") if is_light else ("charcoal", "white")
        shape_color = "gray"
    changed = replace(content, color=color, bottom_color="", panel_color="", ink=_on(color, ink))
    if content.shape:
        changed = replace(changed, shape_color=shape_color)
    return changed, _phrase(rng, TREATMENT_WORDS[kind])


CHANGES: dict[Callable, float] = {
    _recolor: 4,
    _reink: 3,
    _replace_text: 6.5,
    _move: 2,
    _resize: 3,
    _reshape: 5,
    _restyle: 1.5,
    _treat: 3.5,
}


def _mix(rng: random.Random, first: Content, second: Content, grid: Grid) -> Edit:
    """Take the layout of the first and the palette of the second reference."""
    ink = second.ink if second.headline and not second.panel_color else contrasting_ink(second.color)
    target = replace(first, color=second.color, bottom_color=second.bottom_color, panel_color="", ink=ink)
    phrases = (
        "use the layout of the first and the colours of the second;the first picture in the colours of the second;"
        "layout of image 1, palette of image 2;recolour the first with the palette of the second;"
        "apply the colors of the second image to the first;first image, but with the second image's colours"
    )
    sources = (typeset(first, *grid), typeset(second, 16, 16))
    return Edit(sources, typeset(target, *grid), _polish(rng, _phrase(rng, phrases)))
