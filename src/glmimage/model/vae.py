"""Between pixels and latents: diffusers' AutoencoderKL, with latents normalised outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class VAE(nn.Module):
    """Encode references and decode pictures, one at a time."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        config = autoencoder.config
        self.scale_factor = 2 ** (len(config.block_out_channels) - 1)
        self.latent_channels = int(config.latent_channels)
        # plain attributes: they are settings, no tensors of the checkpoint
        self._mean = torch.tensor(config.latents_mean, dtype=torch.float32).view(-1, 1, 1)
        self._std = torch.tensor(config.latents_std, dtype=torch.float32).view(-1, 1, 1)

    @torch.no_grad()
    def encode(self, image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
        """Return normalised latents (C, H/8, W/8), float32: the mode of the posterior.

        The picture is resized to `size` (height, width), by default down to multiples of 16.
        """
        pixels = self.preprocess(image, size)
        weight = next(self.autoencoder.parameters())
        posterior = self.autoencoder.encode(pixels.to(weight.device, weight.dtype)).latent_dist
        latents = posterior.mode()[0].float()
        return (latents - self._mean.to(latents)) / self._std.to(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the pixels (H, W, 3), uint8 on the CPU, of normalised latents (C, H/8, W/8)."""
        weight = next(self.autoencoder.parameters())
        latents = latents.to(weight.device, torch.float32)
        latents = latents * self._std.to(latents) + self._mean.to(latents)
        pixels = self.autoencoder.decode(latents[None].to(weight.dtype)).sample[0].float()
        pixels = (pixels * 0.5 + 0.5).clamp(0, 1) * 255
        return pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()

    def preprocess(self, image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
        """Return pixels (1, 3, H, W) in -1..1, resized with Lanczos as the reference does."""
        multiple = 2 * self.scale_factor  # a latent patch of the DiT is 2 x 2
        height, width = size or tuple(side // multiple * multiple for side in reversed(image.size))
        rgb = image.convert("RGB")
        if rgb.size != (width, height):
            rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(rgb, dtype=np.float32) / 255.0)
        # left in channels-last memory: the convolutions of the reference see it so as well
        return (2.0 * pixels - 1.0)[None].permute(0, 3, 1, 2)
