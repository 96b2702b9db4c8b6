"""Simulate a cluster: how long requests wait, how busy workers are, what failures cost.

    python -P bench/cluster_sim.py             the table, from the times in bench/results/
    python -P bench/cluster_sim.py --check     beside it a real `glmimage serve`, one worker and two

-P, because the queue.py beside this file would be taken for the standard library's.

The check starts the service on a toy checkpoint, measures its stages on single requests, then
submits requests at known times and compares how long they waited and took with what the model makes
of the same times. The last line of the output is the JSON that is also written to bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # last, so that queue.py stays the standard library's

import record
from cluster_model import Cluster, Failures, Request, Times, Worker
from record import RESULTS, Row

from glmimage.engine.scheduler import Limits

APP = "fal-ai/glm-image"
DAY_S = 86400.0
KEYS = [("one", 0.5), ("two", 0.3), ("three", 0.2)]
LOW_SHARE = 0.2


def measured(name: str, case: str, metric: str) -> float:
    """Read a figure of ours from the newest result of a kind."""
    file = sorted(RESULTS.glob(f"*-{name}.json"))[-1]
    for row in json.loads(file.read_text())["rows"]:
        if (row["case"], row["metric"]) == (case, metric):
            return float(row["ours"])
    raise SystemExit(f"{file.name} has no row {case!r}, {metric!r}.")


def nano_times() -> Times:
    """Return what a 512 px picture of 30 steps takes with nano on the measured CPU."""
    case, steps = "512x512, 30 steps", 30
    return Times(
        tokens=512,
        token_rates={
            1: measured("prior", "one request of 512 px", "tokens_per_s"),
            16: measured("prior", "16 requests of 512 to 1024 px", "tokens_per_s"),
        },
        step_s=measured("infer-512-30-steps", case, "denoise") / steps,
        num_steps=steps,
        decode_s=measured("infer-512-30-steps", case, "decode"),
        patches=(512 // 16) ** 2,
        megapixels=512 * 512 / 1e6,
    )


def poisson(times: Times, rate: float, number: int, seed: int) -> Iterator[Request]:
    """Give requests that come at random, `rate` a second, of three keys and two priorities."""
    stream, now = random.Random(seed), 0.0
    names, shares = zip(*KEYS, strict=True)
    for index in range(number):
        now += stream.expovariate(rate)
        priority = "low" if stream.random() < LOW_SHARE else "normal"
        (key,) = stream.choices(names, shares)
        yield Request(index, now, priority, key, times)


def make_workers(num_prior: int, num_decode: int, decode_jobs: int = 2) -> list[Worker]:
    """Make workers of either stage with what deploy/ gives them; of both stages without prior."""
    if not num_prior:
        return [Worker(("prior", "decode"), 4, Limits()) for _ in range(num_decode)]
    return [Worker(("prior",), 8, Limits()) for _ in range(num_prior)] + [
        Worker(("decode",), decode_jobs, Limits()) for _ in range(num_decode)
    ]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def simulate(
    case: str, workers: list[Worker], rate: float, number: int, failures: Failures
) -> Iterator[Row]:
    """Run one case and give its rows."""
    began = time.perf_counter()
    cluster = Cluster(workers, failures, seed=1)
    requests = cluster.run(poisson(nano_times(), rate, number, seed=0))
    warm = requests[len(requests) // 10 :]
    done = [r for r in warm if r.ended is not None and r.started is not None]

    def row(metric: str, value: float) -> Row:
        return record.row(case, metric, value)

    for priority in ("normal", "low"):
        waits = [r.started - r.arrived for r in done if r.priority == priority and r.started]
        for share in (0.5, 0.95, 0.99):
            yield row(f"wait of {priority}, p{share * 100:g}, s", percentile(waits, share))
    took = [r.ended - r.arrived for r in done if r.ended is not None]
    for share in (0.5, 0.95, 0.99):
        yield row(f"until the picture, p{share * 100:g}, s", percentile(took, share))
    for stage in ("prior", "decode"):
        able = [worker for worker in workers if stage in worker.stages]
        busy = sum(worker.busy_s[stage] for worker in able)
        yield row(f"utilisation, {stage}", busy / (len(able) * cluster.now))
    yield row("requests a day", number / cluster.now * DAY_S)
    yield row("requests lost by workers that died", cluster.num_lost)
    yield row("requests given up", cluster.num_failed)
    yield row("simulated hours", cluster.now / 3600)
    yield row("seconds to simulate", time.perf_counter() - began)


def cases() -> Iterator[tuple[str, list[Worker], float, int, Failures]]:
    """Name what is simulated: 1 to 1,000 workers at 80 %, a million a day, and with failures."""
    times = nano_times()
    paint_s = times.num_steps * times.step_s + times.decode_s
    prior_s = times.tokens / (8 * times.row_rate(8))
    never = Failures()
    for count in (1, 10, 100, 1000):
        rate = 0.8 * count / (paint_s + prior_s)
        number = 30_000
        yield f"{count} workers of both stages, 80 %", make_workers(0, count), rate, number, never
    rate = 1_000_000 / DAY_S
    for slack in (0.7, 0.85, 0.95):
        num_decode = round(rate * paint_s / slack)
        num_prior = max(1, round(rate * prior_s / 0.7))
        case = f"a million a day, {num_prior} prior and {num_decode} decode workers"
        yield case, make_workers(num_prior, num_decode), rate, 30_000, never
    num_decode, num_prior = round(rate * paint_s / 0.85), max(1, round(rate * prior_s / 0.7))
    case = f"a million a day, {num_prior} prior and {num_decode} decode workers, one job each"
    yield case, make_workers(num_prior, num_decode, 1), rate, 30_000, never
    for hours in (24, 2):
        case = f"the same with {num_decode} decode workers, each dies every {hours} h"
        failures = Failures(mean_s=hours * 3600.0)
        yield case, make_workers(num_prior, num_decode), rate, 30_000, failures


class Service:
    """Run `glmimage serve` on a toy checkpoint, and ask it."""

    def __init__(self, folder: Path, model: Path, workers: int) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GLMIMAGE_")}
        settings = {"DATA_DIR": folder, "MODEL": model, "RESULT_CACHE": "0", "DEVICE": "cpu"}
        environment |= {f"GLMIMAGE_{name}": str(value) for name, value in settings.items()}
        # one thread each: workers that share cores would be no servers of their own
        environment |= {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "glmimage", "serve", "--http-port", "0"]
        self.process = subprocess.Popen(
            [*command, "--https-port", "0", "--workers", str(workers)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        self.folder, self.workers = folder, workers

    def wait(self) -> None:
        """Wait until every worker has its model."""
        while self.workers:
            if self.process.poll() is not None:
                raise SystemExit("glmimage serve did not start")
            time.sleep(0.2)
            if (self.folder / "serving.json").exists():
                if len(self.query("SELECT id FROM workers WHERE ready")) == self.workers:
                    return

    def submit(self, seed: int, priority: str) -> str:
        serving = json.loads((self.folder / "serving.json").read_text())
        key = (self.folder / "keys" / "first-key").read_text().strip()
        body = {"prompt": f"A sign {seed}", "image_size": "square", "num_inference_steps": 10}
        asked = urllib.request.Request(
            f"http://{serving['http']}/queue/{APP}",
            json.dumps(body | {"seed": seed, "enable_safety_checker": False}).encode(),
            {"Authorization": f"Key {key}", "X-Fal-Queue-Priority": priority},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(asked) as answer:
            return str(json.load(answer)["request_id"])

    def jobs(self, ids: list[str]) -> list[tuple[float, float, float, Row]]:
        """Wait for requests; return (created, started, finished, timings) of each."""
        marks = ",".join("?" * len(ids))
        query = (
            "SELECT jobs.id, created_at, started_at, finished_at, result FROM jobs"
            f" JOIN payloads ON job_id = jobs.id WHERE jobs.id IN ({marks}) AND state = 'done'"
        )
        while len(rows := self.query(query, ids)) < len(ids):
            failed = self.query("SELECT error FROM jobs WHERE state IN ('failed', 'cancelled')")
            if failed or self.process.poll() is not None:
                raise SystemExit(f"The service did not paint: {failed or 'it has ended'}.")
            time.sleep(0.1)
        found = {row[0]: (*row[1:4], json.loads(row[4])["timings"]) for row in rows}
        return [found[id] for id in ids]

    def query(self, text: str, values: list[str] | None = None) -> list[Any]:
        with sqlite3.connect(self.folder / "glmimage.sqlite3", timeout=30) as connection:
            return connection.execute(text, values or []).fetchall()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def check(num_workers: int, number: int, load: float) -> Iterator[Row]:
    """Submit at known times to a real service, and compare with the model of the same times."""
    from glmimage.loading.tiny import make_tiny

    with tempfile.TemporaryDirectory() as name:
        service = Service(Path(name) / "data", make_tiny(Path(name) / "toy", seed=0), num_workers)
        try:
            service.wait()
            alone = [service.jobs([service.submit(seed, "normal")])[0] for seed in range(8)][3:]
            times = toy_times(alone)
            service_s = times.tokens / times.token_rates[1] + times.num_steps * times.step_s
            service_s += times.decode_s + times.overhead_s
            number = min(number, int(LONGEST_CHECK_S * load * num_workers / service_s))
            stream = random.Random(3)
            planned, at = [], 0.0
            for index in range(number):
                at += stream.expovariate(load * num_workers / service_s)
                planned.append((at, "low" if index % 5 == 4 else "normal"))
            began, ids = time.monotonic(), []
            for index, (at, priority) in enumerate(planned):
                time.sleep(max(0.0, began + at - time.monotonic()))
                ids.append(service.submit(1000 + index, priority))
            real = service.jobs(ids)
        finally:
            service.stop()
    first = real[0][0]
    requests = [
        Request(index, created - first, priority, "one", times)
        for index, ((created, *_), (_, priority)) in enumerate(zip(real, planned, strict=True))
    ]
    Cluster(make_workers(0, num_workers), Failures(), 0).run(iter(requests))
    waits = [started - created for created, started, _, _ in real]
    took = [finished - created for created, _, finished, _ in real]
    model_waits = [(r.started or 0) - r.arrived for r in requests]
    model_took = [(r.ended or 0) - r.arrived for r in requests]
    workers = "worker" if num_workers == 1 else "workers"
    case = f"{num_workers} {workers}, {number} requests, load {load:g}"
    pairs = [("wait", waits, model_waits), ("until the picture", took, model_took)]
    for what, ours, theirs in pairs:
        for metric, of in (("mean", statistics.fmean), ("median", statistics.median), ("max", max)):
            name, simulated = f"{what}, {metric}, s", round(of(theirs), 3)
            yield record.row(f"check: {case}", name, of(ours), digits=3, simulated=simulated)


def toy_times(alone: list[tuple[float, float, float, Row]]) -> Times:
    """Return the stages' times of the toy, from requests that were alone."""

    def median(name: str) -> float:
        return statistics.median(job[3][name] for job in alone)

    prior_s, denoise_s, decode_s = (median(name) for name in ("prior", "denoise", "decode"))
    whole_s = statistics.median(finished - started for _, started, finished, _ in alone)
    tokens = 512
    return Times(
        tokens=tokens,
        # nearly all of a pass of the toy is the same for one row and for four
        token_rates={1: tokens / prior_s, 4: 4 * tokens / prior_s / ROWS_COST},
        step_s=denoise_s / 10,
        num_steps=10,
        decode_s=decode_s,
        patches=1024,
        megapixels=512 * 512 / 1e6,
        overhead_s=max(0.0, whole_s - prior_s - denoise_s - decode_s),
    )


LONGEST_CHECK_S = 130.0
"""How long requests of a check may come in: on a slow machine there are fewer."""
ROWS_COST = 1.5
"""How much longer a pass of four rows takes than of one, on the toy."""


def card() -> dict[str, Any]:
    """Say what was measured where."""
    times = {name: value for name, value in vars(nano_times()).items() if name != "token_rates"}
    return record.card(packages=("sqlalchemy", "torch"), model="simulation", times=times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with a real service only")
    parser.add_argument("--workers", type=int, help="of the check; by default first 1, then 2")
    parser.add_argument("--number", type=int, default=0, help="requests a case; 0 as planned")
    parser.add_argument("--no-write", action="store_true", help="do not keep the result")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.check:
        counts = (options.workers,) if options.workers else (1, 2)
        parts: Any = (check(count, options.number or 40, 0.8) for count in counts)
    else:
        parts = (
            simulate(case, workers, rate, options.number or number, failures)
            for case, workers, rate, number, failures in cases()
        )
    for part in parts:
        for one in part:
            print(json.dumps(one), flush=True)
            rows.append(one)
    result = {"card": card(), "rows": rows}
    if options.no_write:
        print(json.dumps(result))
        return
    name = "simulation-cluster-check" if options.check else "simulation-cluster"
    file = record.result_file(result, name)
    if options.workers and file.exists():  # the other half of the same day's check
        others = [
            row
            for row in json.loads(file.read_text())["rows"]
            if not row["case"].startswith(f"check: {options.workers} worker")
        ]
        result["rows"] = sorted(others + rows, key=lambda row: row["case"])
    record.write_result(result, name)


if __name__ == "__main__":
    main()
