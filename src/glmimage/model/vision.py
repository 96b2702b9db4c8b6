"""Reference images to prior tokens: a vision encoder, then the nearest entry of a codebook."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointInvalid
from .config import VisionConfig, VQConfig

_BLOCK = "model.visual.blocks.{i}."
VISION_TENSORS: dict[str, tuple[str, ...]] = {
    "patch_embed.weight": ("model.visual.patch_embed.proj.weight",),
    "patch_embed.bias": ("model.visual.patch_embed.proj.bias",),
    "position_embedding.weight": ("model.visual.embeddings.position_embedding.weight",),
    "layers.{i}.norm_attention.weight": (_BLOCK + "norm1.weight",),
    "layers.{i}.norm_attention.bias": (_BLOCK + "norm1.bias",),
    "layers.{i}.qkv.weight": (_BLOCK + "attn.qkv.weight",),
    "layers.{i}.qkv.bias": (_BLOCK + "attn.qkv.bias",),
    "layers.{i}.out.weight": (_BLOCK + "attn.proj.weight",),
    "layers.{i}.out.bias": (_BLOCK + "attn.proj.bias",),
    "layers.{i}.norm_mlp.weight": (_BLOCK + "norm2.weight",),
    "layers.{i}.norm_mlp.bias": (_BLOCK + "norm2.bias",),
    "layers.{i}.up.weight": (_BLOCK + "mlp.fc1.weight",),
    "layers.{i}.up.bias": (_BLOCK + "mlp.fc1.bias",),
    "layers.{i}.down.weight": (_BLOCK + "mlp.fc2.weight",),
    "layers.{i}.down.bias": (_BLOCK + "mlp.fc2.bias",),
    "quant_conv.weight": ("model.vqmodel.quant_conv.weight",),
    "quant_conv.bias": ("model.vqmodel.quant_conv.bias",),
    "codebook.weight": ("model.vqmodel.quantize.embedding.weight",),
}
"""Our parameter name -> the name in the public checkpoint; `{i}` is the layer number on both sides.

Every parameter of a VisionTokenizer has one entry.
"""

VISION_IGNORED = frozenset(
    {"model.vqmodel.post_quant_conv.weight", "model.vqmodel.post_quant_conv.bias"}
)
"""In the checkpoint, but only ever used to train the codebook: loading passes over them by name."""

_CODE_ROWS = 1024  # distances of so many patches at a time: 64 MB against the real codebook


class VisionLayer(nn.Module):
    """Full attention within one image, then a GELU MLP; a norm before each."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, bias, eps = config.hidden_size, config.attention_bias, config.layer_norm_eps
        self.num_heads = config.num_heads
        self.norm_attention = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.norm_mlp = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (1, heads, patches, head_dim)
        attention = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attention.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class VisionTokenizer(nn.Module):
    """Name every 16 px patch of a half-size image by its prior token."""

    def __init__(self, config: VisionConfig, vq: VQConfig) -> None:
        super().__init__()
        if config.hidden_size != vq.latent_channels:
            raise CheckpointInvalid(
                f"vision_config.hidden_size {config.hidden_size} and vq_config.latent_channels "
                f"{vq.latent_channels} must be equal.",
                hint="The checkpoint mixes parts of two models.",
            )
        width, patch = config.hidden_size, config.patch_size
        self.config, self.vq = config, vq
        self.patch_embed = nn.Conv2d(config.in_channels, width, patch, stride=patch)
        self.position_embedding = nn.Embedding(config.position_grid**2, width)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))
        self.quant_conv = nn.Conv2d(vq.latent_channels, vq.embed_dim, 1)
        self.codebook = nn.Embedding(vq.num_embeddings, vq.embed_dim)

    def forward(self, pixel_values: Tensor, grid_thw: Tensor) -> list[Tensor]:
        """Return ids (h * w,), int64, 0 .. num_embeddings - 1, of each image.

        pixel_values: the patches of all images in row order, (sum of h * w, channels * 16 * 16).
        grid_thw: (1, h, w) of each image, (images, 3). No image sees another.
        """
        grids = [(h, w) for _, h, w in grid_thw.tolist()]
        sizes = [h * w for h, w in grids]
        images = zip(pixel_values.split(sizes), grids, strict=True)
        features = [self.features(patches, *grid) for patches, grid in images]
        return list(self.quantise(torch.cat(features)).split(sizes))

    def features(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Encode the patches (height * width, channels * 16 * 16) of one image to (patches, D)."""
        # the patches are cut already: the convolution is one product
        weight, bias = self.patch_embed.weight, self.patch_embed.bias
        x = F.linear(patches.to(weight.dtype), weight.flatten(1), bias)
        x = (x + self.positions(height, width).to(x.dtype))[None]
        for layer in self.layers:
            x = layer(x)
        return x[0]

    def positions(self, height: int, width: int) -> Tensor:
        """Stretch the learned square of position embeddings to a grid; float32 (patches, D)."""
        side, table = self.config.position_grid, self.position_embedding.weight.float()
        square = table.view(1, side, side, -1).permute(0, 3, 1, 2)
        rows = (torch.arange(height, device=table.device) + 0.5) / height * 2 - 1
        columns = (torch.arange(width, device=table.device) + 0.5) / width * 2 - 1
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        grid = torch.stack((x, y), dim=-1)[None]
        stretched = F.grid_sample(square, grid, "bilinear", "border", align_corners=False)
        return stretched[0].flatten(1).T

    def quantise(self, features: Tensor) -> Tensor:
        """Return the codebook entry (patches,) nearest by angle to each row of (patches, D).

        In float32 whatever the weights are: bfloat16 cosines of neighbouring codes are equal.
        """
        latents = F.linear(features, self.quant_conv.weight.flatten(1), self.quant_conv.bias)
        latents = F.normalize(latents.float(), dim=-1)
        codes = F.normalize(self.codebook.weight.float(), dim=-1)
        code_norms = codes.square().sum(-1)
        ids = []
        for part in latents.split(_CODE_ROWS):
            # the squared distance in full, as the reference has it: ties fall the same way
            distances = part.square().sum(-1, keepdim=True) + code_norms - 2 * part @ codes.T
            ids.append(distances.argmin(-1))
        return torch.cat(ids)
