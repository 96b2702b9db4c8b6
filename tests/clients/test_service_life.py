"""A worker that dies, a service that is stopped in the middle of work: nothing is lost or left."""

import os
import signal
import subprocess
import sys
import time

import psutil

SUBMIT = """
import fal_client, json, sys
handle = fal_client.submit("fal-ai/glm-image", arguments=json.loads(sys.argv[1]))
for event in handle.iter_events(with_logs=True, interval=0.05):
    if isinstance(event, fal_client.InProgress) and event.logs:
        print(handle.request_id)
        break
"""
RESULT = """
import fal_client, json, sys
print(json.dumps(fal_client.sync_client.get_handle("fal-ai/glm-image", sys.argv[1]).get()))
"""
LONG = '{"prompt": "a", "image_size": "square", "num_inference_steps": 60, "seed": 5}'


def test_nothing_is_lost_and_nothing_left(start_service):
    """Kill the worker, then press Ctrl-C, then start again: the request is answered."""
    service = start_service(start_new_session=True)
    request_id = service.execute(sys.executable, "-c", SUBMIT, LONG).strip()

    (first,) = service.workers()
    os.kill(first.pid, signal.SIGKILL)
    psutil.wait_procs([first], timeout=30)
    # another worker takes its place, and then Ctrl-C meets it while it loads or paints
    while not (replaced := service.workers()):
        time.sleep(0.05)
    os.killpg(service.process.pid, signal.SIGINT)
    assert service.process.wait(90) == 0
    _, alive = psutil.wait_procs(replaced, timeout=0)
    assert alive == []

    service = start_service()
    result = service.execute(sys.executable, "-c", RESULT, request_id)
    assert '"seed": 5' in result
    assert service.stop() == 0


def test_a_model_that_is_not_there_ends_it_with_one_sentence(tmp_path):

    command = [sys.executable, "-m", "glmimage", "serve", "--model", "no-such-model"]
    done = subprocess.run(
        [*command, "--http-port", "0", "--https-port", "0", "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "no-such-model" in done.stderr
    assert "Traceback" not in done.stderr
