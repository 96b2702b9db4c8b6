"""Train nano's prior: prompt bytes to prior tokens.

Half of the steps are short sequences (prompt, first row, rows that carry new letters), on which copying the quoted
text and reading the colour word is learnt within minutes; the other half are whole grids, where placing is learnt.
Expected on one CPU core: letters right .5 after 15 minutes, .9 after 40, .97 after 120.
"""

import argparse
import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from layout import FIRST_BYTE, PRIOR_CONFIG, VISION_VOCAB_SIZE, VOCAB_SIZE, Sequence, text_to_image_sequence
from prompts import load_codebook, load_words, random_design, write_prompt
from renderer import (
    CHARS,
    CODEBOOK_SIZE,
    HEADLINE_STYLES,
    INKS,
    NUM_GLYPH_CLASSES,
    NUM_TEXT_TOKENS,
    BackgroundCodebook,
    prior_tokens,
    text_cells,
)
from torch import nn
from training import CODEBOOK, Average, Muon, Run, split_parameters

HIDDEN, HEAD_DIM = PRIOR_CONFIG["hidden_size"], 64
SHORT_LENGTH, LONG_LENGTH = 304, 448


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


class Layer(nn.Module):
    """A decoder layer with norms before and after each part."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = Attention(), MLP()
        for name in ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"):
            self.add_module(name, nn.RMSNorm(HIDDEN, eps=PRIOR_CONFIG["rms_norm_eps"]))
        # Each part adds this much to a residual stream of size 1, so that the embeddings stay readable to the end.
        nn.init.constant_(self.post_self_attn_layernorm.weight, 0.4)
        nn.init.constant_(self.post_mlp_layernorm.weight, 0.4)

    def forward(self, x, cos, sin):
        x = x + self.post_self_attn_layernorm(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x)))


class CodeTable(nn.Module):
    """A vector for every vision id, put together from what ids share (character, style, half, ink, colour).

    The parts let all variants of a letter learn together; `merged()` is what is saved.
    """

    def __init__(self, centres: np.ndarray, scale: float):
        super().__init__()
        self.rest = nn.Parameter(torch.randn(VISION_VOCAB_SIZE, HIDDEN) * scale * 0.3)
        self.char = nn.Parameter(torch.randn(len(CHARS), HIDDEN) * scale)
        num_variants = 2 * len(HEADLINE_STYLES) + 1
        self.variant = nn.Parameter(torch.randn(num_variants, HIDDEN) * scale * 0.5)
        self.ink = nn.Parameter(torch.randn(len(INKS), HIDDEN) * scale * 0.5)
        self.color = nn.Parameter(torch.randn(centres.shape[1], HIDDEN) * scale * 0.5)
        glyph = torch.arange(NUM_TEXT_TOKENS) % NUM_GLYPH_CLASSES
        self.register_buffer("char_of", glyph // num_variants, persistent=False)
        self.register_buffer("variant_of", glyph % num_variants, persistent=False)
        self.register_buffer("ink_of", torch.arange(NUM_TEXT_TOKENS) // NUM_GLYPH_CLASSES, persistent=False)
        self.register_buffer("centres", torch.from_numpy(centres).float() * 2 - 1, persistent=False)

    def merged(self):
        """Return the table, float32 (VISION_VOCAB_SIZE, hidden)."""
        text = self.char[self.char_of] + self.variant[self.variant_of] + self.ink[self.ink_of]
        background = self.centres @ self.color
        special = torch.zeros(VISION_VOCAB_SIZE - CODEBOOK_SIZE, HIDDEN)
        return self.rest + torch.cat([text, background, special])


class Prior(nn.Module):
    """The text model of GLM-Image at nano's size, with the embedding tables in parts."""

    def __init__(self, centres: np.ndarray):
        super().__init__()
        self.codes = CodeTable(centres, 0.7)
        self.head = CodeTable(centres, 0.03)
        self.text = nn.Parameter(torch.randn(VOCAB_SIZE - FIRST_BYTE, HIDDEN))
        with torch.no_grad():  # a letter's cells start as the letter's byte
            self.codes.char.copy_(self.text[[ord(c) for c in CHARS]])
        self.layers = nn.ModuleList(Layer() for _ in range(PRIOR_CONFIG["num_hidden_layers"]))
        self.norm = nn.RMSNorm(HIDDEN, eps=PRIOR_CONFIG["rms_norm_eps"])
        rope = PRIOR_CONFIG["rope_parameters"]
        exponent = torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM
        self.register_buffer("frequencies", rope["rope_theta"] ** -exponent, persistent=False)
        self.apply(self._initialise)
        self._look_back()

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

    def rotary(self, positions):
        """Return cos and sin (B, 1, S, head_dim) for positions (B, 3, S)."""
        axis = torch.arange(HEAD_DIM // 2) % 3
        angles = positions[:, axis].transpose(1, 2).float() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()

    def forward(self, ids, positions):
        """Return hidden states (B, S, hidden) for ids (B, S) and positions (B, 3, S)."""
        cos, sin = self.rotary(positions)
        x = F.embedding(ids, torch.cat([self.codes.merged(), self.text]))
        x = x.bfloat16()
        cos, sin = cos.bfloat16(), sin.bfloat16()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


def starts_line(previous: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Tell which ids are the first letter after something that is no text."""
    variant = ids % NUM_GLYPH_CLASSES % (2 * len(HEADLINE_STYLES) + 1)
    is_upper = (ids < NUM_TEXT_TOKENS) & ((variant % 2 == 0) | (variant == 2 * len(HEADLINE_STYLES)))
    return is_upper & (previous >= NUM_TEXT_TOKENS)


class Samples:
    """Random training sequences, deterministic by their number."""

    def __init__(self, codebook: BackgroundCodebook, words: list[str], first_seed: int = 0):
        self.codebook, self.words, self.next_seed = codebook, words, first_seed

    def batch(self, size: int, kind: str) -> tuple[torch.Tensor, ...]:
        """Return ids (B, S), positions (B, 3, S), targets (B, S), weights (B, S) of kind short, long or both grids."""
        length = {"short": SHORT_LENGTH, "long": LONG_LENGTH, "both": LONG_LENGTH + 256}[kind]
        sequences = []
        while len(sequences) < size:
            sequence = self.sequence(self.next_seed, kind)
            self.next_seed += 1
            if len(sequence.ids) <= length + 1:
                sequences.append(sequence)
        ids = np.zeros((size, length + 1), np.int64)
        positions = np.zeros((size, 3, length + 1), np.int64)
        weights = np.zeros((size, length + 1), np.float32)
        for i, s in enumerate(sequences):
            n = len(s.ids)
            ids[i, :n], positions[i, :, :n], weights[i, :n] = s.ids, s.positions, s.is_target
            weights[i, s.is_target.argmax()] = 4.0  # the first cell alone decides the colour
            starts = s.is_target[1:] & starts_line(s.ids[:-1], s.ids[1:])
            weights[i, 1:n][starts] = 5.0  # one cell in a hundred decides where the text stands
        ids_t, positions_t = torch.from_numpy(ids), torch.from_numpy(positions)
        return ids_t[:, :-1], positions_t[:, :, :-1], ids_t[:, 1:], torch.from_numpy(weights)[:, 1:]

    def sequence(self, seed: int, kind: str) -> Sequence:
        """Make the sequence of one design."""
        design = random_design(seed, self.words)
        tokens = prior_tokens(design, self.codebook)
        kept = None
        if kind == "short":
            has_text = (text_cells(design) >= 0).any(1)
            kept = np.zeros(len(tokens), bool)
            kept[[0, 1, 7, 13]] = True  # the first row, and where a single line stands: does it start here?
            for line in design.lines:
                kept[line.row] = True
                if random.Random(seed).random() < 0.2:
                    kept[line.row + line.num_rows - 1] = has_text[line.row + line.num_rows - 1]
        grids = [tokens, tokens] if kind == "both" else [tokens]
        return text_to_image_sequence(write_prompt(design, seed), grids, kept)


def loss_of(prior, layers_forward, batch):
    """Return the mean cross entropy over the learnt tokens and the number of them."""
    ids, positions, targets, weights = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = layers_forward(ids, positions)
        where = weights.flatten().nonzero().squeeze(1)
        logits = hidden.flatten(0, 1)[where] @ prior.head.merged().bfloat16().T
    losses = F.cross_entropy(logits.float(), targets.flatten()[where], reduction="none")
    chosen = weights.flatten()[where]
    return (losses * chosen).sum() / chosen.sum(), logits, where


@torch.no_grad()
def validate(prior, samples: Samples, num_batches: int = 2) -> dict[str, float]:
    """Measure teacher-forced accuracy where it matters: first cell, first letter, later letters, lower halves, end."""
    counts: dict[str, list[float]] = {}
    samples.next_seed = 80_000_000
    for _ in range(num_batches):
        batch = samples.batch(16, "long")
        loss, logits, where = loss_of(prior, prior, batch)
        targets, predicted = batch[2].flatten()[where], logits.argmax(-1)
        previous = batch[0].flatten()[where]
        right = predicted == targets
        is_text, after_text = targets < NUM_TEXT_TOKENS, previous < NUM_TEXT_TOKENS
        variant = targets % NUM_GLYPH_CLASSES % (2 * len(HEADLINE_STYLES) + 1)
        upper = is_text & ((variant % 2 == 0) | (variant == 2 * len(HEADLINE_STYLES)))
        columns = torch.zeros_like(batch[2])
        for row in range(len(columns)):
            cells = batch[3][row].nonzero().squeeze(1)
            columns[row, cells] = torch.arange(len(cells))
        cell = columns.flatten()[where]
        groups = {
            "first_cell": cell == 0,
            "line_start": upper & ~after_text,
            "letters": upper & after_text,
            "lower": is_text & ~upper,
            "line_end": ~is_text & after_text,
            "background": ~is_text & ~after_text & (cell > 0),
        }
        for name, mask in groups.items():
            entry = counts.setdefault(name, [0.0, 0.0])
            entry[0] += float(right[mask].sum())
            entry[1] += float(mask.sum())
        entry = counts.setdefault("loss", [0.0, 0.0])
        entry[0] += float(loss)
        entry[1] += 1
    return {name: n / max(total, 1) for name, (n, total) in counts.items()}


def main() -> None:
    """Train until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="prior")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words, held_out = load_words()
    codebook = load_codebook(CODEBOOK, words)
    prior = Prior(codebook.centres)
    average = Average(prior, 0.99)
    matrices, rest = split_parameters(prior, ("self_attn", "mlp"))
    optimizers = [Muon(matrices, lr=0.012, weight_decay=0.01), torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.95))]
    run = Run(args.name, args.minutes, {"prior": prior, "average": average}, optimizers)
    forward = prior if args.eager else torch.compile(prior, dynamic=False)
    samples = Samples(codebook, words, run.num_samples)
    checks = Samples(codebook, held_out)
    rng = random.Random(run.num_steps)
    recent = {"short": math.nan, "long": math.nan, "both": math.nan}
    for progress in run.steps():
        share_short = 0.75 if progress < 0.15 else 0.5 if progress < 0.9 else 0.25
        share_both = 0.12 if progress > 0.6 else 0.0
        kind = rng.choices(["short", "both", "long"], [share_short, share_both, 1 - share_short - share_both])[0]
        batch = samples.batch({"short": 24, "long": 12, "both": 6}[kind], kind)
        loss = loss_of(prior, forward, batch)[0]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(prior)
        run.num_samples = samples.next_seed
        recent[kind] = loss.item() if math.isnan(recent[kind]) else 0.9 * recent[kind] + 0.1 * loss.item()
        if run.num_steps % 10 == 0:
            run.log(**recent)
        if run.num_steps % 100 == 50:
            run.log(**validate(prior, checks))


if __name__ == "__main__":
    main()
