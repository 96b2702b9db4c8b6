"""Pictures as latents and prior tokens on disk: what the decoder is trained on."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from designs import random_content, random_grid, text_wall, typeset
from diffusers import AutoencoderKL
from edits import random_edit
from prompts import write_prompt
from renderer import BackgroundCodebook, Design, cell_tokens, draw, prior_tokens
from training import DEVICE, autocast
from type_tokens import COLORS, FIRST_BACKGROUND, FIRST_COLORED, FIRST_COLORLESS, INK, NUM_MESSAGES, message
from vae import to_tensor


@dataclass(frozen=True)
class Crop:
    """Where a training crop comes from: kind of picture, its cells on a side, crop side, batch size, share of steps."""

    kind: str
    store_cells: int
    cells: int
    batch: int
    share: float


# 2048 image tokens a step, twice that for the largest
MIX = (
    Crop("wall", 16, 4, 32, 0.56),
    Crop("wall", 16, 8, 8, 0.08),
    Crop("design", 16, 8, 8, 0.12),
    Crop("design", 16, 16, 2, 0.10),
    Crop("design", 32, 32, 1, 0.04),
    Crop("edit", 16, 8, 8, 0.04),
    Crop("edit", 16, 16, 2, 0.03),
)
CAPACITY = {("wall", 16): 3000, ("design", 16): 2000, ("design", 32): 200, ("edit", 16): 800}


class LatentStore:
    """Encoded pictures on disk: it grows while training goes on, up to a capacity, then the oldest are replaced.

    What another recipe has drawn is not kept: prompts are made again from the pictures' numbers.

    Pictures are walls of type, windows of designs of any size that has the window's cells, or edits (target, source).
    """

    def __init__(
        self, kind: str, cells: int, vae: AutoencoderKL, codebook: BackgroundCodebook, words: list[str], folder: Path
    ):
        self.kind, self.cells, self.vae, self.codebook, self.words = kind, cells, vae, codebook, words
        self.capacity, num = CAPACITY[kind, cells], 2 if kind == "edit" else 1
        stem = f"{kind}_{cells}"
        self.count_path = folder / f"latents_{stem}.count"
        path = folder / f"latents_{stem}.f16"
        self.recipe, kept = self._fingerprint(), [""]
        if path.exists() and self.count_path.exists():
            kept = self.count_path.read_text().split()
        mode = "r+" if kept[-1] == self.recipe else "w+"  # drawn otherwise, they would not fit their prompts
        shape, side = (self.capacity, num), 4 * cells
        self.latents = np.memmap(path, np.float16, mode, shape=(*shape, 16, side, side))
        self.tokens = np.memmap(folder / f"tokens_{stem}.i16", np.int16, mode, shape=(*shape, cells, cells))
        self.inks = np.memmap(folder / f"inks_{stem}.i16", np.int16, mode, shape=(self.capacity,))
        self.num_made = int(kept[0]) if mode == "r+" else 0
        self.mean = torch.tensor(vae.config.latents_mean).view(1, 16, 1, 1)
        self.std = torch.tensor(vae.config.latents_std).view(1, 16, 1, 1)

    def __len__(self) -> int:
        return min(self.num_made, self.capacity)

    def _seed(self, number: int) -> int:
        return 20_000_000 + self.cells * 1_000_000 + number

    def _designs(self, number: int) -> list[tuple[Design, np.ndarray]]:
        """Return the designs of picture `number` and their tokens."""
        seed, cells = self._seed(number), self.cells
        if self.kind == "edit":
            edit = random_edit(seed, self.words, (cells, cells))
            source = edit.sources[0]
            return [
                (edit.target, prior_tokens(edit.target, self.codebook)),
                (source, cell_tokens(source, self.codebook)),
            ]
        if self.kind == "wall":
            design = text_wall(seed, self.words, cells, cells)
        else:
            design = typeset(random_content(seed, self.words), *self.grid(number))
        return [(design, prior_tokens(design, self.codebook))]

    def _fingerprint(self) -> str:
        """Name how pictures are drawn and described: a digest of the first ones."""
        digest = hashlib.sha256()
        for number in range(12):
            digest.update(self.prompt(number).encode())
            digest.update(self._designs(number)[0][1].tobytes())
        return digest.hexdigest()[:16]

    def grid(self, number: int) -> tuple[int, int]:
        """Return the grid (rows, columns) of the picture that number `number` was cut from."""
        if self.kind != "design" or self.cells > 16:
            return self.cells, self.cells
        rng = random.Random(self._seed(number))
        return (16, 16) if rng.random() < 0.4 else random_grid(rng)

    def prompt(self, number: int) -> str:
        """Return the prompt of picture number `number`."""
        seed = self._seed(number)
        if self.kind == "edit":
            return random_edit(seed, self.words, (self.cells, self.cells)).prompt
        return write_prompt(random_content(seed, self.words), seed)

    def grow_to(self, num_pictures: int) -> None:
        """Make pictures until there are so many, or the store is full."""
        while len(self) < min(num_pictures, self.capacity):
            self.grow()

    @torch.no_grad()
    def grow(self) -> None:
        """Draw and encode one more picture, or pair."""
        slot, cells = self.num_made % self.capacity, self.cells
        rng = random.Random(self._seed(self.num_made))
        for i, (design, tokens) in enumerate(self._designs(self.num_made)):
            y, x = rng.randrange(design.num_rows - cells + 1), rng.randrange(design.num_columns - cells + 1)
            picture = draw(design)[32 * y : 32 * (y + cells), 32 * x : 32 * (x + cells)]
            with autocast():
                latents = self.vae.encode(to_tensor([picture]).to(DEVICE)).latent_dist.mode()
            if i == 0:
                self.inks[slot] = COLORS.index(design.ink)
            self.latents[slot, i] = ((latents.float().cpu() - self.mean) / self.std)[0].half().numpy()
            self.tokens[slot, i] = tokens[y : y + cells, x : x + cells]
        self.num_made += 1
        if self.num_made % 10 == 0:
            self.count_path.write_text(f"{self.num_made} {self.recipe}")

    def crops(self, rng: random.Random, batch: int, cells: int):
        """Draw crops: latents (P, B, 16, 4c, 4c), tokens (P, B, c, c), numbers of the pictures they come from."""
        latents, tokens, numbers = [], [], []
        for _ in range(batch):
            slot = rng.randrange(len(self))
            for _ in range(6):  # a window with a plain cell, so that it can name the ink
                y, x = rng.randrange(self.cells + 1 - cells), rng.randrange(self.cells + 1 - cells)
                if _color_of(self.tokens[slot, 0, y : y + cells, x : x + cells]).max() >= 0:
                    break
            window = self.latents[slot, :, :, 4 * y : 4 * (y + cells), 4 * x : 4 * (x + cells)]
            latents.append(window.astype(np.float32))
            tokens.append(self.tokens[slot, :, y : y + cells, x : x + cells].astype(np.int64))
            _name_ink(rng, tokens[-1][0], int(self.inks[slot]))
            numbers.append(slot + (self.num_made - 1 - slot) // self.capacity * self.capacity)
        return torch.from_numpy(np.stack(latents, 1)), torch.from_numpy(np.stack(tokens, 1)), numbers


def _color_of(tokens: np.ndarray) -> np.ndarray:
    """Return the palette colour of plain cells, -1 for all others."""
    said = (tokens >= FIRST_COLORED) & (tokens < FIRST_COLORLESS)
    plain = (tokens >= FIRST_BACKGROUND) & (tokens < FIRST_BACKGROUND + len(COLORS))
    return np.where(said, (tokens - FIRST_COLORED) // NUM_MESSAGES, np.where(plain, tokens - FIRST_BACKGROUND, -1))


def _name_ink(rng: random.Random, tokens: np.ndarray, ink: int) -> None:
    """Let a plain cell of a window name the ink where none does: a picture's uppermost row is seldom in a window."""
    colors = _color_of(tokens)
    said = (tokens - FIRST_COLORED) % NUM_MESSAGES < len(COLORS)
    if not (said & (tokens >= FIRST_COLORED) & (tokens < FIRST_COLORLESS)).any():
        plain = np.argwhere(colors >= 0)
        for row, column in plain[rng.sample(range(len(plain)), min(len(plain), rng.randrange(1, 4)))]:
            tokens[row, column] = message(int(colors[row, column]), INK + ink)
