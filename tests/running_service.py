"""A really started service: `glmimage serve` with a worker on the toy checkpoint."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from glmimage.cli.clients import find_target
from glmimage.config import load_settings
from glmimage.server.serving import find_serving

ROOT = Path(__file__).parents[1]
SERVE = [sys.executable, "-m", "glmimage", "serve"]
EXECUTE = [sys.executable, "-m", "glmimage", "exec", "--"]
ANY_PORTS = ("--http-port", "0", "--https-port", "0")
START_WITHIN_S = 300  # loading torch, on a machine that is busy with other tests


class Service:
    """Run `glmimage serve` until `stop`; `execute` runs a program under `glmimage exec`.

    printed: the lines of its start. Several may share a folder. settings: more variables.
    """

    def __init__(self, folder, model, *options, settings=None, **process_options):
        self.folder, self.data_dir = folder, folder / "data"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GLMIMAGE_")},
            "GLMIMAGE_DATA_DIR": str(self.data_dir),
            "GLMIMAGE_MODEL": str(model),
            "GLMIMAGE_DEVICE": "cpu",
            "GLMIMAGE_DTYPE": "float32",
            # the receivers of the tests are on this machine
            "GLMIMAGE_WEBHOOK_HOSTS": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            **(settings or {}),
        }
        self.start(*ANY_PORTS, *options, **process_options)

    def start(self, *options, wait_for="Ready", **process_options):
        """Start the process, and wait for the line that says how far it is."""
        log = self.folder / f"serve-{len(list(self.folder.glob('serve-*.log')))}.log"
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*SERVE, *options],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                **process_options,
            )
        alarm = threading.Timer(START_WITHIN_S, self.process.kill)
        alarm.start()
        self.printed = []
        for line in self.process.stdout:
            self.printed.append(line.rstrip("\n"))
            if line.strip().startswith(wait_for):
                break
        else:
            pytest.fail(f"the service did not start:\n{self.logs()}")
        alarm.cancel()
        self.serving = find_serving(self.data_dir)
        self.target = find_target(load_settings(data_dir=self.data_dir), os.environ)

    @property
    def url(self):
        return f"http://{self.serving.http}"

    def logs(self):
        """Return what all starts in the folder have logged."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("serve-*.log")))

    def workers(self):
        """Return the worker processes."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in found if "worker" in process.cmdline()]

    @contextmanager
    def paused(self):
        """Let the workers stand still: what is submitted meanwhile waits."""
        workers = self.workers()
        for process in workers:
            self._suspend(process)
        try:
            yield
        finally:
            for process in workers:
                process.resume()

    def _suspend(self, process):
        """Stop a worker, but not in the middle of a transaction: SQLite lets nobody else write."""
        with self._database() as database:
            while True:
                process.suspend()
                try:
                    database.execute("BEGIN IMMEDIATE")
                    database.rollback()
                except sqlite3.OperationalError:
                    process.resume()
                else:
                    return

    def num_waiting(self):
        """Count the requests that nobody has begun."""
        with self._database() as database:
            query = "SELECT count(*) FROM jobs WHERE state = 'queued'"
            return database.execute(query).fetchone()[0]

    def _database(self):
        return closing(sqlite3.connect(self.data_dir / "glmimage.sqlite3", timeout=0.1))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        finally:
            self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def same_addresses(self):
        """Return the options of `serve` that make another one listen where this one did."""
        ports = [address.rpartition(":")[2] for address in (self.serving.http, self.serving.https)]
        return ["--http-port", ports[0], "--https-port", ports[1]]

    def begin(self, *command):
        """Start a command under `glmimage exec`; return its process."""
        return subprocess.Popen(
            [*EXECUTE, *map(str, command)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def execute(self, *command, **options):
        """Run a command under `glmimage exec`; return what it printed."""
        options = {"timeout": 300, "cwd": ROOT, "env": self.environment} | options
        done = subprocess.run(
            [*EXECUTE, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


def run_to_its_end(service):
    """Yield a service to its tests; then it must end in order, and have logged no traceback."""
    yield service
    assert service.stop() == 0
    logs = service.logs()
    assert "Traceback" not in logs, logs
