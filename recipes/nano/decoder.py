"""Train nano's decoder: prior tokens (and the quoted text) to VAE latents.

A seventh of the steps see 128 px crops of walls of type, which hold nothing but glyphs; the rest designs, shapes, edits
and strips of large pictures, whole or in parts. The four 16 px tokens of a cell get the same prior embedding, so a
token must find out from its neighbours which quarter of the cell it is: wide heads that start as "look left, right, up,
down" give it that at once.
Measured on one CPU core, begun with the first version's layers: velocity error of text cells at u = .99 .50 after 500
steps (45 minutes), .23 after 1700 (two hours).
"""

import argparse
import itertools
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from designs import PICTURE_SIZES, load_codebook, load_words
from diffusers import AutoencoderKL, GlmImageTransformer2DModel
from latents import CAPACITY, MIX, WALLS, Drawer, LatentStore
from layout import VISION_VOCAB_SIZE
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
from transformers import T5Config, T5EncoderModel
from type_tokens import CODEBOOK_SIZE, COLORS, FORM, LENGTH, NAMES, NUM_STENCILS, NUM_TEXT_TOKENS, STENCIL

from glmimage.prompt import get_glyph_texts

WIDTH, NUM_HEADS, HEAD_DIM, NUM_LAYERS = 384, 3, 128, 4
CONFIG = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": NUM_LAYERS,
    "attention_head_dim": HEAD_DIM,
    "num_attention_heads": NUM_HEADS,
    "text_embed_dim": 128,
    "time_embed_dim": 128,
    "condition_dim": 32,
    "prior_vq_quantizer_codebook_size": VISION_VOCAB_SIZE,
}
GLYPH_CONFIG = {
    "vocab_size": 384,
    "d_model": 128,
    "d_kv": 32,
    "num_heads": 4,
    "d_ff": 256,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
# Made before the first step: with a tenth of them the training learns the pictures by heart.
FIRST_PICTURES = {("wall", 16): 600, ("shapes", 16): 250, ("design", 16): 250, ("design", 32): 40, ("edit", 16): 60}
NUM_GLYPH_TOKENS = 96  # room for the quoted strings of a prompt, bytes and end marks


class PartedEmbedding(nn.Module):
    """The prior token embedding put together from what tokens share.

    A plain cell looks the same whatever distance it tells; those that name the ink add it to their colour. One that
    names a form has the form's colour in place of its own.
    """

    def __init__(self, centres: np.ndarray):
        super().__init__()
        self.glyph = nn.Parameter(torch.randn(NUM_TEXT_TOKENS, WIDTH) * 0.5)
        self.ink = nn.Parameter(torch.randn(len(COLORS), WIDTH) * 0.5)
        self.form_color = nn.Parameter(torch.randn(1, WIDTH) * 0.5)
        self.stencil = nn.Parameter(torch.randn(NUM_STENCILS, WIDTH) * 0.5)
        self.background = nn.Parameter(torch.randn(len(centres), WIDTH) * 0.1)
        self.color = nn.Parameter(torch.randn(centres.shape[1], WIDTH) * 0.3)
        self.unknown = nn.Parameter(torch.zeros(1, WIDTH))  # cells without a colour of their own
        said, color = torch.from_numpy(NAMES.message), torch.from_numpy(NAMES.color)
        background = torch.from_numpy(NAMES.background)
        self.register_buffer("ink_of", torch.where(said < len(COLORS), said, -1), persistent=False)
        self.register_buffer("form_color_of", torch.where(said >= FORM, 0, -1), persistent=False)
        stencil = torch.from_numpy(NAMES.step) - (STENCIL - LENGTH)
        self.register_buffer("stencil_of", stencil.clamp(min=-1), persistent=False)
        is_text = torch.from_numpy(NAMES.char) >= 0
        colored = torch.where(color >= 0, color, torch.where(background >= 0, background, len(centres)))
        colored = torch.where(self.stencil_of >= 0, len(centres) + 1, colored)  # else what is unknown would look cut
        self.register_buffer("shade_of", colored[~is_text], persistent=False)
        self.register_buffer("centres", torch.from_numpy(centres).float() * 2 - 1, persistent=False)

    def merged(self) -> torch.Tensor:
        """Return the table, float32 (VISION_VOCAB_SIZE, width)."""
        none = self.unknown.new_zeros(1, WIDTH)  # index -1: the token does not name it
        shades = torch.cat([self.background + self.centres @ self.color, self.unknown, none])[self.shade_of]
        table = torch.cat([self.glyph, shades])
        for name in ("ink", "form_color", "stencil"):
            table = table + torch.cat([getattr(self, name), none])[getattr(self, f"{name}_of")]
        return torch.cat([table, none.expand(VISION_VOCAB_SIZE - CODEBOOK_SIZE, -1)])


class Decoder(nn.Module):
    """The reference's transformer and a T5 glyph encoder, with a forward pass written for training."""

    def __init__(self, centres: np.ndarray):
        super().__init__()
        self.dit = GlmImageTransformer2DModel(**CONFIG)
        self.glyphs = T5EncoderModel(T5Config(**GLYPH_CONFIG))
        self.embedding = PartedEmbedding(centres)
        self.dit.prior_token_embedding.weight.requires_grad_(False)
        self.block = _block
        self._initialise()

    @torch.no_grad()
    def _initialise(self):
        for block in self.dit.transformer_blocks:
            nn.init.zeros_(block.norm1.linear.weight)
            nn.init.zeros_(block.norm1.linear.bias)
            for gate in (4, 5, 10, 11):  # gate_msa, c_gate_msa, gate_mlp, c_gate_mlp of the 12 chunks
                block.norm1.linear.bias[gate * WIDTH : (gate + 1) * WIDTH] = 0.5
        nn.init.zeros_(self.dit.norm_out.linear.weight)
        nn.init.zeros_(self.dit.norm_out.linear.bias)
        nn.init.zeros_(self.dit.proj_out.weight)
        nn.init.zeros_(self.dit.proj_out.bias)
        steps = [[(0, -1), (-1, 0), (0, 1)], [(1, 0), (0, -2), None]]
        for block, block_steps in zip(self.dit.transformer_blocks, steps, strict=False):
            for head, step in enumerate(block_steps):
                if step is not None:
                    self._look(block.attn1, head, step)

    @staticmethod
    def _look(attention, head: int, step: tuple[int, int]) -> None:
        """Let a head start as attention to the token `step` (rows, columns) away: a constant query and key."""
        quarter = HEAD_DIM // 4
        frequencies = 10000.0 ** (-torch.arange(quarter).float() / quarter)
        angles = torch.cat([frequencies * step[0], frequencies * step[1]])
        # Only the highest frequencies tell neighbours apart; signs alternate because the norm takes the mean away.
        amplitude = torch.where(torch.arange(quarter) < 6, 1.0, 0.1) * (-1.0) ** torch.arange(quarter)
        amplitude = torch.cat([amplitude, amplitude])
        rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        attention.to_q.weight[rows] *= 0.2
        attention.to_k.weight[rows] *= 0.2
        attention.to_q.bias[rows] = torch.cat([amplitude * angles.cos(), amplitude * angles.sin()])
        attention.to_k.bias[rows] = torch.cat([amplitude, torch.zeros_like(amplitude)])

    def encode_glyphs(self, ids: torch.Tensor, owner: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode strings (N, L) each on its own; join those of a picture: embeds (B, T, E) and mask (B, T).

        Args:
            ids: byte ids, 0 beyond the end of a string and where the reference puts its leading pad.
            owner: (N, L) picture each id belongs to, -1 where there is none.
            batch: number of pictures.
        """
        valid = owner >= 0
        states = self.glyphs(ids, attention_mask=valid.long()).last_hidden_state
        states, owner = states[valid], owner[valid]  # picture by picture
        counts = owner.bincount(minlength=batch)
        place = torch.arange(len(owner), device=ids.device) - (counts.cumsum(0) - counts)[owner]
        embeds = states.new_zeros(batch, NUM_GLYPH_TOKENS + 1, states.shape[-1])  # the last: what finds no room
        embeds = embeds.index_put((owner, place.clamp(max=NUM_GLYPH_TOKENS)), states)
        mask = torch.arange(NUM_GLYPH_TOKENS, device=ids.device) < counts[:, None]
        return embeds[:, :NUM_GLYPH_TOKENS], mask

    def forward(
        self, noisy, glyph_embeds, glyph_mask, tokens, keep_prior, timestep, target_size, reference=None
    ) -> torch.Tensor:
        """Return the velocity (B, 16, h, w); tokens (B, h / 4, w / 4), keep_prior (B,) 0 or 1.

        reference: latents and tokens of a source picture of the same size, or None.
        """
        dit = self.dit
        cos, sin = (t.to(noisy.dtype) for t in dit.rope(noisy))
        x = self._patches(noisy, tokens, keep_prior)
        text = dit.glyph_projector(glyph_embeds)
        temb = dit.time_condition_embed(timestep, target_size, torch.zeros_like(target_size), x.dtype)
        bias, past = None, [None] * NUM_LAYERS
        if reference is not None:
            past = self._reference(reference[0].to(noisy.dtype), reference[1], target_size, cos, sin)
        if glyph_mask is not None:
            num_others = x.shape[1] * (1 if reference is None else 2)
            keys = [glyph_mask, glyph_mask.new_ones(len(x), num_others)]
            bias = torch.where(torch.cat(keys, dim=1), 0.0, -1e4)[:, None, None, :].to(x.dtype)
        for block, kept in zip(dit.transformer_blocks, past, strict=True):
            x, text, _, _ = self.block(block, x, text, temb, cos, sin, bias, text.shape[1], kept)
        x = dit.proj_out(dit.norm_out(x, temb))
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        x = x.view(len(x), rows, columns, -1, 2, 2)
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def _patches(self, latents, tokens, keep_prior):
        dit = self.dit
        x = dit.image_projector(latents)
        prior = F.embedding(tokens, self.embedding.merged()).to(x.dtype) * keep_prior[:, None, None, None]
        prior = dit.prior_projector(prior)  # a function of the token alone: projected before it is spread
        return x + prior.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)

    def _reference(self, latents, tokens, size, cos, sin):
        """Return every layer's keys and values of a source: run once, at time 0, without text."""
        time_ = size.new_zeros(len(latents))
        x = self._patches(latents, tokens, time_ + 1)
        temb = self.dit.time_condition_embed(time_, size, torch.zeros_like(size), x.dtype)
        kept, text = [], x[:, :0]
        for block in self.dit.transformer_blocks:
            x, text, keys, values = self.block(block, x, text, temb, cos, sin, None, 0, None)
            kept.append((keys, values))
        return kept


def _block(block, x, text, temb, cos, sin, bias, num_text, past):
    chunks = block.norm1.linear(temb)[:, None].chunk(12, dim=-1)
    shift, c_shift, scale, c_scale, gate, c_gate, shift2, c_shift2, scale2, c_scale2, gate2, c_gate2 = chunks
    norm = lambda h: F.layer_norm(h, (WIDTH,), eps=1e-5)  # noqa: E731
    joint = torch.cat([norm(text) * (1 + c_scale) + c_shift, norm(x) * (1 + scale) + shift], dim=1)
    attention = block.attn1
    split = lambda h: h.unflatten(2, (NUM_HEADS, HEAD_DIM)).transpose(1, 2)  # noqa: E731
    q, k, v = split(attention.to_q(joint)), split(attention.to_k(joint)), split(attention.to_v(joint))
    q, k = F.layer_norm(q, (HEAD_DIM,), eps=1e-5), F.layer_norm(k, (HEAD_DIM,), eps=1e-5)
    q, k, v = _rotate(q, cos, sin, num_text), _rotate(k, cos, sin, num_text), v.to(q.dtype)
    keys, values = (k, v) if past is None else (torch.cat([k, past[0]], 2), torch.cat([v, past[1]], 2))
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
    out = attention.to_out[0](out.transpose(1, 2).flatten(2))
    text, x = text + out[:, :num_text] * c_gate, x + out[:, num_text:] * gate
    x = x + block.ff(norm(x) * (1 + scale2) + shift2) * gate2
    text = text + block.ff(norm(text) * (1 + c_scale2) + c_shift2) * c_gate2
    return x, text, k, v


def _rotate(h, cos, sin, num_text):
    image = h[:, :, num_text:]
    first, second = image.chunk(2, dim=-1)
    image = image * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([h[:, :, :num_text], image], dim=2)


def glyph_batch(prompts: list[str], rng: random.Random, drop: float):
    """Return ids (N, L) and owner (N, L), numpy, of the quoted strings of prompts, padded as the reference does.

    drop: the share of pictures without their quoted texts.
    """
    rows = []
    for i, prompt in enumerate(prompts):
        texts = [""] if rng.random() < drop else get_glyph_texts(prompt) or [""]
        lead = [0] * ((len(texts) + 1) % 2)
        rows += [(i, [*lead, *(b + 3 for b in text.encode()), 1]) for text in texts]
    length = max(len(ids) for _, ids in rows)
    ids, owner = np.zeros((len(rows), length), np.int64), np.full((len(rows), length), -1)
    for row, (i, values) in enumerate(rows):
        ids[row, : len(values)], owner[row, : len(values)] = values, i
    return ids, owner


def noisy_batch(latents, rng: torch.Generator, mu: torch.Tensor, progress: float):
    """Mix latents with noise: (noisy, velocity, timestep); mu (B,) is the schedule's shift.

    What a token means is learnt where there is most noise, clean areas where there is little: u is the larger of two
    uniforms in the first third of the training and for a third of the pictures later, else uniform.
    """
    batch, device = len(latents), latents.device
    draws = torch.rand(3, batch, generator=rng, device=device)
    early = draws[2] < (1.0 if progress < 0.35 else 0.33)
    u = torch.where(early, draws[:2].amax(0), draws[0])
    u = (u * 1000).ceil().clamp(1, 1000) / 1000
    sigma = (mu * u / (mu * u + 1 - u)).view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=rng, device=device)
    return (1 - sigma) * latents + sigma * noise, noise - latents, u * 1000 - 1


def shift_of(size: torch.Tensor) -> torch.Tensor:
    """Return mu (B,), the schedule's shift, of picture sizes (B, 2) in px."""
    return 0.25 + 0.75 * size.prod(1).sqrt() / 256


@dataclass(frozen=True)
class Batch:
    """What one step sees; glyphs is None for walls, which no prompt asks for."""

    noisy: torch.Tensor
    velocity: torch.Tensor
    tokens: torch.Tensor
    keep_prior: torch.Tensor
    timestep: torch.Tensor
    target_size: torch.Tensor
    reference: tuple[torch.Tensor, torch.Tensor] | None
    glyphs: tuple[torch.Tensor, torch.Tensor] | None


@dataclass(frozen=True)
class Crops:
    """Crops of what the stores hold, deterministic by number; latents (P, B, 16, h, w) and tokens (P, B, h/4, w/4)."""

    stores: dict[tuple[str, int], LatentStore]
    scale: int

    def __call__(self, number: int):
        """Return crop, latents, tokens, sizes of the pictures they come from (B, 2) in px, and ids of their texts."""
        rng = random.Random(number)
        crop = rng.choices(MIX, [m.share for m in MIX])[0]
        store, size = self.stores[crop.kind, crop.store_cells], crop.batch * self.scale
        latents, tokens, numbers = store.crops(rng, size, crop.rows, crop.columns)
        if crop.kind in WALLS:
            width, height = rng.choices([s for s, _ in PICTURE_SIZES], [w for _, w in PICTURE_SIZES])[0]
            return crop, latents, tokens, np.float32([[height, width]] * size), None
        glyphs = glyph_batch([store.drawer.prompt(n) for n in numbers], rng, drop=0.15)
        sizes = np.float32([store.drawer.grid(n) for n in numbers]) * 32
        return crop, latents, tokens, sizes, glyphs


def add_noise(drawn, noise_rng: torch.Generator, progress: float) -> Batch:
    """Bring crops to the device with the noise they get; one prior in ten is left out, and with it any source."""
    crop, latents, tokens, target_size, glyphs = drawn
    latents, tokens, target_size = (torch.from_numpy(a).to(DEVICE) for a in (latents, tokens, target_size))
    latents, tokens = latents.float(), tokens.long()
    noisy, velocity, timestep = noisy_batch(latents[0], noise_rng, shift_of(target_size), progress)
    share = torch.rand(tokens.shape[1] if crop.kind != "edit" else 1, generator=noise_rng, device=DEVICE)
    keep_prior = (share > 0.1).float().expand(tokens.shape[1])
    reference = (latents[1], tokens[1]) if crop.kind == "edit" and keep_prior[0] else None
    glyphs = glyphs and tuple(torch.from_numpy(a).to(DEVICE) for a in glyphs)
    return Batch(noisy, velocity, tokens[0], keep_prior, timestep, target_size, reference, glyphs)


def predict(decoder: Decoder, batch: Batch) -> torch.Tensor:
    """Return the velocity (B, 16, h, w), float32."""
    size = len(batch.tokens)
    with autocast():
        if batch.glyphs is None:
            states = decoder.glyphs(torch.ones(1, 1, dtype=torch.long, device=DEVICE)).last_hidden_state
            embeds, mask = states.expand(size, -1, -1), None
        else:
            embeds, mask = decoder.encode_glyphs(*batch.glyphs, size)
        noisy, tokens, keep_prior = batch.noisy.to(DTYPE), batch.tokens, batch.keep_prior
        out = decoder(noisy, embeds, mask, tokens, keep_prior, batch.timestep, batch.target_size, batch.reference)
    return out.float()


def spread(is_text: torch.Tensor) -> torch.Tensor:
    """Spread a mask of cells (B, h, w) to latents (B, 1, 4h, 4w)."""
    return is_text.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]


@torch.no_grad()
def validate(decoder: Decoder, store: LatentStore, num: int = 6) -> dict[str, float]:
    """Measure the velocity error on text cells of held-out designs at u = .99, .9, .7, .4."""
    rng = torch.Generator().manual_seed(1)
    latents = torch.from_numpy(store.latents[:num, 0].astype(np.float32))
    tokens = torch.from_numpy(store.tokens[:num, 0].astype(np.int64)).to(DEVICE)
    text = spread(tokens < NUM_TEXT_TOKENS).expand_as(latents)
    size = torch.tensor([store.drawer.grid(i) for i in range(num)]).float() * 32
    noise = torch.randn(latents.shape, generator=rng)
    velocity, result = (noise - latents).to(DEVICE), {}
    for u in (0.99, 0.9, 0.7, 0.4):
        sigma = (shift_of(size) * u / (shift_of(size) * u + 1 - u)).view(-1, 1, 1, 1)
        noisy, time_ = ((1 - sigma) * latents + sigma * noise).to(DEVICE), torch.full((num,), u * 1000 - 1)
        glyphs = glyph_batch([store.drawer.prompt(i) for i in range(num)], random.Random(0), 0.0)
        ids, owner = (torch.from_numpy(a).to(DEVICE) for a in glyphs)
        ones, time_ = torch.ones(num, device=DEVICE), time_.to(DEVICE)
        batch = Batch(noisy, velocity, tokens, ones, time_, size.to(DEVICE), None, (ids, owner))
        result[f"text_{u}"] = float((predict(decoder, batch) - velocity).square()[text].mean())
    return result


def main() -> None:
    """Train until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=360)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=int, default=1, help="larger batches and more pictures, for a GPU")
    parser.add_argument(
        "--processes", type=int, default=0, help="that draw: all pictures beforehand, then crops; 0: a few, then more"
    )
    parser.add_argument("--pictures", type=int, help="begin with at most so many of a kind, for a dry run")
    parser.add_argument("--name", default="decoder")
    parser.add_argument("--from", dest="source", type=Path, help="weights to begin with, as warm_start.py writes them")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words, held_out = load_words()
    codebook = load_codebook(CODEBOOK, words)
    vae = AutoencoderKL.from_pretrained(RUNS / "vae").eval().requires_grad_(False).to(DEVICE)
    stores = {key: LatentStore(Drawer(*key, codebook, words), RUNS, vae) for key in CAPACITY}
    check = LatentStore(Drawer("design", 16, codebook, held_out), Path(tempfile.mkdtemp()), vae)
    check.grow_to(6)
    decoder = Decoder(codebook.centres)
    if args.source:
        decoder.load_state_dict(torch.load(args.source, weights_only=True))
    decoder.to(DEVICE)
    average = Average(decoder, 0.998)
    matrices, _ = split_parameters(decoder.dit.transformer_blocks, ("attn1", "ff"))
    ids = {id(p) for p in matrices}
    rest = [p for p in decoder.parameters() if p.requires_grad and id(p) not in ids]
    optimizers = [Muon(matrices, lr=0.01, weight_decay=0.01), torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98))]
    run = Run(args.name, args.minutes, {"decoder": decoder, "average": average}, optimizers)
    for key, least in FIRST_PICTURES.items():
        wanted = stores[key].capacity if args.processes else least * args.scale
        stores[key].grow_to(min(wanted, args.pictures or wanted), args.processes)
    if not args.eager:  # one block, reused by all: the whole network takes minutes to compile for each shape
        decoder.block = compiled(_block)
    rng, noise_rng = random.Random(run.num_steps), torch.Generator(DEVICE).manual_seed(run.num_steps)
    crops = in_processes(Crops(stores, args.scale), itertools.count(run.num_steps), args.processes)
    recent: dict[str, torch.Tensor] = {}
    for progress, drawn in zip(run.steps(), crops, strict=False):
        if run.num_steps % 3 == 0 and not args.processes:
            grown = stores[rng.choices(list(CAPACITY), [0.28, 0.22, 0.28, 0.1, 0.12])[0]]
            if len(grown) < grown.capacity or run.num_steps % 12 == 0:
                grown.grow()
        batch = add_noise(drawn, noise_rng, progress)
        out = predict(decoder, batch)
        weight = torch.where(spread(batch.tokens < NUM_TEXT_TOKENS), 1.0, 0.4 if progress < 0.35 else 0.7)
        loss = ((out - batch.velocity).square() * weight).mean() / weight.mean()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(decoder)
        run.num_samples += len(batch.tokens)
        name = f"{drawn[0].kind}_{drawn[0].rows}x{drawn[0].columns}"
        # not read before they are logged: a GPU would wait for it at every step
        recent[name] = loss.detach() if name not in recent else recent[name].lerp(loss.detach(), 0.05)
        if run.num_steps % (20 * args.scale) == 0:
            run.log(**{k: v.item() for k, v in recent.items()}, made=sum(map(len, stores.values())))
        if run.num_steps % (200 * args.scale) == 100:
            run.log(**validate(decoder, check))


if __name__ == "__main__":
    main()
