"""Two computations at once on the two threads of a small CPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from .thread_choice import cpu_threads

Result = TypeVar("Result")


class Run(Protocol):
    """Call two functions and return what they return."""

    def __call__(
        self, one: Callable[[], Result], other: Callable[[], Result]
    ) -> tuple[Result, Result]: ...


@contextmanager
def side_by_side(wanted: bool) -> Iterator[Run]:
    """Give what runs two functions in inference mode: at once on two threads, else in turn.

    Threads that share every operation wait for each other in each; with a pass each they do not.
    A guided step of nano's decoder on two cores with AMX: 512 px 62.7 -> 59.9 ms, 1024 px 393 ->
    367. Inside, this thread computes alone: its mate of other operations would wake up and spin.
    Not measured on more than two threads. With two threads beside this one, everything else took a
    third longer afterwards: libgomp sleeps sooner when it counts more threads than processors.
    """
    if not wanted or torch.get_num_threads() != 2:
        yield _in_turn
        return
    mate = _mate()
    with cpu_threads(1):
        yield functools.partial(_at_once, mate)


def _in_turn(one: Callable[[], Result], other: Callable[[], Result]) -> tuple[Result, Result]:
    return one(), other()


def _at_once(
    mate: ThreadPoolExecutor, one: Callable[[], Result], other: Callable[[], Result]
) -> tuple[Result, Result]:
    waiting: Future[Result] = mate.submit(_infer, other)
    try:
        first = one()
    finally:
        waiting.exception()  # it ends with the step that began it
    return first, waiting.result()


def _infer(call: Callable[[], Result]) -> Result:
    with torch.inference_mode():
        return call()


@functools.cache
def _mate() -> ThreadPoolExecutor:
    """Return a thread that waits for work and computes alone."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="pass")
    count = torch.get_num_threads()
    thread.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(count)  # threads to come get what was set last, by any
    return thread


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_mate.cache_clear)
