"""Pictures that are no designs, and their edits."""

import random
import re

import numpy as np

WORDS = ["hello", "world", "river", "lantern"]


def edits(count):
    from foreign import random_foreign_edit

    return [random_foreign_edit(random.Random(seed), WORDS, (16, 20)) for seed in range(count)]


def test_the_cells_that_are_said_to_be_repainted_are_those_that_differ():
    kinds = {"kept": 0, "part": 0, "all": 0}
    for edit in edits(180):
        difference = np.abs(edit.source.backdrop.astype(int) - edit.target.backdrop).max(-1)
        by_cell = difference.reshape(16, 8, 20, 8).mean((1, 3))
        assert by_cell[~edit.repainted].max(initial=0) <= 0.02 * 255, edit.prompt
        kind = "all" if edit.repainted.all() else "part" if edit.repainted.any() else "kept"
        if kind == "part":
            assert by_cell[edit.repainted].min() > 0.3, edit.prompt
        means = edit.target.backdrop.reshape(16, 8, 20, 8, 3).mean((1, 3))[edit.filled]
        assert (edit.repainted | ~edit.filled).all()
        if len(means):  # one colour, without light and grain
            assert np.ptp(means, axis=0).max() <= 0.02 * 255, edit.prompt
        kinds[kind] += 1
    assert min(kinds.values()) > 10


def test_a_part_gets_the_colour_that_is_asked_for():
    """The prompt's last colour, or its only one, is the nearest name of what was repainted."""
    from prompts import COLOR_WORDS
    from renderer import nearest_color
    from type_tokens import PALETTE

    names = {word: name for name, words in COLOR_WORDS.items() for word in words.split(";")}
    pattern = re.compile("|".join(sorted(names, key=len, reverse=True)))
    found = 0
    for edit in edits(150):
        if edit.repainted.all() or not edit.repainted.any():
            continue
        inside = np.kron(edit.repainted, np.ones((8, 8), bool))
        before, after = (d.backdrop[inside].astype(float) for d in (edit.source, edit.target))
        moved = np.abs(after - before).sum(-1)
        color = after[moved > 0.7 * moved.max()].mean(0)
        asked = {names[word] for word in pattern.findall(edit.prompt.lower())}
        near = sorted(PALETTE, key=lambda name: ((color - np.array(PALETTE[name])) ** 2).sum())[:3]
        assert asked & set(near), (edit.prompt, nearest_color(tuple(color)))
        found += 1
    assert found > 30


def test_edits_are_the_same_again():
    for one, other in zip(edits(10), edits(10), strict=True):
        assert one.prompt == other.prompt
        assert np.array_equal(one.source.backdrop, other.source.backdrop)
        assert np.array_equal(one.target.backdrop, other.target.backdrop)
        assert np.array_equal(one.repainted, other.repainted)


def test_what_is_called_by_its_colour_alone_can_be_told_by_it():
    """Everything red is asked for where no other part is nearly red."""
    from foreign import TOLD_APART, _name_a_layer, paint_layers, random_scene, visible_shares

    found = 0
    for seed in range(200):
        rng = random.Random(seed)
        layers = random_scene(rng, WORDS, 16, 16)
        picture = paint_layers(layers, np.zeros((128, 128, 1)))
        named = _name_a_layer(rng, WORDS, layers, picture)
        if named is None:
            continue
        which, phrase, _ = named
        assert "{n}" not in phrase and "{o}" not in phrase and "{c}" in phrase
        if phrase.startswith(("turn everything", "all that is", "from", "what is")):
            visible = visible_shares(layers).mean((1, 2)) > 0.02
            colors = np.array([layer.color for layer in layers])
            others = visible & (np.arange(len(layers)) != which)
            distance = np.abs(colors - colors[which]).sum(1)[others].min(initial=999)
            assert distance > TOLD_APART * 0.8, phrase
            found += 1
    assert found > 5
