"""Workers and gateways in processes of their own, forked from one that has imported everything.

A worker is up in half a second instead of five. What runs in it is what `glmimage worker` and
`glmimage serve` run; before it starts, the clock and named functions of the process are patched.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([f"{__package__}.warm"])


def start(target, environment, log, **options):
    """Start a process and return it; its output goes to the file `log`."""
    process = CONTEXT.Process(
        target=_run, args=(target, dict(environment), str(log), options), daemon=True
    )
    process.start()
    return process


def _run(target, environment, log, options):
    """Set this process up as it was asked for, and run; end with the process that wanted it."""
    os.setsid()  # Ctrl-C is for the process that wanted it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("GLMIMAGE_")]:
        del os.environ[name]
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if (clock := options.pop("clock", None)) is not None:
        _shift_clock(clock)
    for name, value in options.pop("constants", {}).items():
        module, _, constant = name.rpartition(".")
        owner = importlib.import_module(module)
        assert hasattr(owner, constant)
        setattr(owner, constant, value)
    from .named_points import die_at, paint_slowly

    if (point := options.pop("die_at", None)) is not None:
        die_at(point)
    if (slow_s := options.pop("slow_s", None)) is not None:
        paint_slowly(slow_s)
    from glmimage.telemetry.logs import set_up_logging

    set_up_logging("human")
    sys.exit({"worker": _work, "gateway": _serve}[target](**options))


def _end_with_parent():
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)


def _shift_clock(offset):
    """Add `offset.value` seconds to the wall clock of this process, whenever it is read."""
    real = time.time
    time.time = lambda: real() + offset.value


def _work(stages=("prior", "decode")):
    import torch

    from glmimage.config import load_settings
    from glmimage.worker import run_worker

    torch.set_num_threads(1)
    settings = load_settings()
    os.environ.update(settings.hub_environment())
    return run_worker(settings, stages=stages)


def _serve():
    from glmimage.config import load_settings
    from glmimage.server.process import Callbacks, run_service

    tell = Callbacks(lambda started: None, lambda seconds: None, lambda: None)
    return run_service(load_settings(workers=0, http_port=0, https_port=0), [], tell)
