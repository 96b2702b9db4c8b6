"""What every training stage shares: a time budget that survives interruption, Muon, averaged weights, a log."""

import contextlib
import ctypes
import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# bfloat16 is slower than float32 on processors without units for it
HAS_BFLOAT16 = DEVICE.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
DTYPE = torch.bfloat16 if HAS_BFLOAT16 else torch.float32
RUNS = Path(os.environ.get("NANO_RUNS", Path(__file__).parent / "runs"))
# in git, since k-means finds other centres on another machine; delete it to make a new one with a new checkpoint
CODEBOOK = Path(__file__).parent / "background_codebook.npy"
LONGEST_STEP_S = 300  # what takes longer was stopped or asleep, and is not counted as training
if DEVICE.type == "cuda":
    torch.set_float32_matmul_precision("high")


def keep_freed_memory() -> None:
    """Let glibc keep what it frees: training frees and asks for the same large blocks at every step.

    Handed back to the system, each comes again page by page: eight times as many page faults.
    """
    mmap_threshold, trim_threshold = -3, -1
    with contextlib.suppress(OSError, AttributeError):  # no glibc, no such knob
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 2**31 - 1)
        libc.mallopt(trim_threshold, 2**31 - 1)


def autocast() -> torch.autocast:
    """Compute in bfloat16 where that is safe and fast, on the device at hand."""
    return torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=HAS_BFLOAT16)


def in_processes(function, arguments: Iterator, num_processes: int, num_ahead: int = 3) -> Iterator:
    """Yield function(argument) in order, computed ahead by other processes; in this one when num_processes is 0."""
    if not num_processes:
        yield from map(function, arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, initializer=_Work.take, initargs=(function,)) as pool:
        waiting = deque(pool.submit(_Work.compute, a) for a in itertools.islice(arguments, num_processes * num_ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(_Work.compute, a) for a in itertools.islice(arguments, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


class _Work:
    """What a process of `in_processes` computes: sent once, with all that it holds."""

    function: ClassVar[list] = []

    @classmethod
    def take(cls, function) -> None:
        cls.function = [function]
        torch.set_num_threads(1)
        for number in (signal.SIGTERM, signal.SIGINT):  # meant for the training, which stops them
            signal.signal(number, signal.SIG_IGN)

    @classmethod
    def compute(cls, argument):
        return cls.function[0](argument)


def compiled(function):
    """Compile a block: on a CPU for each shape it meets (the default keeps eight), on CUDA once for all."""
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=DEVICE.type == "cuda")  # there one compilation costs more than it gains


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz iterations, for matrices (Jordan et al. 2024)."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for shape, params in alike.items():
                self._update(group, shape, params)

    def _update(self, group, shape, params):
        """Update matrices of one shape together: a GPU waits for the many small products otherwise."""
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta, gradients = [self.state[p]["momentum"] for p in params], [p.grad for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"])).flatten(2)
        updates = orthogonalise(updates).view(-1, *shape)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        step = group["lr"] * max(1, shape[0] / shape[1:].numel()) ** 0.5
        torch._foreach_add_(params, list(updates), alpha=-step)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the matrices (N, rows, columns) with their singular values near 1 (quintic Newton-Schulz, 5 steps)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(DTYPE)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    transposed = x.shape[1] > x.shape[2]
    x = x.mT if transposed else x
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if transposed else x).to(matrices.dtype)


class Run:
    """One stage's training: budget in minutes, checkpoint file, JSON-lines log; resumed when its file exists."""

    def __init__(self, name: str, minutes: float, modules: dict[str, nn.Module], optimizers: list):
        self.path = RUNS / f"{name}.pt"
        self.log_path = RUNS / f"{name}.jsonl"
        self.minutes, self.modules, self.optimizers = minutes, modules, optimizers
        self.base_lrs = [[g["lr"] for g in o.param_groups] for o in optimizers]
        self.elapsed_s, self.num_steps, self.num_samples = 0.0, 0, 0
        self._stop = False
        RUNS.mkdir(parents=True, exist_ok=True)
        keep_freed_memory()
        if self.path.exists():
            self._resume()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, *_):
        self._stop = True

    def _resume(self):
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=False):
            optimizer.load_state_dict(saved)
        self.elapsed_s, self.num_steps, self.num_samples = state["elapsed_s"], state["num_steps"], state["num_samples"]
        print(f"resumed {self.path.name} at {self.elapsed_s / 60:.1f} min, step {self.num_steps}", flush=True)

    def save(self):
        """Write the checkpoint under a temporary name, then rename it."""
        state = {
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "optimizers": [o.state_dict() for o in self.optimizers],
            "elapsed_s": self.elapsed_s,
            "num_steps": self.num_steps,
            "num_samples": self.num_samples,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    def steps(self, warmup: int = 50, save_every_s: float = 120, floor: float = 0.02) -> Iterator[float]:
        """Yield the progress 0..1 until the budget is spent; sets the learning rates (cosine) and saves on the way."""
        last_save = time.monotonic()
        while self.elapsed_s < self.minutes * 60 and not self._stop:
            start = time.monotonic()
            progress = self.elapsed_s / (self.minutes * 60)
            scale = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
            scale *= min(1.0, (self.num_steps + 1) / warmup)
            for optimizer, lrs in zip(self.optimizers, self.base_lrs, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * scale
            yield progress
            self.num_steps += 1
            self.elapsed_s += min(time.monotonic() - start, LONGEST_STEP_S)
            if time.monotonic() - last_save > save_every_s:
                self.save()
                last_save = time.monotonic()
        self.save()

    def log(self, **values):
        """Append one line to the log and print it."""
        row = {"minutes": round(self.elapsed_s / 60, 2), "steps": self.num_steps, "samples": self.num_samples}
        row |= {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        with self.log_path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


class Average:
    """An exponential moving average of a module's parameters, whose horizon grows with the number of steps."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.num_updates = decay, 0
        self.values = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module):
        """Move towards the module's present values."""
        self.num_updates += 1
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = {k: v for k, v in module.state_dict().items() if v.dtype.is_floating_point}
        torch._foreach_lerp_([self.values[k] for k in current], list(current.values()), weight)

    def state_dict(self):
        """Return the averaged values and the count."""
        return {"values": self.values, "num_updates": self.num_updates}

    def load_state_dict(self, state):
        """Restore the averaged values and the count."""
        self.values = {k: v.to(self.values[k].device) for k, v in state["values"].items()}
        self.num_updates = state["num_updates"]


def split_parameters(module: nn.Module, matrix_names: tuple[str, ...]) -> tuple[list, list]:
    """Split parameters into (matrices whose name contains one of `matrix_names`, everything else)."""
    matrices, rest = [], []
    for name, p in module.named_parameters():
        if p.requires_grad:
            (matrices if p.ndim >= 2 and any(m in name for m in matrix_names) else rest).append(p)
    return matrices, rest
