"""A worker is killed at each named point: another one ends the job, once, with the same picture."""

import pytest

from .deployment import check_ended_once

# where it dies, and what is known of the job then: state, stage, files that lie there
POINTS = {
    "after claim": ("running", "prior", 0),
    "mid-prior": ("running", "prior", 0),
    "between stages": ("running", "decode", 0),
    "mid-denoise": ("running", "decode", 0),
    "before rename": ("running", "decode", 0),
    "before commit": ("running", "decode", 1),
    "after commit": ("done", "decode", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_worker_loses_nothing(deploy, expected, point):
    service = deploy()
    job_id = service.submit(webhook_url="http://127.0.0.1:9/hook")
    service.kill_worker_at(point, job_id=job_id)
    state, stage, num_files = POINTS[point]
    job = service("get", job_id)
    assert (job.state, job.stage, len(service.stored_paths())) == (state, stage, num_files)
    assert job.ended == (job.worker_id is None)
    num_prior_logs = sum(message.startswith("prior ") for message in service.messages(job_id))

    service.worker()
    service.wait(job_id)
    job = check_ended_once(service, job_id, expected(), webhooks=1)
    assert job.attempt == (1 if state == "done" else 2)
    written_again = sum(m.startswith("prior ") for m in service.messages(job_id)) - num_prior_logs
    assert (written_again > 0) == (stage == "prior")
