"""A model of a cluster, event by event; bench/cluster_sim.py asks it questions.

Each simulated worker is driven by the service's own batching policy (`engine.scheduler.Scheduler`:
who enters, who is painted, how the stages share a worker); requests stand in line by the constants
and rules of `jobs.order`, and tests/bench/test_cluster_model.py holds the line equal to the job
store, job by job. How long a pass, a step and a decode take is measured. A worker's state changes
only when a request arrives, a prior is written or a picture painted, so the scheduler is asked
then, and not at every step between.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from glmimage.engine.scheduler import Job as Picture
from glmimage.engine.scheduler import Limits, Scheduler
from glmimage.jobs.order import AGEING_S, cost_of
from glmimage.jobs.schema import LOW_PRIORITY


@dataclass(frozen=True)
class Times:
    """Hold measured times of one kind of picture.

    token_rates: {rows: tokens a second of all rows together}. tokens: of a picture's prior.
    overhead_s: of a stage's job beside the engine: claim, check, encode, store.
    """

    tokens: int
    token_rates: dict[int, float]
    step_s: float
    num_steps: int
    decode_s: float
    patches: int
    megapixels: float
    overhead_s: float = 0.0

    def row_rate(self, rows: int) -> float:
        """Return tokens a second of each of `rows` rows, between the measured numbers of rows."""
        known = sorted(self.token_rates.items())
        if rows <= known[0][0]:
            return known[0][1] / known[0][0]
        for (low, slow), (high, fast) in itertools.pairwise(known):
            if rows <= high:
                share = math.log(rows / low) / math.log(high / low)
                return (slow + share * (fast - slow)) / rows
        return known[-1][1] / rows


@dataclass
class Request:
    """Follow one request. place, number: where it stands in line."""

    number: int
    arrived: float
    priority: str
    key: str
    times: Times
    place: int = 0
    written: bool = False
    started: float | None = None
    ended: float | None = None
    attempt: int = 0


@dataclass
class Line:
    """Order requests as `jobs.order` does: by key's clock within priority, low ones age."""

    clocks: dict[str, int] = field(default_factory=lambda: {"normal": 0, "low": 0})
    keys: dict[tuple[str, str], int] = field(default_factory=dict)
    waiting: dict[str, list[tuple[int, int, Request]]] = field(
        default_factory=lambda: {"prior": [], "decode": []}
    )
    low: deque[Request] = field(default_factory=deque)
    ageing_s: float = AGEING_S

    def enqueue(self, request: Request) -> None:
        """Give a new request its place, and move its key's clock on by its size."""
        clock = (request.key, request.priority)
        start = max(self.keys.get(clock, 0), self.clocks[request.priority])
        self.keys[clock] = start + cost_of(request.times.megapixels)
        request.place = start + (LOW_PRIORITY if request.priority == "low" else 0)
        if request.priority == "low":
            self.low.append(request)
        self.open(request)

    def open(self, request: Request) -> None:
        """Let a request be claimed, for the first time or again, at its place."""
        stage = "decode" if request.written else "prior"
        heapq.heappush(self.waiting[stage], (request.place, request.number, request))

    def claim(self, stages: tuple[str, ...], limit: int) -> list[Request]:
        """Take from the front what one of the stages may work on."""
        taken: list[Request] = []
        while len(taken) < limit:
            fronts = [self.waiting[stage] for stage in stages if self._tidy(stage)]
            if not fronts:
                break
            taken.append(heapq.heappop(min(fronts, key=lambda heap: heap[0][:2]))[2])
        for request in taken:
            name = "low" if request.place >= LOW_PRIORITY else "normal"
            self.clocks[name] = max(self.clocks[name], request.place % LOW_PRIORITY)
        return taken

    def age(self, now: float) -> None:
        """Put low ones that have waited long enough among the normal ones, at the front."""
        while self.low and self.low[0].arrived < now - self.ageing_s:
            request = self.low.popleft()
            if request.started is None and request.place >= LOW_PRIORITY:
                request.place = self.clocks["normal"]
                self.open(request)  # its old entry is passed over

    def _tidy(self, stage: str) -> bool:
        heap = self.waiting[stage]
        while heap and heap[0][0] != heap[0][2].place:
            heapq.heappop(heap)
        return bool(heap)


@dataclass(eq=False)
class Worker:
    """Run claimed requests as the engine does, from one change of its state to the next."""

    stages: tuple[str, ...]
    jobs: int
    limits: Limits
    in_hand: dict[str, Request] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    busy_s: dict[str, float] = field(default_factory=lambda: {"prior": 0.0, "decode": 0.0})
    since: float = 0.0
    version: int = 0
    alive: bool = True
    position: int = -1

    def __post_init__(self) -> None:
        self.paints = "decode" in self.stages
        self.scheduler = Scheduler(self.limits, paints=self.paints)
        self._rates: tuple[float, float] = (0.0, 0.0)

    def begin(self, request: Request) -> None:
        """Give a claimed request to the scheduler."""
        name, times = str(request.number), request.times
        self.in_hand[name] = request
        self.left[name] = float(times.tokens) if not request.written else 0.0
        self.scheduler.add(Picture((name, 0), times.tokens + 64, times.patches))

    def advance(self, now: float) -> list[Request]:
        """Work until `now`; return the requests that leave: finished, or with their prior."""
        passed, self.since = now - self.since, now
        writing, painting = self.scheduler.writing, self.scheduler.painting
        tokens, painted = self._rates
        for key in writing:
            self.left[key[0]] -= tokens * passed
        for key in painting:
            self.left[key[0]] -= painted * passed
        if writing:
            self.busy_s["prior"] += passed * (1 - painted)
        if painting:
            self.busy_s["decode"] += passed * painted
        gone: list[Request] = []
        for key in [key for key in writing if self.left[key[0]] <= 1e-6]:
            self._written(key, gone)
        for key in [key for key in painting if self.left[key[0]] <= 1e-6]:
            self.scheduler.picture_painted(key)
            gone.append(self._leave(key[0]))
        return gone

    def plan(self) -> float | None:
        """Let the scheduler admit and start; return in how many seconds the state changes."""
        while True:
            plan = self.scheduler.plan()
            ready = [key for key in plan.admit if self.in_hand[key[0]].written]
            for key in ready:
                self.scheduler.prior_written(key)
            for key in plan.start:
                times = self.in_hand[key[0]].times
                self.left[key[0]] = times.num_steps * times.step_s + times.decode_s
                self.left[key[0]] += times.overhead_s
            if not ready and not plan.start:
                break
        writing, painting = self.scheduler.writing, self.scheduler.painting
        self._rates = self._speeds(plan.num_prior_tokens)
        ends = [self.left[key[0]] / self._rates[0] for key in writing if self._rates[0]]
        ends += [self.left[key[0]] / self._rates[1] for key in painting if self._rates[1]]
        return max(0.0, min(ends)) if ends else None

    def _speeds(self, rounds: int) -> tuple[float, float]:
        """Return tokens a second of a row, and the share of time that goes to painting."""
        writing, painting = self.scheduler.writing, self.scheduler.painting
        rate = 0.0
        if writing:
            # rows of several kinds share a pass: as fast as the mean of their kinds
            kinds = [self.in_hand[key[0]].times.row_rate(len(writing)) for key in writing]
            rate = statistics.fmean(kinds)
        if not painting:
            return rate, 0.0
        step_s = self.in_hand[next(iter(painting))[0]].times.step_s
        if not writing:
            return 0.0, 1.0
        # a round gives each row as many tokens as a pass does alone
        self.scheduler.measured("prior", 8 / rate)
        self.scheduler.measured("decode", step_s)
        prior_s = rounds * 8 / rate
        share = prior_s / (prior_s + step_s)
        return rate * share, 1 - share

    def _written(self, key: tuple[str, int], gone: list[Request]) -> None:
        self.scheduler.prior_written(key)
        self.in_hand[key[0]].written = True
        if not self.paints:
            self.scheduler.drop(key[0])
            gone.append(self._leave(key[0]))

    def _leave(self, name: str) -> Request:
        del self.left[name]
        return self.in_hand.pop(name)


@dataclass(frozen=True)
class Failures:
    """Say how workers die. mean_s: between two of one worker, 0 never."""

    mean_s: float = 0.0
    lease_s: float = 30.0
    restart_s: float = 60.0
    max_attempts: int = 3


class Cluster:
    """Run events in order of time until every request has ended."""

    def __init__(self, workers: list[Worker], failures: Failures, seed: int) -> None:
        self.workers, self.failures = workers, failures
        self.line, self.now = Line(), 0.0
        self.events: list[tuple[float, int, str, Any]] = []
        self._counter = itertools.count()
        self._random = random.Random(seed)
        self.num_lost = self.num_failed = 0
        self.room: dict[tuple[str, ...], list[Worker]] = {}
        for worker in workers:
            self.room.setdefault(worker.stages, [])
            self._has_room(worker)
            self._die_some_day(worker)

    def run(self, arrivals: Iterator[Request]) -> list[Request]:
        """Return the requests, in order of arrival, with their times."""
        requests: list[Request] = []
        left = 0
        following = next(arrivals, None)
        while following is not None or left:
            due = self.events[0][0] if self.events else math.inf
            if following is not None and following.arrived <= due:
                self.now = following.arrived
                requests.append(following)
                left += 1
                self.line.enqueue(following)
                following = next(arrivals, None)
                self._wake()
                continue
            self.now, _, kind, what = heapq.heappop(self.events)
            self.line.age(self.now)
            left -= getattr(self, f"_{kind}")(what)
        return requests

    def _push(self, after_s: float, kind: str, what: Any) -> None:
        heapq.heappush(self.events, (self.now + after_s, next(self._counter), kind, what))

    def _wake(self) -> None:
        """Let workers with room claim; which of them is first is chance, as it is for real."""
        while True:
            able = [
                workers
                for stages, workers in self.room.items()
                if workers and any(self.line.waiting[stage] for stage in stages)
            ]
            if not able:
                return
            worker = self._random.choice(self._random.choice(able))
            self._change((worker, worker.version))

    def _change(self, what: tuple[Worker, int]) -> int:
        """Take a worker to now: what is ready leaves, what waits is claimed. Return the ended."""
        worker, version = what
        if version != worker.version or not worker.alive:
            return 0
        ended = 0
        for request in worker.advance(self.now):
            if worker.paints:
                request.ended = self.now
                ended += 1
            else:
                self.line.open(request)
        for request in self.line.claim(worker.stages, worker.jobs - len(worker.in_hand)):
            request.started = self.now if request.started is None else request.started
            request.attempt += 1
            worker.begin(request)
        self._settle(worker)
        if not worker.paints and self.line.waiting["decode"]:
            self._wake()
        return ended

    def _settle(self, worker: Worker) -> None:
        worker.version += 1
        after_s = worker.plan()
        if after_s is not None:
            self._push(after_s, "change", (worker, worker.version))
        self._has_room(worker)

    def _has_room(self, worker: Worker) -> None:
        """Put a worker among those that may claim, or take it away; both at once, however many."""
        workers = self.room[worker.stages]
        room = worker.alive and len(worker.in_hand) < worker.jobs
        if room and worker.position < 0:
            worker.position = len(workers)
            workers.append(worker)
        elif not room and worker.position >= 0:
            last = workers.pop()
            if last is not worker:
                workers[worker.position], last.position = last, worker.position
            worker.position = -1

    def _die_some_day(self, worker: Worker) -> None:
        if self.failures.mean_s:
            self._push(self._random.expovariate(1 / self.failures.mean_s), "death", worker)

    def _death(self, worker: Worker) -> int:
        worker.advance(self.now)
        worker.alive, worker.version = False, worker.version + 1
        self._has_room(worker)
        lost = list(worker.in_hand.values())
        self.num_lost += len(lost)
        worker.in_hand.clear()
        worker.left.clear()
        worker.scheduler = Scheduler(worker.limits, paints=worker.paints)
        self._push(self.failures.lease_s, "recovery", lost)
        self._push(self.failures.restart_s, "restart", worker)
        return 0

    def _recovery(self, lost: list[Request]) -> int:
        given_up = [r for r in lost if r.attempt >= self.failures.max_attempts]
        self.num_failed += len(given_up)
        for request in lost:
            if request not in given_up:
                self.line.open(request)
        self._wake()
        return len(given_up)

    def _restart(self, worker: Worker) -> int:
        worker.alive, worker.since = True, self.now
        self._die_some_day(worker)
        return self._change((worker, worker.version))
