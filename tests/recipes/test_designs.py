"""What nano is taught: a plan and a picture that agree, in tokens that name one thing each."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from glmimage.prompt import get_glyph_texts

RECIPE = Path(__file__).parents[2] / "recipes" / "nano"
WORDS = ["Harbour", "tea", "OPEN", "Wednesday", "of", "Market", "lantern", "Co"]


@pytest.fixture(scope="module")
def recipe():
    """Import the recipe's modules; skip where its fonts are missing."""
    sys.path.insert(0, str(RECIPE))
    try:
        import designs
        import renderer
        import type_tokens

        renderer.find_font("LiberationSans-Bold.ttf")
        renderer.find_font("DejaVuSerif.ttf")
        yield type("Recipe", (), {**vars(type_tokens), **vars(renderer), **vars(designs)})
    except SystemExit as missing:
        pytest.skip(str(missing))
    finally:
        sys.path.remove(str(RECIPE))


@pytest.fixture(scope="module")
def codebook(recipe):
    """A codebook of the palette, and of learnt centres that equal its colours but for rounding."""
    palette = np.float32(list(recipe.PALETTE.values())) / 255
    solid = np.repeat(palette[:, None], recipe.BACKGROUND_FEATURE_SIDE**2, axis=1)
    solid = solid.reshape(len(palette), -1)
    return recipe.BackgroundCodebook(np.concatenate([solid, solid * np.float32(1 + 1e-7)]))


def test_a_palette_colour_is_named_by_its_own_token(recipe, codebook):
    for number, color in enumerate(recipe.PALETTE.values()):
        design = recipe.Design(4, 4, color, color)
        tokens = codebook.tokens(recipe.background_features(recipe.draw_background(design, 8), 8))
        assert (tokens == recipe.FIRST_BACKGROUND + number).all(), recipe.COLORS[number]


@pytest.mark.parametrize("grid", [(16, 16), (32, 32), (18, 32), (24, 16)])
def test_the_plan_spells_the_lines_under_the_numbers_that_the_picture_gives(recipe, codebook, grid):
    def read(tokens):
        named = recipe.NAMES.char[tokens]
        return "".join(" " if char < 0 else recipe.CHARS[char] for char in named)

    numbered = 0
    for seed in range(100):
        content = recipe.random_content(seed, WORDS)
        if content.bottom_color or content.shape or content.panel_color:
            continue  # cells that are not plain say nothing
        design = recipe.typeset(content, *grid)
        plan, picture = recipe.plan_tokens(content, design), recipe.prior_tokens(design, codebook)
        said = np.where(recipe.NAMES.message[plan] >= 0, recipe.NAMES.message[plan], -1)
        ends = said[2::2, 7][: len(design.lines)]
        remaining = said[2 * len(design.lines) + 1 :, 0]
        if design.lines:
            assert list(remaining - recipe.ROWS) == list(range(len(remaining)))[::-1]
        assert list(ends == recipe.LAST) == [False] * (len(ends) - 1) + [True] * bool(len(ends))
        for number, line in enumerate(design.lines):
            assert said[2 * number + 1, 0] == said[2 * number + 2, 5] == recipe.LINE + number
            assert read(plan[2 * number + 1, 1 : 1 + len(line.text)]) == line.text
            length, follows = np.split(plan[2 * number + 1, 1 + len(line.text) :], [1])
            assert length == recipe.LENGTH + len(line.text) - 1
            after = design.lines[number + 1].text if number + 1 < len(design.lines) else ""
            told = read(follows)[: len(after)]
            assert told == after[: len(told)]
            if len(after) < len(follows):
                ending = recipe.LENGTH + len(after) - 1
                assert (follows[len(after)] == ending) == bool(after)
            assert said[2 * number + 2, 6] == recipe.COLUMNS + line.column - 1
            above = recipe.NAMES.message[picture[line.row - 1, 0]]
            if line.row > 1:  # the first row names the ink
                assert above == recipe.LINE + number
                numbered += 1
    assert numbered > 50


def test_the_first_cell_behind_a_gap_is_not_learnt(recipe, codebook, monkeypatch):
    """What stands before it belongs to a row that is not its neighbour."""
    monkeypatch.syspath_prepend(str(RECIPE))
    import prior

    samples, gaps = prior.Samples(codebook, WORDS), 0
    for seed in range(20):
        sequence, num_planned, *_ = samples.sample(seed, "rows")
        weights = prior.importance(sequence, num_planned)
        time, row, column = sequence.positions
        for i in np.flatnonzero(sequence.is_target & (column == time)):
            is_behind_a_gap = time[i] == time[i - 1] and row[i] != row[i - 1] + 1
            gaps += is_behind_a_gap
            assert (weights[i] == 0) == is_behind_a_gap, i
    assert gaps > 20


def test_prompts_quote_the_texts_and_say_what_is_to_be_said(recipe, monkeypatch):
    """What the decoder encodes is found in the prompt as the engine finds it."""
    monkeypatch.syspath_prepend(str(RECIPE))
    import prompts

    for seed in range(600):
        content = recipe.random_content(seed, WORDS)
        prompt = prompts.write_prompt(content, seed, WORDS)
        texts = [content.headline, content.subtitle, content.footer]
        assert get_glyph_texts(prompt) == [text for text in texts if text], prompt
        if "second place" in content.say and content.second_place and content.subtitle:
            words = prompts.PLACE_WORDS[content.second_place].split(";")
            assert any(word in prompt.lower() for word in words), prompt
        if "bottom" not in (content.place, content.second_place, content.third_place):
            spoken = prompt.lower() if not content.bottom_color else ""  # a gradient has a bottom
            assert not any(word in spoken for word in ("at the bottom", "at the foot", "footer")), (
                prompt
            )


def test_words_are_stacked_where_there_is_room(recipe):
    content = recipe.Content("Harbour Lantern Market")
    assert [line.text for line in recipe.typeset(content, 16, 16).lines] == [
        "Harbour",
        "Lantern",
        "Market",
    ]
    short = recipe.Content("Up to 50% off every day")
    stacked = [line.text for line in recipe.typeset(short, 16, 16).lines]
    assert stacked == ["Up to", "50% off", "every", "day"]
    crowded = recipe.Content("aaaa bbbb cccc dddd eeee ffff gggg hhhh iiii")
    texts = [line.text for line in recipe.typeset(crowded, 16, 16).lines]
    assert " ".join(texts) == crowded.headline
    assert any(" " in text for text in texts)


def test_drawn_pictures_are_kept_for_the_recipe_that_drew_them(
    recipe, codebook, tmp_path, monkeypatch
):
    """Their prompts are made again from their numbers."""
    monkeypatch.syspath_prepend(str(RECIPE))
    import latents

    monkeypatch.setattr(latents, "CAPACITY", {("design", 16): 4})
    zeros = [0.0] * 16
    vae = SimpleNamespace(config=SimpleNamespace(latents_mean=zeros, latents_std=zeros))

    def opened(words):
        return latents.LatentStore(latents.Drawer("design", 16, codebook, words), tmp_path, vae)

    first = opened(WORDS)
    first.tokens[:] = 7
    first.count_path.write_text(f"3 {first.recipe}")
    again = opened(WORDS)
    assert (len(again), int(again.tokens.max())) == (3, 7)
    other = opened([word.upper() + "x" for word in WORDS])
    assert (len(other), int(other.tokens.max())) == (0, 0)


@pytest.mark.parametrize("grid", [(16, 16), (32, 32), (18, 32), (24, 16)])
def test_the_plan_tells_the_shape_and_the_picture_counts_down_to_it(recipe, codebook, grid):
    planned = counted = 0
    for seed in range(250):
        content = recipe.random_content(seed, WORDS)
        design = recipe.typeset(content, *grid)
        if not design.shapes:
            continue
        plan, picture = recipe.plan_tokens(content, design), recipe.prior_tokens(design, codebook)
        first_free = 2 * len(design.lines) + 1
        top, left, height, width = design.shapes[0].cells
        assert top >= 0 and top + height <= grid[0] and left >= 0 and left + width <= grid[1]
        if first_free < len(plan):
            planned += 1
            kind = "panel" if content.panel_color else content.shape
            said, colors = (
                of[plan[first_free]] for of in (recipe.NAMES.message, recipe.NAMES.color)
            )
            if kind in recipe.FORM_KINDS:
                called = recipe.message(
                    recipe.COLORS.index(content.shape_color),
                    recipe.FORM + recipe.FORMS.index((kind, width)),
                )
                assert (picture == called).sum() == height  # named in the picture as in the plan
            else:
                called = recipe.LENGTH + recipe.PLANNED_SHAPES.index(kind)
            assert plan[first_free, 1] == called
            assert list(said[2:6]) == [
                recipe.ROWS + min(top, recipe.MAX_ROWS),
                recipe.COLUMNS + min(max(left, 1), recipe.MAX_COLUMNS) - 1,
                recipe.ROWS + min(height, recipe.MAX_ROWS),
                recipe.COLUMNS + min(width, recipe.MAX_COLUMNS) - 1,
            ]
            expected = recipe.COLORS.index(content.panel_color or content.shape_color)
            assert set(colors[2:6]) == {expected}
        if content.shape in ("", "frame"):
            continue
        said = recipe.NAMES.message[picture]
        begins = {line.row for line in design.lines}
        for row in range(top, top + height):
            if row in begins or left < 3:
                continue
            assert said[row, 2] == recipe.ROWS + min(top + height - row, recipe.MAX_ROWS)
            is_form = content.shape in recipe.FORM_KINDS  # named by the last cell before it
            distances = said[row, 3 : left - is_form] - recipe.COLUMNS + 1
            told = [min(left - c, recipe.MAX_COLUMNS) for c in range(3, left - is_form)]
            assert list(distances) == told and (said[row, left - 1] >= recipe.FORM) == is_form
            counted += 1
    assert planned > 20 and counted > 20


def test_plain_cells_of_a_source_name_the_ink(recipe, codebook):
    for seed in range(40):
        design = recipe.typeset(recipe.random_content(seed, WORDS), 16, 16)
        tokens, cells = recipe.source_tokens(design, codebook), recipe.cell_tokens(design, codebook)
        colors = cells - recipe.FIRST_BACKGROUND
        is_plain = (colors >= 0) & (colors < len(recipe.COLORS))
        assert (tokens[~is_plain] == cells[~is_plain]).all()
        if not design.lines:
            assert (tokens == cells).all()
            continue
        ink = recipe.INK + recipe.COLORS.index(design.ink)
        assert (recipe.NAMES.message[tokens[is_plain]] == ink).all()
        assert (recipe.NAMES.color[tokens[is_plain]] == colors[is_plain]).all()


def test_a_gradient_goes_from_colour_to_colour_in_steps_that_have_names(recipe, codebook):
    seen = 0
    for seed in range(120):
        content = recipe.random_content(seed, WORDS)
        if not content.bottom_color:
            continue
        seen += 1
        design = recipe.typeset(content, 16, 16)
        picture = recipe.prior_tokens(design, codebook)
        top, bottom = (recipe.COLORS.index(c) for c in (content.color, content.bottom_color))
        steps = [recipe.mix(top, bottom, quarters) for quarters in range(5)]
        assert len(set(steps)) == 5
        plain = [[steps.index(t) for t in row if t >= recipe.FIRST_BACKGROUND] for row in picture]
        assert all(len(set(row)) <= 1 for row in plain)
        order = [row[0] for row in plain if row]
        assert order == sorted(order) and order[-1] == 4
        assert not design.lines or (recipe.NAMES.color[picture[0]] == top).all()
        plan = recipe.plan_tokens(content, design)
        names = recipe.NAMES.color[plan[0]] if design.lines else recipe.NAMES.background[plan[0]]
        assert list(names) == [top] * 8 + [bottom] * 8
    assert seen > 15


def test_mixtures_are_what_their_names_say(recipe):
    centres = recipe.named_centres()
    palette = np.float32(list(recipe.PALETTE.values())) / 255
    for a, b in ((0, 5), (5, 0), (12, 15)):
        for quarters in range(recipe.MIX_STEPS + 1):
            centre = centres[recipe.mix(a, b, quarters) - recipe.FIRST_BACKGROUND].reshape(16, 3)
            expected = palette[a] + (palette[b] - palette[a]) * quarters / 4
            assert np.abs(centre - expected).max() < 1e-6
    assert recipe.mix(3, 8, 2) == recipe.mix(8, 3, 2) != recipe.mix(3, 8, 1)
    assert recipe.mix(3, 8, 3) == recipe.mix(8, 3, 1)


@pytest.mark.parametrize("kind", ["circle", "ring", "star", "arrow", "triangle", "badge"])
@pytest.mark.parametrize(("size", "side"), [(0.3, 4), (1.0, 8)])
def test_a_round_or_slanted_shape_is_drawn_from_stencils(recipe, codebook, kind, size, side):
    content = recipe.Content(
        "tea", color="navy", shape=kind, shape_color="gold", place="top", shape_size=size
    )
    design = recipe.typeset(content, 16, 16)
    ((row, column, num_rows, num_columns),) = (shape.cells for shape in design.shapes)
    assert (num_rows, num_columns) == (side // 2 if kind == "arrow" else side, side)
    tokens, picture = recipe.prior_tokens(design, codebook), recipe.draw(design)
    gold = recipe.COLORS.index("gold")
    named = tokens == recipe.message(gold, recipe.FORM + recipe.FORMS.index((kind, side)))
    assert named[row : row + num_rows, column - 1].all() and named.sum() == num_rows
    is_stencil = (tokens >= recipe.STENCIL) & (tokens < recipe.FIRST_BACKGROUND)
    is_full = tokens == recipe.FIRST_BACKGROUND + gold
    in_box = np.zeros((16, 16), bool)
    in_box[row : row + num_rows, column : column + num_columns] = True
    assert not (is_stencil | is_full)[~in_box].any() and is_stencil.any()
    # what a token shows: all of the shape's colour, none of it, or what its stencil says
    near = np.abs(picture - np.float32(recipe.PALETTE["gold"])).max(-1) < 8
    ground = np.abs(picture - np.float32(recipe.PALETTE["navy"])).max(-1) < 8
    near, ground = (mask.reshape(16, 32, 16, 32).mean((1, 3)) for mask in (near, ground))
    assert near[is_full].min(initial=1) > 0.98 and near[~in_box].max() == 0
    assert ground[in_box & ~is_full & ~is_stencil].min(initial=1) > 0.98
    shown = recipe.stencils()[tokens[is_stencil] - recipe.STENCIL]
    assert np.abs(1 - shown[:, :64].mean(1) - ground[is_stencil]).max() < 0.1
    # a source is read cell by cell: nothing tells there what a cell belongs to
    assert not (
        recipe.source_tokens(design, codebook)[is_stencil | named] < recipe.FIRST_COLORED
    ).any()
    assert not np.isin(recipe.source_tokens(design, codebook), tokens[is_stencil | named]).any()

    import written_shapes

    plan = recipe.plan_tokens(content, design)
    assert written_shapes.named(plan) == written_shapes.named(tokens) == (kind, side, "gold")
    assert written_shapes.share_drawn(tokens) == 1
    there = tokens == tokens[is_stencil][0]
    spoilt = np.where(there, 0, tokens)
    assert written_shapes.share_drawn(spoilt) < 1
    assert written_shapes.named(plan[:2]) is None


def test_a_stencil_shows_what_every_cell_shows_that_it_stands_for(recipe):
    """The ring of a badge as well."""
    stencils, used = recipe.stencils(), set()
    assert len(stencils) <= recipe.NUM_STENCILS
    for kind, side in recipe.FORMS:
        height = recipe.form_height(kind, side)
        shape = recipe.form(kind, 0, 1, side, recipe.PALETTE["gold"])
        assert shape.cells == (0, 1, height, side)
        tokens = recipe.stencil_tokens(shape) - recipe.STENCIL
        row, column = np.nonzero((tokens >= 0) & (tokens < len(stencils)))
        number = tokens[row, column]
        # gold on black, its ring black: drawn 32 px a cell, looked at in 8 x 8 parts
        drawn = recipe.draw(recipe.Design(height, side + 1, (0, 0, 0), (0, 0, 0), (), (shape,)))
        parts = drawn[:, 32:, 0].reshape(height, 8, 4, side, 8, 4).mean((2, 5)) / 212
        parts = parts.transpose(0, 2, 1, 3)[row, column].reshape(len(row), 64)
        shown = stencils[number, :64] - stencils[number, 64:] * (1 - 17 / 212)
        assert len(row) and np.abs(parts - shown).max() < 0.3, (kind, side)
        used |= set(number)
    assert used == set(range(len(stencils)))


def test_shapes_of_a_wall_keep_clear_of_each_other_and_of_the_frame(recipe):
    framed = 0
    for seed in range(40):
        taken = np.zeros((16, 16), int)
        forms = [s for s in recipe.shape_wall(seed).shapes if s.kind in recipe.FORM_KINDS]
        assert len({shape.color for shape in forms}) <= 1
        for shape in recipe.shape_wall(seed).shapes:
            if shape.kind in recipe.FORM_KINDS:  # with the cells that name its colour
                row, column, num_rows, num_columns = shape.cells
                assert column >= 1
                taken[row : row + num_rows, column - 1 : column + num_columns] += 1
            elif shape.kind == "frame":
                framed += 1
                taken[[0, -1]] += 1
                taken[1:-1, [0, -1]] += 1
            else:
                row, column, num_rows, num_columns = shape.cells
                taken[row : row + num_rows, column : column + num_columns] += 1
        assert taken.max() == 1
    assert 5 < framed < 25
