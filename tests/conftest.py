"""What several test files share."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# tests of downloads talk to a hub of their own, and say themselves when they are offline
os.environ.pop("HF_HUB_OFFLINE", None)
# several processes run tests at a time: threads that wait for each other would only be in the way
os.environ.setdefault("OMP_NUM_THREADS", "1")
# where a shell's background job runs the tests, and what they start would ignore Ctrl-C as well
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# what starts services and waits for them: last in line, one of their files would be waited for
FIRST = ("worker", "clients", "faults", "browser", "contract", "cli")


def pytest_collection_modifyitems(items):
    def rank(item):
        folder = next((name for name in FIRST if item.path.is_relative_to(TESTS / name)), None)
        return len(FIRST) if folder is None else FIRST.index(folder)

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def own_environment():
    """Take back what a test changes in the environment, as commands run in this process do."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


class Log:
    """Set up the process's log, into memory."""

    def __init__(self):
        self.stream = io.StringIO()

    def set_up(self, form="json", level="info"):
        from glmimage.telemetry.logs import set_up_logging

        set_up_logging(form, level, self.stream)
        return self

    @property
    def text(self):
        return self.stream.getvalue()

    @property
    def lines(self):
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log():
    """Return a log that is not set up yet; the process's own is put back afterwards."""
    import structlog

    root, ours = logging.getLogger(), logging.getLogger("glmimage")
    before = root.handlers[:], root.level, ours.level
    structlog.contextvars.clear_contextvars()
    yield Log()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """Write the toy checkpoint once; tests that break it copy it first."""
    from glmimage.loading.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture(scope="session")
def postgres_address():
    """Start a server for the whole run; its databases are made and dropped by the tests."""
    server = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "postgres_server.py", "--no-fsync"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = server.stdout.readline().strip()
    if not address:
        error = server.communicate()[1].strip()
        assert server.returncode == 3, error
        pytest.skip(error)
    yield address
    server.communicate("")
    assert server.returncode == 0


@pytest.fixture(scope="session")
def adapters(tiny_dir, tmp_path_factory):
    """Write adapters of the toy checkpoint that change pictures, in a folder of them.

    "both" are of prior and decoder, "painted" and "written" of one of them alone.
    """
    import torch

    from glmimage.loading.adapters import DEFAULT_TARGETS, save_adapter, targets_of
    from glmimage.loading.checkpoint import Checkpoint

    checkpoint, root = Checkpoint(tiny_dir), tmp_path_factory.mktemp("adapters")
    generator = torch.Generator().manual_seed(5)
    networks = {"prior": checkpoint.load_prior(), "decoder": checkpoint.load_dit()}
    for name, parts in (("both", networks), ("painted", ["decoder"]), ("written", ["prior"])):
        for part in parts:
            tensors = {
                layer: (
                    torch.randn(4, target.columns, generator=generator) * 0.1,
                    torch.randn(target.rows, 4, generator=generator) * 0.1,
                )
                for layer, target in targets_of(networks[part]).items()
                if layer.endswith(DEFAULT_TARGETS[part])
            }
            folder = root / name / part
            save_adapter(folder, part, tensors, 8.0, DEFAULT_TARGETS[part], "tiny")
    return root
