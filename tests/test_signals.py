"""Ctrl-C and SIGTERM, at every point of a real run: no file, no process, the shell's exit code."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
DEADLINE_S = 120
# undo what a shell does to its background jobs, in which these tests may run
HEED_CTRL_C = ["env", "--default-signal=INT,TERM"]


class Run:
    """Start a slow `glmimage generate` on a terminal of its own, in a session of its own."""

    def __init__(self, folder, model):
        self.master, slave = pty.openpty()
        arguments = [
            *("generate", "a", "--size", "square", "--steps", "100"),
            *("--device", "cpu", "-o", "a.png"),
        ]
        self.process = subprocess.Popen(
            [*HEED_CTRL_C, sys.executable, "-m", "glmimage", *arguments, "--model", model],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        )
        os.close(slave)
        self.seen = ""

    def wait_for_text(self, text):
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} never came: {self.seen[-500:]}"
            assert self.process.poll() is None, self.seen[-500:]
            self._read(0.1)

    def wait_for_library(self, name):
        maps = Path(f"/proc/{self.process.pid}/maps")
        deadline = time.monotonic() + DEADLINE_S
        while name not in maps.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def stop(self, number):
        """Send a signal; return the exit code and the seconds until the end."""
        started = time.monotonic()
        self.process.send_signal(number)
        while self.process.poll() is None:
            assert time.monotonic() < started + DEADLINE_S
            self._read(0.05)
        return self.process.returncode, time.monotonic() - started

    def _read(self, timeout):
        if select.select([self.master], [], [], timeout)[0]:
            try:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # Linux says so when the other end is closed
                time.sleep(timeout)

    def session_is_empty(self):
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def start(tmp_path, tiny_dir):
    runs = []

    def begin():
        runs.append(Run(tmp_path, str(tiny_dir)))
        return runs[-1]

    yield begin
    for one in runs:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        one.process.stdout.close()
        os.close(one.master)


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("import", signal.SIGINT, 130),
        ("prior tokens", signal.SIGTERM, 143),
        ("denoise steps", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_everything_at_once(tmp_path, start, moment, number, code):
    run = start()
    if moment == "import":
        run.wait_for_library("libtorch_cpu")
    else:
        run.wait_for_text(moment)
    exit_code, seconds = run.stop(number)
    assert exit_code == code
    assert seconds < 10
    assert list(tmp_path.iterdir()) == []
    assert run.session_is_empty()
    assert "Traceback" not in run.seen
    assert run.process.stdout.read() == b""


# run the command line with an fsync that sends Ctrl-C while the picture lies half-way on disk
INTERRUPTED_WRITE = """
import os, signal, sys
import glmimage.output
from glmimage.__main__ import main

def interrupt(handle):
    assert [name for name in os.listdir() if name.endswith(".part")], "nothing is being written"
    print("reached", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("the signal was survived")

glmimage.output.os.fsync = interrupt
main()
"""


def test_ctrl_c_while_the_file_is_written(tmp_path, tiny_dir):
    arguments = ["generate", "a", "--size", "square", "--steps", "1", "-o", "a.png", "-q"]
    done = subprocess.run(
        [
            *HEED_CTRL_C,
            *(sys.executable, "-c", INTERRUPTED_WRITE),
            *(*arguments, "--model", str(tiny_dir)),
        ],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "reached\n"
    assert done.returncode == 130, done.stderr
    assert done.stderr == "Stopped.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_background_job_keeps_ignoring_ctrl_c(tmp_path):
    """`nohup` and `&` in scripts ask for that; the command must not take it back."""
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.argv[1:] = ['--version']\n"
        "from glmimage.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "True"
