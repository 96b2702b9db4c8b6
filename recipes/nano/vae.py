"""Train nano's VAE. Expected on one CPU core: 25 dB after 10 minutes, 28 dB after 30 (text, shapes and colours).

Its decoder is refined once nano's decoder is trained (refine_vae.py).
"""

import argparse
import random

import numpy as np
import torch
import torch.nn.functional as F
from designs import load_words, random_content, random_grid, text_wall, typeset
from diffusers import AutoencoderKL
from renderer import CELL, Design, Shape, draw, draw_background
from torch import nn
from training import DEVICE, RUNS, Average, Run, autocast
from type_tokens import PALETTE

CONFIG = {
    "block_out_channels": (16, 32, 64, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 512,
}


ANCHOR = 8.0
STROKE = 0.5  # from the ground, where black to white is 2
NUM_CARRIERS = 5  # channels that carry red, green, blue and the two anchors straight through


def build() -> AutoencoderKL:
    """Build the VAE so that a blurred picture in the right colours passes at the first step.

    Group normalisation takes the level of a plain area away, and a VAE this small then learns colours last. So three
    channels carry the colours past the residual branches (which start at zero), and two constant channels, plus and
    minus ANCHOR, dominate the variance where the path is normalised, which makes that step all but linear.
    """
    vae = AutoencoderKL(**CONFIG)
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
            if "resnets" in name and name.endswith("conv2"):
                nn.init.zeros_(module.weight)
            elif "resnets" not in name or "shortcut" in name:
                _pass_through(module, "downsamplers" in name, "upsamplers" in name)
    for part in (vae.encoder, vae.decoder):
        with torch.no_grad():
            part.conv_in.bias[3], part.conv_in.bias[4] = ANCHOR, -ANCHOR
            norm = part.conv_norm_out
            per_group = norm.num_channels // norm.num_groups
            norm.weight[:3] = (2 * ANCHOR**2 / per_group) ** 0.5
            norm.bias[:3] = 6.0  # where SiLU is a straight line
            part.conv_out.weight[:, 3:NUM_CARRIERS] = 0
            part.conv_out.bias[:3] = -6.0
            part.conv_out.weight[3:, :3] = 0
    with torch.no_grad():
        vae.encoder.conv_out.bias[16:] = -6.0
        vae.decoder.conv_in.weight[3:NUM_CARRIERS] = 0
        vae.encoder.conv_in.weight[3:NUM_CARRIERS] = 0
    return vae


@torch.no_grad()
def _pass_through(conv: nn.Conv2d, is_down: bool, is_up: bool) -> None:
    """Let carriers through (averaged when halving, smoothed when doubling) and mix the rest orthogonally."""
    weight = conv.weight
    nn.init.zeros_(weight)
    centre = weight.shape[2] // 2
    carriers = min(NUM_CARRIERS, weight.shape[0], weight.shape[1])
    rest_out, rest_in = weight.shape[0] - carriers, weight.shape[1] - carriers
    if is_down and rest_out:  # padded on the right and below: taps 0 and 1 are the two pixels merged
        mix = nn.init.orthogonal_(torch.empty(rest_out, rest_in * 4)).view(rest_out, rest_in, 2, 2)
        weight[carriers:, carriers:, :2, :2] = mix
    elif rest_out and rest_in:
        weight[carriers:, carriers:, centre, centre] = nn.init.orthogonal_(torch.empty(rest_out, rest_in))
    elif rest_out and weight.shape[2] == 3:  # the first convolution: colour differences between neighbours
        weight[carriers:] = nn.init.orthogonal_(torch.empty(rest_out, weight.shape[1] * 9)).view_as(weight[carriers:])
    for channel in range(carriers):
        if is_down and channel < 3:
            weight[channel, channel, :2, :2] = 0.25
        elif is_up and channel < 3:
            kernel = torch.tensor([0.25, 0.5, 0.25])
            weight[channel, channel] = kernel[:, None] * kernel
        else:
            weight[channel, channel, centre, centre] = 1.0


def random_design(seed: int, words: list[str]) -> Design:
    """Draw a design of a random size."""
    return typeset(random_content(seed, words), *random_grid(random.Random(seed)))


def random_crop(rng: random.Random, words: list[str], size: int, share_of_type: float) -> np.ndarray:
    """Draw a crop, uint8 (size, size, 3): of what is no type near half are designs, a fourth shapes, else textures."""
    cells = size // 32 + 1
    kind = rng.random()
    if rng.random() < share_of_type:
        picture = draw(text_wall(rng.getrandbits(40), words, cells + 1, cells + 1))
        if rng.random() < 0.3:
            picture = picture[:, ::-1]
    elif kind < 0.45:
        picture = draw(random_design(rng.getrandbits(40), words))
    elif kind < 0.7:
        picture = random_shapes(rng, cells)
    else:
        picture = random_texture(rng, cells * 32)
    step = 8 if rng.random() < 0.7 else 1
    y = rng.randrange(0, picture.shape[0] - size + 1, step)
    x = rng.randrange(0, picture.shape[1] - size + 1, step)
    picture = picture[y : y + size, x : x + size]
    return picture[..., rng.sample(range(3), 3)] if rng.random() < 0.3 else picture


def _color(rng: random.Random) -> tuple[int, int, int]:
    if rng.random() < 0.6:
        return PALETTE[rng.choice(list(PALETTE))]
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))


def random_shapes(rng: random.Random, cells: int, cell_size: int = CELL) -> np.ndarray:
    """Draw overlapping shapes in any colours, uint8 (cell_size * cells, cell_size * cells, 3)."""
    shapes = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.choice(["circle", "ring", "box", "box", "stripe", "frame", "star", "arrow", "triangle"])
        y, x = rng.uniform(0, cells), rng.uniform(0, cells)
        shapes.append(Shape(kind, y, x, rng.uniform(0.2, cells / 2), rng.uniform(0.3, cells / 2), _color(rng)))
    top = _color(rng)
    bottom = _color(rng) if rng.random() < 0.3 else top
    picture = draw_background(Design(cells, cells, top, bottom, (), tuple(shapes)), cell_size)
    return picture.round().astype(np.uint8)


def random_texture(rng: random.Random, size: int) -> np.ndarray:
    """Draw noise of several octaves, uint8 (size, size, 3)."""
    noise = np.random.default_rng(rng.getrandbits(32))
    picture = np.zeros((3, size, size), np.float32)
    for octave in range(rng.randrange(1, 6)):
        side = max(2, size >> (6 - octave))
        layer = torch.from_numpy(noise.standard_normal((1, 3, side, side)).astype(np.float32))
        layer = F.interpolate(layer, size=(size, size), mode="bicubic", align_corners=False)[0].numpy()
        picture += layer * rng.uniform(0.2, 1.0)
    picture = picture * rng.uniform(20, 70) + np.float32(_color(rng))[:, None, None]
    return np.clip(picture, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def to_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """Stack uint8 (H, W, 3) pictures to float32 (N, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(pictures))).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(decoded: torch.Tensor, target: torch.Tensor, stroke_weight: float = 1.0) -> torch.Tensor:
    """L1 + 2 MSE + half the L1 of the gradients, mean over the batch.

    stroke_weight: of the pixels in L1 and MSE that are far from the median of their picture (N, 3, H, W).
    """
    error = decoded - target
    gradients = (error[..., 1:, :] - error[..., :-1, :]).abs().mean() + (error[..., 1:] - error[..., :-1]).abs().mean()
    ground = target.flatten(2).median(2).values[..., None, None]
    is_stroke = (target - ground).abs().amax(1, keepdim=True) > STROKE
    weights = torch.where(is_stroke, stroke_weight, 1.0)
    return (weights * error.abs()).mean() + 2 * (weights * error.square()).mean() + 0.5 * gradients


def validate(vae: AutoencoderKL, latents: list[torch.Tensor], pictures: torch.Tensor) -> float:
    """Return the mean PSNR in dB of latents (1, 16, h, w) decoded one by one, over pictures (N, 3, H, W)."""
    with torch.no_grad():
        decoded = torch.cat([vae.decode(z.to(DEVICE)).sample.cpu() for z in latents])
    mse = ((decoded.clamp(-1, 1) - pictures) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * mse.log10()).mean())


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> list[torch.Tensor]:
    """Return the latents (1, 16, H / 8, W / 8) of each of the pictures (N, 3, H, W)."""
    return [vae.encode(picture[None].to(DEVICE)).latent_dist.mode() for picture in pictures]


def latents_scale(vae: AutoencoderKL) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the std of latents by channel, float32 (1, 16, 1, 1) each."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std


def measure_latents(vae: AutoencoderKL, words: list[str], num_pictures: int = 60) -> None:
    """Write latents_mean and latents_std, measured on random designs and walls of type, into the VAE's config."""
    sums = []
    with torch.no_grad():
        for seed in range(num_pictures):
            design = (text_wall if seed % 3 == 0 else random_design)(10_000_000 + seed, words)
            sums.append(vae.encode(to_tensor([draw(design)]).to(DEVICE)).latent_dist.mode()[0].flatten(1).cpu())
    latents = torch.cat(sums, dim=1)
    vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())


def main() -> None:
    """Train until the budget is spent, then save to runs/vae."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    words, held_out = load_words()
    vae = build().to(DEVICE)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    average = Average(vae, 0.999)
    run = Run("vae", args.minutes, {"vae": vae, "average": average}, [optimizer])
    contents = [random_content(80_000_000 + i, held_out) for i in range(4)]
    check = to_tensor([draw(typeset(content, 16, 16)) for content in contents])
    check = torch.cat([check, to_tensor([draw(text_wall(80_000_000 + i, held_out)) for i in range(2)])])
    first_step = run.num_steps
    rng = random.Random(first_step)
    for _ in run.steps(warmup=30):
        pictures = to_tensor([random_crop(rng, words, 64, 0.5) for _ in range(12)]).to(DEVICE)
        with autocast():
            posterior = vae.encode(pictures).latent_dist
            latents = posterior.mode()
            decoded = vae.decode(latents + 0.02 * torch.randn_like(latents)).sample
        kl = 0.5 * (posterior.mean.float().square() + posterior.logvar.float().exp() - 1 - posterior.logvar.float())
        loss = reconstruction_loss(decoded.float(), pictures) + 2e-5 * kl.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae)
        run.num_samples += len(pictures)
        if run.num_steps % 200 == 0:
            run.log(loss=loss.item(), psnr=validate(vae, encode(vae, check), check))
    if run.num_steps == first_step:
        print("nothing left to train: runs/vae, which may have been refined since, stays as it is")
        return
    vae.load_state_dict(average.values)
    run.log(psnr=validate(vae, encode(vae, check), check))
    measure_latents(vae, words)
    vae.save_pretrained(RUNS / "vae")


if __name__ == "__main__":
    main()
