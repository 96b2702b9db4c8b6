"""Pictures as latents and prior tokens on disk: what the decoder is trained on."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from designs import random_content, random_grid, shape_wall, text_wall, typeset
from diffusers import AutoencoderKL
from edits import random_edit
from prompts import write_prompt
from renderer import BackgroundCodebook, Design, draw, prior_tokens, source_tokens
from training import DEVICE, autocast, in_processes
from type_tokens import (
    COLORS,
    FIRST_BACKGROUND,
    FIRST_COLORED,
    FIRST_COLORLESS,
    FORM,
    INK,
    NAMES,
    NUM_MESSAGES,
    STENCIL,
    message,
)
from vae import latents_scale, to_tensor


@dataclass(frozen=True)
class Crop:
    """Where a training crop comes from.

    store_cells: of the pictures, on a side; rows, columns: of the crop, in cells; share: of the steps.
    """

    kind: str
    store_cells: int
    rows: int
    columns: int
    batch: int
    share: float


# 2048 image tokens a step, twice that for the largest; strips teach what is far away, which large pictures have most of
MIX = (
    Crop("wall", 16, 4, 4, 32, 0.14),
    Crop("wall", 16, 8, 8, 8, 0.08),
    Crop("shapes", 16, 8, 8, 8, 0.14),
    Crop("shapes", 16, 16, 16, 2, 0.14),
    Crop("design", 16, 8, 8, 8, 0.12),
    Crop("design", 16, 16, 16, 2, 0.12),
    Crop("design", 32, 8, 32, 2, 0.04),
    Crop("design", 32, 32, 8, 2, 0.04),
    Crop("design", 32, 32, 32, 1, 0.03),
    Crop("edit", 16, 8, 8, 8, 0.07),
    Crop("edit", 16, 16, 16, 2, 0.08),
)
WALLS = ("wall", "shapes")  # kinds that no prompt asks for
CAPACITY = {("wall", 16): 3000, ("shapes", 16): 1000, ("design", 16): 2000, ("design", 32): 200, ("edit", 16): 800}


@dataclass(frozen=True)
class Drawer:
    """What the pictures of a kind show, by number: walls of type or of shapes, windows of designs, or edits."""

    kind: str
    cells: int
    codebook: BackgroundCodebook
    words: list[str]

    def __call__(self, number: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Draw picture `number`: windows, uint8 (P, H, W, 3), their tokens (P, cells, cells), and the ink's number."""
        rng, pictures, windows, cells = random.Random(self._seed(number)), [], [], self.cells
        designs = self._designs(number)
        for design, tokens in designs:
            y, x = rng.randrange(design.num_rows - cells + 1), rng.randrange(design.num_columns - cells + 1)
            pictures.append(draw(design)[32 * y : 32 * (y + cells), 32 * x : 32 * (x + cells)])
            windows.append(tokens[y : y + cells, x : x + cells])
        return np.stack(pictures), np.stack(windows), COLORS.index(designs[0][0].ink)

    def _seed(self, number: int) -> int:
        return 20_000_000 + self.cells * 1_000_000 + number

    def _designs(self, number: int) -> list[tuple[Design, np.ndarray]]:
        """Return the designs of picture `number` and their tokens: target and source of an edit."""
        seed, cells = self._seed(number), self.cells
        if self.kind == "edit":
            edit = random_edit(seed, self.words, (cells, cells))
            source = edit.sources[0]
            return [
                (edit.target, prior_tokens(edit.target, self.codebook)),
                (source, source_tokens(source, self.codebook)),
            ]
        if self.kind == "wall":
            design = text_wall(seed, self.words, cells, cells)
        elif self.kind == "shapes":
            design = shape_wall(seed, cells, cells)
        else:
            design = typeset(random_content(seed, self.words), *self.grid(number))
        return [(design, prior_tokens(design, self.codebook))]

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
        return write_prompt(random_content(seed, self.words), seed, self.words)

    def recipe(self) -> str:
        """Name how pictures are drawn and described: a digest of the first ones."""
        digest = hashlib.sha256()
        for number in range(12):
            digest.update(self.prompt(number).encode())
            digest.update(self._designs(number)[0][1].tobytes())
        return digest.hexdigest()[:16]


class LatentStore:
    """Encoded pictures on disk: it grows while training goes on, up to a capacity, then the oldest are replaced.

    What another recipe has drawn is not kept: prompts are made again from the pictures' numbers.
    """

    def __init__(self, drawer: Drawer, folder: Path, vae: AutoencoderKL):
        self.drawer, self.cells, self.vae, self.recipe = drawer, drawer.cells, vae, drawer.recipe()
        self.capacity = CAPACITY[drawer.kind, drawer.cells]
        self.paths = [folder / f"{what}_{drawer.kind}_{drawer.cells}" for what in ("latents", "tokens", "inks")]
        self.count_path, kept = self.paths[0].with_suffix(".count"), [""]
        if self.paths[0].with_suffix(".f16").exists() and self.count_path.exists():
            kept = self.count_path.read_text().split() or [""]
        is_kept = kept[-1] == self.recipe  # drawn otherwise, they would not fit their prompts
        self._open("r+" if is_kept else "w+")
        self.num_made = int(kept[0]) if is_kept else 0

    def _open(self, mode: Literal["r", "r+", "w+"]) -> None:
        latents, tokens, inks = self.paths
        shape, cells = (self.capacity, 2 if self.drawer.kind == "edit" else 1), self.cells
        self.latents = np.memmap(
            latents.with_suffix(".f16"), np.float16, mode, shape=(*shape, 16, 4 * cells, 4 * cells)
        )
        self.tokens = np.memmap(tokens.with_suffix(".i16"), np.int16, mode, shape=(*shape, cells, cells))
        self.inks = np.memmap(inks.with_suffix(".i16"), np.int16, mode, shape=(self.capacity,))

    def __getstate__(self):
        """Leave behind what another process, which only reads, opens anew or does not need."""
        return {k: v for k, v in vars(self).items() if k not in ("vae", "latents", "tokens", "inks")}

    def __setstate__(self, state):
        """Open the files to read."""
        vars(self).update(state)
        self._open("r")

    def __len__(self) -> int:
        return min(self.num_made, self.capacity)

    def grow_to(self, num_pictures: int, num_processes: int = 0) -> None:
        """Make pictures until there are so many, or the store is full."""
        numbers = iter(range(self.num_made, max(self.num_made, min(num_pictures, self.capacity))))
        for drawn in in_processes(self.drawer, numbers, num_processes):
            self._add(*drawn)

    def grow(self) -> None:
        """Draw and encode one more picture, or pair."""
        self._add(*self.drawer(self.num_made))

    @torch.no_grad()
    def _add(self, pictures: np.ndarray, tokens: np.ndarray, ink: int) -> None:
        slot, (mean, std) = self.num_made % self.capacity, latents_scale(self.vae)
        with autocast():
            latents = self.vae.encode(to_tensor(list(pictures)).to(DEVICE)).latent_dist.mode()
        self.latents[slot] = ((latents.float().cpu() - mean) / std).half().numpy()
        self.tokens[slot], self.inks[slot] = tokens, ink
        self.num_made += 1
        if self.num_made % 10 == 0:
            self.count_path.write_text(f"{self.num_made} {self.recipe}")

    def crops(self, rng: random.Random, batch: int, rows: int, columns: int):
        """Draw crops: latents (P, B, 16, 4r, 4c), float16, tokens (P, B, r, c), int16, numbers of their pictures."""
        latents, tokens, numbers = [], [], []
        for _ in range(batch):
            slot = rng.randrange(len(self))
            for _ in range(6):  # a window with a plain cell, that can name the ink, and no stencils without a colour
                y, x = rng.randrange(self.cells + 1 - rows), rng.randrange(self.cells + 1 - columns)
                shown = self.tokens[slot, 0, y : y + rows, x : x + columns]
                has_stencils = ((shown >= STENCIL) & (shown < FIRST_BACKGROUND)).any()
                if _color_of(shown).max() >= 0 and not (has_stencils and (NAMES.message[shown] < FORM).all()):
                    break
            window = self.latents[slot, :, :, 4 * y : 4 * (y + rows), 4 * x : 4 * (x + columns)]
            latents.append(window)
            tokens.append(self.tokens[slot, :, y : y + rows, x : x + columns].copy())
            _name_ink(rng, tokens[-1][0], int(self.inks[slot]))
            numbers.append(slot + (self.num_made - 1 - slot) // self.capacity * self.capacity)
        return np.stack(latents, 1), np.stack(tokens, 1), numbers


def _color_of(tokens: np.ndarray) -> np.ndarray:
    """Return the palette colour of plain cells, -1 for all others."""
    said = (tokens >= FIRST_COLORED) & (tokens < FIRST_COLORLESS)
    said &= (tokens - FIRST_COLORED) % NUM_MESSAGES < FORM
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
