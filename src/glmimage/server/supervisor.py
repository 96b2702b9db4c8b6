"""Worker processes beside the server: started, restarted after a crash, never left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LIVED_LONG_S = 60.0
"""A worker that ran for so long starts again without delay."""
REFUSED = 2
"""The exit code of a command that cannot work as it is set up."""


class WorkerRefused(Exception):
    """Say that a worker could not start at all; it has said why."""


class WorkerSupervisor:
    """Keep one worker process running until `stop`.

    The worker gets a pipe as its stdin, which ends when this process does, however it ends; and a
    session of its own, so that Ctrl-C reaches it through us alone.
    """

    def __init__(self, command: Sequence[str], *, grace_s: float) -> None:
        self.command = tuple(command)
        self.grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def process_id(self) -> int | None:
        """Return the id of the process that runs now."""
        return None if self._process is None else self._process.pid

    async def run(self, on_crash: Callable[[int], None] = lambda code: None) -> None:
        """Start, wait, start again; raise WorkerRefused when the first one will not work."""
        pause_s = FIRST_PAUSE_S
        first = True
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if first and code == REFUSED:
                raise WorkerRefused
            first = False
            on_crash(code)
            if time.monotonic() - started >= LIVED_LONG_S:
                pause_s = FIRST_PAUSE_S
            log.error("The worker ended with %s; starting another in %g s.", _ending(code), pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def stop(self) -> None:
        """Ask the worker to finish or hand back what it has, then insist."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        _send(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(self.grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("The worker did not stop within %g s and is ended.", self.grace_s)
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End the worker, and what it may have started, at once."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run_once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self.command, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        if self._stopping.is_set():  # asked while it was being started
            self.kill()
        try:
            return await self._process.wait()
        except asyncio.CancelledError:
            self.kill()
            raise
        finally:
            if self._process.returncode is not None:
                self._process = None


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
