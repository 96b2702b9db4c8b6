"""The images API in OpenAI's form, over http."""

import base64
import contextlib
import io
import json

import pytest
from PIL import Image

from glmimage.jobs import FileRecord, StoreUnavailable
from glmimage.server.openai.answer import described, usage
from glmimage.server.openai.params import auto_size_of, read_params

GENERATE, EDIT = "/v1/images/generations", "/v1/images/edits"
COLOURS = ("gray", "navy", "olive")
BODY = {"model": "glm-image", "prompt": "a square", "size": "512x512"}


def make(server, **changes):
    body = {name: value for name, value in {**BODY, **changes}.items() if value is not ...}
    return server.http.post(GENERATE, json=body)


def refused(answer, status, code, param=...):
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert set(error) == {"message", "type", "param", "code"}
    assert param is ... or error["param"] == param
    assert answer.headers["x-request-id"]
    return error["message"]


def last_job(server):
    (job,) = server.call(server.store.requests(None, limit=1, with_payloads=True))
    return job


def png(size=(64, 48), colour="red"):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def opened(entry):
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"])))


def events(response):
    found, name = [], None
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        if line.startswith("data: "):
            found.append(json.loads(line[6:]))
            assert found[-1]["type"] == name
    return found


def test_the_answer_holds_the_pictures(server):
    answer = make(server, n=2, seed=5)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [opened(entry).format for entry in body["data"]] == ["PNG", "PNG"]
    assert body["background"] == "opaque"
    assert body["output_format"] == "png"
    assert (body["quality"], body["size"], body["seed"]) == ("medium", "512x512", 5)
    assert "revised_prompt" not in body["data"][0]
    job = last_job(server)
    assert answer.headers["x-request-id"] == job.id
    assert (job.surface, job.endpoint, job.num_images) == ("openai", "fal-ai/glm-image", 2)
    assert job.api_key_id == server.key_record.id


def test_a_url_can_be_asked_for(server):
    (entry,) = make(server, response_format="url").json()["data"]
    assert set(entry) == {"url"}
    picture = server.stranger.get(entry["url"])
    assert Image.open(io.BytesIO(picture.content)).format == "PNG"


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 15), ("high", 50), ("hd", 50), ("auto", 30)]
)
def test_quality_is_a_number_of_steps(server, quality, steps):
    assert make(server, quality=quality).status_code == 200
    assert last_job(server).input["num_inference_steps"] == steps


def test_our_fields_reach_the_job(server):
    fields = {"num_inference_steps": 12, "guidance_scale": 2.5, "seed": 9}
    assert make(server, **fields, quality="high", enable_safety_checker=False).status_code == 200
    job = last_job(server)
    assert {name: job.input[name] for name in fields} == fields
    assert job.input["enable_safety_checker"] is False


def test_encoding_is_told_to_the_worker(server):
    assert make(server, output_format="webp", output_compression=60).status_code == 200
    assert last_job(server).input["encoding"] == {"format": "webp", "quality": 60}
    assert make(server, output_format="jpeg").status_code == 200
    job = last_job(server)
    assert job.input["output_format"] == "jpeg"
    assert "encoding" not in job.input


def test_equal_input_is_answered_from_the_cache_only_in_the_same_encoding(server):
    first = make(server, seed=77, output_format="jpeg")
    again = make(server, seed=77, output_format="jpeg")
    other = make(server, seed=77, output_format="jpeg", output_compression=50)
    assert "x-fal-served-from" not in first.headers
    assert again.headers["x-fal-served-from"] == "cache"
    assert "x-fal-served-from" not in other.headers


def test_null_is_as_good_as_nothing(server):
    assert make(server, n=None, size="auto", quality=None, user=None).status_code == 200
    job = last_job(server)
    assert (job.width, job.height, job.num_images) == (1024, 1024, 1)


def test_the_callers_identifier_comes_back(server):
    assert make(server, user="u-1").json()["safety_identifier"] == "u-1"
    assert make(server, user="u", safety_identifier="s").json()["safety_identifier"] == "s"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"prompt": ...}, "missing_required_parameter", "prompt"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": 5}, "invalid_type", "prompt"),
        ({"prompt": "x" * 5000}, "invalid_value", "prompt"),
        ({"n": 5}, "integer_above_max_value", "n"),
        ({"n": 0}, "integer_below_min_value", "n"),
        ({"n": "many"}, "invalid_type", "n"),
        ({"n": True}, "invalid_type", "n"),
        ({"size": "256x256"}, "invalid_value", "size"),
        ({"size": "1000x1000"}, "invalid_value", "size"),
        ({"size": "4096x4096"}, "invalid_value", "size"),
        ({"size": "large"}, "invalid_value", "size"),
        ({"size": "square"}, "invalid_value", "size"),
        ({"quality": "max"}, "invalid_value", "quality"),
        ({"background": "transparent"}, "invalid_value", "background"),
        ({"moderation": "none"}, "invalid_value", "moderation"),
        ({"output_format": "gif"}, "invalid_value", "output_format"),
        ({"output_compression": 101}, "integer_above_max_value", "output_compression"),
        ({"output_compression": 50}, "invalid_value", "output_compression"),
        ({"response_format": "jpg"}, "invalid_value", "response_format"),
        ({"partial_images": 2}, "invalid_value", "partial_images"),
        ({"partial_images": 4, "stream": True}, "integer_above_max_value", "partial_images"),
        ({"style": "vivid"}, "unsupported_parameter", "style"),
        ({"negative_prompt": "blur"}, "unsupported_parameter", "negative_prompt"),
        ({"stepz": 5}, "unknown_parameter", "stepz"),
        ({"own": {}}, "unknown_parameter", "own"),
        ({"num_inference_steps": 2}, "invalid_value", "num_inference_steps"),
        ({"guidance_scale": "high"}, "invalid_value", "guidance_scale"),
        ({"seed": -1}, "invalid_value", "seed"),
        ({"best_of": 9}, "invalid_value", "best_of"),
    ],
)
def test_what_is_wrong_is_named(server, changes, code, param):
    message = refused(make(server, **changes), 400, code, param)
    assert message.endswith((".", "!"))
    assert param in message


def test_an_unknown_model_is_not_found(server):
    message = refused(make(server, model="dall-e-2"), 404, "model_not_found", "model")
    assert "glm-image" in message


@pytest.mark.parametrize("content", ["{", "[]", "5", "nonsense"])
def test_a_body_that_is_no_object(server, content):
    refused(server.http.post(GENERATE, content=content), 400, "invalid_json")


def test_a_refused_prompt(server):
    answer = make(server, prompt="explicit porn scene")
    refused(answer, 400, "moderation_blocked", None)
    assert answer.json()["error"]["type"] == "image_generation_user_error"


def test_a_picture_that_must_not_be_shown_is_refused(server):
    refused(make(server, prompt="flagged"), 400, "moderation_blocked", None)


def test_a_failure_of_the_work(server):
    answer = make(server, prompt="crash")
    refused(answer, 500, "internal_error", None)
    assert answer.json()["error"]["type"] == "server_error"


def test_keys_are_asked_for_as_bearer_tokens(server):
    refused(server.stranger.post(GENERATE, json=BODY), 401, "invalid_api_key")
    refused(server.stranger.get("/v1/nothing"), 401, "invalid_api_key")
    headers = {"authorization": f"Bearer {server.key}"}
    assert server.stranger.post(GENERATE, json=BODY, headers=headers).status_code == 200


def test_paths_and_methods_that_are_not(server):
    refused(server.http.get("/v1/chat/completions"), 404, "unknown_url")
    answer = server.http.get(GENERATE)
    refused(answer, 405, "invalid_request")
    assert answer.headers["allow"] == "POST"


def test_models(serve):
    server = serve(model="zai-org/GLM-Image", model_aliases="gpt-image-1, dall-e-3")
    body = server.http.get("/v1/models").json()
    names = ["glm-image", "zai-org/GLM-Image", "gpt-image-1", "dall-e-3"]
    assert [entry["id"] for entry in body["data"]] == names
    assert body["object"] == "list"
    for name in names:
        one = server.http.get(f"/v1/models/{name}")
        assert (one.json()["id"], one.json()["object"]) == (name, "model")
    refused(server.http.get("/v1/models/other"), 404, "model_not_found")
    assert make(server, model="gpt-image-1").status_code == 200


def test_a_rate_limit_and_a_full_queue(serve):
    server = serve(max_queue_length=1)
    text, _ = server.call(server.store.create_key("slow", rate=1))
    headers = {"authorization": f"Bearer {text}"}
    assert server.stranger.post(GENERATE, json=BODY, headers=headers).status_code == 200
    answer = server.stranger.post(GENERATE, json=BODY, headers=headers)
    refused(answer, 429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) > 0
    server.tell(server.worker.awake.clear)
    server.submit("slow")
    server.submit("slow") if server.services.live.queue_length() == 0 else None
    refused(make(server), 503, "server_overloaded")


def test_who_hangs_up_cancels_the_work(held):
    with pytest.raises(Exception, match="timed out"):
        held.http.post(GENERATE, json={**BODY, "prompt": "slow square"}, timeout=0.5)
    job = held.until(lambda: ended(held, "slow square"))
    assert (job.state, job.status) == ("cancelled", 499)


def ended(server, prompt):
    jobs = server.call(server.store.requests(None, limit=5, with_payloads=True))
    return next((j for j in jobs if j.ended and (j.input or {}).get("prompt") == prompt), None)


def test_edits_take_several_files(server):
    files = [("image[]", ("a.png", png(), "image/png")), ("image[]", ("b.png", png(), "image/png"))]
    data = {"model": "glm-image", "prompt": "join them", "size": "768x512", "n": "1", "seed": "3"}
    answer = server.http.post(EDIT, data=data, files=files)
    assert answer.status_code == 200, answer.text
    job = last_job(server)
    assert job.endpoint == "fal-ai/glm-image/image-to-image"
    assert (job.width, job.height, job.seed) == (768, 512, 3)
    assert len(job.reference_file_ids) == 2
    assert all(url.startswith("data:;base64,...") for url in job.input["image_urls"])


def test_an_edit_has_the_shape_of_its_picture(server):
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (600, 400)).save(turned, "JPEG", exif=exif)
    for content, size in ((png((300, 200)), (1248, 832)), (turned.getvalue(), (832, 1248))):
        answer = server.http.post(
            EDIT, data={"prompt": "x"}, files={"image": ("a", content, "image/png")}
        )
        assert answer.json()["size"] == f"{size[0]}x{size[1]}"


def test_auto_sizes_can_be_painted():
    for width, height in ((100, 100), (400, 100), (100, 400), (1920, 1080), (33, 100)):
        sides = auto_size_of(width, height)
        assert all(512 <= side <= 2048 and side % 32 == 0 for side in sides)
    assert auto_size_of(400, 100) == (2048, 512)


def test_edits_as_json(server):
    address = "data:image/png;base64," + base64.b64encode(png()).decode()
    for pictures in ({"images": [{"image_url": address}]}, {"image": address}):
        answer = server.http.post(EDIT, json={"prompt": "x", "size": "512x512", **pictures})
        assert answer.status_code == 200, answer.text
    refused(server.http.post(EDIT, json={"prompt": "x", "images": [{"file_id": "f"}]}), 400,
            "invalid_type", "images")  # fmt: skip


@pytest.mark.parametrize(
    ("files", "data", "code", "param"),
    [
        ({}, {"prompt": "x"}, "invalid_content_type", None),
        ({"other": ("a.png", png())}, {"prompt": "x"}, "missing_required_parameter", "image"),
        ({"image": ("a.png", b"no picture")}, {"prompt": "x"}, "invalid_value", "image[0]"),
        ({"image": ("a.png", png((9, 9)))}, {"prompt": "x"}, "invalid_value", "image[0]"),
        ({"image": ("a.png", png())}, {}, "missing_required_parameter", "prompt"),
        (
            {"image": ("a.png", png()), "mask": ("m.png", png())},
            {"prompt": "x"},
            "unsupported_parameter",
            "mask",
        ),
        ([("image", ("a.png", png()))] * 5, {"prompt": "x"}, "invalid_value", "image"),
        ({"image": (None, "text")}, {"prompt": "x"}, "invalid_type", "image"),
    ],
)
def test_edits_that_are_refused(server, files, data, code, param):
    refused(server.http.post(EDIT, data=data, files=files), 400, code, param)


def test_a_broken_multipart_body(server):
    headers = {"content-type": "multipart/form-data; boundary=b"}
    for content in (b"--b\r\nnonsense", b"", b"--b\r\n\r\n\r\n--b--"):
        answer = server.http.post(EDIT, content=content, headers=headers)
        assert answer.status_code == 400, answer.text
    headers = {"content-type": "multipart/form-data"}
    refused(server.http.post(EDIT, content=b"x", headers=headers), 400, "invalid_body")


def test_a_body_that_is_too_large(serve):
    server = serve(max_body_bytes=2000)
    answer = server.http.post(EDIT, data={"prompt": "x"}, files={"image": ("a", b"x" * 5000)})
    refused(answer, 413, "invalid_request")


def test_a_stream_ends_with_the_picture(server):
    with server.http.stream("POST", GENERATE, json={**BODY, "stream": True, "n": 2}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = [event for event in events(answer) if event["type"].endswith("completed")]
    assert [event["type"] for event in found] == ["image_generation.completed"] * 2
    assert opened(found[0]).format == "PNG"
    assert found[0]["size"] == "512x512"
    assert (found[0]["background"], found[0]["quality"]) == ("opaque", "medium")


def test_previews_come_as_partial_images(held):
    """What a worker stores as a preview is sent while the request is in work."""

    def in_work():
        known = held.worker.claimed[-1] if held.worker.claimed else None
        return known if known is not None and known.input["prompt"] == "slow preview" else None

    async def preview(job, index, number, attempt=1):
        content = png((256, 256), COLOURS[number])
        path = f"previews/{job.id}-{index}-{number}-{attempt}.jpg"
        await held.files.put(path, content)
        record = FileRecord(
            id=path.rpartition("/")[2],
            path=path,
            content_type="image/jpeg",
            size=len(content),
            name=f"preview-{index}-{number}.jpg",
            created=1_800_000_000.0,
            kind="preview",
            job_id=job.id,
        )
        await held.store.add_file(record)
        await held.store.log(job.id, f"picture {index + 1}/2: preview")

    body = {**BODY, "prompt": "slow preview", "n": 2, "stream": True, "partial_images": 2}
    found = []
    with held.http.stream("POST", GENERATE, json=body) as answer:
        job = held.until(in_work)
        assert job.input["preview"] == 2
        for index, number in ((1, 0), (0, 0), (0, 1)):
            held.call(preview(job, index, number))
        held.call(preview(job, 0, 0, attempt=2))  # a worker has begun again
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if len(found) == 3:
                    held.tell(held.worker.go.set)
    partials, completed = found[:3], found[3:]
    assert [event["type"] for event in completed] == ["image_generation.completed"] * 2
    assert {event["type"] for event in partials} == {"image_generation.partial_image"}
    places = [(one["image_index"], one["partial_image_index"]) for one in partials]
    assert sorted(places) == [(0, 0), (0, 1), (1, 0)]
    assert places.index((0, 0)) < places.index((0, 1))
    for one in partials:
        shown = png((256, 256), COLOURS[one["partial_image_index"]])
        assert base64.b64decode(one["b64_json"]) == shown
        assert (one["output_format"], one["size"]) == ("jpeg", "512x512")


def test_without_partial_images_no_preview_is_painted(server):
    assert make(server).status_code == 200
    assert "preview" not in last_job(server).input


def test_a_streamed_edit(server):
    data = {"prompt": "x", "size": "512x512", "stream": "true"}
    files = {"image": ("a.png", png())}
    with server.http.stream("POST", EDIT, data=data, files=files) as answer:
        (*_, last) = events(answer)
    assert last["type"] == "image_edit.completed"


def test_a_stream_tells_a_failure(server):
    with server.http.stream(
        "POST", GENERATE, json={**BODY, "prompt": "crash", "stream": True}
    ) as answer:
        (event,) = events(answer)
    assert event["type"] == "error"
    assert event["error"]["code"] == "internal_error"


def test_a_stream_that_is_refused_at_once(server):
    answer = make(server, stream=True, prompt="explicit porn scene")
    refused(answer, 400, "moderation_blocked")


def test_what_is_not_to_be_kept_is_forgotten(server):
    headers = {"x-fal-store-io": "0"}
    assert server.http.post(GENERATE, json=BODY, headers=headers).status_code == 200
    (job,) = server.call(server.store.requests(None, limit=1, with_payloads=True))
    server.until(lambda: server.call(server.store.get(job.id)).result is None)


def test_open_webui_as_it_calls(server):
    """Its request, field by field; it reads data[].url or data[].b64_json."""
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    body = {
        "model": "glm-image",
        "prompt": "a square",
        "n": 1,
        "size": "512x512",
        "response_format": "b64_json",
    }
    answer = server.stranger.post(f"{GENERATE}?api-version=2", json=body, headers=headers)
    (entry,) = answer.json()["data"]
    assert entry.get("url") is None
    assert opened(entry).format == "PNG"


@pytest.mark.parametrize("names", [["image"], ["image[]", "image[]"]])
def test_open_webui_as_it_edits(server, names):
    data = {
        "model": "glm-image",
        "prompt": "x",
        "n": "1",
        "size": "512x512",
        "background": "auto",
        "response_format": "b64_json",
    }
    files = [(name, ("0f.png", png(), "image/png")) for name in names]
    headers = {"Authorization": f"Bearer {server.key}"}
    answer = server.stranger.post(EDIT, data=data, files=files, headers=headers)
    assert opened(answer.json()["data"][0]).format == "PNG"
    assert len(last_job(server).reference_file_ids) == len(names)


@pytest.mark.parametrize("fields", [{"steps": 12, "guidance": 2}, {"guidance_scale": 2}])
def test_short_words_are_the_same(server, fields):
    assert make(server, **fields).status_code == 200
    job = last_job(server)
    assert job.input["num_inference_steps"] == fields.get("steps", 30)
    assert job.input["guidance_scale"] == 2


def test_a_word_and_its_short_form_are_refused_together(server):
    answer = make(server, steps=12, num_inference_steps=12)
    assert "the same" in refused(answer, 400, "invalid_value", "steps")


def test_adapters_of_an_edit_come_field_by_field_or_as_json(serve, tmp_path):
    server, files = serve(lora_dir=tmp_path), {"image": ("a.png", png())}
    for path, field in (
        ("ink", {"loras[][path]": ["ink", "oil"], "loras[][scale]": ["1", "0.5"]}),
        ("oil", {"loras[0][path]": "oil"}),
        ("tar", {"loras": '[{"path": "tar"}]'}),
    ):
        answer = server.http.post(EDIT, data={"prompt": "a", **field}, files=files)
        assert answer.status_code == 400
        assert f"no adapter '{path}'" in answer.json()["error"]["message"]
    one_scale = {"loras[][path]": ["ink", "oil"], "loras[][scale]": "1"}
    answer = server.http.post(EDIT, data={"prompt": "a", **one_scale}, files=files)
    refused(answer, 400, "invalid_value", "loras")


def test_parts_of_the_usage_add_up():
    result = {"tokens": {"text": 10, "image": 0, "output": 4097}}
    whole, parts = usage(result), [usage(result, number, 3) for number in range(3)]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert sum(part[name] for part in parts) == whole[name]


def test_what_was_read_is_told_of_the_shown_pictures_alone():
    images = [{"width": 512, "height": 512, "nsfw": flagged} for flagged in (True, False)]
    result = {"images": images, "seed": 1, "text_check": [{"seed": 1}, {"seed": 2}]}
    assert described(result, read_params({"prompt": "a"}))["text_check"] == [{"seed": 2}]


@pytest.mark.parametrize("path", [GENERATE, "/paas/v4/images/generations"])
def test_the_callers_trace_goes_on(server, monkeypatch, path):
    parents = []

    @contextlib.contextmanager
    def span(name, parent=None, role="internal", **values):
        parents.append(parent)
        yield parent

    monkeypatch.setattr(server.services.tracer, "span", span)
    caller = f"00-{'a' * 32}-{'b' * 16}-01"
    assert server.http.post(path, json=BODY, headers={"traceparent": caller}).status_code == 200
    assert caller in parents


@pytest.mark.parametrize("changes", [{}, {"stream": True, "partial_images": 1}])
def test_a_database_that_is_away_for_a_moment_is_waited_for(server, monkeypatch, changes):
    store, refusals = server.store, []

    def away_once(name):
        ask = getattr(store, name)

        async def answer(*arguments, **options):
            if name not in refusals:
                refusals.append(name)
                raise StoreUnavailable("It is away.")
            return await ask(*arguments, **options)

        return answer

    for name in ("get", "get_file"):
        monkeypatch.setattr(store, name, away_once(name))
    answer = make(server, **changes)
    assert answer.status_code == 200, answer.text
    assert refusals == ["get", "get_file"]
    assert '"error"' not in answer.text


@pytest.mark.parametrize("changes", [{"n": 9}, {"model": "other"}, {"size": "5x5"}])
def test_what_is_refused_before_it_is_a_job_is_counted(server, changes):
    counted = 'glmimage_requests_rejected_total{endpoint="fal-ai/glm-image",reason="invalid"}'

    def number():
        (line,) = [x for x in server.http.get("/metrics").text.splitlines() if counted in x]
        return float(line.split()[-1])

    before = number()
    assert make(server, **changes).status_code in (400, 404)
    assert number() == before + 1
