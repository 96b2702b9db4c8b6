"""Refine the VAE's decoder on latents as nano's decoder paints them; its encoder, and so the latents, stay as they are.

Of what is painted a part is off for every seed in the same way (guidance among it). So pictures are painted from
their own tokens first, and learnt beside drawn ones whose latents are noisy. Expected on one CPU core with AMX: 240
pictures painted in 8 minutes, then from 30.3 to 31.0 dB of what is painted in 15.
"""

import argparse
import hashlib
import itertools
import random
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
from type_tokens import PALETTE
from vae import encode, latents_scale, random_crop, reconstruction_loss, to_tensor, validate

PICTURE_SIDE, PX_PER_LATENT = 512, 8
FIRST_SEED = 60_000_000  # of pictures that the decoder was not trained on
NUM_CHECKED = 6  # of the painted pictures
STROKE_WEIGHT = 3.0  # of pixels of type and shapes
# Crops of a step: (px a side, how many, how many of the drawn ones show type). The norms see the whole crop, and a
# picture is mostly ground: what saw only 64 px of type turned yellow pale.
CROPS = ((64, 12, 0.85), (128, 4, 0.5), (256, 1, 0.3), (256, 1, 0.3))
LEAST_NOISE, MOST_NOISE = 0.04, 0.35  # in units of the latents' std


def random_picture(seed: int, words: list[str]) -> tuple[Design, str]:
    """Return a design of PICTURE_SIDE px and its prompt: half of them posters, else walls of type and of shapes."""
    cells = PICTURE_SIDE // 32
    if seed % 2:
        content = random_content(seed, words)
        return typeset(content, cells, cells), write_prompt(content, seed, words)
    if not seed % 4:
        return shape_wall(seed, cells, cells), ""
    # no token names a ground that is none of the palette's colours, nor the ink on it
    walls = (text_wall(seed + i * FIRST_SEED, words, cells, cells) for i in itertools.count())
    return next(wall for wall in walls if wall.top_color in PALETTE.values()), ""


class Painted:
    """Pictures and what nano's decoder paints from their tokens, on disk; goes on where it stopped.

    latents: float16 (N, 16, h, w). pictures: uint8 (N, PICTURE_SIDE, PICTURE_SIDE, 3). The first are for checking.
    """

    def __init__(self, folder: Path, capacity: int):
        folder.mkdir(parents=True, exist_ok=True)
        side, self.count_path = PICTURE_SIDE // PX_PER_LATENT, folder / "count"
        self.latents = self._mapped(folder / "latents.f16", np.float16, (capacity, 16, side, side))
        self.pictures = self._mapped(folder / "pictures.u8", np.uint8, (capacity, PICTURE_SIDE, PICTURE_SIDE, 3))

    def _mapped(self, path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        if path.exists() and path.stat().st_size == np.dtype(dtype).itemsize * np.prod(shape):
            return np.memmap(path, dtype, "r+", shape=shape)
        self.count_path.unlink(missing_ok=True)
        return np.memmap(path, dtype, "w+", shape=shape)

    def __len__(self) -> int:
        return int(self.count_path.read_text()) if self.count_path.exists() else 0

    def grow(self, decoder: Decoder, vae: AutoencoderKL, words: list[str], num_steps: int) -> None:
        """Paint all that are missing."""
        mean, std = latents_scale(vae)
        codebook = load_codebook(CODEBOOK, words)
        for number in range(len(self), len(self.latents)):
            design, prompt = random_picture(FIRST_SEED + number, words)
            tokens = prior_tokens(design, codebook)
            self.pictures[number] = draw(design)
            self.latents[number] = (paint_latents(decoder, tokens, prompt, number, num_steps) * std + mean)[0]
            part = self.count_path.with_suffix(".part")
            part.write_text(str(number + 1))
            part.replace(self.count_path)
            if number % 20 == 19:
                print(f"painted {number + 1} of {len(self.latents)}", flush=True)

    def draw(self, rng: random.Random, size: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return crops of size px: latents (number, 16, h, w) and pictures (number, 3, size, size) in -1..1."""
        latents, pictures = [], []
        for _ in range(number):
            which = rng.randrange(NUM_CHECKED, len(self.latents))
            y, x = (rng.randrange((PICTURE_SIDE - size) // PX_PER_LATENT + 1) for _ in range(2))
            latents.append(self.latents[which, :, y : y + size // PX_PER_LATENT, x : x + size // PX_PER_LATENT])
            y, x = y * PX_PER_LATENT, x * PX_PER_LATENT
            pictures.append(self.pictures[which, y : y + size, x : x + size])
        return torch.from_numpy(np.stack(latents)).float(), to_tensor(pictures)


def noisy_latents(latents: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return latents (N, 16, H, W) with noise, white or smooth, of LEAST_NOISE to MOST_NOISE of std."""
    num, channels, height, width = latents.shape
    white = torch.randn_like(latents)
    smooth = F.avg_pool2d(torch.randn(num, channels, height + 2, width + 2, device=latents.device), 3, 1) * 3
    share = torch.rand(num, 1, 1, 1, device=latents.device)
    noise = share.sqrt() * white + (1 - share).sqrt() * smooth
    amount = LEAST_NOISE + (MOST_NOISE - LEAST_NOISE) * torch.rand(num, 1, 1, 1, device=latents.device)
    return latents + amount * std * noise


class DrawCrops:
    """Draws the crops of a step, uint8 (N, size, size, 3); can be sent to another process."""

    def __init__(self, words: list[str]):
        self.words = words

    def __call__(self, step: int) -> np.ndarray:
        rng = random.Random(step)
        size, number, share_of_type = rng.choice(CROPS)
        return np.stack([random_crop(rng, self.words, size, share_of_type) for _ in range(number)])


def main() -> None:
    """Paint what is missing, train until the budget is spent, then save to runs/vae."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0, help="that draw the pictures; 0: the training's own")
    parser.add_argument("--pictures", type=int, default=300, help="to paint")
    parser.add_argument("--steps", type=int, default=10, help="a painted picture")
    args = parser.parse_args()
    if args.pictures <= NUM_CHECKED:
        parser.error(f"--pictures: {NUM_CHECKED} are for checking, so more are needed")
    torch.set_num_threads(args.threads)
    words, held_out = load_words()
    vae = AutoencoderKL.from_pretrained(RUNS / "vae")
    depends_on = [(RUNS / "decoder.pt").read_bytes(), str((vae.config.latents_std, args.pictures, args.steps)).encode()]
    name = hashlib.sha256(b"".join(depends_on)).hexdigest()[:12]
    decoder = load_run("decoder", Decoder(load_codebook(CODEBOOK, words).centres), "decoder", averaged=True)
    painted = Painted(RUNS / f"painted_{name}", args.pictures)
    painted.grow(decoder.to(DEVICE), vae, words, args.steps)
    vae.to(DEVICE).encoder.requires_grad_(False)
    learnt = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(learnt, lr=5e-4, betas=(0.9, 0.98), weight_decay=1e-4)
    average = Average(vae.decoder, 0.999)
    run = Run(f"refine_{name}", args.minutes, {"vae_decoder": vae.decoder, "average": average}, [optimizer])
    std = latents_scale(vae)[1].to(DEVICE)
    check = to_tensor([random_crop(random.Random(80_000_000 + i), held_out, 256, 0.5) for i in range(8)])
    torch.manual_seed(0)
    checked = torch.from_numpy(painted.latents[:NUM_CHECKED].astype(np.float32))[:, None]
    checks = {
        "psnr": ([noisy_latents(z, std) for z in encode(vae, check)], check),
        "psnr_painted": (list(checked), to_tensor(list(painted.pictures[:NUM_CHECKED]))),
    }
    torch.manual_seed(run.num_steps)
    rng = random.Random(run.num_steps)
    drawn = in_processes(DrawCrops(words), itertools.count(run.num_steps), args.processes)
    for _ in run.steps(warmup=30):
        if rng.random() < 0.5:
            size, number, _ = rng.choice(CROPS)
            latents, pictures = (t.to(DEVICE) for t in painted.draw(rng, size, number))
        else:
            pictures = to_tensor(next(drawn)).to(DEVICE)
            with autocast(), torch.no_grad():
                latents = noisy_latents(vae.encode(pictures).latent_dist.mode().float(), std)
        with autocast():
            decoded = vae.decode(latents).sample
        loss = reconstruction_loss(decoded.float(), pictures, STROKE_WEIGHT)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        average.update(vae.decoder)
        run.num_samples += len(pictures)
        if run.num_steps % 200 == 0:
            run.log(loss=loss.item(), **{key: validate(vae, *what) for key, what in checks.items()})
    vae.decoder.load_state_dict(average.values)
    run.log(**{key: validate(vae, *what) for key, what in checks.items()})
    vae.save_pretrained(RUNS / "vae")


if __name__ == "__main__":
    main()
