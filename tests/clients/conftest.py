"""A really started service: `glmimage serve` with a worker on the toy checkpoint."""

import os
import shutil
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
from glmimage.redirect.connect_proxy import ConnectProxy
from glmimage.redirect.environment import child_environment
from glmimage.server.serving import find_serving

ROOT = Path(__file__).parents[2]
JAVASCRIPT = Path(__file__).parent / "javascript"
SERVE = [sys.executable, "-m", "glmimage", "serve", "--http-port", "0", "--https-port", "0"]
EXECUTE = [sys.executable, "-m", "glmimage", "exec", "--"]
START_WITHIN_S = 240  # loading torch, on a machine that is busy with other tests


class Service:
    """Run `glmimage serve` until `stop`; `execute` runs a program under `glmimage exec`."""

    def __init__(self, folder, model, *options, **process_options):
        self.data_dir = folder / "data"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GLMIMAGE_")},
            "GLMIMAGE_DATA_DIR": str(self.data_dir),
            "GLMIMAGE_MODEL": str(model),
            "GLMIMAGE_DEVICE": "cpu",
            "GLMIMAGE_DTYPE": "float32",
            # the receivers of the tests are on this machine
            "GLMIMAGE_WEBHOOK_HOSTS": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        self.log = folder / f"serve-{len(list(folder.glob('serve-*.log')))}.log"
        self.process = subprocess.Popen(
            [*SERVE, *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            text=True,
            **process_options,
        )
        alarm = threading.Timer(START_WITHIN_S, self.process.kill)
        alarm.start()
        self.printed = []
        for line in self.process.stdout:
            self.printed.append(line.rstrip("\n"))
            if line.startswith("Ready"):
                break
        else:
            pytest.fail(f"the service did not start:\n{self.log.read_text()}")
        alarm.cancel()
        self.serving = find_serving(self.data_dir)
        self.target = find_target(load_settings(data_dir=self.data_dir), os.environ)

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
            return self.process.wait(60)
        finally:
            self.process.kill()

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


@pytest.fixture(scope="session")
def service(tmp_path_factory, tiny_dir):
    running = Service(tmp_path_factory.mktemp("service"), tiny_dir)
    yield running
    log = running.log.read_text()
    assert running.stop() == 0
    assert "Traceback" not in log, log


@pytest.fixture
def start_service(tmp_path, tiny_dir):
    """Return a function that starts services of a test's own, all on one data folder."""
    started = []

    def start(*options, **process_options):
        started.append(Service(tmp_path, tiny_dir, *options, **process_options))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="module")
def fal_client(service):
    """Import the client anew under the environment of `exec`: it reads its hosts at import."""
    host, _, port = service.target.address.rpartition(":")
    before = dict(os.environ)
    known = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_client(name)}
    with ConnectProxy((host, int(port))) as proxy:
        os.environ.clear()
        os.environ.update(child_environment(before, service.target, proxy.port))
        try:
            import fal_client

            yield fal_client
        finally:
            os.environ.clear()
            os.environ.update(before)
            for name in [name for name in sys.modules if _is_client(name)]:
                del sys.modules[name]
            sys.modules.update(known)


def _is_client(name):
    return name == "fal_client" or name.startswith("fal_client.")


@pytest.fixture(scope="session")
def node_modules():
    """Return where the JavaScript clients are installed, or skip."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = JAVASCRIPT / "node_modules"
    if not (folder / "@fal-ai" / "client").is_dir():
        pytest.skip("the JavaScript clients are not installed: npm ci in tests/clients/javascript")
    return folder
