"""A worker of the first stage that is told to stop: it ends what it writes, if there is time."""

import threading
from queue import SimpleQueue

import pytest
import torch

from glmimage.worker import run_worker
from glmimage.worker.link import Stop

from .conftest import DEADLINE_S, Service


@pytest.mark.parametrize("grace_s", [120.0, 0.0])
def test_a_prior_in_writing_is_finished_when_there_is_time(make_settings, tmp_path, grace_s):
    service = Service(make_settings(tmp_path, stop_timeout_s=grace_s))
    torch.set_num_threads(1)
    job_id = service.submit(num_images=2)
    inbox = SimpleQueue()
    worker = threading.Thread(target=run_worker, args=(service.settings, ["prior"], inbox))
    worker.start()
    try:
        service.wait(job_id, lambda job: job.last_log > 0)
    finally:
        inbox.put(Stop())
        worker.join(DEADLINE_S)
    job = service("get", job_id)
    if grace_s:
        assert (job.state, job.stage, job.worker_id) == ("running", "decode", None)
    else:
        assert (job.state, job.stage, job.attempt) == ("queued", "prior", 0)
