"""Do many jobs while a process is killed every few seconds, and hold each against the promise.

    python -m tests.faults.campaign --jobs 200 --database sqlite
    python -m tests.faults.campaign --jobs 200 --database postgresql

Several gateways, a worker for either stage and some for both, on the toy checkpoint. Jobs come over
HTTP. What is killed (SIGKILL) is drawn: mostly workers, at any moment or at a named point, now and
then a gateway, and PostgreSQL once in a while. The last line is one JSON document; the exit code
is 1 when a job did not end exactly once with the picture that its seed gives.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path

import httpx

from .deployment import DEADLINE_S
from .processes import CONTEXT
from .receiver import Receiver

STEPS = 10  # the fewest that fal's form takes
GUIDANCE_SCALE = 1.0  # one pass a step: time goes into jobs and kills
WORKER_POINTS = [
    *("after claim", "mid-prior", "between stages", "mid-denoise"),
    *("before rename", "before commit", "after commit"),
]
GATEWAY_POINTS = ["before enqueue", "after enqueue", "before webhook", "after webhook"]
STAGES = [(), (), ("prior",), ("decode",)]
SETTINGS = {"lease_s": 4.0, "max_attempts": 100, "worker_jobs": 8, "webhook_window_s": 7200}
# so that what happens within hours happens within seconds
HASTE = {
    "glmimage.server.sweeper.ORPHANS_S": 2.0,
    "glmimage.server.sweeper.ORPHAN_AGE_S": 15.0,
    "glmimage.server.webhooks.FIRST_DELAY_S": 0.5,
    "glmimage.jobs.outbox.DELIVERY_LEASE_S": 20.0,
}


class Campaign:
    """Run a deployment under fire. postgres: a server to restart as well, if any.

    kill_for_s: after that long the rest is left in peace. fields: more of each request.
    """

    def __init__(
        self,
        service,
        num_jobs,
        seeds,
        kill_every_s,
        postgres=None,
        *,
        kill_for_s=150.0,
        draw=0,
        **fields,
    ):
        self.service, self.postgres = service, postgres
        self.num_jobs, self.seeds = num_jobs, seeds
        self.kill_every_s, self.kill_for_s = kill_every_s, kill_for_s
        self.fields = {"num_inference_steps": STEPS} | fields
        self.draw = random.Random(draw)
        self.receiver = Receiver(refuse_each=10)
        self.accepted, self.kills = {}, Counter()
        self.num_unanswered = 0
        self.num_orphans = 0
        self._done = threading.Event()

    def run(self):
        """Submit, kill, wait for the end; return the report."""
        began = time.monotonic()
        self.gateways = [self._gateway() for _ in range(2)]
        self.workers = [(stages, self._worker(stages)) for stages in STAGES]
        threads = [threading.Thread(target=work) for work in (self._submit, self._kill)]
        for thread in threads:
            thread.start()
        try:
            threads[0].join()
            self._until_ended()
        finally:
            self._done.set()
            threads[1].join()
        seconds = time.monotonic() - began
        self._recover()
        self._until_quiet()
        self.receiver.close()
        return self._report(seconds)

    def _gateway(self, **options):
        return self.service.gateway(constants=HASTE, **options)

    def _worker(self, stages, **options):
        return self.service.worker(*stages, **options)

    def _submit(self):
        """Submit to any gateway; again when it died over it."""
        for index in range(self.num_jobs):
            seed = self.seeds[index % len(self.seeds)]
            deadline = time.monotonic() + DEADLINE_S
            while time.monotonic() < deadline:
                gateway = self.draw.choice(self.gateways)
                with suppress(httpx.HTTPError):
                    job_id = gateway.submit(self.receiver.url, seed=seed, **self.fields)
                    self.accepted[job_id] = seed
                    break
                self.num_unanswered += 1
                time.sleep(0.2)

    def _num_ended(self):
        return len(self.service("requests", limit=10_000))

    def _until_ended(self):
        """Wait for the end of all that was accepted; give up when nothing moves any more."""
        known, moved = -1, time.monotonic()
        while self._live():
            if (ended := self._num_ended()) > known:
                known, moved = ended, time.monotonic()
                print(f"{ended} of {self.num_jobs} have ended", flush=True)
            if time.monotonic() - moved > DEADLINE_S:
                print(self.service.logs()[-20_000:], file=sys.stderr)
                raise SystemExit("nothing moves any more")
            time.sleep(1.0)

    def _live(self):
        return self.service("live_jobs")[0]

    def _kill(self):
        """Kill something every few seconds, but let one job end in between."""
        ended, until = -1, time.monotonic() + self.kill_for_s
        while not self._done.wait(self.kill_every_s) and time.monotonic() < until:
            waited = time.monotonic()
            while self._num_ended() == ended and time.monotonic() - waited < 20:
                if self._done.wait(0.5):
                    return
            ended = self._num_ended()
            fate = self.draw.random()
            if fate < 0.2:
                self._kill_gateway()
            elif fate < 0.25 and self.postgres is not None:
                self._restart_postgres()
            else:
                self._kill_worker()

    def _kill_worker(self):
        index = self.draw.randrange(len(self.workers))
        stages, process = self.workers[index]
        if process.is_alive():
            self.kills["worker, any moment"] += 1
            process.kill()
        process.join()
        point = self.draw.choice(WORKER_POINTS) if self.draw.random() < 0.3 else None
        options = {} if point is None else {"die_at": point}
        self.workers[index] = stages, self._worker(stages, **options)
        self._replace_dead_workers()

    def _replace_dead_workers(self):
        for index, (stages, process) in enumerate(self.workers):
            if not process.is_alive():
                self.kills["worker, named point"] += process.exitcode == -signal.SIGKILL
                self.workers[index] = stages, self._worker(stages)

    def _kill_gateway(self):
        index = self.draw.randrange(len(self.gateways))
        process = self.gateways[index].process
        named = not process.is_alive()
        self.kills["gateway, named point" if named else "gateway, any moment"] += 1
        process.kill()
        process.join()
        point = self.draw.choice(GATEWAY_POINTS) if self.draw.random() < 0.4 else None
        options = {} if point is None else {"die_at": point}
        self.gateways[index] = self._gateway(**options)

    def _restart_postgres(self):
        self.kills["PostgreSQL"] += 1
        self.postgres.halt(signal.SIGQUIT)
        time.sleep(1.0)
        self.postgres.start()
        self.postgres.wait_until_ready()

    def _recover(self):
        """End every process, so that only new ones clean up."""
        processes = [gateway.process for gateway in self.gateways]
        for process in [*processes, *(worker for _, worker in self.workers)]:
            process.kill()
            process.join()
        self.num_orphans = len(set(self.service.stored_paths()) - self._recorded_paths())
        self.gateways = [self._gateway(), self._gateway()]

    def _recorded_paths(self):
        ended = self.service("requests", limit=10_000)
        return {record.path for job in ended for record in self.service("files_of", job.id)}

    def _until_quiet(self):
        """Wait until every webhook is delivered and what nobody knows is swept."""
        recorded = self._recorded_paths()
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            states = {hook.state for hook in self.service("list_webhooks", limit=10_000)}
            if states <= {"delivered"} and set(self.service.stored_paths()) == recorded:
                return
            time.sleep(1.0)

    def _report(self, seconds):
        ended = self.service("requests", limit=10_000)
        events = Counter(event.job_id for event in self.service("billing_events", limit=10_000))
        hooks = Counter(hook.job_id for hook in self.service("list_webhooks", limit=10_000))
        files = {job.id: self.service("files_of", job.id) for job in ended}
        once = [
            job
            for job in ended
            if job.state == "done" and events[job.id] == hooks[job.id] == len(files[job.id]) == 1
        ]
        left = set(self.service.stored_paths()) - {r.path for f in files.values() for r in f}
        received = self.receiver.received
        return {
            "jobs accepted": len(self.accepted),
            "jobs that nobody was told of, because a gateway died over them": len(ended)
            - len(self.accepted),
            "submits without an answer": self.num_unanswered,
            "seconds": round(seconds, 1),
            "kills": dict(self.kills),
            "claims": sum(job.fence for job in ended),
            "jobs begun more than once": sum(job.fence > 1 for job in ended),
            "most claims of one job": max(job.fence for job in ended),
            "lost": len(self.accepted.keys() - {job.id for job in ended}),
            "ended exactly once": len(once),
            "ended otherwise": len(ended) - len(once),
            "webhooks received at least once": sum(received[job.id] > 0 for job in ended),
            "webhooks received again": sum(received.values()) - len(received),
            "webhooks refused at first": self.receiver.num_refused,
            "webhooks never received": sum(received[job.id] == 0 for job in ended)
            + len(self.receiver.wrong),
            "files left by killed workers, then swept": self.num_orphans,
            "files orphaned": len(left),
        }

    def compare(self, expected):
        """Return how many pictures are, byte for byte, those of `expected(seed)`, and how not."""
        same = different = 0
        for job in self.service("requests", limit=10_000):
            for record in self.service("files_of", job.id):
                equal = self.service.stored(record.path) == expected(job.seed)
                same, different = same + equal, different + (not equal)
        return {"pictures equal to generate()": same, "pictures that differ": different}


FAULTS = ["lost", "ended otherwise", "webhooks never received", "files orphaned"]


def failed(report):
    """Return what breaks the promise."""
    return {name: report[name] for name in [*FAULTS, "pictures that differ"] if report[name]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--kill-every", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument(
        "--kill-for", type=float, default=150.0, metavar="SECONDS", help="then let the rest finish"
    )
    parser.add_argument("--seeds", type=int, default=8, help="different pictures")
    parser.add_argument("--draw", type=int, default=0, help="another number kills at other moments")
    parser.add_argument("--out", type=Path, help="where to keep the report as JSON")
    options = parser.parse_args()

    from glmimage.loading.tiny import make_tiny

    from .surroundings import Painter, bucket_and_database

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = make_tiny(folder / "toy", seed=0)
        service, postgres = stack.enter_context(
            bucket_and_database(folder, model, options.database, SETTINGS)
        )
        seeds = range(1, options.seeds + 1)
        campaign = Campaign(
            service,
            options.jobs,
            seeds,
            options.kill_every,
            postgres,
            kill_for_s=options.kill_for,
            draw=options.draw,
            guidance_scale=GUIDANCE_SCALE,
        )
        report = {"date": date.today().isoformat(), "database": options.database}
        report |= campaign.run()
        with ProcessPoolExecutor(os.cpu_count(), CONTEXT) as pool:
            pictures = dict(
                zip(seeds, pool.map(Painter(model, STEPS, GUIDANCE_SCALE), seeds), strict=True)
            )
        report |= campaign.compare(pictures.__getitem__)
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:{width}}  {value}")
    print(json.dumps(report))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed(report) else 0


if __name__ == "__main__":
    sys.exit(main())
