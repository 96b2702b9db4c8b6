"""Measure the service: submits, polls, what `run` adds to the engine, memory of the server.

    python -P bench/serve.py --seconds 10 --clients 200 --rounds 6 --repeats 12

-P, because the queue.py beside this file would be taken for the standard library's.

Starts `glmimage serve` on a fresh data folder, first without a worker (submits and polls are the
server's own work), then with one on a toy checkpoint, which is what `run` is compared with: the
same request given to an engine in a process of its own, in turn. The load comes from one asyncio
process on the same machine, so its share of the processor is taken from the server. Rows carry what
was to be reached as `target`. The last line of the output is the JSON that is also written to
bench/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import uvloop

sys.path.append(str(Path(__file__).parent))  # last, so that queue.py stays the standard library's

import record
from record import Row

APP = "fal-ai/glm-image"
REQUEST = {
    "prompt": "A sign that says 'OPEN'",
    "image_size": "square",
    "num_inference_steps": 10,
    "enable_safety_checker": False,
}


class Server:
    """Run `glmimage serve` as a user does."""

    def __init__(self, folder: Path, model: Path, workers: int) -> None:
        environment = os.environ | {
            "GLMIMAGE_DATA_DIR": str(folder),
            "GLMIMAGE_MODEL": str(model),
            "GLMIMAGE_NO_WORKER_TIMEOUT_S": "3600",
        }
        command = [sys.executable, "-m", "glmimage", "serve"]
        options = ["--http-port", "0", "--https-port", "0", "--workers", str(workers)]
        self.process = subprocess.Popen(
            [*command, *options], env=environment, stdout=subprocess.DEVNULL
        )
        self.folder = folder

    def address(self) -> dict[str, Any]:
        """Wait until it listens and return where; with the key."""
        file = self.folder / "serving.json"
        while not file.exists():
            if self.process.poll() is not None:
                raise SystemExit("glmimage serve did not start")
            time.sleep(0.05)
        key = (self.folder / "keys" / "first-key").read_text().strip()
        return {**json.loads(file.read_text()), "key": key}

    def memory_bytes(self) -> int:
        """Return what the server process has to itself and shares, its children not counted."""
        return psutil.Process(self.process.pid).memory_info().rss

    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


class Connection:
    """Speak HTTP/1.1 on one kept connection; as little work as possible on this side."""

    def __init__(self, address: dict[str, Any], *, tls: bool) -> None:
        self._address, self._tls = address, tls
        self._head = f"Host: {self._host}\r\nAuthorization: Key {address['key']}\r\n"

    @property
    def _host(self) -> str:
        return str(self._address["https" if self._tls else "http"])

    async def open(self) -> None:
        name, _, port = self._host.rpartition(":")
        context = ssl.create_default_context(cafile=self._address["ca"]) if self._tls else None
        self._in, self._out = await asyncio.open_connection(name, int(port), ssl=context)

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        self._out.write(head.encode() + body)
        answer = await self._in.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        content = await self._in.readexactly(int(length[1])) if length else b""
        return int(answer[9:12]), content

    def close(self) -> None:
        self._out.close()


@contextlib.asynccontextmanager
async def connections(address: dict[str, Any], number: int, *, tls: bool) -> Any:
    opened = [Connection(address, tls=tls) for _ in range(number)]
    await asyncio.gather(*(connection.open() for connection in opened))
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def submit_for(address: dict[str, Any], seconds: float, number: int) -> list[float]:
    """Submit on several connections at once; return how long each submit took."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def submit(connection: Connection, index: int) -> None:
        while time.perf_counter() < until:
            body = json.dumps({**REQUEST, "prompt": f"{REQUEST['prompt']} {index} {len(took)}"})
            began = time.perf_counter()
            status, answer = await connection.call("POST", f"/queue/{APP}", body.encode())
            took.append(time.perf_counter() - began)
            assert status == 200, answer

    async with connections(address, number, tls=False) as opened:
        await asyncio.gather(*(submit(one, index) for index, one in enumerate(opened)))
    return took


async def poll_for(
    address: dict[str, Any], seconds: float, clients: int, *, tls: bool, hertz: float | None
) -> list[float]:
    """Let each client poll a queued request of its own; hertz None is as fast as it can."""
    took: list[float] = []

    async def poll(connection: Connection, index: int) -> None:
        _, answer = await connection.call("POST", f"/queue/{APP}", json.dumps(REQUEST).encode())
        path = f"/queue/{APP}/requests/{json.loads(answer)['request_id']}/status?logs=true"
        if hertz:
            await asyncio.sleep(index / clients / hertz)
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            status, answer = await connection.call("GET", path)
            took.append(time.perf_counter() - began)
            assert status == 202, answer
            if hertz:
                await asyncio.sleep(max(0.0, 1 / hertz - took[-1]))

    async with connections(address, clients, tls=tls) as opened:
        await asyncio.gather(*(poll(one, index) for index, one in enumerate(opened)))
    return took


class Timed(NamedTuple):
    """Seconds of each repetition: as a whole, and without the stages that its result times."""

    whole: list[float]
    around: list[float]

    def add(self, seconds: float, timings: Mapping[str, float], suffix: str = "") -> None:
        """Note one repetition; the suffix is that of the stages' names."""
        self.whole.append(seconds)
        painting = sum(timings[f"{stage}{suffix}"] for stage in ("prior", "denoise", "decode"))
        self.around.append(seconds - painting)


_engine: list[Any] = []


def load_engine(model: Path) -> None:
    """Load the engine of this process, as a worker does."""
    from glmimage import Pipeline
    from glmimage.engine.engine import Engine

    _engine.append(Engine(Pipeline.load(model).stages))


def paint(seed: int) -> tuple[float, dict[str, float]]:
    """Paint the request in this process and return the seconds, as a whole and of the stages."""
    from glmimage import GenerationRequest
    from glmimage.types import PictureReady

    began, painted = time.perf_counter(), None
    _engine[0].add_request(
        GenerationRequest(
            str(REQUEST["prompt"]), width=512, height=512, num_inference_steps=10, seed=seed
        )
    )
    while painted is None:
        painted = next((e for e in _engine[0].step() if isinstance(e, PictureReady)), None)
    return time.perf_counter() - began, dict(painted.timings)


async def run_against_engine(
    address: dict[str, Any], model: Path, repeats: int, first_seed: int, timed: tuple[Timed, Timed]
) -> None:
    """Time the same request through `run` and in an engine in a process of its own, in turn."""
    through, direct = timed
    with ProcessPoolExecutor(1, get_context("spawn"), load_engine, (model,)) as apart:
        async with connections(address, 1, tls=False) as (connection,):
            while (await connection.call("GET", "/health/ready"))[0] != 200:
                await asyncio.sleep(0.1)
            for index in range(-3, repeats):
                seed = first_seed + index
                began = time.perf_counter()
                body = json.dumps({**REQUEST, "seed": seed}).encode()
                status, answer = await connection.call("POST", f"/run/{APP}", body)
                seconds = time.perf_counter() - began
                assert status == 200, answer
                painted = apart.submit(paint, seed).result()
                if index >= 0:  # the first three warm up
                    through.add(seconds, json.loads(answer)["timings"])
                    direct.add(*painted, "_s")


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latency_rows(case: str, took: list[float]) -> Iterator[Row]:
    yield row(case, "p50 ms", statistics.median(took) * 1e3)
    yield row(case, "p99 ms", percentile(took, 0.99) * 1e3)


def row(case: str, metric: str, ours: float, target: float | None = None) -> Row:
    more = {} if target is None else {"target": target}
    return record.row(case, metric, ours, digits=3, **more)


def without_worker(options: argparse.Namespace, folder: Path, model: Path) -> Iterator[Row]:
    server = Server(folder, model, 0)
    try:
        address = server.address()
        yield row("server at rest", "memory MiB", server.memory_bytes() / 2**20)
        for tls in (False, True):
            for hertz in (10.0, None):
                pace = "10 Hz each" if hertz else "as fast as they can"
                case = f"{options.clients} clients poll, {pace}, {'https' if tls else 'http'}"
                began, used = time.perf_counter(), server.cpu_s()
                took = uvloop.run(
                    poll_for(address, options.seconds, options.clients, tls=tls, hertz=hertz)
                )
                cpu = (server.cpu_s() - used) / (time.perf_counter() - began)
                rate = len(took) / options.seconds
                yield row(case, "polls a second", rate, None if hertz is None else 1500)
                yield from latency_rows(case, took)
                yield row(case, "server's share of a core", cpu)
        case = f"submits on {options.connections} connections"
        took = uvloop.run(submit_for(address, options.seconds, options.connections))
        yield row(case, "submits a second", len(took) / options.seconds, 300)
        yield from latency_rows(case, took)
        yield row("server after the load", "memory MiB", server.memory_bytes() / 2**20, 250)
    finally:
        server.stop()


def with_worker(options: argparse.Namespace, folder: Path, model: Path) -> Iterator[Row]:
    """Compare with the engine, each round in fresh processes, of which some paint faster."""
    through, direct = Timed([], []), Timed([], [])
    for number in range(options.rounds):
        server = Server(folder / str(number), model, 1)
        try:
            first_seed = 1000 * (number + 1)
            address, timed = server.address(), (through, direct)
            uvloop.run(run_against_engine(address, model, options.repeats, first_seed, timed))
        finally:
            server.stop()
    times = f"{options.rounds} times {options.repeats}"
    case = f"run, toy checkpoint, 512x512, 10 steps, {times} times"
    yield row(case, "engine p50 ms", statistics.median(direct.whole) * 1e3)
    yield row(case, "run p50 ms", statistics.median(through.whole) * 1e3)
    added = statistics.median(through.whole) - statistics.median(direct.whole)
    yield row(case, "added p50 ms", added * 1e3, 30)
    tail = percentile(through.whole, 0.99) - percentile(direct.whole, 0.99)
    yield row(case, "added p99 ms", tail * 1e3)
    # painting differs from run to run by more than what a service adds to it
    around = statistics.median(through.around) - statistics.median(direct.around)
    yield row(case, "added beside the stages, p50 ms", around * 1e3)
    tail = percentile(through.around, 0.99) - percentile(direct.around, 0.99)
    yield row(case, "added beside the stages, p99 ms", tail * 1e3)


def card() -> dict[str, Any]:
    """Say what was measured where."""
    packages = ("starlette", "uvicorn", "sqlalchemy", "torch")
    return record.card(
        packages=packages, threads=os.cpu_count(), model="toy checkpoint", store="SQLite"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--clients", type=int, default=200, help="that poll")
    parser.add_argument("--connections", type=int, default=16, help="that submit")
    parser.add_argument("--rounds", type=int, default=6, help="with fresh processes, of run")
    parser.add_argument("--repeats", type=int, default=12, help="of run, in a round")
    parser.add_argument("--no-write", action="store_true", help="do not keep the result")
    options = parser.parse_args()

    from glmimage.loading.tiny import make_tiny

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_tiny(folder / "toy", seed=0)
        for part, measure in (("alone", without_worker), ("worker", with_worker)):
            for one in measure(options, folder / part, model):
                print(f"{one['case']:60} {one['metric']:26} {one['ours']:10.2f}", flush=True)
                rows.append(one)
    result = {"card": card(), "rows": rows}
    if options.no_write:
        print(json.dumps(result))
    else:
        record.write_result(result, "serve")


if __name__ == "__main__":
    main()
