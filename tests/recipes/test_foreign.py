"""Pictures that are no designs, and their edits."""

import random

import numpy as np
import pytest

WORDS = ["hello", "world", "river", "lamp"]


def edits(count):
    from foreign import random_picture_edit

    return [random_picture_edit(random.Random(seed), WORDS, (16, 20)) for seed in range(count)]


def test_an_edit_changes_the_cells_that_it_names_and_no_others(fonts):
    """Beside them only type is new, where text is asked for."""
    kinds = {"kept": 0, "part": 0, "all": 0}
    for edit in edits(80):
        difference = np.abs(edit.source.backdrop.astype(int) - edit.target.backdrop).max(-1)
        by_cell = difference.reshape(16, 8, 20, 8).mean((1, 3))
        assert by_cell[~edit.changed].max(initial=0) <= 0.02 * 255, edit.prompt
        if edit.changed.any():
            assert by_cell.max() > 3, edit.prompt
        kinds["all" if edit.changed.all() else "part" if edit.changed.any() else "kept"] += 1
    assert min(kinds.values()) > 10


def test_a_recoloured_part_has_the_colour_that_was_asked_for(fonts):
    from foreign import Layer, _name_of, paint_layers, random_scene, visible_shares
    from type_tokens import PALETTE

    layers = random_scene(random.Random(3), WORDS, 16, 16)
    changed = [Layer(layer.coverage, PALETTE["purple"], layer.nouns) for layer in layers]
    for number in range(len(layers)):
        picture = paint_layers(
            [*layers[:number], changed[number], *layers[number + 1 :]], np.zeros((128, 128, 1))
        )
        inside = visible_shares(layers)[number] > 0.99
        assert not inside.any() or _name_of(picture[inside].mean(0)) == "purple"
    assert visible_shares(layers).sum(0) == pytest.approx(np.ones((128, 128)), abs=1e-5)


def test_edits_are_the_same_again(fonts):
    for one, other in zip(edits(10), edits(10), strict=True):
        assert one.prompt == other.prompt
        assert np.array_equal(one.source.backdrop, other.source.backdrop)


def test_what_is_called_by_its_colour_can_be_told_by_it(fonts):
    """Everything red is asked for where one part alone is red."""
    from foreign import _choose_layer, _name_of, random_scene

    found = 0
    for seed in range(200):
        rng = random.Random(seed)
        layers = random_scene(rng, WORDS, 16, 16)
        which, prompt = _choose_layer(rng, WORDS, layers)
        assert "{n}" not in prompt and "{o}" not in prompt and "{c}" in prompt
        if prompt.startswith(("turn everything", "all that is", "from")):
            names = [_name_of(layer.color) for layer in layers]
            assert names.count(names[which]) == 1
            found += 1
    assert found
