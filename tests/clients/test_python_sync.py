"""The unmodified synchronous Python client against a started service."""

import base64
import io
import time

import httpx
import pytest
from PIL import Image

APP = "fal-ai/glm-image"
EDIT = "fal-ai/glm-image/image-to-image"
QUICK = {"prompt": "A sign that says 'OPEN'", "image_size": "square", "num_inference_steps": 10}
LONG = {**QUICK, "num_inference_steps": 100, "num_images": 4}


def open_picture(result, index=0):
    image = result["images"][index]
    response = httpx.get(image["url"]).raise_for_status()
    assert response.headers["content-type"] == image["content_type"]
    assert len(response.content) == image["file_size"]
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.size == (image["width"], image["height"])
        return picture.convert("RGB")


def test_run(fal_client):
    result = fal_client.run(APP, {**QUICK, "seed": 7, "num_images": 2})
    assert set(result) == {"images", "timings", "seed", "has_nsfw_concepts", "prompt"}
    assert (result["seed"], result["prompt"]) == (7, QUICK["prompt"])
    assert result["has_nsfw_concepts"] == [False, False]
    assert result["timings"]["inference"] > 0
    pictures = [open_picture(result, index) for index in range(2)]
    assert pictures[0].size == (512, 512)
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert result["images"][0]["file_name"].endswith(".jpg")


def test_submit_follow_and_result(fal_client):
    handle = fal_client.submit(APP, {**QUICK, "num_images": 2}, priority="low", hint="any")
    seen = []
    for event in handle.iter_events(with_logs=True):
        seen.append(event)
    kinds = [type(event).__name__ for event in seen]
    assert kinds[-1] == "Completed"
    assert set(kinds) <= {"Queued", "InProgress", "Completed"}
    assert [event.position for event in seen if isinstance(event, fal_client.Queued)] == [0] * len(
        [kind for kind in kinds if kind == "Queued"]
    )
    assert seen[-1].metrics["inference_time"] > 0
    messages = [entry["message"] for entry in seen[-1].logs]
    assert any("step 10/10" in message for message in messages)
    result = handle.get()
    open_picture(result)
    assert fal_client.result(APP, handle.request_id) == result
    assert isinstance(fal_client.status(APP, handle.request_id), fal_client.Completed)


def test_an_id_of_the_edit_endpoint_is_read_under_the_app(fal_client):
    handle = fal_client.submit(EDIT, {**QUICK, "image_urls": []})
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        fal_client.result(EDIT, handle.request_id)
    assert caught.value.status_code == 422
    assert caught.value.response.json()["detail"][0]["loc"] == ["body", "image_urls"]


def test_subscribe_shows_progress(fal_client):
    updates = []
    result = fal_client.subscribe(
        APP, {**QUICK, "seed": 11}, with_logs=True, on_queue_update=updates.append
    )
    assert isinstance(updates[-1], fal_client.Completed)
    assert updates[-1].logs
    open_picture(result)


def test_the_same_seed_gives_the_same_picture_at_once(fal_client):
    arguments = {**QUICK, "seed": 2026, "output_format": "png"}
    first = fal_client.subscribe(APP, arguments)
    updates = []
    again = fal_client.subscribe(APP, arguments, with_logs=True, on_queue_update=updates.append)
    assert open_picture(again).tobytes() == open_picture(first).tobytes()
    assert any("stored pictures" in entry["message"] for entry in updates[-1].logs)


def test_cancel_while_it_runs(fal_client):
    handle = fal_client.submit(APP, LONG)
    while not isinstance(handle.status(), fal_client.InProgress):
        time.sleep(0.1)
    handle.cancel()
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get()
    assert (caught.value.status_code, caught.value.error_type) == (499, "client_cancelled")
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.cancel()
    assert caught.value.response.json() == {"status": "ALREADY_COMPLETED"}


def test_cancel_by_id_while_it_waits(service, fal_client):
    with service.paused():
        first, second = fal_client.submit(APP, QUICK), fal_client.submit(APP, QUICK)
        assert second.status() == fal_client.Queued(position=1)
        fal_client.cancel(APP, first.request_id)
        with pytest.raises(fal_client.FalClientHTTPError, match="cancelled"):
            first.get()
        assert second.status() == fal_client.Queued(position=0)
        second.cancel()


def test_a_client_that_gives_up_cancels(fal_client):
    with pytest.raises(fal_client.FalClientTimeoutError) as caught:
        fal_client.subscribe(APP, LONG, client_timeout=2)
    with pytest.raises(fal_client.FalClientHTTPError):
        # the client has asked to cancel: the request ends, one way or the other, but not well
        fal_client.sync_client.get_handle(APP, caught.value.request_id).get()


def test_stream(fal_client):
    events = list(fal_client.stream(APP, {**QUICK, "seed": 12}))
    assert len(events) > 3
    open_picture(events[-1])


def test_realtime(fal_client):
    with fal_client.realtime(APP) as connection:
        for seed in (13, 14):
            connection.send({**QUICK, "seed": seed})
            while "images" not in (message := connection.recv()):
                pass
            assert message["seed"] == seed
    with fal_client.realtime(APP, use_jwt=False) as connection:
        connection.send({**QUICK, "seed": 13})
        assert connection.recv()


def test_sync_mode_returns_the_picture_itself(fal_client):
    result = fal_client.run(APP, {**QUICK, "sync_mode": True, "output_format": "png"})
    head, _, data = result["images"][0]["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (512, 512)


def test_custom_size(fal_client):
    arguments = {**QUICK, "image_size": {"width": 544, "height": 512}}
    assert open_picture(fal_client.run(APP, arguments)).size == (544, 512)


@pytest.mark.parametrize(
    ("arguments", "location", "kind"),
    [
        ({}, ["body", "prompt"], "missing"),
        ({**QUICK, "num_images": 9}, ["body", "num_images"], "less_than_equal"),
        ({**QUICK, "num_inference_steps": 5}, ["body", "num_inference_steps"], None),
        ({**QUICK, "output_format": "gif"}, ["body", "output_format"], None),
    ],
)
def test_invalid_input_is_told_by_subscribe_and_run(fal_client, arguments, location, kind):
    for call in (fal_client.subscribe, fal_client.run):
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            call(APP, arguments)
        assert caught.value.status_code == 422
        detail = caught.value.response.json()["detail"][0]
        assert detail["loc"] == location
        assert kind in (None, detail["type"])


def test_an_unknown_request(fal_client):
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        fal_client.status(APP, "00000000-0000-0000-0000-000000000000")
    assert caught.value.status_code == 404
    assert caught.value.response.json() == {"status": "NOT_FOUND"}


def test_a_wrong_key(fal_client):
    stranger = fal_client.SyncClient(key="not:valid")
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        stranger.submit(APP, QUICK)
    assert caught.value.status_code == 401
    assert caught.value.message == "invalid key credentials"


def test_an_unknown_endpoint(fal_client):
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        fal_client.submit("fal-ai/some-other-model", QUICK)
    assert caught.value.status_code == 404


def test_a_start_that_comes_too_late(service, fal_client):
    with service.paused():
        late = fal_client.submit(APP, QUICK, start_timeout=1.1)
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            late.get()
    assert (caught.value.status_code, caught.value.error_type) == (504, "request_timeout")
    assert caught.value.response_headers["x-fal-request-timeout-type"] == "user"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_noise((128, 96), 60).convert("RGB").save(path)
    return path


def test_uploads_are_used_as_references(fal_client, photo):
    urls = [
        fal_client.upload(photo.read_bytes(), "image/png", file_name="photo.png"),
        fal_client.upload_file(photo),
        fal_client.upload_image(Image.open(photo), format="png"),
        fal_client.upload_file(photo, repository="fal"),
    ]
    for url in urls:
        response = httpx.get(url).raise_for_status()
        assert response.headers["content-type"] == "image/png"
    assert httpx.get(urls[0]).content == photo.read_bytes()
    result = fal_client.subscribe(EDIT, {**QUICK, "image_urls": urls})
    open_picture(result)


def test_data_uris_are_references_too(fal_client, photo):
    result = fal_client.run(EDIT, {**QUICK, "image_urls": [fal_client.encode_file(photo)]})
    open_picture(result)


def test_an_upload_that_is_short_lived_and_hidden(fal_client, photo):
    acl = fal_client.StorageACL(default="hide")
    hidden = fal_client.upload_file(
        photo, lifecycle=fal_client.StorageSettings(expires_in="1h", initial_acl=acl)
    )
    assert httpx.get(hidden).status_code == 404


def test_a_file_of_more_than_100_mib_goes_in_parts(fal_client, tmp_path):
    path = tmp_path / "large.bin"
    pattern = bytes(range(256)) * 4096  # 1 MiB
    with path.open("wb") as file:
        for number in range(102):
            file.write(number.to_bytes(8, "big") + pattern[8:])
    url = fal_client.upload_file(path)
    with httpx.stream("GET", url) as response, path.open("rb") as file:
        for chunk in response.iter_bytes(1024 * 1024):
            assert chunk == file.read(len(chunk))
        assert file.read(1) == b""
