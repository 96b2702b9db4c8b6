"""A worker that dies, a service that is stopped in the middle of work: nothing is lost or left."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
from sqlalchemy import create_engine, text

from glmimage.jobs.migrations import migrate
from glmimage.server.serving import find_serving

from ..running_service import ANY_PORTS, SERVE

# polls from the submit to the picture, whatever happens to the server meanwhile
FOLLOW = """
import fal_client, httpx, json, sys
handle = fal_client.submit("fal-ai/glm-image", arguments=json.loads(sys.argv[1]))
while True:
    try:
        for event in handle.iter_events(with_logs=True, interval=0.05):
            if isinstance(event, fal_client.InProgress) and event.logs:
                print("begun", flush=True)
        break
    except httpx.TransportError:  # ten attempts in a row
        print("gone", flush=True)
print(json.dumps(handle.get()))
"""
RESULT = """
import fal_client, json, sys
print(json.dumps(fal_client.sync_client.get_handle("fal-ai/glm-image", sys.argv[1]).get()))
"""
LONG = '{"prompt": "a", "image_size": "square", "num_inference_steps": 60, "seed": 5}'


def test_nothing_is_lost_and_nothing_left(start_service):
    """Kill the worker, then press Ctrl-C, then start again: the client that polls is answered."""
    service = start_service(start_new_session=True)
    client = service.begin(sys.executable, "-c", FOLLOW, LONG)
    try:
        assert client.stdout.readline() == "begun\n"
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

        assert client.poll() is None
        service = start_service(*service.same_addresses())
        printed, complaints = client.communicate(timeout=240)
    finally:
        client.kill()
    assert client.returncode == 0, complaints
    assert '"seed": 5' in printed.splitlines()[-1]
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


# a request as the first release kept it in its data folder
OLD_ID = "5f9c2a1e-7a35-4b0e-9d0a-2f1f5d1f7c11"
OLD_JOB = {
    "id": OLD_ID,
    "endpoint": "fal-ai/glm-image",
    "surface": "queue",
    "state": "queued",
    "stage": "prior",
    "priority": "normal",
    "num_images": 1,
    "width": 512,
    "height": 512,
    "seed": 5,
    "attempt": 0,
    "max_attempts": 3,
    "fence": 0,
    "cancel_requested": False,
    "dead": False,
    "store_io": True,
    "progress": 0.0,
    "last_log": 0,
    "change_number": 1,
    "reference_file_ids": "[]",
    "queue": "fal-ai/glm-image",
    "open_stage": "prior",
    "place": 0,
}
OLD_INPUT = {"prompt": "a", "image_size": "square", "num_inference_steps": 10, "seed": 5}


def write_first_release(data_dir):
    """Make a data folder as the first release left it, with one request that waits."""
    data_dir.mkdir(mode=0o700)
    tables = {
        "jobs": OLD_JOB | {"created_at": time.time()},
        "payloads": {"job_id": OLD_ID, "input": json.dumps(OLD_INPUT)},
        "queue_counts": {"queue": OLD_JOB["queue"], "bucket": 0, "stripe": 0, "num_jobs": 1},
        "key_clocks": {"api_key_id": "", "priority": "normal", "next_place": 1024},
    }
    engine = create_engine(f"sqlite:///{data_dir / 'glmimage.sqlite3'}")
    with engine.begin() as connection:
        migrate(connection, "0001")
        for table, values in tables.items():
            names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)
    engine.dispose()


def test_two_servers_on_a_folder_of_the_first_release(start_service, tmp_path):
    """The first brings it up to date and does what waited; the second serves the same requests."""
    write_first_release(tmp_path / "data")
    first = start_service()
    result = first.execute(sys.executable, "-c", RESULT, OLD_ID)
    assert '"seed": 5' in result

    process = subprocess.Popen(
        [*SERVE, *ANY_PORTS, "--workers", "0"], env=first.environment, stdout=subprocess.DEVNULL
    )
    try:
        while (second := find_serving(first.data_dir)) == first.serving:
            assert process.poll() is None
            time.sleep(0.05)
        assert second.process_id == process.pid
        key = {"Authorization": f"Key {first.target.api_key}"}
        path = "/queue/fal-ai/glm-image"
        submitted = httpx.post(f"http://{second.http}{path}", json=OLD_INPUT, headers=key)
        request_id = submitted.raise_for_status().json()["request_id"]
        for serving in (first.serving, second):
            url = f"http://{serving.http}{path}/requests/{request_id}"
            while (status := httpx.get(f"{url}/status", headers=key)).status_code == 202:
                time.sleep(0.05)
            assert "error" not in status.json()
            picture = httpx.get(url, headers=key).json()["images"][0]["url"]
            assert httpx.get(picture).status_code == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
    # `exec` finds the one that is left
    assert find_serving(first.data_dir) == first.serving
    assert first.stop() == 0
    assert find_serving(first.data_dir) is None
