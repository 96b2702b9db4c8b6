"""Train nano's prior: prompt bytes to prior tokens.

Many steps are short sequences: the prompt and the rows of the plan that are written on (designs.py), where copying the
quoted texts, reading colours and places, and counting are learnt; then rows of the picture, which follow the plan.
Expected on one CPU core: letters right .5 after 15 minutes, .9 after 40, .97 after 120.
"""

import argparse
import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from code_table import CodeTable
from designs import BELOW, LEFT_OF_SHAPE, load_codebook, load_words, plan_tokens, random_content, random_grid, typeset
from edits import Edit, random_edit, random_recoloring
from layout import (
    FIRST_BYTE,
    PRIOR_CONFIG,
    PROMPT_BYTES,
    VOCAB_SIZE,
    Sequence,
    grid_ids,
    image_to_image_sequence,
    text_to_image_sequence,
)
from prompts import write_prompt
from renderer import BackgroundCodebook, Design, prior_tokens, source_tokens
from tokenizer import CellEncoder, SourceReader
from torch import nn
from training import (
    CODEBOOK,
    DEVICE,
    DTYPE,
    RUNS,
    Average,
    Muon,
    Run,
    autocast,
    compiled,
    in_processes,
    split_parameters,
)
from type_tokens import (
    CHARS,
    CODEBOOK_SIZE,
    COLORS,
    COLUMNS,
    FIRST_BACKGROUND,
    FIRST_COLORLESS,
    FIRST_MIX,
    FORM,
    FORM_SIDES,
    LENGTH,
    LINE,
    MIXES,
    NAMES,
    NUM_TEXT_TOKENS,
    ROWS,
    SPELLS,
    STENCIL,
)

Batch = tuple[np.ndarray, ...]
# the colour of a cell that is nothing but background, or that is named beside a message; -1 of all other ids
SHADE = np.full(VOCAB_SIZE, -1)
SHADE[:CODEBOOK_SIZE] = np.where(NAMES.background >= 0, NAMES.background, NAMES.color)
FIRST_CELL, TURN = 12.0, 5.0
ALL_RECOLORED = 32.0  # of all cells that are to be filled, and of all that are to be kept
RECOLOR_ROWS = 6
# Before the first target: the token of which is learnt, half way up the layers, which colour is replaced; the next one
# tells the new colour.
TOLD_COLORS = 8
REPAINTED = 0.3  # most such cells of a foreign picture cannot be known exactly, and would outweigh all else
# layer: two heads as (rows below, gain, columns to the right, gain): the very cell; the row that comes, a row below it
LOOK_UP = {1: ((0, 7.0, 1, 10.0), (1, 6.0, 0, 0.0)), 3: ((0, 7.0, 1, 10.0), (2, 4.0, 0, 0.0))}
HIDDEN, HEAD_DIM = PRIOR_CONFIG["hidden_size"], 64
# kind: sequence length, batch size, share of the steps
KINDS = {
    "plan": (512, 14, 0.22),  # the rows of the plan that are written on, and its last ones
    "rows": (928, 8, 0.14),  # those, and rows of the picture
    "square": (784, 9, 0.07),  # all of both grids at 512 x 512
    "whole": (1600, 4, 0.19),  # all of both grids, sides up to 1024 px
    "edit": (620, 10, 0.25),  # a source and the picture asked for, 512 x 512
    "recolor": (300, 20, 0.15),  # six rows of such a source, which is no design, and of the picture asked for
    "mix": (928, 7, 0.02),  # two sources, or one that is larger
    "large": (2700, 3, 0.06),  # both grids of the largest pictures, and edits of any size
}


class Sample(NamedTuple):
    """A sequence, and how many of its targets, the first ones, belong to the plan.

    repainted, filled: of a foreign source (foreign.py), the cells that are not kept, and those in one new colour, bool
    (rows, columns); colors: what that replaces, and the new one, as numbers of the palette.
    """

    sequence: Sequence
    num_planned: int
    repainted: np.ndarray | None = None
    filled: np.ndarray | None = None
    colors: tuple[int, int] | None = None


class Attention(nn.Module):
    """Grouped-query attention with biases on q, k and v; parameter names as in the reference."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.num_kv_heads = PRIOR_CONFIG["num_attention_heads"], PRIOR_CONFIG["num_key_value_heads"]
        self.q_proj = nn.Linear(HIDDEN, self.num_heads * HEAD_DIM)
        self.k_proj = nn.Linear(HIDDEN, self.num_kv_heads * HEAD_DIM)
        self.v_proj = nn.Linear(HIDDEN, self.num_kv_heads * HEAD_DIM)
        self.o_proj = nn.Linear(self.num_heads * HEAD_DIM, HIDDEN, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.num_heads, HEAD_DIM).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.num_kv_heads, HEAD_DIM).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.num_kv_heads, HEAD_DIM).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.num_heads // self.num_kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def rotate(x, cos, sin):
    """Apply rotary embedding; cos and sin are (B, 1, S, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class MLP(nn.Module):
    """Gated MLP, gate and up in one projection."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Linear(HIDDEN, 2 * PRIOR_CONFIG["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(PRIOR_CONFIG["intermediate_size"], HIDDEN, bias=False)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(up * F.silu(gate))


class RMSNorm(nn.RMSNorm):
    """In the data type of what comes in: there is no fused kernel for two."""

    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Layer(nn.Module):
    """A decoder layer with norms before and after each part."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = Attention(), MLP()
        for name in ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"):
            self.add_module(name, RMSNorm(HIDDEN, eps=PRIOR_CONFIG["rms_norm_eps"]))
        # Each part adds this much to a residual stream of size 1, so that the embeddings stay readable to the end.
        nn.init.constant_(self.post_self_attn_layernorm.weight, 0.4)
        nn.init.constant_(self.post_mlp_layernorm.weight, 0.4)

    def forward(self, x, cos, sin):
        x = x + self.post_self_attn_layernorm(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x)))


class Prior(nn.Module):
    """The text model of GLM-Image at nano's size, with the embedding tables in parts."""

    def __init__(self, centres: np.ndarray):
        super().__init__()
        self.codes = CodeTable(centres, 0.7)
        self.head = CodeTable(centres, 0.03)
        self.text = nn.Parameter(torch.randn(VOCAB_SIZE - FIRST_BYTE, HIDDEN))
        with torch.no_grad():  # a letter's cells start as the letter's byte
            self.codes.char.copy_(self.text[[c.encode()[-1] for c in CHARS]])
        self.layers = nn.ModuleList(Layer() for _ in range(PRIOR_CONFIG["num_hidden_layers"]))
        self.norm = RMSNorm(HIDDEN, eps=PRIOR_CONFIG["rms_norm_eps"])
        rope = PRIOR_CONFIG["rope_parameters"]
        exponent = torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM
        self.register_buffer("frequencies", rope["rope_theta"] ** -exponent, persistent=False)
        self.apply(self._initialise)
        self._look_back()
        for number in LOOK_UP:
            self.look_up(number)
        self.run_layer = Layer.forward

    @staticmethod
    def _initialise(module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def _look_back(self):
        """Let the first layer's heads start as "the position before" and "the cell above".

        Attention by position alone is a constant query and key; copying needs it and finds it late from chance.
        """
        attention = self.layers[0].self_attn
        axis = torch.arange(HEAD_DIM // 2) % 3
        f = self.frequencies
        for head, (row_step, column_step, gain) in enumerate([(0, -1, 8.0), (-1, 0, 8.0), (0, -2, 8.0), (0, -1, 3.0)]):
            rows, size = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM), HEAD_DIM // 2
            attention.q_proj.weight[rows] *= 0.1 if gain > 3 else 0.7
            step = torch.where(axis == 1, float(row_step), torch.where(axis == 2, float(column_step), 0.0))
            amount = torch.where(axis == 0, 0.0, 1.0) * gain / 4
            attention.q_proj.bias[rows] = torch.cat([amount * torch.cos(f * step), amount * torch.sin(f * step)])
        for head in range(attention.num_kv_heads):
            rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            attention.k_proj.weight[rows] *= 0.1
            attention.k_proj.bias[rows] = torch.cat([torch.full((size,), 2.0), torch.zeros(size)])

    @staticmethod
    def _keep_zero(weight, num_rows):
        """Make the first rows of a weight zero, now and in training: without a gradient they get no step."""
        weight[:num_rows] = 0
        mask = torch.ones(len(weight), 1)
        mask[:num_rows] = 0
        weight.register_hook(lambda gradient: gradient * mask.to(gradient.device))

    @torch.no_grad()
    def look_up(self, number):
        """Let two heads of a layer start as "what the source shows where the next cell is to be".

        Training had not found it: from the source's cell to the picture's are 121 steps on each axis. Sharp in both
        directions or along a whole row, by LOOK_UP; exact for one source of 16 x 16 cells. What they look for stays a
        matter of position: Muon's steps are as long for noise as for what is to be learnt.
        """
        attention, layer = self.layers[number].self_attn, self.layers[number]
        f, size = self.frequencies, HEAD_DIM // 2
        axis = torch.arange(size) % 3
        away = len(grid_ids(16, 16)) + PROMPT_BYTES + 16 + 2
        self._keep_zero(attention.k_proj.weight, HEAD_DIM)
        self._keep_zero(attention.q_proj.weight, len(LOOK_UP[number]) * HEAD_DIM)
        attention.k_proj.bias[:HEAD_DIM] = torch.cat([torch.full((size,), 9.0), torch.zeros(size)])
        for head, (row, row_gain, column, column_gain) in enumerate(LOOK_UP[number]):
            rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            steps = torch.tensor([0.0, row, column])[axis] - away
            # what is far tells the source from all else, what is near tells its cells apart
            amount = torch.where(f > 0.1, torch.tensor([0.0, row_gain, column_gain])[axis], 2.5)
            amount = torch.where((axis == 2) & (column_gain == 0), 0.0, amount)
            attention.q_proj.bias[rows] = torch.cat([amount * torch.cos(f * steps), amount * torch.sin(f * steps)])
        nn.init.constant_(layer.post_self_attn_layernorm.weight, 0.2)
        nn.init.constant_(layer.post_mlp_layernorm.weight, 0.1)

    def rotary(self, positions):
        """Return cos and sin (B, 1, S, head_dim) for positions (B, 3, S)."""
        axis = torch.arange(HEAD_DIM // 2) % 3
        angles = positions[:, axis].transpose(1, 2).float() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()

    def forward(self, ids, positions):
        """Return hidden states (B, S, hidden) for ids (B, S) and positions (B, 3, S)."""
        return self.states(ids, positions)[0]

    def states(self, ids, positions):
        """Return the hidden states, and those half way up the layers, both (B, S, hidden)."""
        cos, sin = self.rotary(positions)
        x = F.embedding(ids, torch.cat([self.codes.merged(), self.text]))
        x, cos, sin = x.to(DTYPE), cos.to(DTYPE), sin.to(DTYPE)
        half = len(self.layers) // 2
        for layer in self.layers[:half]:
            x = self.run_layer(layer, x, cos, sin)
        middle = self.norm(x)
        for layer in self.layers[half:]:
            x = self.run_layer(layer, x, cos, sin)
        return self.norm(x), middle


def importance(sequence: Sequence, num_planned: int) -> np.ndarray:
    """Weigh the tokens: what is decided counts most, what follows from its neighbours least; 0 for the prompt.

    num_planned: how many of the targets, the first ones, belong to the plan.
    """
    ids, previous = sequence.ids, np.roll(sequence.ids, 1)
    start = int(sequence.is_target.argmax())
    in_plan = np.zeros(len(ids), bool)
    in_plan[start : start + num_planned] = True
    is_text = ids < NUM_TEXT_TOKENS
    spells = is_text & SPELLS[np.where(is_text, ids, 0)]
    weights = np.select([spells, is_text, previous < NUM_TEXT_TOKENS], [1.0, 0.5, 1.0], 0.2)
    # Whether a shape is there must not tell how much a cell weighs: what is rare would become likely.
    column = sequence.positions[2] - sequence.positions[0]
    could_turn, begins, is_named = _could_turn(sequence, start + num_planned)
    weights[~in_plan & could_turn] = 1.0
    weights[~in_plan & begins] = 2.0  # all rows below follow from the first
    weights[~in_plan & is_named] = 4.0  # which shape it is
    # behind a message without a colour the step of a gradient is named: the rest of the row copies it
    weights[~in_plan & (column == 1) & (previous >= FIRST_COLORLESS) & (previous < LENGTH)] = TURN
    weights[column == 0] = 1.5  # a row's first cell: does a line begin here?
    # The last cell says that the row does not end before it; of the first rows no row above tells it.
    row, is_last = sequence.positions[1] - sequence.positions[0], np.roll(column == 0, -1)
    weights[is_last] = np.maximum(weights[is_last], np.where(row < 2, 2.0, 0.5)[is_last])
    weights[in_plan & spells] = 1.5
    said = NAMES.message[ids.clip(max=CODEBOOK_SIZE - 1)]
    weights[in_plan & (ids >= LENGTH) & (ids < FIRST_BACKGROUND)] = 2.0
    placed = in_plan & (said >= len(COLORS)) & (ids < CODEBOOK_SIZE)
    weights[placed] = 3.0
    weights[placed & (column == BELOW)] = 10.0  # which words of the prompt place the next text is found late
    before = np.where(previous < CODEBOOK_SIZE, NAMES.message[previous.clip(max=CODEBOOK_SIZE - 1)], -1)
    weights[in_plan & (column == 1) & (before >= ROWS) & (SHADE[ids] >= 0)] = 2.0  # no shape follows the lines
    # where the picture carries the plan out: its ink, and how far it is to the next line
    told = ~in_plan & (said >= 0) & (ids < CODEBOOK_SIZE)
    weights[told] = np.maximum(weights[told], 1.0)
    # a shape is below, or it is not; it begins in this row, or it does not
    leads = (SHADE[previous] >= 0) & (SHADE[previous] < len(COLORS)) & ~((before >= COLUMNS) & (before < ROWS))
    is_free = ~in_plan & leads & ~is_text & (ids < CODEBOOK_SIZE)
    weights[is_free & (column == 1)] = 2.0
    weights[is_free & (column == 2)] = np.maximum(weights[is_free & (column == 2)], 1.0)
    weights[~sequence.is_target] = 0
    weights[_after_a_gap(sequence)] = 0
    inside = ~in_plan & sequence.is_target & (sequence.positions[1] - sequence.positions[0] == 1) & (column == 1)
    weights[inside] = np.maximum(weights[inside], FIRST_CELL / 3)  # there a frame has ended or the ground goes on
    for first in (start, start + num_planned):  # of each grid: they alone decide colour and ink
        if first < len(ids):
            weights[first] = FIRST_CELL
    if num_planned:  # here the colour at the bottom is decided
        columns = int((sequence.positions[1] == sequence.positions[1, start])[start:].sum())
        weights[start + columns // 2] = FIRST_CELL / 2
    return weights


def _could_turn(sequence: Sequence, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find cells of the picture, whose tokens begin at `first`, that may be of another colour than the one before.

    Told by what stands before them alone: the row above turns there, the cell before is not like the one above it, or
    it counted down, or a round or slanted shape has begun in this row. And those of the first row of such a shape, and
    those that may name it.
    """
    could, begins, is_named = np.zeros((3, len(sequence.ids)), bool)
    ids, base = sequence.ids[first:], sequence.positions[0, first:]
    if not len(ids):
        return could, begins, is_named
    row, column = sequence.positions[1, first:] - base, sequence.positions[2, first:] - base
    shade = np.full((row.max() + 2, column.max() + 2), -1)  # the row above and the column before there are none
    reach = max(FORM_SIDES) + 1  # of a round or slanted shape, and the cell behind it
    counts, named = np.zeros(shade.shape, bool), np.zeros((row.max() + 2, column.max() + 2 + reach), bool)
    shade[row + 1, column + 1] = SHADE[ids]
    said = np.where(ids < CODEBOOK_SIZE, NAMES.message[ids.clip(max=CODEBOOK_SIZE - 1)], -1)
    counts[row + 1, column + 1] = (said >= COLUMNS) & (said < ROWS)
    named[row + 1, column + 1 + reach] = said >= FORM
    behind, below = (
        np.stack([named[row + down, column + across] for across in range(1, 1 + reach)]).any(0) for down in (1, 0)
    )
    above, before, corner = shade[row, column + 1], shade[row + 1, column], shade[row, column]
    is_step = shade[row + 1, 1] != shade[row, 1]  # of a gradient: the whole row is of another colour
    turns = (above != corner) & (above >= 0) & (corner >= 0)
    is_new = (before != corner) & (before >= 0) & (corner >= 0) & ~is_step
    could[first:] = (column > 0) & (turns | is_new | counts[row + 1, column] | behind)
    begins[first:] = behind & ~below
    said = np.roll(said, 1)  # by the cell before: two columns from what begins, or as far left as a shape can be
    is_next = (said == COLUMNS + 1) | ((column == LEFT_OF_SHAPE - 1) & (said >= ROWS) & (said < LINE))
    is_named[first:] = (column > 0) & is_next & ~named[row, column + 1 + reach]
    return could, begins, is_named


def _after_a_gap(sequence: Sequence) -> np.ndarray:
    """Find the first cells of kept rows behind rows that were left out: what stands before them tells another row."""
    time, y, _ = sequence.positions
    return (time == np.roll(time, 1)) & (y > np.roll(y, 1) + 1)


def weigh_foreign(sample: Sample, weights: np.ndarray) -> None:
    """Weigh what is kept of a foreign picture where it changes: there alone copying differs from going on.

    What is filled with a new colour goes on by itself in a row: where it begins and ends weighs most.
    """
    assert sample.repainted is not None and sample.filled is not None
    ids, is_target = sample.sequence.ids, sample.sequence.is_target
    source = ids[1 : 1 + sample.repainted.size].reshape(sample.repainted.shape)
    changes = np.ones(source.shape, bool)
    changes[1:, 1:] = (source[1:, 1:] != source[1:, :-1]) | (source[1:, 1:] != source[:-1, 1:])
    cells = np.select([sample.filled, sample.repainted, changes], [0.5, REPAINTED, 1.0], 0.2)
    if sample.filled.any():
        cells[:, 0] = 2.0
        cells[:, 1:][sample.filled[:, 1:] != sample.filled[:, :-1]] = 4.0
    cells[0, 0] = FIRST_CELL / 4
    weights[is_target] = np.where(ids[is_target] < NUM_TEXT_TOKENS, weights[is_target], cells.ravel())


def leave_to_chance(rng: random.Random, sample: Sample, shown: np.ndarray, weights: np.ndarray) -> None:
    """Show every cell of a recolouring filled or copied by chance: nothing but source and instruction tells any then.

    What is to be filled and what is to be kept weigh the same in all, what lies between them nothing. Changes `shown`
    (the ids) and `weights`.
    """
    assert sample.repainted is not None and sample.filled is not None and sample.colors is not None
    filled, is_target = sample.filled, sample.sequence.is_target
    source = shown[1 : 1 + filled.size].reshape(filled.shape)
    cells, learnt = (a[is_target].reshape(filled.shape) for a in (shown, weights))
    is_type, new = cells < NUM_TEXT_TOKENS, FIRST_BACKGROUND + sample.colors[1]
    share = rng.choice([0.0, 1.0, rng.random(), rng.random(), rng.random()])
    chance = np.random.default_rng(rng.getrandbits(32)).random(filled.shape)
    shown[is_target] = np.where(is_type, cells, np.where(chance < share, new, source)).ravel()
    learnt = np.where(is_type, learnt, 0)
    for which in (filled & ~is_type, ~sample.repainted & ~is_type):
        learnt[which] = ALL_RECOLORED / max(which.sum(), 16)
    weights[is_target] = learnt.ravel()


def miswrite(rng: random.Random, sample: Sample, shown: np.ndarray, weights: np.ndarray) -> None:
    """Show some cells of a recolouring as they are written by mistake; what follows them is learnt all the same.

    With the truth before it a cell that goes on as its neighbours do is nearly always right, and which cells are asked
    for is never learnt; in writing, one cell that was copied made copies of all. Changes `shown` (the ids) and
    `weights`.
    """
    assert sample.repainted is not None and sample.filled is not None
    filled, is_target, kind = sample.filled, sample.sequence.is_target, rng.random()
    if not filled.any() or kind > 0.85:
        return
    if kind < 0.5:
        leave_to_chance(rng, sample, shown, weights)
        return
    source = shown[1 : 1 + filled.size].reshape(filled.shape)
    cells, learnt = (a[is_target].reshape(filled.shape) for a in (shown, weights))
    is_type, new = cells < NUM_TEXT_TOKENS, cells[filled][0]
    if kind < 0.65:  # copied up to some cell
        up_to = rng.choice(np.flatnonzero(sample.repainted))
        wrong = sample.repainted & (np.arange(filled.size).reshape(filled.shape) < up_to)
    else:  # filled too far
        wrong = np.zeros_like(filled)
        reach = rng.choice([1, 2, 4, 8, 16])
        for right in range(1, 1 + reach):
            wrong[:, right:] |= filled[:, :-right]
        for down in range(1, 1 + reach // 2):
            wrong[down:] |= filled[:-down]
        wrong &= ~sample.repainted & ~is_type
    misled = np.zeros_like(wrong)  # by the cell before or above
    misled[:, 1:] |= wrong[:, :-1]
    misled[1:] |= wrong[:-1]
    misled &= filled | ~sample.repainted
    shown[is_target] = np.where(wrong & ~is_type, np.where(sample.repainted, source, new), cells).ravel()
    weights[is_target] = np.where(misled, np.maximum(learnt, 2.0), learnt).ravel()


def hold_a_step(rng: random.Random, sequence: Sequence, num_planned: int, weights: np.ndarray) -> np.ndarray:
    """Return the ids as they are shown: in most gradients some rows stay at the step before.

    Where a step was missed in writing, the rows below copy each other: they are to find the right step again. Of such
    a row only the first cell is learnt; `weights` are changed for it.
    """
    ids, shown = sequence.ids, sequence.ids.copy()
    if not num_planned:
        return shown
    row = sequence.positions[1] - sequence.positions[0]
    in_picture = np.arange(len(ids)) >= int(sequence.is_target.argmax()) + num_planned
    is_step = in_picture & (ids >= FIRST_BACKGROUND) & (ids < FIRST_MIX + len(MIXES))
    is_mixed = is_step & (ids >= FIRST_MIX)
    if not is_mixed.any():
        return shown
    rows = np.unique(row[is_step])
    first = np.array([np.flatnonzero(is_step & (row == r))[0] for r in rows])
    first = first[weights[first] > 0]  # behind a gap nothing tells whether it counts down
    weights[first] = np.maximum(weights[first], 2.0)
    turns = 1 + np.flatnonzero(ids[first[1:]] != ids[first[:-1]])
    if len(turns) and rng.random() < 0.75:
        begin = int(rng.choice(turns))
        since = row[first[begin]]
        late = (row >= since) & (row < since + rng.randrange(1, 7)) & is_step
        shown[late] = ids[first[begin - 1]]
        weights[late] = 0
        weights[first[late[first]]] = TURN
    return shown


class Samples:
    """Random training sequences, deterministic by the number of their batch.

    first_seed: where the seeds begin; scale: how many times larger the batches are than on one CPU core; reader:
    reads the sources of edits as the checkpoint will, with its errors; without it they are told without fault.
    """

    def __init__(
        self,
        codebook: BackgroundCodebook,
        words: list[str],
        first_seed: int = 0,
        scale: int = 1,
        reader: SourceReader | None = None,
    ):
        self.codebook, self.words, self.first_seed, self.scale = codebook, words, first_seed, scale
        self.reader = reader

    def __call__(self, number: int) -> tuple[str, Batch]:
        """Return the kind of batch `number`, and the batch."""
        kind = random.Random(number).choices(list(KINDS), [share for _, _, share in KINDS.values()])[0]
        return kind, self.batch(kind, number)

    def batch(self, kind: str, number: int) -> Batch:
        """Return ids (B, S), positions (B, 3, S), targets (B, S), weights (B, S) of a kind, as narrow as they fit.

        And of recolourings where their colours are told, and which: (B, 3), -1 of all others.
        """
        length, size = KINDS[kind][0], KINDS[kind][1] * self.scale
        seeds = itertools.count(self.first_seed + number * 32 * self.scale)
        shortest = KINDS["edit"][0] + 2 if kind == "mix" else 0
        drawn = (self.sample(seed, kind) for seed in seeds)
        fitting = (s for s in drawn if shortest <= len(s.sequence.ids) <= length + 1)
        samples = list(itertools.islice(fitting, size))
        shown = np.zeros((size, length), np.int16)
        ids = np.zeros((size, length + 1), np.int16)
        positions = np.zeros((size, 3, length + 1), np.int16)
        weights = np.zeros((size, length + 1), np.float16)
        told = np.full((size, 3), -1, np.int16)
        for i, sample in enumerate(samples):
            s, n = sample.sequence, len(sample.sequence.ids)
            ids[i, :n], positions[i, :, :n], weights[i, :n] = s.ids, s.positions, importance(s, sample.num_planned)
            if sample.repainted is not None:
                weigh_foreign(sample, weights[i, :n])
            rng = random.Random(f"{number} {i}")
            ids_shown = hold_a_step(rng, s, sample.num_planned, weights[i, :n])
            if kind == "recolor":
                leave_to_chance(rng, sample, ids_shown, weights[i, :n])
                weights[i, :n][_after_a_gap(s)] = 0
            elif sample.repainted is not None:
                miswrite(rng, sample, ids_shown, weights[i, :n])
            if sample.colors is not None:
                told[i] = s.is_target.argmax() - TOLD_COLORS, *sample.colors
            shown[i, : n - 1] = ids_shown[:-1]
        return shown, positions[:, :, :-1], ids[:, 1:], weights[:, 1:], told

    def sample(self, seed: int, kind: str) -> Sample:
        """Make the sequence of one content, or of one edit."""
        rng = random.Random(seed)
        if kind in ("edit", "mix") or (kind == "large" and rng.random() < 0.5):
            square = kind == "edit" or (kind == "mix" and rng.random() < 0.7)
            edit = random_edit(seed, self.words, (16, 16) if square else random_grid(rng))
            sources = [self._read(design, rng) for design in edit.sources]
            target = prior_tokens(edit.target, self.codebook)
            if edit.repainted is not None:  # what is kept of a picture that is no design is kept as it was read
                target = np.where((target >= FIRST_BACKGROUND) & ~edit.repainted, sources[0], target)
            return self._edited(edit, image_to_image_sequence(edit.prompt, sources, target))
        if kind == "recolor":
            return self._recolored(random_recoloring(seed, self.words, (16, 16)), rng)
        content = random_content(seed, self.words)
        grid = self._grid(kind, rng)
        design = typeset(content, *grid)
        if not design.shapes:
            content = replace(content, shape="")  # there was no room for it: a prompt does not ask for it then
        plan = plan_tokens(content, design)
        rows = np.arange(len(plan))
        written = (rows < 2 * len(design.lines) + 3) | (rows >= len(plan) - 2)
        if kind == "plan":
            grids, kept = [plan], [written]
        else:
            grids = [plan, prior_tokens(design, self.codebook)]
            kept = [written, _rows_that_decide(rng, design)] if kind == "rows" else None
        sequence = text_to_image_sequence(write_prompt(content, seed, self.words), grids, kept, grid)
        return Sample(sequence, int(written.sum() if kept else len(plan)) * plan.shape[1])

    @staticmethod
    def _edited(edit: Edit, sequence: Sequence, rows: slice | np.ndarray = slice(None)) -> Sample:
        if edit.repainted is None:
            return Sample(sequence, 0)
        colors = edit.colors and (COLORS.index(edit.colors[0]), COLORS.index(edit.colors[1]))
        return Sample(sequence, 0, edit.repainted[rows], edit.filled[rows], colors)

    def _recolored(self, edit: Edit, rng: random.Random) -> Sample:
        """Keep few rows, anywhere or side by side; told without fault: reading takes as long as learning does."""
        source = source_tokens(edit.sources[0], self.codebook)
        target = np.where(edit.filled, FIRST_BACKGROUND + COLORS.index(edit.colors[1]), source)
        rows, first = np.zeros(len(source), bool), rng.randint(1, len(source) - RECOLOR_ROWS + 1)
        if rng.random() < 0.5:
            rows[rng.sample(range(len(source)), RECOLOR_ROWS)] = True
        else:
            rows[[0, -1, *range(first, first + RECOLOR_ROWS - 2)]] = True
        return self._edited(edit, image_to_image_sequence(edit.prompt, [source], target, rows), rows)

    def _read(self, design: Design, rng: random.Random) -> np.ndarray:
        if self.reader is None:
            return source_tokens(design, self.codebook)
        return self.reader.read(design, rng)

    @staticmethod
    def _grid(kind: str, rng: random.Random) -> tuple[int, int]:
        if kind == "square" or (kind in ("plan", "rows") and rng.random() < 0.4):
            return 16, 16
        while True:
            grid = random_grid(rng)
            if kind != "large" or grid[0] * grid[1] >= 1024:
                return grid


def _rows_that_decide(rng: random.Random, design: Design) -> np.ndarray:
    """Keep the first three rows, and of every line its first and last row and the rows around it."""
    kept = np.zeros(design.num_rows, bool)
    kept[:3] = True
    for line in design.lines:
        end = line.row + line.num_rows
        kept[max(line.row - 1, 0) : line.row + 1] = True
        kept[end - 1 : end + 1] = True  # what follows is written below the line itself
        if rng.random() < 0.2:
            kept[line.row : end] = True
    for shape in design.shapes[:1]:
        top, _, height, _ = shape.cells
        if shape.kind != "frame":
            kept[max(top - 1, 0) : top + min(height, 2)] = True
            kept[max(top + height - 1, 0) : top + height + 1] = True
            middle = top + rng.randrange(height)
            kept[max(middle, 0) : middle + 2] = True
    first = rng.randrange(design.num_rows)  # frames go on, and counts to the next line
    kept[first : first + 2] = True
    return kept


def loss_of(prior, batch):
    """Return the weighted cross entropy of the learnt tokens, their hidden states and their places in the batch.

    Of recolourings that of their colours is added.
    """
    ids, positions, targets, weights, told = (torch.from_numpy(np.ascontiguousarray(a)).to(DEVICE) for a in batch)
    weights, targets = weights.float(), targets.long()
    with autocast():
        hidden, middle = prior.states(ids.long(), positions)
    where = weights.flatten().nonzero().squeeze(1)
    hidden = hidden.flatten(0, 1)[where].float()
    losses = prior.head.cross_entropy(hidden, targets.flatten()[where])
    chosen = weights.flatten()[where]
    loss = (losses * chosen).sum() / chosen.sum() + told_colors_loss(prior, middle, told.long())
    return loss, hidden, where


def told_colors_loss(prior, middle, told):
    """Return the cross entropy of the colours of recolourings, given the states half way up; 0 where there are none.

    What an instruction names is found before the picture begins, so that a cell need only compare its own colour with
    it. Left to the cells alone that was not found in 5000 recolourings (docs/log.md).
    """
    at = told[:, :1].clamp(min=0) + torch.arange(2, device=told.device)
    states = middle.gather(1, at[..., None].expand(-1, -1, middle.shape[-1])).float()
    scores = states @ prior.head.backgrounds()[: len(COLORS)].T
    losses = F.cross_entropy(scores.flatten(0, 1), told[:, 1:].flatten(), ignore_index=-1, reduction="sum")
    return losses / (told[:, 1:] >= 0).sum().clamp(min=1)


@torch.no_grad()
def validate(prior, samples: Samples, num_batches: int = 2) -> dict[str, float]:
    """Measure teacher-forced accuracy where it matters: first cell, letters, steps of the plan, places, the rest."""
    counts: dict[str, list[float]] = {}
    spells, said = torch.from_numpy(SPELLS), torch.from_numpy(NAMES.message)
    table = prior.head.merged()
    for kind in ("plan", "rows", "whole", "edit"):
        for number in range(num_batches):
            batch = samples.batch(kind, number)
            _, hidden, where = loss_of(prior, batch)
            guesses, where = (hidden @ table.T).argmax(-1).cpu(), where.cpu()
            previous, targets, weights = (
                torch.from_numpy(np.ascontiguousarray(batch[i])).flatten()[where] for i in (0, 2, 3)
            )
            targets = targets.long()
            right = guesses == targets
            is_text = targets < NUM_TEXT_TOKENS
            spelt = is_text & spells[targets.clamp(max=NUM_TEXT_TOKENS - 1)]
            step = (targets >= LENGTH) & (targets < STENCIL)
            place = ((weights == 3.0) | (weights == 10.0)) & (said[targets.clamp(max=CODEBOOK_SIZE - 1)] >= len(COLORS))
            first, bottom = weights == FIRST_CELL, weights == FIRST_CELL / 2
            groups = {
                "first": first,
                "bottom": bottom & (targets != previous),
                "length": step & (targets < LENGTH + 24),
                "step": step & (targets >= LENGTH + 24),
                "place": place,
                "below": weights == 10.0,
                "letters": spelt & (weights == 1.5),
                "set": spelt & (weights == 1.0),
                "parts": is_text & ~spelt,
                "start": (weights == 1.5) & ~spelt,
                "end": ~is_text & (previous < NUM_TEXT_TOKENS) & ~step,
                "turn": weights == TURN,
                "shape": (weights == 2.0) & ~step,
                "plain": weights < 0.3,
            }
            for name, mask in groups.items():
                entry = counts.setdefault(f"{kind}_{name}", [0.0, 0.0])
                entry[0] += float(right[mask].sum())
                entry[1] += float(mask.sum())
    return {name: n / total for name, (n, total) in counts.items() if total}


def main() -> None:
    """Train until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=360)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0, help="that draw the data; 0: the training's own")
    parser.add_argument("--scale", type=int, default=1, help="larger batches, for a GPU")
    parser.add_argument("--name", default="prior")
    parser.add_argument("--from", dest="source", type=Path, help="weights to begin with, as warm_start.py writes them")
    parser.add_argument("--tokenizer", type=Path, default=RUNS / "tokenizer.pt", help="reads the sources of edits")
    parser.add_argument("--peak", type=float, default=1.0, help="highest learning rate, as a share of the usual one")
    parser.add_argument("--first-batch", type=int, default=0, help="of the data, for weights that saw earlier ones")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words, held_out = load_words()
    codebook = load_codebook(CODEBOOK, words)
    prior = Prior(codebook.centres)
    if args.source:
        prior.load_state_dict(torch.load(args.source, weights_only=True))
    prior.to(DEVICE)
    average = Average(prior, 0.995)
    matrices, rest = split_parameters(prior, ("self_attn", "mlp"))
    optimizers = [Muon(matrices, lr=0.01 * args.peak, weight_decay=0.01)]
    optimizers.append(torch.optim.AdamW(rest, lr=2e-3 * args.peak, betas=(0.9, 0.95)))
    run = Run(args.name, args.minutes, {"prior": prior, "average": average}, optimizers)
    if not args.eager:  # one layer, reused by all
        prior.run_layer = compiled(Layer.forward)
    reader = None
    if args.tokenizer.exists():
        encoder = CellEncoder(codebook.centres)
        encoder.load_state_dict(torch.load(args.tokenizer, weights_only=True)["modules"]["encoder"])
        reader = SourceReader(encoder)
    print("sources are read by", args.tokenizer if reader else "nobody: they are told without fault", flush=True)
    samples = Samples(codebook, words, scale=args.scale, reader=reader)
    checks = Samples(codebook, held_out, first_seed=80_000_000, reader=reader)
    batches = in_processes(samples, itertools.count(args.first_batch + run.num_steps), args.processes)
    recent: dict[str, torch.Tensor] = {}
    for _, (kind, batch) in zip(run.steps(), batches, strict=False):
        loss = loss_of(prior, batch)[0]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(prior)
        run.num_samples += len(batch[0])
        # not read before they are logged: a GPU would wait for it at every step
        recent[kind] = loss.detach() if kind not in recent else recent[kind].lerp(loss.detach(), 0.1)
        if run.num_steps % (10 * args.scale) == 0:
            run.log(**{name: value.item() for name, value in recent.items()})
        if run.num_steps % (100 * args.scale) == 50:
            run.log(**validate(prior, checks))


if __name__ == "__main__":
    main()
