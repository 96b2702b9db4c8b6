"""The loop that writes prior tokens for many pictures at once.

Where the prior is packed for a CPU, or guesses are asked for, a pass reads a window of tokens for
each row instead of one: the newest token and guesses at those that follow. Every position draws
from what the model says after the guesses before it, with the random number that belongs to the
position; as long as guesses turn out to be what is drawn, the draws are the tokens that one-by-one
writing gives, and behind the first wrong guess they are the next pass's guesses (Jacobi decoding).
The random number of a position never changes, so guesses settle, and the tokens are the same in
either way of writing; but for draws within rounding of a boundary, where a row's sums depend on how
many are read with it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .graphed_prior import GraphedPrior
from .memory import CPU_SMALL_VALUES, synchronize
from .model.layers import on_device
from .model.prior import KVCache
from .model.sampling import RandomStream, sample
from .picture import Picture, share_time
from .prompt import PriorInputs
from .stages import PriorStage
from .thread_choice import ThreadChoice, cpu_threads
from .types import Event, PriorProgress, PriorReady, SmallGridReady

NUM_SLOTS = 8
"""Rows of the loop: reading the weights is what costs, so a few more rows are nearly free."""
KV_TOKENS = 32768
"""Rows x longest row: eight 2048 px pictures, or one with four large references."""
LENGTH_STEP = 256
"""Rows are given room in steps of so many tokens, so that few lengths mean a new cache."""
WINDOW = 64
"""Most tokens of a row in one pass, where guesses are used: the columns of the widest usual grid.

A pass reads as many as the grid has columns, to the cell below the newest: one more or fewer gives
10 to 26 % fewer tokens a pass (nano's grids of 16, 24 and 32 columns, measured).
"""
MIN_WINDOW, LEAST_PACE = 4, 1.5
"""The tokens of a row in one pass, while it gains no more than LEAST_PACE of them."""
POSITIONS, LONGEST_AHEAD = 32, 16
"""The tokens of all rows in one pass, and those of a row, where the prior is not packed.

There a pass costs the reading of the weights, and so many positions little more (eight 1.16 times
of one, measured on an H200; of more it is not known).
"""
PACE_MEMORY = 0.1
"""Weight of the newest pass in the running number of tokens a row gains in a pass."""
PROGRESS_STEP = 16
"""Tokens between two reports of a picture's progress: one row of a square preview."""


@dataclass(eq=False)
class _Row:
    """A picture in the loop; its slot is its own until it leaves.

    num_tokens are written, and up to num_known there are guesses behind them.
    """

    picture: Picture
    inputs: PriorInputs
    temperature: float
    top_p: float
    stream: RandomStream
    stage: PriorStage
    slot: int = -1
    num_tokens: int = 0
    num_known: int = 0
    pace: float = 2 * LEAST_PACE

    @property
    def num_cached(self) -> int:
        """Positions in the cache before a step: the prompt, and the tokens but the last."""
        return self.inputs.input_ids.numel() + self.num_tokens - 1

    def window(self, most: int) -> int:
        """Return how many tokens to read in a pass: by the row's own pace, nobody else's."""
        wanted = self.inputs.columns_at(self.num_tokens) if self.pace > LEAST_PACE else MIN_WINDOW
        return min(most, wanted, self.inputs.num_tokens - self.num_tokens)


class TokenLoop:
    """Write one token or more a row and step; pictures enter and leave between any two steps.

    How many tokens a picture needs is known beforehand and each has its own random number, so that
    a step waits for nothing from the device: tokens are read when a grid is complete.
    window: the most tokens of a row in one pass; 1 writes without guesses.
    """

    def __init__(
        self,
        stage: PriorStage,
        num_slots: int = NUM_SLOTS,
        kv_tokens: int = KV_TOKENS,
        window: int = WINDOW,
    ) -> None:
        self._stage, self._window = stage, window
        backend = "inductor" if stage.compiled else None
        self._graphed = GraphedPrior(stage.prior, backend) if stage.graphs else None
        self.prior, self.device = stage.prior, stage.device
        packed = stage.packed
        self._kv_dtype = packed.products if packed is not None else stage.prior.embed.weight.dtype
        self.sampling = stage.sampling
        # behind the last id that may be drawn nothing is looked at
        self._num_ids = int((~stage.suppress).nonzero().max()) + 1
        self._suppressed = stage.suppress[: self._num_ids].nonzero()[:, 0]
        self.num_slots, self.kv_tokens = num_slots, kv_tokens
        self.rows: dict[tuple[str, int], _Row] = {}
        self.gains: Counter[int] = Counter()  # tokens that rows gained in a pass, how often
        self.free_slots: list[int] = []
        self._cache: KVCache | None = None
        self._tokens = self._positions = torch.empty(0)
        # A large prior's operations are long enough to be shared out on any machine; a small one's
        # round differently on several threads, but for those of the packed prior.
        small = sum(weight.numel() for weight in self.prior.parameters()) < CPU_SMALL_VALUES
        self._threads = ThreadChoice() if small and self.device.type == "cpu" else None

    def room(self, length: int) -> int:
        """Return how many rows of `length` positions may enter now; an empty loop takes one."""
        longest = max([length, *(row.inputs.max_length for row in self.rows.values())])
        most = min(self.num_slots, max(1, self.kv_tokens // longest))
        return max(0, most - len(self.rows))

    @torch.inference_mode()
    def enter(self, pictures: Sequence[Picture]) -> None:
        """Take in pictures of one request: read their prompt once, draw a first token for each."""
        started_s = time.perf_counter()
        rows = [self._row(picture) for picture in pictures]
        inputs = rows[0].inputs
        self._make_room(inputs, len(rows))
        for row in rows:
            row.slot = self.free_slots.pop()
            self.rows[row.picture.key] = row
        try:
            slots = [row.slot for row in rows]
            positions = inputs.decode_position_ids.to(self.device)
            self._positions[slots, :, : inputs.num_tokens] = positions
            logits = self._read_prompt(rows[0].stage, inputs, slots[0])
            for slot in slots[1:]:
                self._copy_slot(slots[0], slot)
            self._draw(rows, logits.repeat(len(rows), 1))
        except BaseException:
            for picture in pictures:
                self.leave(picture)
            raise
        share_time(pictures, "prior_s", started_s)

    def leave(self, picture: Picture) -> None:
        """Free a picture's row at once; a picture without a row is passed over."""
        row = self.rows.pop(picture.key, None)
        if row is not None:
            self.free_slots.append(row.slot)
            self.free_slots.sort(reverse=True)  # the first ones are taken first
            if self._cache is not None:
                self._cache.free(row.slot)

    @torch.inference_mode()
    def step(self, pictures: Sequence[Picture] | None = None) -> list[Event]:
        """Write one token or more for every row, or for some; rows that are complete leave.

        A step that raises has changed nothing, so that it can be repeated with fewer rows.
        """
        started_s = time.perf_counter()
        rows = list(self.rows.values())
        if pictures is not None:
            rows = [self.rows[picture.key] for picture in pictures]
        if not rows:
            return []
        before = [row.num_tokens for row in rows]
        with self._on_threads(rows), _undone_by_errors(rows):
            for group in _by_stage(rows):
                self._write(group)
        self.gains.update(row.num_tokens - count for row, count in zip(rows, before, strict=True))
        events = [
            event
            for row, count in zip(rows, before, strict=True)
            for event in self._report(row, count)
        ]
        share_time([row.picture for row in rows], "prior_s", started_s)
        for row in rows:
            if row.picture.prior is not None:
                self.leave(row.picture)
        return events

    def wait(self) -> None:
        """Wait for the device to write what it was told to, and count that as the rows' time."""
        started_s = time.perf_counter()
        synchronize(self.device)
        if self.rows:
            share_time([row.picture for row in self.rows.values()], "prior_s", started_s)

    def _on_threads(self, rows: Sequence[_Row]) -> AbstractContextManager[None]:
        """Return what sets the number of threads of one step."""
        if self._threads is None:
            return nullcontext()
        if any(row.stage.packed is None for row in rows):
            return cpu_threads(1)
        return self._threads.chosen(sum(row.window(self._window) for row in rows))

    def _write(self, rows: Sequence[_Row]) -> None:
        """Write for rows that read the same network."""
        if rows[0].stage.packed is not None:
            self._write_windows(rows, [row.window(self._window) for row in rows])
            return
        # rows that are neighbours in the cache are read where they lie
        rows, ahead = sorted(rows, key=lambda row: row.slot), self._ahead(rows)
        if ahead > 1:
            self._write_windows(rows, [ahead] * len(rows))
        else:
            self._write_tokens(rows)

    def _ahead(self, rows: Sequence[_Row]) -> int:
        """Return how many tokens to read of each row where the prior is not packed.

        More than one while they gain: all rows in the mean, as a pass costs the same for all.
        """
        if not rows[0].stage.guesses:
            return 1
        for row in rows:
            if row.num_tokens == row.inputs.num_small:  # another grid, another chance
                row.pace = 2 * LEAST_PACE
        if sum(row.pace for row in rows) <= LEAST_PACE * len(rows):
            return 1
        left = min(row.inputs.num_tokens - row.num_tokens for row in rows)
        count = min(self._window, LONGEST_AHEAD, POSITIONS // len(rows))
        return count if 1 < count <= left else 1  # few numbers, so few graphs

    def _write_tokens(self, rows: Sequence[_Row]) -> None:
        """Write one token for each row, and wait for nothing."""
        slots, last = [row.slot for row in rows], [row.num_tokens - 1 for row in rows]
        where = on_device([slots, last], self.device)
        tokens, at = self._tokens[where[0], where[1]], self._positions[where[0], :, where[1]]
        self._draw(rows, self._read(rows, [1] * len(rows), tokens, at))

    def _write_windows(self, rows: Sequence[_Row], counts: Sequence[int]) -> None:
        """Write the tokens of each row up to its first wrong guess, and that one right."""
        tokens, positions = [], []
        for row, count in zip(rows, counts, strict=True):
            first, written = row.num_tokens - 1, self._tokens[row.slot]
            stop = first + count
            # what nobody has guessed yet is probably like its neighbour
            known = max(row.num_tokens, row.num_known)
            written[known:stop] = written[known - 1]
            tokens.append(written[first:stop])
            positions.append(self._positions[row.slot, :, first:stop])
        read = torch.cat(tokens)
        drawn = self._sample(
            rows, counts, self._read(rows, counts, read, torch.cat(positions, dim=1).t())
        )
        right = (read[1:] == drawn[:-1]).tolist()
        end = 0
        for row, count in zip(rows, counts, strict=True):
            start, end = end, end + count
            gained = 1
            while gained < count and right[start + gained - 1]:
                gained += 1
            self._tokens[row.slot, row.num_tokens : row.num_tokens + count] = drawn[start:end]
            row.num_known = max(row.num_known, row.num_tokens + count)
            row.num_tokens += gained
            row.pace += PACE_MEMORY * (gained - row.pace)

    def _read(
        self, rows: Sequence[_Row], counts: Sequence[int], tokens: Tensor, positions: Tensor
    ) -> Tensor:
        """Return the logits (R, V) after R = sum(counts) tokens (R,) at positions (R, 3).

        `counts[i]` of them continue row i; where the prior is not packed all rows have as many.
        """
        assert self._cache is not None
        stage, slots = rows[0].stage, [row.slot for row in rows]
        for row in rows:
            self._cache.lengths[row.slot] = row.num_cached
        if stage.packed is not None:
            embeds = self.prior.embed(tokens)
            return stage.packed.logits(embeds, positions, self._cache, slots, counts)
        ids = tokens.view(len(rows), -1)
        at = positions.view(*ids.shape, 3).transpose(1, 2)  # (B, 3, S)
        if self._graphed is not None and stage is self._stage:
            return self._graphed.logits(ids, at, self._cache, slots)
        hidden = stage.prior(self.prior.embed(ids), at, self._cache, slots)
        return stage.prior.logits(hidden.flatten(0, 1))

    def _row(self, picture: Picture) -> _Row:
        request = picture.request
        temperature = request.temperature or self.sampling.temperature
        top_p = request.top_p or self.sampling.top_p
        stream, stage = RandomStream(picture.seed), self._stage.adapted(request.loras)
        return _Row(picture, picture.encoded, temperature, top_p, stream, stage)

    def _read_prompt(self, stage: PriorStage, inputs: PriorInputs, slot: int) -> Tensor:
        """Write a prompt into a slot of the cache; return the logits (1, V) of its first token."""
        assert self._cache is not None
        embeds = stage.prior.embed(inputs.input_ids.to(self.device))
        positions = inputs.position_ids.to(self.device)
        if stage.packed is not None and self._kv_dtype != torch.float32:
            return stage.packed.read_prompt(embeds, positions, self._cache, slot)
        hidden = stage.prior(embeds[None], positions[None], self._cache, [slot])
        return stage.prior.logits(hidden[:, -1])

    def _make_room(self, inputs: PriorInputs, count: int) -> None:
        """Let `count` rows enter, if need be in new buffers that take over the rows of the old."""
        old = self._cache
        if (
            old is not None
            and count <= len(self.free_slots)
            and inputs.max_length <= old.max_length
        ):
            return
        rows = list(self.rows.values())
        length = max([inputs.max_length, *(row.inputs.max_length for row in rows)])
        length = -(-length // LENGTH_STEP) * LENGTH_STEP
        num_slots = max(len(rows) + count, min(self.num_slots, self.kv_tokens // length))
        if not rows:
            old = self._cache = None  # never both at once when nothing is kept
        cache = KVCache(self.prior.config, num_slots, length, self.device, self._kv_dtype)
        tokens = torch.zeros(num_slots, length, dtype=torch.long, device=self.device)
        positions = torch.zeros(num_slots, 3, length, dtype=torch.long, device=self.device)
        for slot, row in enumerate(rows):
            assert old is not None
            count = row.inputs.num_tokens
            cache.buffer[:, slot, : row.num_cached] = old.buffer[:, row.slot, : row.num_cached]
            tokens[slot, :count] = self._tokens[row.slot, :count]
            positions[slot, :, :count] = self._positions[row.slot, :, :count]
        for slot, row in enumerate(rows):
            row.slot = slot
        self._cache, self._tokens, self._positions = cache, tokens, positions
        self.free_slots = list(reversed(range(len(rows), num_slots)))

    def _copy_slot(self, source: int, target: int) -> None:
        """Give a picture what another one of its request has read."""
        assert self._cache is not None
        length = self._cache.lengths[source]
        self._cache.buffer[:, target, :length] = self._cache.buffer[:, source, :length]

    def _draw(self, rows: Sequence[_Row], logits: Tensor) -> None:
        """Draw the next token of each row from logits (B, V)."""
        ids = self._sample(rows, [1] * len(rows), logits)
        where = [[row.slot for row in rows], [row.num_tokens for row in rows]]
        self._tokens[tuple(on_device(where, self.device))] = ids
        for row in rows:
            row.num_tokens += 1

    def _sample(self, rows: Sequence[_Row], counts: Sequence[int], logits: Tensor) -> Tensor:
        """Draw ids (R,) from logits (R, V), which are changed.

        They are `counts[i]` tokens of a row that follow one another.
        """
        logits = logits[:, : self._num_ids].index_fill_(1, self._suppressed, -torch.inf)
        drawn = [(row, i) for row, count in zip(rows, counts, strict=True) for i in range(count)]
        return sample(
            logits,
            [row.temperature for row, _ in drawn],
            [row.top_p for row, _ in drawn],
            self.sampling.top_k,
            [row.stream.uniform(row.num_tokens + i) for row, i in drawn],
        )

    def _report(self, row: _Row, before: int) -> Iterator[Event]:
        """Say what the row's tokens from number `before` on complete."""
        key, inputs, count = row.picture.key, row.inputs, row.num_tokens
        if count // PROGRESS_STEP > before // PROGRESS_STEP or count == inputs.num_tokens:
            yield PriorProgress(*key, count, inputs.num_tokens)
        if inputs.small_grid and before < inputs.num_small <= count:
            small = self._tokens[row.slot, : inputs.num_small].tolist()
            yield SmallGridReady(*key, inputs.small_grid, tuple(small))
        if count == inputs.num_tokens:
            large = inputs.large_tokens(self._tokens[row.slot, :count]).tolist()
            row.picture.prior = PriorReady(*key, inputs.large_grid, tuple(large), inputs.counts)
            yield row.picture.prior


def _by_stage(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Group the rows by their adapters: a pass each, so that none reads what is another's."""
    for _, group in groupby(sorted(rows, key=lambda row: id(row.stage)), lambda row: id(row.stage)):
        yield list(group)


@contextmanager
def _undone_by_errors(rows: Sequence[_Row]) -> Iterator[None]:
    """Take back the tokens of the groups that were written before another one failed."""
    before = [(row, row.num_tokens, row.pace) for row in rows]
    try:
        yield
    except BaseException:
        for row, num_tokens, pace in before:
            row.num_tokens, row.pace = num_tokens, pace
        raise
