"""Where a process is killed: functions of the product, patched in the process that is to die."""

import functools
import inspect
import os
import signal
import time


def die():
    """End this process as the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner, name, wanted=lambda *args, **options: True):
    """Die instead of calling a function with arguments that are `wanted`."""
    work = getattr(owner, name)

    @functools.wraps(work)
    def dying(*args, **options):
        if wanted(*args, **options):
            die()
        return work(*args, **options)

    setattr(owner, name, dying)


def _after(owner, name, wanted=lambda result: True):
    """Die when a coroutine function has given a result that is `wanted`."""
    work = getattr(owner, name)
    assert inspect.iscoroutinefunction(work)

    @functools.wraps(work)
    async def dying(*args, **options):
        result = await work(*args, **options)
        if wanted(result):
            die()
        return result

    setattr(owner, name, dying)


def before_a_file_is_there():
    """Die with a file written, or sent to the bucket, that has not got its name."""
    import obstore

    _before(os, "replace", lambda old, new: old.suffix == ".part")
    _before(obstore, "put_async")


def die_at(point):
    """Patch this process so that it dies at a point of POINTS."""
    from glmimage.jobs import JobStore
    from glmimage.worker.link import StoreLink

    def says(start):
        return lambda link, job_id, message, fraction: message.startswith(start)

    {
        "after claim": lambda: _after(JobStore, "claim", bool),
        "mid-prior": lambda: _before(StoreLink, "tell", says("prior ")),
        "between stages": lambda: _after(JobStore, "save_priors"),
        "mid-denoise": lambda: _before(StoreLink, "tell", says("step ")),
        "before rename": before_a_file_is_there,
        "before commit": lambda: _before(JobStore, "finish"),
        "after commit": lambda: _after(JobStore, "finish"),
        # of a gateway
        "before enqueue": lambda: _before(JobStore, "enqueue"),
        "after enqueue": lambda: _after(JobStore, "enqueue"),
        "before webhook": lambda: _after(JobStore, "due_webhooks", bool),
        "after webhook": lambda: _before(JobStore, "webhook_delivered"),
    }[point]()


def paint_slowly(step_s):
    """Patch this process so that each step of the denoise loop takes as long as on a real model."""
    from glmimage.worker.painter import Painter

    step = Painter.step

    @functools.wraps(step)
    def slow(painter):
        if any(progress.steps for progress in painter.in_hand.values()):
            time.sleep(step_s)
        step(painter)

    Painter.step = slow
