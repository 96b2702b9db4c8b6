"""Train nano's decoder: prior tokens (and the quoted text) to VAE latents.

Most steps see 128 px crops of walls of type, which hold nothing but glyphs; the rest whole designs. The four 16 px
tokens of a cell get the same prior embedding, so a token must find out from its neighbours which quarter of the
cell it is: wide heads that start as "look left, right, up, down" give it that at once.
Expected on one CPU core: velocity error of text cells at u = .99 .6 after 10 minutes, .25 after 60.
"""

import argparse
import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, GlmImageTransformer2DModel
from layout import VISION_VOCAB_SIZE
from prompts import load_codebook, load_words, random_design, text_wall, write_prompt
from renderer import (
    CODEBOOK_SIZE,
    HEADLINE_STYLES,
    INKS,
    NUM_GLYPH_CLASSES,
    NUM_TEXT_TOKENS,
    BackgroundCodebook,
    draw,
    prior_tokens,
)
from torch import nn
from training import CODEBOOK, RUNS, Average, Muon, Run, split_parameters
from transformers import T5Config, T5EncoderModel
from vae import to_tensor

from glmimage.model.prompt import get_glyph_texts

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
NUM_GLYPH_TOKENS = 48  # room for the quoted strings of a prompt, bytes and end marks
LATENT_SIDE = 64  # latents of a 512 px picture
# (kind, crop side in 32 px cells, batch size, share of the steps): 2048 image tokens a step
MIX = (("wall", 4, 32, 0.72), ("wall", 8, 8, 0.08), ("design", 8, 8, 0.12), ("design", 16, 2, 0.08))


class PartedEmbedding(nn.Module):
    """The prior token embedding put together from what tokens share, so that all variants of a glyph learn together."""

    def __init__(self, centres: np.ndarray):
        super().__init__()
        num_variants = 2 * len(HEADLINE_STYLES) + 1
        self.glyph = nn.Parameter(torch.randn(NUM_GLYPH_CLASSES, WIDTH) * 0.5)
        self.variant = nn.Parameter(torch.randn(num_variants, WIDTH) * 0.2)
        self.ink = nn.Parameter(torch.randn(len(INKS), WIDTH) * 0.3)
        self.background = nn.Parameter(torch.randn(VISION_VOCAB_SIZE - NUM_TEXT_TOKENS, WIDTH) * 0.1)
        self.color = nn.Parameter(torch.randn(centres.shape[1], WIDTH) * 0.3)
        tokens = torch.arange(NUM_TEXT_TOKENS)
        self.register_buffer("glyph_of", tokens % NUM_GLYPH_CLASSES, persistent=False)
        self.register_buffer("variant_of", tokens % NUM_GLYPH_CLASSES % num_variants, persistent=False)
        self.register_buffer("ink_of", tokens // NUM_GLYPH_CLASSES, persistent=False)
        self.register_buffer("centres", torch.from_numpy(centres).float() * 2 - 1, persistent=False)

    def merged(self) -> torch.Tensor:
        """Return the table, float32 (VISION_VOCAB_SIZE, width)."""
        text = self.glyph[self.glyph_of] + self.variant[self.variant_of] + self.ink[self.ink_of]
        special = torch.zeros(VISION_VOCAB_SIZE - CODEBOOK_SIZE, WIDTH)
        return torch.cat([text, self.background + torch.cat([self.centres @ self.color, special])])


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
        embeds = states.new_zeros(batch, NUM_GLYPH_TOKENS, states.shape[-1])
        mask = torch.zeros(batch, NUM_GLYPH_TOKENS, dtype=torch.bool)
        for i in range(batch):
            mine = states[owner == i][:NUM_GLYPH_TOKENS]
            embeds[i, : len(mine)] = mine
            mask[i, : len(mine)] = True
        return embeds, mask

    def forward(self, noisy, glyph_embeds, glyph_mask, tokens, keep_prior, timestep, target_size):
        """Return the velocity (B, 16, h, w); tokens (B, h / 4, w / 4), keep_prior (B,) 0 or 1."""
        dit = self.dit
        cos, sin = (t.to(noisy.dtype) for t in dit.rope(noisy))
        x = dit.image_projector(noisy)
        prior = F.embedding(tokens, self.embedding.merged()).to(x.dtype) * keep_prior[:, None, None, None]
        prior = dit.prior_projector(prior)  # a function of the token alone: projected before it is spread
        prior = prior.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
        x = x + prior
        text = dit.glyph_projector(glyph_embeds)
        temb = dit.time_condition_embed(timestep, target_size, torch.zeros_like(target_size), x.dtype)
        num_text = text.shape[1]
        bias = None
        if glyph_mask is not None:
            keys = torch.cat([glyph_mask, glyph_mask.new_ones(len(x), x.shape[1])], dim=1)
            bias = torch.where(keys, 0.0, -1e4)[:, None, None, :].to(x.dtype)
        for block in dit.transformer_blocks:
            x, text = self.block(block, x, text, temb, cos, sin, bias, num_text)
        x = dit.proj_out(dit.norm_out(x, temb))
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        x = x.view(len(x), rows, columns, -1, 2, 2)
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _block(block, x, text, temb, cos, sin, bias, num_text):
    chunks = block.norm1.linear(temb)[:, None].chunk(12, dim=-1)
    shift, c_shift, scale, c_scale, gate, c_gate, shift2, c_shift2, scale2, c_scale2, gate2, c_gate2 = chunks
    norm = lambda h: F.layer_norm(h, (WIDTH,), eps=1e-5)  # noqa: E731
    joint = torch.cat([norm(text) * (1 + c_scale) + c_shift, norm(x) * (1 + scale) + shift], dim=1)
    attention = block.attn1
    split = lambda h: h.unflatten(2, (NUM_HEADS, HEAD_DIM)).transpose(1, 2)  # noqa: E731
    q, k, v = split(attention.to_q(joint)), split(attention.to_k(joint)), split(attention.to_v(joint))
    q, k = F.layer_norm(q, (HEAD_DIM,), eps=1e-5), F.layer_norm(k, (HEAD_DIM,), eps=1e-5)
    q, k = _rotate(q, cos, sin, num_text), _rotate(k, cos, sin, num_text)
    out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=bias)
    out = attention.to_out[0](out.transpose(1, 2).flatten(2))
    text, x = text + out[:, :num_text] * c_gate, x + out[:, num_text:] * gate
    x = x + block.ff(norm(x) * (1 + scale2) + shift2) * gate2
    text = text + block.ff(norm(text) * (1 + c_scale2) + c_shift2) * c_gate2
    return x, text


def _rotate(h, cos, sin, num_text):
    image = h[:, :, num_text:]
    first, second = image.chunk(2, dim=-1)
    image = image * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([h[:, :, :num_text], image], dim=2)


class LatentStore:
    """Encoded pictures on disk: it grows while training goes on, up to a capacity, then the oldest are replaced."""

    def __init__(self, kind: str, vae: AutoencoderKL, codebook: BackgroundCodebook, words: list[str], capacity: int):
        self.kind, self.vae, self.codebook, self.words, self.capacity = kind, vae, codebook, words, capacity
        shape = (capacity, 16, LATENT_SIDE, LATENT_SIDE)
        self.count_path = RUNS / f"latents_{kind}.count"
        path = RUNS / f"latents_{kind}.f16"
        mode = "r+" if path.exists() else "w+"
        self.latents = np.memmap(path, np.float16, mode, shape=shape)
        self.tokens = np.memmap(RUNS / f"tokens_{kind}.i16", np.int16, mode, shape=(capacity, 16, 16))
        self.num_made = int(self.count_path.read_text()) if self.count_path.exists() else 0
        self.mean = torch.tensor(vae.config.latents_mean).view(1, 16, 1, 1)
        self.std = torch.tensor(vae.config.latents_std).view(1, 16, 1, 1)

    def __len__(self) -> int:
        return min(self.num_made, self.capacity)

    def design(self, number: int):
        """Return the design of the picture made as number `number`."""
        return (text_wall if self.kind == "wall" else random_design)(20_000_000 + number, self.words)

    @torch.no_grad()
    def grow(self) -> None:
        """Draw and encode one more picture."""
        design = self.design(self.num_made)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = self.vae.encode(to_tensor([draw(design)])).latent_dist.mode()
        slot = self.num_made % self.capacity
        self.latents[slot] = ((latents.float() - self.mean) / self.std)[0].half().numpy()
        self.tokens[slot] = prior_tokens(design, self.codebook)
        self.num_made += 1
        if self.num_made % 20 == 0:
            self.count_path.write_text(str(self.num_made))

    def crops(self, rng: random.Random, batch: int, cells: int):
        """Draw crops: latents (B, 16, 4c, 4c), tokens (B, c, c), prompts of the pictures they come from."""
        latents, tokens, prompts = [], [], []
        for _ in range(batch):
            slot = rng.randrange(len(self))
            y, x = rng.randrange(17 - cells), rng.randrange(17 - cells)
            latents.append(self.latents[slot, :, 4 * y : 4 * (y + cells), 4 * x : 4 * (x + cells)].astype(np.float32))
            tokens.append(self.tokens[slot, y : y + cells, x : x + cells].astype(np.int64))
            if self.kind == "design":
                number = slot + (self.num_made - 1 - slot) // self.capacity * self.capacity
                prompts.append(write_prompt(self.design(number), 20_000_000 + number))
        return torch.from_numpy(np.stack(latents)), torch.from_numpy(np.stack(tokens)), prompts


def glyph_batch(prompts: list[str], rng: random.Random, drop: float):
    """Return ids (N, L) and owner (N, L) of the quoted strings of prompts, under the reference's padding rule."""
    rows = []
    for i, prompt in enumerate(prompts):
        texts = [""] if rng.random() < drop else get_glyph_texts(prompt) or [""]
        lead = [0] * ((len(texts) + 1) % 2)
        rows += [(i, [*lead, *(b + 3 for b in text.encode()), 1]) for text in texts]
    length = max(len(ids) for _, ids in rows)
    ids, owner = np.zeros((len(rows), length), np.int64), np.full((len(rows), length), -1)
    for row, (i, values) in enumerate(rows):
        ids[row, : len(values)], owner[row, : len(values)] = values, i
    return torch.from_numpy(ids), torch.from_numpy(owner)


def noisy_batch(latents, rng: torch.Generator, mu: float, progress: float):
    """Mix latents with noise: (noisy, velocity, timestep).

    What a token means is learnt where there is most noise, clean areas where there is little: u is the larger of two
    uniforms in the first third of the training and for a third of the pictures later, else uniform.
    """
    batch = len(latents)
    draws = torch.rand(2, batch, generator=rng)
    early = progress < 0.35 or torch.rand(batch, generator=rng) < 0.33
    u = torch.where(torch.as_tensor(early), draws.amax(0), draws[0])
    u = (u * 1000).ceil().clamp(1, 1000) / 1000
    sigma = (mu * u / (mu * u + 1 - u)).view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=rng)
    return (1 - sigma) * latents + sigma * noise, noise - latents, u * 1000 - 1


def shift_of(height: int, width: int) -> float:
    """Return mu, the schedule's shift at a picture size in px."""
    return 0.25 + 0.75 * math.sqrt(height * width / 256 / 256)


@torch.no_grad()
def validate(decoder: Decoder, store: LatentStore, num: int = 6) -> dict[str, float]:
    """Measure the velocity error on text cells of held-out designs at u = .99, .9, .7, .4."""
    rng = torch.Generator().manual_seed(1)
    latents = torch.from_numpy(store.latents[:num].astype(np.float32))
    tokens = torch.from_numpy(store.tokens[:num].astype(np.int64))
    text = (tokens < NUM_TEXT_TOKENS).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand_as(latents)
    prompts = [write_prompt(store.design(i), 20_000_000 + i) for i in range(num)]
    ids, owner = glyph_batch(prompts, random.Random(0), 0.0)
    noise = torch.randn(latents.shape, generator=rng)
    result = {}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeds, mask = decoder.encode_glyphs(ids, owner, num)
        for u in (0.99, 0.9, 0.7, 0.4):
            mu = shift_of(512, 512)
            sigma = mu * u / (mu * u + 1 - u)
            size = torch.full((num, 2), 512.0)
            time_ = torch.full((num,), u * 1000 - 1)
            noisy = (1 - sigma) * latents + sigma * noise
            out = decoder(noisy.bfloat16(), embeds, mask, tokens, torch.ones(num), time_, size)
            result[f"text_{u}"] = float((out.float() - (noise - latents)).square()[text].mean())
    return result


def main() -> None:
    """Train until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="decoder")
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words, held_out = load_words()
    codebook = load_codebook(CODEBOOK, words)
    vae = AutoencoderKL.from_pretrained(RUNS / "vae").eval().requires_grad_(False)
    stores = {
        "wall": LatentStore("wall", vae, codebook, words, 3000),
        "design": LatentStore("design", vae, codebook, words, 1500),
    }
    check = LatentStore("design", vae, codebook, held_out, 1500)
    check.latents, check.tokens = np.zeros((6, 16, 64, 64), np.float16), np.zeros((6, 16, 16), np.int16)
    check.capacity, check.num_made, check.count_path = 6, 0, RUNS / "latents_check.count"
    for _ in range(6):
        check.grow()
    decoder = Decoder(codebook.centres)
    average = Average(decoder, 0.998)
    matrices, rest = split_parameters(decoder.dit.transformer_blocks, ("attn1", "ff"))
    ids = {id(p) for p in matrices}
    rest = [p for p in decoder.parameters() if p.requires_grad and id(p) not in ids]
    optimizers = [Muon(matrices, lr=0.01, weight_decay=0.01), torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98))]
    run = Run(args.name, args.minutes, {"decoder": decoder, "average": average}, optimizers)
    for store, least in ((stores["wall"], 60), (stores["design"], 30)):
        while len(store) < least:
            store.grow()
    if not args.eager:  # one block, reused by all: the whole network takes minutes to compile for each shape
        decoder.block = torch.compile(_block, dynamic=False)
    rng, noise_rng = random.Random(run.num_steps), torch.Generator().manual_seed(run.num_steps)
    recent: dict[str, float] = {}
    started = time.monotonic()
    for progress in run.steps():
        if run.num_steps % 3 == 0 and (len(stores["wall"]) < 3000 or run.num_steps % 12 == 0):
            stores["design" if run.num_steps % 9 == 0 else "wall"].grow()
        kind, cells, batch, _share = rng.choices(MIX, [m[3] for m in MIX])[0]
        latents, tokens, prompts = stores[kind].crops(rng, batch, cells)
        side = 512 if rng.random() < 0.8 else rng.choice([576, 768, 1024])
        noisy, velocity, timestep = noisy_batch(latents, noise_rng, shift_of(side, side), progress)
        keep_prior = (torch.rand(batch, generator=noise_rng) > 0.1).float()
        target_size = torch.full((batch, 2), float(side))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if kind == "design":
                embeds, mask = decoder.encode_glyphs(*glyph_batch(prompts, rng, 0.15), batch)
            else:
                states = decoder.glyphs(torch.ones(1, 1, dtype=torch.long)).last_hidden_state
                embeds, mask = states.expand(batch, -1, -1), None
            out = decoder(noisy.bfloat16(), embeds, mask, tokens, keep_prior, timestep, target_size)
        is_text = (tokens < NUM_TEXT_TOKENS).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        weight = torch.where(is_text, 1.0, 0.4 if progress < 0.35 else 0.7)
        error = (out.float() - velocity).square()
        loss = (error * weight).mean() / weight.mean()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(decoder)
        run.num_samples += batch
        name = f"{kind}_{cells}"
        recent[name] = loss.item() if name not in recent else 0.95 * recent[name] + 0.05 * loss.item()
        if run.num_steps % 20 == 0:
            run.log(**recent, made=len(stores["wall"]), wall_s=time.monotonic() - started)
        if run.num_steps % 200 == 100:
            run.log(**validate(decoder, check))


if __name__ == "__main__":
    main()
