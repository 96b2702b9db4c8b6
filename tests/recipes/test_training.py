"""What nano's trainings share gives the same however it is put together."""

import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

WORDS = ["Harbour", "tea", "OPEN", "Wednesday", "of", "Market", "lantern", "Co"]


def test_matrices_of_one_shape_are_updated_as_each_alone():
    from training import Muon

    torch.manual_seed(0)
    start = [torch.randn(8, 12), torch.randn(8, 12) * 3, torch.randn(12, 8)]
    gradients = [torch.randn_like(t) for t in start]

    def updated(indices):
        params = [torch.nn.Parameter(start[i].clone()) for i in indices]
        optimizer = Muon(params, lr=0.1, weight_decay=0.01)
        for _ in range(2):
            for parameter, i in zip(params, indices, strict=True):
                parameter.grad = gradients[i].clone()
            optimizer.step()
        return params

    for i, together in enumerate(updated([0, 1, 2])):
        torch.testing.assert_close(together, updated([i])[0], atol=1e-3, rtol=1e-2)
        assert not torch.equal(together, start[i])


def test_a_pause_is_no_training(monkeypatch, tmp_path):
    import training

    clock = iter([0.0, 0.0, 100_000.0, 100_000.0, 100_001.0, 100_002.0, 100_002.0, 100_003.0])
    monkeypatch.setattr(training, "RUNS", tmp_path)
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock, 100_010.0))
    monkeypatch.setattr(training.signal, "signal", lambda *_: None)
    run = training.Run("a", 6, {}, [])
    steps = run.steps()
    next(steps)
    next(steps)
    assert run.elapsed_s == training.LONGEST_STEP_S


def test_each_picture_gets_the_texts_of_its_own_prompt(codebook):
    import random

    from decoder import NUM_GLYPH_TOKENS, Decoder, glyph_batch

    torch.manual_seed(0)
    decoder = Decoder(codebook.centres).eval()
    prompts = ["A sign 'OPEN' and 'TODAY'", "no text", "A card " + "'" + "x" * 120 + "'"]

    def encoded(some):
        batch = map(torch.from_numpy, glyph_batch(some, random.Random(0), 0.0))
        with torch.no_grad():
            return decoder.encode_glyphs(*batch, len(some))

    embeds, mask = encoded(prompts)
    assert mask.sum(1)[2] == NUM_GLYPH_TOKENS  # what finds no room is left out
    assert not embeds[~mask].any()
    for i, prompt in enumerate(prompts):
        alone, alone_mask = encoded([prompt])
        assert torch.equal(mask[i], alone_mask[0])
        torch.testing.assert_close(embeds[i], alone[0], atol=1e-5, rtol=1e-4)


def test_the_next_row_of_a_gradient_weighs_more_than_what_copies_it(fonts, codebook):
    from designs import Content, plan_tokens, typeset
    from layout import text_to_image_sequence
    from prior import importance
    from renderer import prior_tokens

    content = Content("OPEN", color="navy", bottom_color="teal")
    design = typeset(content, 16, 16)
    plan, picture = plan_tokens(content, design), prior_tokens(design, codebook)
    sequence = text_to_image_sequence("a poster that says 'OPEN'", [plan, picture])
    weights = importance(sequence, plan.size)[-picture.size :].reshape(picture.shape)
    assert weights[2, 1] == 5.0
    assert (weights[2, 3:-1] < 0.5).all()
    assert weights[2, -1] == 0.5  # the row does not end before it
    assert weights[1, -1] == 2.0  # and no row above tells where


def test_what_a_cell_could_be_does_not_tell_how_much_it_weighs(fonts, codebook):
    """Or what is rare would become likely: a shape is below, it begins here, it goes on."""
    from designs import Content, typeset
    from layout import image_to_image_sequence
    from prior import importance
    from renderer import prior_tokens, source_tokens

    plain = Content("OPEN", color="navy", place="top")
    designs = [typeset(replace(plain, shape=s, shape_color="red"), 16, 16) for s in ("", "circle")]
    pictures = [prior_tokens(design, codebook) for design in designs]
    told = pictures[0] != pictures[1]
    (shape,) = designs[1].shapes
    row, column, height, width = shape.cells
    weights = []
    for design, picture in zip(designs, pictures, strict=True):
        source = source_tokens(design, codebook)
        sequence = image_to_image_sequence("keep it", [source], picture)
        weights.append(importance(sequence, 0)[-picture.size :].reshape(picture.shape))
    without, shaped = weights
    assert told[4 : row + height, 1:3].any(1).all()
    assert (without[1:, :3] == shaped[1:, :3]).all()
    # its inside, and the cell behind it; its first row says which shape it is
    weighed = shaped[row : row + height, column + 1 : column + width + 1]
    assert (weighed[0] == 2).all() and (weighed[1:] == 1).all()


@pytest.mark.parametrize("kind", ["image", "text"])
def test_what_comes_next_does_not_tell_how_much_a_cell_weighs(fonts, codebook, kind):
    """Where nothing tells of a band it weighs as the plain cell that could stand there."""
    from layout import image_to_image_sequence, text_to_image_sequence
    from prior import importance
    from type_tokens import COLORS, FIRST_BACKGROUND

    plain = np.full((16, 16), FIRST_BACKGROUND + COLORS.index("navy"))
    banded = plain.copy()
    banded[6:10, 5:11] = FIRST_BACKGROUND + COLORS.index("red")
    weights = []
    for picture in (plain, banded):
        if kind == "image":
            sequence, planned = image_to_image_sequence("keep it", [plain], picture), 0
        else:
            sequence, planned = text_to_image_sequence("a band", [plain[:8, :8], picture]), 64
        weights.append(importance(sequence, planned)[-picture.size :].reshape(picture.shape))
    without, band = weights
    assert without[6, 5] == band[6, 5] < 0.5  # nothing before it tells
    assert (band[6, 6:12] == 1.0).all()  # where in its first row it ends
    assert (band[7:10, 5] == 1.0).all() and (band[7:10, 11] == 1.0).all()  # whether it goes on
    assert (band[10, [5, 11]] == 1.0).all()  # or has ended
    assert (band[7:10, 6:11] < 0.5).all() and (band[12:, 1:] == without[12:, 1:]).all()


def test_rows_that_are_late_are_shown_and_only_their_first_cell_is_learnt(fonts, codebook):
    import random

    from designs import Content, plan_tokens, typeset
    from layout import text_to_image_sequence
    from prior import hold_a_step, importance
    from renderer import prior_tokens
    from type_tokens import FIRST_BACKGROUND

    content = Content("OPEN", color="navy", bottom_color="teal", place="bottom")
    design = typeset(content, 16, 16)
    plan, picture = plan_tokens(content, design), prior_tokens(design, codebook)
    sequence = text_to_image_sequence("a poster that says 'OPEN'", [plan, picture])
    start, held = len(sequence.ids) - picture.size, 0
    for seed in range(12):
        weights = importance(sequence, plan.size)
        shown = hold_a_step(random.Random(seed), sequence, plan.size, weights)
        assert (shown[:start] == sequence.ids[:start]).all()
        shown, learnt = (a[start:].reshape(picture.shape) for a in (shown, weights))
        late = shown != picture
        held += late.any()
        for row in np.flatnonzero(late.any(1)):
            cells = np.flatnonzero(late[row])
            assert (picture[row, cells] >= FIRST_BACKGROUND).all()
            assert len(set(shown[row, cells])) == 1
            assert learnt[row, cells[0]] == 5.0 and not learnt[row, cells[1:]].any()
    assert 4 < held < 12


def test_plain_cells_beside_type_are_named_as_the_renderer_names_them(fonts, codebook):
    from renderer import background_features
    from tokenizer import PIXEL_MEAN, PIXEL_STD, TypePictures
    from type_tokens import COLORS, FIRST_BACKGROUND

    torch.manual_seed(1)
    patches, tokens = TypePictures(codebook).draw(60, 24)
    plain = tokens >= FIRST_BACKGROUND + len(COLORS)  # the others name the ink
    assert 20 < plain.sum() < 0.3 * tokens.numel()
    off = []
    for patch, token in zip(patches[plain].numpy(), tokens[plain].tolist(), strict=True):
        pixels = patch.reshape(3, 16, 16).transpose(1, 2, 0) * np.float32(PIXEL_STD)
        features = background_features((pixels + np.float32(PIXEL_MEAN)) * 255, 16)
        named = codebook.centres[codebook.tokens(features)[0, 0] - FIRST_BACKGROUND]
        off.append(np.abs(codebook.centres[token - FIRST_BACKGROUND] - named).max())
    assert np.mean(np.array(off) < 0.12) > 0.95  # the patches are noisy


def test_a_store_is_read_in_another_process_without_being_touched(
    fonts, codebook, tmp_path, monkeypatch
):
    import latents

    monkeypatch.setattr(latents, "CAPACITY", {("wall", 16): 4})
    vae = SimpleNamespace(config=None)
    store = latents.LatentStore(latents.Drawer("wall", 16, codebook, WORDS), tmp_path, vae)
    store.tokens[:], store.num_made = 7, 3
    sent = pickle.loads(pickle.dumps(store))
    assert len(sent) == 3 and (np.asarray(sent.tokens) == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        sent.tokens[:] = 0
    picture, tokens, _ = sent.drawer(1)
    assert picture.shape == (1, 512, 512, 3) and tokens.shape == (1, 16, 16)
    assert sys.getsizeof(pickle.dumps(store.drawer)) < 2**21


def test_scores_by_name_are_those_of_the_table_of_all_tokens(codebook):
    """Every kind of token, mixtures of colours among them."""
    from code_table import CodeTable
    from type_tokens import (
        CODEBOOK_SIZE,
        FIRST_COLORED,
        FIRST_COLORLESS,
        FORM,
        LENGTH,
        STENCIL,
        message,
        mix,
    )

    torch.manual_seed(0)
    table = CodeTable(codebook.centres, 0.3, width=24)
    torch.nn.init.normal_(table.shares)
    torch.nn.init.normal_(table.quarters)
    kinds = [0, FIRST_COLORED + 5, FIRST_COLORLESS + 40, LENGTH + 7, STENCIL + 5]
    kinds.append(message(3, FORM))
    targets = torch.tensor([*kinds, mix(4, 4, 0), mix(4, 9, 1), mix(9, 4, 1), CODEBOOK_SIZE - 1])
    hidden = torch.randn(len(targets), 24)
    scores = (hidden @ table.merged()[:CODEBOOK_SIZE].T).log_softmax(1)
    expected = -scores.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(table.cross_entropy(hidden, targets), expected)


def test_the_packed_tokenizer_names_what_the_trained_one_names(codebook):
    """The attention of one query for all cells, and a checkpoint turned back into weights."""
    from pack import vision_state
    from tokenizer import CODE_DIM, VISION_CONFIG, CellEncoder
    from type_tokens import CODEBOOK_SIZE
    from warm_start import fill_tokenizer

    from glmimage.model.config import VisionConfig, VQConfig
    from glmimage.model.vision import VISION_TENSORS, VisionTokenizer

    encoder = CellEncoder(codebook.centres)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 2:
                spread = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(spread / parameter.shape[1] ** 0.5)
    vision = {k: v for k, v in VISION_CONFIG.items() if k not in ("hidden_act", "depth")}
    del vision["spatial_merge_size"]
    config = VisionConfig(num_layers=VISION_CONFIG["depth"], **vision)
    tokenizer = VisionTokenizer(config, VQConfig(CODE_DIM, CODEBOOK_SIZE, config.hidden_size))
    ours = tokenizer.state_dict()
    names = {
        name: theirs.format(i=i)
        for pattern, (theirs,) in VISION_TENSORS.items()
        for i in range(config.num_layers)
        if (name := pattern.format(i=i)) in ours
    }
    state = vision_state(encoder, {theirs: ours[name] for name, theirs in names.items()})
    tokenizer.load_state_dict({name: state[theirs] for name, theirs in names.items()})

    patches = torch.randn(24, 768, generator=generator)
    with torch.no_grad():
        vectors = encoder(patches[None])[0]
        expected = (vectors @ encoder.codes.T).argmax(-1)
        (found,) = tokenizer(patches, torch.tensor([[1, 4, 6]]))
        changed = encoder(torch.cat([patches[:1], -patches[1:]])[None])[0]
    assert (found == expected).float().mean() > 0.95
    assert not torch.allclose(vectors[0], changed[0], atol=1e-3)  # the other cells are seen

    again = CellEncoder(codebook.centres)
    fill_tokenizer(again, state)
    with torch.no_grad():
        torch.testing.assert_close(again(patches[None])[0], vectors, atol=1e-4, rtol=1e-3)


def test_kept_parts_of_a_picture_are_kept_as_they_were_read(fonts, codebook):
    """A picture that is no design is read with errors, which an edit cannot know of."""
    from edits import random_edit
    from prior import Samples
    from renderer import prior_tokens
    from tokenizer import CellEncoder, SourceReader
    from type_tokens import FIRST_BACKGROUND

    samples = Samples(codebook, WORDS, reader=SourceReader(CellEncoder(codebook.centres)))
    kept_cells = repainted_cells = 0
    for seed in range(60):
        edit = random_edit(seed, WORDS, (16, 16))
        if edit.repainted is None:
            continue
        sample = samples.sample(seed, "edit")
        ids = sample.sequence.ids
        targets, source = ids[sample.sequence.is_target].reshape(16, 16), ids[1:257].reshape(16, 16)
        kept = (targets >= FIRST_BACKGROUND) & ~edit.repainted
        assert (targets == source)[kept].all()
        assert (targets == prior_tokens(edit.target, codebook))[edit.repainted].all()
        kept_cells, repainted_cells = (
            kept_cells + kept.sum(),
            repainted_cells + edit.repainted.sum(),
        )
    assert min(kept_cells, repainted_cells) > 300


def test_where_a_kept_foreign_picture_changes_it_weighs_most(codebook):
    """Going on as before is right nearly everywhere, and would be all that is learnt."""
    from layout import image_to_image_sequence
    from prior import FIRST_CELL, REPAINTED, Sample, importance, weigh_foreign
    from type_tokens import FIRST_BACKGROUND

    source = np.full((4, 4), FIRST_BACKGROUND)
    source[2, 2] += 500
    repainted = np.zeros((4, 4), bool)
    repainted[3] = True
    sequence = image_to_image_sequence("x", [source], source)
    weights = importance(sequence, 0)
    filled = np.zeros((4, 4), bool)
    weigh_foreign(Sample(sequence, 0, repainted, filled), weights)
    cells = weights[sequence.is_target].reshape(4, 4)
    assert cells[0, 0] == FIRST_CELL / 4
    assert (cells[3] == REPAINTED).all()
    assert cells[2, 2] == cells[2, 3] == 1.0
    assert cells[1, 1] == cells[1, 2] == 0.2
    assert not weights[~sequence.is_target].any()
    filled[3, 1:3] = True
    weigh_foreign(Sample(sequence, 0, repainted, filled), weights)
    cells = weights[sequence.is_target].reshape(4, 4)
    assert list(cells[3]) == [2.0, 4.0, 0.5, 4.0]  # where a row begins, and filling begins and ends
    assert list(cells[1]) == [2.0, 0.2, 0.2, 0.2]


def test_a_recolouring_is_learnt_behind_what_was_written_wrongly(codebook):
    """Cells are shown copied, filled too far, or by chance; what is learnt stays, and weighs more.

    Of type nothing changes.
    """
    import random
    from collections import Counter

    from layout import image_to_image_sequence
    from prior import ALL_RECOLORED, Sample, miswrite
    from type_tokens import FIRST_BACKGROUND

    source = FIRST_BACKGROUND + np.arange(100, 136).reshape(6, 6)
    source[2, 5] = 7
    repainted, filled = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    repainted[1:5, 1:4], filled[2:4, 2:4] = True, True
    edges, new = FIRST_BACKGROUND + 50, FIRST_BACKGROUND + 1
    target = np.where(filled, new, np.where(repainted, edges, source))
    sequence = image_to_image_sequence("x", [source], target)
    sample, is_target = Sample(sequence, 0, repainted, filled, (5, 1)), sequence.is_target
    seen: Counter[str] = Counter()
    for seed in range(80):
        shown, weights = sequence.ids.copy(), np.where(is_target, 0.5, 0.0)
        miswrite(random.Random(seed), sample, shown, weights)
        assert (shown[~is_target] == sequence.ids[~is_target]).all()
        cells, learnt = shown[is_target].reshape(6, 6), weights[is_target].reshape(6, 6)
        wrong = cells != target
        assert cells[2, 5] == 7 and not weights[~is_target].any()
        if not (cells == edges).any():  # by chance, without the edges, which would tell
            seen["by chance"] += 1
            assert (((cells == new) | (cells == source)) | (source == 7)).all()
            expected = np.where(repainted, 0.0, ALL_RECOLORED / (20 + 4 - 1))
            expected[filled], expected[2, 5] = ALL_RECOLORED / 16, 0.5
            np.testing.assert_allclose(learnt, expected)
        else:
            seen[
                "copied" if (wrong & repainted).any() else "too far" if wrong.any() else "not"
            ] += 1
            assert (cells == source)[wrong & repainted].all()
            assert (cells == new)[wrong & ~repainted].all()
            expected = np.zeros_like(wrong)
            expected[:, 1:] |= wrong[:, :-1]
            expected[1:] |= wrong[:-1]
            expected &= filled | ~repainted
            assert (learnt == np.where(expected, 2.0, 0.5)).all()
    assert min(seen.values()) > 4 and len(seen) == 4, seen
    nothing = Sample(sequence, 0, repainted, np.zeros_like(filled))
    shown = sequence.ids.copy()
    miswrite(random.Random(0), nothing, shown, np.zeros(len(shown)))
    assert (shown == sequence.ids).all()


def test_a_few_rows_of_a_recolouring_tell_which_cells_are_asked_for(fonts, codebook):
    """What is learnt is the new colour, or what the source shows at the same place."""
    from prior import KINDS, RECOLOR_ROWS, TOLD_COLORS, Samples
    from type_tokens import COLORS, FIRST_BACKGROUND

    shown, positions, targets, weights, told = Samples(codebook, WORDS).batch("recolor", 3)
    filled_cells = kept_cells = left_out = 0
    for row in range(KINDS["recolor"][1]):
        ids = np.concatenate([shown[row, :1], targets[row]])
        at, _, new = told[row]
        first, num_cells = at + TOLD_COLORS, 16 * RECOLOR_ROWS
        announced = ids[first - 7 : first - 2] - ids[first - 7] + ord("1")
        assert bytes(announced.astype(np.uint8)) == b"16 16"
        source, target = ids[1 : 1 + num_cells], ids[first : first + num_cells]
        own = weights[row, first - 1 :][:num_cells]
        # the last position is none's that a token follows
        base, y, x = np.append(positions[row], positions[row, :, -1:] + [[0], [0], [1]], axis=1)
        y, x = ((axis - base)[first : first + num_cells] for axis in (y, x))
        assert len(set(y)) == RECOLOR_ROWS and (x == np.tile(np.arange(16), RECOLOR_ROWS)).all()
        learnt, copied = own > 0, target == source
        assert (target == FIRST_BACKGROUND + new)[learnt & ~copied].all()
        behind_a_gap = (x == 0) & (np.diff(y, prepend=y[0]) > 1)
        assert not learnt[behind_a_gap].any()
        assert (
            new in range(len(COLORS)) and told[row, 1] in range(len(COLORS)) and new != told[row, 1]
        )
        filled_cells += (learnt & ~copied).sum()
        kept_cells += (learnt & copied).sum()
        left_out += behind_a_gap.sum()
    assert min(filled_cells, kept_cells, left_out) > 30


def test_the_colours_of_a_recolouring_are_told_before_the_picture(codebook):
    import torch
    from prior import Prior, told_colors_loss
    from type_tokens import COLORS

    torch.manual_seed(0)
    prior, middle = Prior(codebook.centres), torch.zeros(3, 20, 256)
    told = torch.tensor([[5, 3, 7], [-1, -1, -1], [11, 0, 2]])
    vectors = prior.head.backgrounds()[: len(COLORS)]
    for row, (at, old, new) in enumerate(told.tolist()):
        if at >= 0:
            middle[row, at], middle[row, at + 1] = vectors[old], vectors[new]
    right = told_colors_loss(prior, 1e3 * middle, told)
    assert right < 0.1
    middle[1] = 1e3 * vectors[4]  # of which nothing is told
    assert told_colors_loss(prior, 1e3 * middle, told) == right
    assert told_colors_loss(prior, 1e3 * middle, told.flip(1)) > 1
    assert told_colors_loss(prior, middle, torch.full_like(told, -1)) == 0


def test_edits_change_what_is_seen(fonts):
    """Type that has no room to grow would teach that it need not."""
    from edits import random_edit
    from renderer import draw

    asked = {"bigger": 0, "frame": 0}
    for seed in range(300):
        edit = random_edit(seed, WORDS, (16, 16))
        if len(edit.sources) > 1 or edit.repainted is not None:
            continue
        assert not np.array_equal(draw(edit.sources[0]), draw(edit.target)), edit.prompt
        for word in asked:
            asked[word] += word in edit.prompt
    assert min(asked.values()) >= 3


def test_the_checkpoint_that_ships_is_a_beginning(codebook):
    """Its tokens have the numbers of the recipe, and keep their vectors."""
    from pack import DESTINATION, is_numbered_by_these_names, prior_state
    from safetensors.torch import load_file
    from type_tokens import FORM, NAMES
    from warm_start import decoder_of, prior_of

    assert is_numbered_by_these_names(DESTINATION)
    packed = load_file(DESTINATION / "transformer/diffusion_pytorch_model.safetensors")
    packed = packed["prior_token_embedding.weight"].float()
    merged = decoder_of(DESTINATION, codebook.centres).embedding.merged()
    torch.testing.assert_close(merged, packed, atol=0.02, rtol=0.02)
    packed = load_file(DESTINATION / "vision_language_encoder/model.safetensors")
    again = prior_state(prior_of(DESTINATION, codebook.centres))
    assert set(again) <= set(packed)
    # what names a form was kept when the rest became a mean of two versions: no sum of its parts
    is_form = torch.from_numpy(NAMES.message >= FORM)
    for name, tensor in again.items():
        wanted = packed[name].float()
        if len(tensor) > len(is_form):
            tensor, wanted = (t[: len(is_form)][~is_form] for t in (tensor, wanted))
        torch.testing.assert_close(tensor, wanted, atol=0.02, rtol=0.02)


def test_a_table_taken_apart_is_the_table_again(codebook):
    from code_table import CodeTable
    from type_tokens import FIRST_BACKGROUND
    from warm_start import split_table

    merged = CodeTable(codebook.centres, 0.3, width=8).merged().detach()
    again = CodeTable(codebook.centres, 0.3, width=8)
    split_table(again, merged)
    torch.testing.assert_close(
        again.merged()[FIRST_BACKGROUND:], merged[FIRST_BACKGROUND:], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    "prompt", ["make it blue", "„OPEN“ wird zu ”Für 5 €”", "x" * 96, "y" * 100]
)
@pytest.mark.parametrize("num_sources", [1, 2])
def test_instructions_are_laid_out_as_the_checkpoint_does_it(tmp_path, prompt, num_sources):
    from layout import FIRST_BYTE, IMAGE_PLACEHOLDER, image_to_image_sequence
    from pack import CHAT_TEMPLATE, SPECIAL_TOKENS
    from PIL import Image
    from transformers import GlmImageProcessor

    from glmimage.loading.tiny import write_processor
    from glmimage.prompt import PromptEncoder

    write_processor(tmp_path, SPECIAL_TOKENS, FIRST_BYTE, CHAT_TEMPLATE)
    encoder = PromptEncoder(GlmImageProcessor.from_pretrained(tmp_path))
    inputs = encoder.encode(prompt, 512, 512, [Image.new("RGB", (512, 512))] * num_sources)
    source = np.full((16, 16), IMAGE_PLACEHOLDER)
    sequence = image_to_image_sequence(prompt, [source] * num_sources, np.zeros((16, 16), int))
    told = ~sequence.is_target
    assert sequence.ids[told].tolist() == inputs.input_ids.tolist()
    assert sequence.positions[:, told].tolist() == inputs.position_ids.tolist()
    written = sequence.positions[:, ~told]
    assert written.tolist() == inputs.decode_position_ids[:, : written.shape[1]].tolist()
    without = encoder.encode(prompt, 512, 512)
    assert f"{prompt}<grid>" in encoder.processor.tokenizer.decode(without.input_ids)


def test_the_prior_begins_by_looking_up_the_cell_of_the_source(codebook):
    from layout import image_to_image_sequence
    from prior import HEAD_DIM, LOOK_UP, Prior, rotate

    grid = np.zeros((16, 16), int)
    sequence = image_to_image_sequence("turn it blue", [grid], grid)
    prior, length = Prior(codebook.centres), len(sequence.ids)
    cos, sin = prior.rotary(torch.from_numpy(sequence.positions)[None])
    first = int(sequence.is_target.argmax())
    with torch.no_grad():
        for number, heads in LOOK_UP.items():
            attention = prior.layers[number].self_attn
            for head, (below, _, right, _) in enumerate(heads):
                bias = attention.q_proj.bias[head * HEAD_DIM : (head + 1) * HEAD_DIM]
                q = rotate(bias.expand(1, 1, length, -1), cos, sin)[0, 0]
                k = rotate(attention.k_proj.bias[:HEAD_DIM].expand(1, 1, length, -1), cos, sin)[
                    0, 0
                ]
                for row, column in ((0, 0), (5, 7), (12, 14)):
                    cell = first + 16 * row + column
                    shares = (q[cell] @ k[: cell + 1].T / HEAD_DIM**0.5).softmax(0)
                    source = shares[1:257].view(16, 16)
                    if right:
                        assert source[row + below, column + right] > 0.8
                    else:
                        assert source[row + below].sum() > 0.7


def test_training_leaves_where_the_source_is_looked_up_a_matter_of_position(codebook):
    from prior import HEAD_DIM, LOOK_UP, Prior
    from training import Muon

    prior = Prior(codebook.centres)
    for number in LOOK_UP:
        attention = prior.layers[number].self_attn
        for projection, num_heads in ((attention.q_proj, 2), (attention.k_proj, 1)):
            before = projection.weight.detach().clone()
            (projection.weight * torch.randn_like(projection.weight)).sum().backward()
            Muon([projection.weight], lr=0.1).step()
            fixed = num_heads * HEAD_DIM
            assert not projection.weight[:fixed].any()
            assert (projection.weight[fixed:] != before[fixed:]).float().mean() > 0.9


def test_the_ink_is_told_on_the_ground_and_not_on_a_frame(fonts, codebook):
    """Of black type in a black frame: an ink that cannot be seen where it is said is ruled out."""
    from designs import Content, typeset
    from pack import invisible_inks
    from renderer import prior_tokens
    from type_tokens import COLORS, INK, message

    framed = Content("TAXI", color="yellow", ink="black", shape="frame", shape_color="black")
    picture = prior_tokens(typeset(framed, 16, 16), codebook)
    black, yellow = COLORS.index("black"), COLORS.index("yellow")
    assert (picture[1, 1:15] == message(yellow, INK + black)).all()
    assert not set(picture.ravel().tolist()) & set(invisible_inks())


def test_crops_are_cut_from_latents_and_tokens_alike():
    """A strip is as wide as it is asked for, and its tokens tell what its latents show."""
    import random

    from latents import LatentStore

    store = LatentStore.__new__(LatentStore)
    store.cells, store.capacity, store.num_made = 8, 1, 1
    tokens = np.arange(64).reshape(1, 1, 8, 8)  # type: no plain cell that would name the ink
    latents = tokens.repeat(4, 2).repeat(4, 3)[:, :, None].repeat(16, 2)
    store.tokens, store.latents, store.inks = tokens, latents, np.zeros(1)
    for rows, columns in ((2, 6), (8, 1), (3, 3)):
        latents, found, numbers = store.crops(random.Random(rows), 4, rows, columns)
        assert found.shape == (1, 4, rows, columns) and latents.shape == (
            1,
            4,
            16,
            4 * rows,
            4 * columns,
        )
        assert (found == latents[:, :, 3, ::4, 1::4]).all()
        assert numbers == [0] * 4


def test_refining_sees_latents_with_the_noise_it_says(fonts):
    import refine_vae

    torch.manual_seed(0)
    std = torch.linspace(0.5, 4, 16).view(1, 16, 1, 1)
    clean = torch.randn(256, 16, 8, 8)
    off = (refine_vae.noisy_latents(clean, std) - clean) / std
    amounts = off.square().mean((1, 2, 3)).sqrt()
    least, most = refine_vae.LEAST_NOISE, refine_vae.MOST_NOISE
    assert least / 1.3 < amounts.min() < least * 1.5 and most / 1.3 < amounts.max() < most * 1.2
    corners = off[:, :, [0, 0, 7, 7], [0, 7, 0, 7]].square().mean()
    assert corners / off.square().mean() == pytest.approx(1, abs=0.1)
    # part of it differs from one latent pixel to the next, part does not
    steps = (off[..., 1:] - off[..., :-1]).square().mean((1, 2, 3)).sqrt() / amounts
    assert steps.min() < 0.9 and steps.max() > 1.3
    draw = refine_vae.DrawCrops(WORDS)
    drawn = [draw(step) for step in range(12)]
    assert {crops.shape[1:] for crops in drawn} == {(64, 64, 3), (128, 128, 3), (256, 256, 3)}
    assert np.array_equal(drawn[3], draw(3)) and len({crops.tobytes() for crops in drawn}) == 12


def test_painted_pictures_lie_on_their_latents_and_are_painted_once(
    fonts, codebook, tmp_path, monkeypatch
):
    import random

    import refine_vae

    calls = []

    def paint(decoder, tokens, prompt, seed, num_steps):
        calls.append((tokens.shape, prompt, seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return torch.full((1, 16, 64, 64), float(len(calls)))

    monkeypatch.setattr(refine_vae, "paint_latents", paint)
    monkeypatch.setattr(refine_vae, "load_codebook", lambda *_: codebook)
    monkeypatch.setattr(refine_vae, "NUM_CHECKED", 2)
    config = SimpleNamespace(latents_mean=[1.0] * 16, latents_std=[2.0] * 16)
    vae = SimpleNamespace(config=config)
    with pytest.raises(KeyboardInterrupt):
        refine_vae.Painted(tmp_path, 5).grow(None, vae, WORDS, 2)
    for painted_before in (3, 5):
        painted = refine_vae.Painted(tmp_path, 5)
        assert len(painted) == painted_before
        painted.grow(None, vae, WORDS, 2)
    assert [seed for *_, seed in calls] == [0, 1, 2, 3, 3, 4]
    assert {shape for shape, *_ in calls} == {(16, 16)}
    assert painted.latents[1].min() == painted.latents[1].max() == 1 + 2 * 2
    assert [prompt != "" for _, prompt, _ in calls[:4]] == [False, True, False, True]
    # each crop of the latents is of the same place of the same picture; the first are not learnt
    places = np.arange(512) // 8
    for number in range(5):
        painted.latents[number, 0] = np.arange(64, dtype=np.float16)[:, None]
        painted.latents[number, 1] = np.arange(64, dtype=np.float16)
        painted.latents[number, 2] = 40 * number
        painted.pictures[number] = 40 * number
        painted.pictures[number, ..., 0] = places[:, None]
        painted.pictures[number, ..., 1] = places
    latents, pictures = painted.draw(random.Random(1), 128, 40)
    assert latents.shape == (40, 16, 16, 16) and pictures.shape == (40, 3, 128, 128)
    shown = ((pictures[:, :, ::8, ::8] + 1) * 127.5).round()
    torch.testing.assert_close(shown, latents[:, :3])
    assert latents[:, 0, 0, 0].unique().numel() > 5 < latents[:, 1, 0, 0].unique().numel()
    assert latents[:, 2, 0, 0].unique().tolist() == [80, 120, 160]
    (tmp_path / "latents.f16").unlink()
    assert len(refine_vae.Painted(tmp_path, 5)) == 0


def test_walls_to_be_painted_have_a_ground_that_tokens_name(fonts):
    import refine_vae

    walls = [refine_vae.random_picture(number, WORDS)[0] for number in range(2, 200, 4)]
    assert {wall.top_color for wall in walls} <= set(refine_vae.PALETTE.values())
    assert all(wall.lines for wall in walls)
