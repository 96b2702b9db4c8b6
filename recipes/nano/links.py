"""Measure each link of nano on the same held-out designs: drawing, VAE, decoder from true tokens, prior read back.

The designs are those of the recipe with held-out words, or, with --set, what the rows of a set of `eval` ask for, at
the size of --size.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from decoder import Decoder, glyph_batch, shift_of
from designs import Content, load_words, random_content, small_grid, typeset
from diffusers import AutoencoderKL
from layout import text_to_image_sequence
from PIL import Image
from prior import Prior
from prompts import write_prompt
from renderer import BackgroundCodebook, contrast, draw, prior_tokens
from scoring import edit_distance, score
from training import CODEBOOK, DTYPE, RUNS, autocast
from type_tokens import CHARS, CODEBOOK_SIZE, GLYPH_CELLS, NAMES, NUM_TEXT_TOKENS, PALETTE, PARTS, SPELLS
from vae import latents_scale, to_tensor

OF_PALETTE = {"turquoise": "cyan"}  # the sets' names that the palette does not have


def to_picture(decoded: torch.Tensor) -> np.ndarray:
    """Turn (1, 3, H, W) in -1..1 into uint8 (H, W, 3)."""
    return ((decoded[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


@torch.no_grad()
def paint_latents(decoder: Decoder, tokens: np.ndarray, prompt: str, seed: int, num_steps: int) -> torch.Tensor:
    """Denoise from true tokens (rows, columns), guidance 1.5: latents (1, 16, 4 * rows, 4 * columns), normalised."""
    (rows, columns), device = tokens.shape, next(decoder.parameters()).device
    x = torch.randn(1, 16, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(seed)).to(device)
    tokens_t = torch.from_numpy(tokens.astype(np.int64)).to(device)[None].expand(2, -1, -1)
    with autocast():
        glyphs = (torch.from_numpy(a).to(device) for a in glyph_batch([prompt, ""], random.Random(0), 0.0))
        embeds, mask = decoder.encode_glyphs(*glyphs, 2)
    timesteps = np.linspace(1000, 1, num_steps + 1)[:-1].astype(np.int64)
    u = timesteps / 1000
    size = torch.tensor([[32 * rows, 32 * columns]] * 2, device=device).float()
    mu = float(shift_of(size)[0])
    sigmas = [*(mu * u / (mu * u + 1 - u)), 0.0]
    for i, t in enumerate(timesteps):
        with autocast():
            both = decoder(
                x.expand(2, -1, -1, -1).to(DTYPE),
                embeds,
                mask,
                tokens_t,
                torch.tensor([1.0, 0.0], device=device),
                torch.full((2,), float(t - 1), device=device),
                size,
            ).float()
        velocity = both[1:] + 1.5 * (both[:1] - both[1:])
        x = x + (sigmas[i + 1] - sigmas[i]) * velocity
    return x.cpu()


@torch.no_grad()
def paint(decoder: Decoder, vae: AutoencoderKL, tokens: np.ndarray, prompt: str, seed: int, num_steps: int):
    """Denoise from true tokens and decode, uint8 (32 * rows, 32 * columns, 3)."""
    mean, std = latents_scale(vae)
    return to_picture(vae.decode(paint_latents(decoder, tokens, prompt, seed, num_steps) * std + mean).sample)


@torch.no_grad()
def write_grids(
    prior: Prior, prompt: str, temperature: float, top_p: float, seed: int, grids: list[tuple[int, int]]
) -> list[np.ndarray]:
    """Write grids, small one first, int (rows, columns) each; temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(seed)
    sequence = text_to_image_sequence(prompt, [np.zeros(grid, np.int64) for grid in grids])
    ids, positions = torch.from_numpy(sequence.ids), torch.from_numpy(sequence.positions)[None]
    start = int(sequence.is_target.argmax())
    embeddings = torch.cat([prior.codes.merged(), prior.text])
    table = prior.head.merged()[:CODEBOOK_SIZE]
    caches: list = [None] * len(prior.layers)
    x_ids, first = ids[:start], 0
    for place in range(start, len(ids)):
        hidden = _forward_cached(prior, embeddings, x_ids[None], positions[:, :, first : first + len(x_ids)], caches)
        logits = hidden[0, -1].float() @ table.T
        token = int(logits.argmax())
        if temperature > 0:
            values, order = (logits / temperature).softmax(0).sort(descending=True)
            values[values.cumsum(0) - values > top_p] = 0
            token = int(order[torch.multinomial(values, 1, generator=generator)])
        ids[place] = token
        first += len(x_ids)
        x_ids = ids[place : place + 1]
    written, result = ids[start:].numpy(), []
    for rows, columns in grids:
        result.append(written[: rows * columns].reshape(rows, columns))
        written = written[rows * columns :]
    return result


def _forward_cached(prior, embeddings, ids, positions, caches):
    import torch.nn.functional as F
    from prior import HEAD_DIM, rotate

    cos, sin = prior.rotary(positions)
    x = F.embedding(ids, embeddings)
    for i, layer in enumerate(prior.layers):
        attention, h = layer.self_attn, layer.input_layernorm(x)
        split = lambda t, n: t.view(1, -1, n, HEAD_DIM).transpose(1, 2)  # noqa: E731
        q = rotate(split(attention.q_proj(h), attention.num_heads), cos, sin)
        k = rotate(split(attention.k_proj(h), attention.num_kv_heads), cos, sin)
        v = split(attention.v_proj(h), attention.num_kv_heads)
        if caches[i] is not None:
            k, v = torch.cat([caches[i][0], k], 2), torch.cat([caches[i][1], v], 2)
        is_first = caches[i] is None
        caches[i] = (k, v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=is_first, enable_gqa=True)
        x = x + layer.post_self_attn_layernorm(attention.o_proj(out.transpose(1, 2).reshape(1, x.shape[1], -1)))
        x = x + layer.post_mlp_layernorm(layer.mlp(layer.post_attention_layernorm(x)))
    return prior.norm(x)


def read_back(tokens: np.ndarray) -> list[str]:
    """Read the lines of type that a grid of tokens spells."""
    lines = []
    is_text = tokens < NUM_TEXT_TOKENS
    known = np.where(is_text, tokens, 0)
    for row in np.flatnonzero((is_text & SPELLS[known]).any(1)):
        letters, end, num_rows = "", 0, 1
        for column in range(tokens.shape[1]):
            # full stops and hyphens show only in the lower parts
            for r in range(row, min(row + num_rows, len(tokens))):
                part = PARTS[NAMES.part[known[r, column]]]
                if is_text[r, column] and part.column == 0 and part.row == r - row:
                    num_rows, step = GLYPH_CELLS[part.size]
                    letters += " " * (letters != "" and column > end) + CHARS[NAMES.char[tokens[r, column]]]
                    end = column + step
                    break
        lines.append(letters)
    return lines


def content_of(row: dict) -> Content:
    """Return what a row of a set asks for, but for its size; what it leaves open is as the recipe has it."""
    asked, texts = row["asked"], row["texts"]
    named = [OF_PALETTE.get(name, name) for name in asked["gradient"] or [asked["background"]] if name]
    color, bottom = [*(named or [random.Random(row["seed"]).choice(list(PALETTE))]), ""][:2]
    grounds = [PALETTE[name] for name in (color, bottom) if name]
    ink = max(("black", "white"), key=lambda name: min(contrast(PALETTE[name], ground) for ground in grounds))
    headline, subtitle, footer = [*texts, "", ""][:3]
    place, second_place, third_place = [*((p or "") for p in asked["positions"]), "", ""][:3]
    return Content(
        headline,
        subtitle,
        footer,
        style=(asked["style"] or "sans") + (" regular" if asked["weight"] == "regular" else ""),
        ink=OF_PALETTE.get(asked["text_color"], asked["text_color"]) or ink,
        place=place or ("top" if second_place else "middle"),
        second_place=second_place,
        third_place=third_place,
        align=asked["alignment"] or "center",
        color=color,
        bottom_color=bottom,
    )


def main() -> None:
    """Print the measures as JSON and write a sheet of pictures: drawing, VAE, decoder, a column a design."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--small-only", action="store_true", help="write the small grid alone")
    parser.add_argument("--parts", default="draw,vae,decoder,prior")
    parser.add_argument("--set", choices=("held_out", "freely_written"), help="its first rows instead of designs")
    args = parser.parse_args()
    from pack import load_run

    _, words = load_words()
    codebook = BackgroundCodebook.load(CODEBOOK)
    parts, grid = args.parts.split(","), (args.size[1] // 32, args.size[0] // 32)
    if args.set:
        path = Path(__file__).parent / f"eval/{args.set}.json"
        asked_for = json.loads(path.read_text(encoding="utf-8"))[: args.num]
        contents, prompts = [content_of(row) for row in asked_for], [row["prompt"] for row in asked_for]
    else:
        seeds = range(81_000_000, 81_000_000 + args.num)
        contents = [random_content(seed, words) for seed in seeds]
        prompts = [write_prompt(content, seed, words) for content, seed in zip(contents, seeds, strict=True)]
    designs = [typeset(content, *grid) for content in contents]
    texts = [[line.text for line in d.lines] for d in designs]
    rows: dict[str, list[np.ndarray]] = {"draw": [draw(d) for d in designs]}
    if "vae" in parts or "decoder" in parts:
        vae = AutoencoderKL.from_pretrained(RUNS / "vae").eval().requires_grad_(False)
    if "vae" in parts:
        encode = lambda p: vae.decode(vae.encode(to_tensor([p])).latent_dist.mode()).sample  # noqa: E731
        rows["vae"] = [to_picture(encode(p)) for p in rows["draw"]]
    if "decoder" in parts:
        decoder = load_run("decoder", Decoder(codebook.centres), "decoder", not args.raw)
        rows["decoder"] = [
            paint(decoder, vae, prior_tokens(d, codebook), p, i, args.steps)
            for i, (d, p) in enumerate(zip(designs, prompts, strict=True))
        ]
    result: dict[str, object] = {}
    for name, pictures in rows.items():
        scores = [score(p, t) for p, t in zip(pictures, texts, strict=True)]
        result[name] = _mean([hit for hits, _ in scores for hit in hits], [v for _, values in scores for v in values])
    if "prior" in parts:
        prior = load_run("prior", Prior(codebook.centres), "prior", not args.raw)
        small, large = ([], []), ([], [])
        for number, (content, prompt) in enumerate(zip(contents, prompts, strict=True)):
            grids = [small_grid(*grid), grid][: 1 if args.small_only else 2]
            written = write_grids(prior, prompt, args.temperature, args.top_p, number, grids)
            for (found, similar), tokens in zip((small, large), written, strict=False):
                lines = read_back(tokens)
                wanted = [line.text for line in typeset(content, *grid).lines]
                print(wanted, "->", lines, flush=True)
                read = [w for line in lines for w in line.split()]
                for word in " ".join(wanted).split():
                    distances = [1 - edit_distance(word, r) / max(len(word), len(r)) for r in read]
                    similar.append(max(distances, default=0.0))
                    found.append(word in read)
                    if word in read:
                        read.remove(word)  # one that is asked for twice is to be there twice
        result |= {"prior small grid": _mean(*small)} | ({} if args.small_only else {"prior": _mean(*large)})
    sheet = np.concatenate([np.concatenate(pictures, axis=1) for pictures in rows.values()], axis=0)
    Image.fromarray(sheet).save(RUNS / "links.png")
    print(json.dumps(result))


def _mean(found: list[bool], similar: list[float]) -> dict[str, float]:
    return {"word_accuracy": round(float(np.mean(found)), 3), "ned": round(float(np.mean(similar)), 3)}


if __name__ == "__main__":
    main()
