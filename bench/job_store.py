"""Measure the job store: enqueue, claim, finish, on both databases and with long queues behind.

    python bench/queue.py --databases sqlite,postgresql --depths 1,10000,1000000

With each depth that many jobs wait already. `serial` asks for one thing after the other and shows
what a call takes; `together` has several callers enqueue, then claim, then finish; `cycles` has
them do all three in turn, as a server and its workers do. PostgreSQL is started for the run; a
commit waits for the disk on both. The last line of the output is the JSON that is also written to
bench/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import record
from record import ROOT
from sqlalchemy import Connection, text

from glmimage.jobs import FileRecord, JobStore, NewJob, Usage
from glmimage.jobs.order import BUCKET_PLACES, PLACES_PER_MEGAPIXEL

ENDPOINT = "fal-ai/glm-image"
INPUT = {"prompt": "A conference poster with the headline 'AI Summit 2026'", "seed": 7}
OPERATIONS = ("enqueue", "claim", "finish", "position")
TARGETS = {"sqlite": "200, better 300", "postgresql": "300, better 500"}
CLAIM_TARGET = "20, at a million"


def fill(connection: Connection, depth: int) -> None:
    """Let `depth` jobs of one megapixel wait, as `enqueue` would have stored them."""
    sqlite = connection.dialect.name == "sqlite"
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
        if sqlite
        else "WITH n AS (SELECT generate_series(0, :last) AS i)"
    )
    no, yes = ("0", "1") if sqlite else ("false", "true")
    columns = (
        "id, endpoint, surface, state, stage, priority, place, num_images, width, height, seed, "
        "created_at, attempt, max_attempts, fence, cancel_requested, dead, store_io, progress, "
        "last_log, change_number, queue, open_stage, reference_file_ids"
    )
    connection.execute(
        text(
            f"INSERT INTO jobs ({columns}) {numbers} SELECT 'job' || i, '{ENDPOINT}', 'queue', "
            f"'queued', 'prior', 'normal', i * {PLACES_PER_MEGAPIXEL}, 1, 1024, 1024, i, i, 0, 3, "
            f"0, {no}, {no}, {yes}, 0, 0, 1, '{ENDPOINT}', 'prior', '[]' FROM n"
        ),
        {"last": depth - 1},
    )
    connection.execute(
        text(
            f"INSERT INTO queue_counts SELECT queue, place / {BUCKET_PLACES}, 0, count(*) "
            "FROM jobs GROUP BY 1, 2"
        )
    )
    connection.execute(
        text("INSERT INTO key_clocks VALUES ('', 'normal', :next)"),
        {"next": depth * PLACES_PER_MEGAPIXEL},
    )
    connection.execute(text("ANALYZE"))


def new_job() -> NewJob:
    return NewJob(ENDPOINT, INPUT, seed=7)


async def finish(store: JobStore, claim: Any) -> None:
    """End a job as the worker does: a result, a file, its usage."""
    file = FileRecord(claim.job.id, claim.job.id, "image/png", 1, "a.png", time.time())
    result = {"images": [{"file_id": file.id, "width": 1024, "height": 1024}], "seed": 7}
    await store.finish(claim, result, [file], Usage(1.05, 0.15, 1.0))


async def timed(times: list[float], call: Awaitable[Any]) -> Any:
    started = time.perf_counter()
    answer = await call
    times.append(time.perf_counter() - started)
    return answer


async def serial(store: JobStore, number: int) -> dict[str, Any]:
    """One caller, one call after the other."""
    times: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for _ in range(number):
        job, _ = await timed(times["enqueue"], store.enqueue(new_job()))
        await timed(times["position"], store.position(job.id))
        (claim,) = await timed(times["claim"], store.claim("w", ["prior", "decode"], 1, 60))
        await timed(times["finish"], finish(store, claim))
    return {name: spread(values) for name, values in times.items()}


async def cycles(store: JobStore, number: int, callers: int) -> dict[str, Any]:
    """Several callers, each enqueueing, claiming and finishing."""
    times: dict[str, list[float]] = {name: [] for name in ("enqueue", "claim", "finish")}
    left = iter(range(number))

    async def call() -> None:
        for _ in left:
            await timed(times["enqueue"], store.enqueue(new_job()))
            for claim in await timed(times["claim"], store.claim("w", ["prior", "decode"], 1, 60)):
                await timed(times["finish"], finish(store, claim))

    started, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*(call() for _ in range(callers)))
    seconds = time.perf_counter() - started
    cpu_ms = 1000 * (time.process_time() - spent) / number  # of ours, without the server's
    return {"per_second": round(number / seconds, 1), "own_cpu_ms": round(cpu_ms, 3)} | {
        name: spread(values) for name, values in times.items()
    }


async def together(store: JobStore, number: int, callers: int) -> dict[str, Any]:
    """Several callers, all of whom enqueue, then claim, then finish."""
    claims: list[Any] = []

    async def enqueue() -> None:
        await store.enqueue(new_job())

    async def claim() -> None:
        claims.extend(await store.claim("w", ["prior", "decode"], 1, 600))

    async def end() -> None:
        await finish(store, claims.pop())

    calls: dict[str, Callable[[], Awaitable[None]]] = {
        "enqueue": enqueue,
        "claim": claim,
        "finish": end,
    }
    return {name: await rate(call, number, callers) for name, call in calls.items()}


async def rate(call: Callable[[], Awaitable[None]], number: int, callers: int) -> dict[str, float]:
    """Return calls a second of several callers, and what one waits for."""
    left = iter(range(number))
    times: list[float] = []

    async def repeat() -> None:
        for _ in left:
            await timed(times, call())

    started = time.perf_counter()
    await asyncio.gather(*(repeat() for _ in range(callers)))
    return {"per_second": round(number / (time.perf_counter() - started), 1)} | spread(times)


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median and 99th percentile in ms."""
    values = sorted(1000 * one for one in seconds)
    return {
        "p50_ms": round(statistics.median(values), 3),
        "p99_ms": round(values[min(len(values) - 1, int(0.99 * len(values)))], 3),
    }


@asynccontextmanager
async def empty_store(database: str) -> AsyncIterator[JobStore]:
    """Open a new store, on a server of its own where one is needed."""
    if database == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            async with await JobStore.open(f"sqlite:///{folder}/store.sqlite3") as store:
                yield store
        return
    command = [sys.executable, str(ROOT / "scripts" / "postgres_server.py")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    if not address:
        sys.exit(server.wait())
    try:
        async with await JobStore.open(address) as store:
            yield store
    finally:
        server.communicate("")


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for database in options.databases.split(","):
        for depth in map(int, options.depths.split(",")):
            async with empty_store(database) as store:
                await store._db.write(fill, depth)
                await serial(store, options.warmup)
                row: dict[str, Any] = {"database": database, "depth": depth}
                row["serial"] = await serial(store, options.number)
                row["cycles"] = await cycles(store, options.number, options.callers)
                row["together"] = await together(store, options.number, options.callers)
                rows.append(row)
                print(json.dumps(row), file=sys.stderr)
    return rows


def figures(details: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what matters, one number a row, beside what was to be reached."""
    for row in details:
        depth, database = row["depth"], row["database"]
        case = f"{database}, {depth} waiting"
        target = TARGETS[database]
        values: dict[str, tuple[float, str]] = {
            "full cycles a second": (row["cycles"]["per_second"], target),
            "claim among cycles, p99 ms": (row["cycles"]["claim"]["p99_ms"], CLAIM_TARGET),
        }
        for name, spread_of in row["together"].items():
            values[f"{name}, a second"] = (spread_of["per_second"], "")
        for name, spread_of in row["serial"].items():
            reach = CLAIM_TARGET if name == "claim" else ""
            values[f"{name} alone, p50 ms"] = (spread_of["p50_ms"], "")
            values[f"{name} alone, p99 ms"] = (spread_of["p99_ms"], reach)
        for metric, (number, reach) in values.items():
            yield record.row(case, metric, number, target=reach)
    for database in TARGETS:
        at = {row["depth"]: row["cycles"] for row in details if row["database"] == database}
        if at.keys() >= {10**4, 10**6}:
            short, long = (at[depth]["per_second"] for depth in (10**4, 10**6))
            case = f"{database}, 1000000 against 10000 waiting"
            slower = round(short / long, 2)
            yield record.row(case, "times slower", slower, target="1.5")


def card() -> dict[str, Any]:
    """Say what was measured where."""
    load = round(os.getloadavg()[0], 2)
    told = record.card(packages=("sqlalchemy", "asyncpg"), load_before=load)
    return told | {"system": f"{told['system']}, {os.cpu_count()} CPUs"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--depths", default="1,10000,1000000", help="jobs that wait already")
    parser.add_argument("--number", type=int, default=1000, help="calls of each kind")
    parser.add_argument("--callers", type=int, default=16, help="of the measurement `cycles`")
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--name", default="queue", help="end of the result file's name")
    options = parser.parse_args()
    details = asyncio.run(measure(options))
    document = {"card": card(), "rows": list(figures(details)), "details": details}
    record.write_result(document, options.name)


if __name__ == "__main__":
    main()
