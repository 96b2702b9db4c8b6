"""Refine the VAE's decoder on latents as nano's decoder paints them; its encoder, and so the latents, stay as they are.

What is painted is .2 of the latents' std off where nothing is, more on type, and seven tenths of it are the same for
every seed (guidance among them). So pictures are painted from their own tokens first, and learnt beside drawn ones
whose latents are put off as far by chance. Expected on one CPU core with AMX: 25.2 dB of latents that are put off by
chance to 29.9 in 22 minutes.
"""

import argparse
import hashlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from decoder import Decoder
from designs import load_codebook, load_words, random_content, shape_wall, text_wall, typeset
from diffusers import AutoencoderKL
from links import paint_latents
from pack import load_run
from prompts import write_prompt
from renderer import Design, draw, prior_tokens
from torch import nn
from training import CODEBOOK, DEVICE, RUNS, Average, Run, autocast, in_processes
from vae import encode, latents_scale, random_crop, reconstruction_loss, to_tensor, validate

SIZE, LATENT = 512, 8  # px a side of what is painted, and of what one latent pixel stands for
FIRST_SEED = 60_000_000  # of pictures that the decoder was not trained on
CHECKED = 0.025  # of the painted pictures, at least one
STROKES = 3.0  # what pixels of type and shapes weigh


def random_picture(seed: int, words: list[str]) -> tuple[Design, str]:
    """Return a design of SIZE px and its prompt: half of them posters, else walls of type and of shapes."""
    cells = SIZE // 32
    if seed % 2:
        content = random_content(seed, words)
        return typeset(content, cells, cells), write_prompt(content, seed, words)
    return text_wall(seed, words, cells, cells) if seed % 4 else shape_wall(seed, cells, cells), ""


class Painted:
    """Pictures and what nano's decoder paints from their tokens, on disk; goes on where it stopped.

    latents: float16 (N, 16, SIZE / LATENT, SIZE / LATENT). pictures: uint8 (N, SIZE, SIZE, 3).
    """

    def __init__(self, folder: Path, capacity: int):
        folder.mkdir(parents=True, exist_ok=True)
        side, self.count_path = SIZE // LATENT, folder / "count"
        self.latents = _mapped(folder / "latents.f16", np.float16, (capacity, 16, side, side))
        self.pictures = _mapped(folder / "pictures.u8", np.uint8, (capacity, SIZE, SIZE, 3))

    def __len__(self) -> int:
        return min(int(self.count_path.read_text()), len(self.latents)) if self.count_path.exists() else 0

    @property
    def num_checked(self) -> int:
        """How many of the first pictures are not learnt, but checked."""
        return max(1, int(CHECKED * len(self)))

    def grow(self, decoder: Decoder, vae: AutoencoderKL, words: list[str], num_steps: int) -> None:
        """Paint all that are missing."""
        mean, std = latents_scale(vae)
        codebook = load_codebook(CODEBOOK, words)
        for number in range(len(self), len(self.latents)):
            design, prompt = random_picture(FIRST_SEED + number, words)
            tokens = prior_tokens(design, codebook)
            self.pictures[number] = draw(design)
            self.latents[number] = (paint_latents(decoder, tokens, prompt, number, num_steps) * std + mean)[0]
            self.count_path.write_text(str(number + 1))
            if number % 20 == 19:
                print(f"painted {number + 1} of {len(self.latents)}", flush=True)

    def draw(self, rng: random.Random, size: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return crops of size px: latents (number, 16, h, w) and pictures (number, 3, size, size) in -1..1."""
        latents, pictures = [], []
        for _ in range(number):
            which = rng.randrange(self.num_checked, len(self))
            y, x = (rng.randrange((SIZE - size) // LATENT + 1) for _ in range(2))
            latents.append(self.latents[which, :, y : y + size // LATENT, x : x + size // LATENT])
            y, x = y * LATENT, x * LATENT
            pictures.append(self.pictures[which, y : y + size, x : x + size])
        return torch.from_numpy(np.stack(latents)).float(), to_tensor(pictures)


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    if not path.exists() or path.stat().st_size != np.dtype(dtype).itemsize * np.prod(shape):
        return np.memmap(path, dtype, "w+", shape=shape)
    return np.memmap(path, dtype, "r+", shape=shape)


def put_off(latents: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return latents (N, 16, H, W) off by a tenth to three tenths of std, by chance, smooth or not."""
    white = torch.randn_like(latents)
    smooth = F.avg_pool2d(F.pad(torch.randn_like(latents), (1, 1, 1, 1), mode="replicate"), 3, 1) * 3
    share = torch.rand(len(latents), 1, 1, 1, device=latents.device)
    noise = share.sqrt() * white + (1 - share).sqrt() * smooth
    amount = 0.1 + 0.2 * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + amount * std * noise


def batches(first: int) -> Iterator[tuple[random.Random, int, int]]:
    """Yield what each step sees: (random numbers, px a side, how many crops).

    The norms see the whole crop, and a picture is mostly ground: what saw only 64 px of type turned yellow pale.
    """
    for step in itertools.count(first):
        rng = random.Random(step)
        yield rng, *rng.choice([(64, 12), (128, 4), (256, 1), (256, 1)])


class DrawBatch:
    """Draws the crops of a step, uint8 (N, size, size, 3); can be sent to another process."""

    def __init__(self, words: list[str]):
        self.words = words

    def __call__(self, batch: tuple[random.Random, int, int]) -> np.ndarray:
        rng, size, number = batch
        share_of_type = {64: 0.85, 128: 0.5, 256: 0.3}[size]
        return np.stack([random_crop(rng, self.words, size, share_of_type) for _ in range(number)])


def main() -> None:
    """Paint what is missing, train until the budget is spent, then save to runs/vae."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0, help="that draw the pictures; 0: the training's own")
    parser.add_argument("--pictures", type=int, default=300, help="to paint; 0: learn from drawn ones alone")
    parser.add_argument("--steps", type=int, default=10, help="a painted picture")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words, held_out = load_words()
    vae = AutoencoderKL.from_pretrained(RUNS / "vae")
    painted, name = None, "drawn"
    if args.pictures:
        name = hashlib.sha256((RUNS / "decoder.pt").read_bytes()).hexdigest()[:12]
        painted = Painted(RUNS / f"painted_{name}_{args.pictures}", args.pictures)
        decoder = load_run("decoder", Decoder(load_codebook(CODEBOOK, words).centres), "decoder", averaged=True)
        painted.grow(decoder.to(DEVICE), vae, words, args.steps)
    vae.to(DEVICE)
    vae.encoder.requires_grad_(False)
    learnt = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(learnt, lr=5e-4, betas=(0.9, 0.98), weight_decay=1e-4)
    average = Average(vae, 0.999)
    run = Run(f"refine_{name}", args.minutes, {"vae": vae, "average": average}, [optimizer])
    std = latents_scale(vae)[1].to(DEVICE)
    check = to_tensor([random_crop(random.Random(80_000_000 + i), held_out, 256, 0.5) for i in range(8)])
    with torch.random.fork_rng():
        checks = {"psnr": ([put_off(z, std) for z in encode(vae, check)], check)}
    if painted:
        latents = torch.from_numpy(painted.latents[: painted.num_checked].astype(np.float32))
        checks["psnr_painted"] = (list(latents[:, None]), to_tensor(list(painted.pictures[: painted.num_checked])))
    drawn = in_processes(DrawBatch(words), batches(run.num_steps), args.processes)
    rng = random.Random(run.num_steps)
    for _ in run.steps(warmup=30):
        if painted and rng.random() < 0.5:
            _, size, number = next(batches(rng.getrandbits(40)))
            latents, pictures = (t.to(DEVICE) for t in painted.draw(rng, size, number))
        else:
            pictures = to_tensor(next(drawn)).to(DEVICE)
            with autocast(), torch.no_grad():
                latents = put_off(vae.encode(pictures).latent_dist.mode().float(), std)
        with autocast():
            decoded = vae.decode(latents).sample
        loss = reconstruction_loss(decoded.float(), pictures, STROKES)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        average.update(vae)
        run.num_samples += len(pictures)
        if run.num_steps % 200 == 0:
            run.log(loss=loss.item(), **{name: validate(vae, *what) for name, what in checks.items()})
    vae.load_state_dict(average.values)
    run.log(**{name: validate(vae, *what) for name, what in checks.items()})
    vae.save_pretrained(RUNS / "vae")


if __name__ == "__main__":
    main()
