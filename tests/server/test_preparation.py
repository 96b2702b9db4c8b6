"""References, moderation and expansion, before a job reaches a worker."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from PIL import Image

from glmimage.policy import Endpoint, open_policy

APP = "fal-ai/glm-image"
EDIT = f"{APP}/image-to-image"
BODY = {"prompt": "an edit", "image_size": "square"}


def picture(size=(64, 64), kind="PNG", mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size).save(content, kind)
    return content.getvalue()


def noise():
    content = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(content, "PNG")
    return content.getvalue()


def data_uri(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Elsewhere(BaseHTTPRequestHandler):
    """Serve pictures, and an OpenAI-compatible endpoint that can be told what to say."""

    answers: ClassVar = {}

    def do_GET(self):
        self.reply(*self.answers.get(self.path, (404, b"", "text/plain")))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = self.answers[self.path]
        self.reply(*(answer(asked) if callable(answer) else answer))

    def reply(self, status, content, kind):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def elsewhere():
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        Elsewhere.answers = {"/good.png": (200, picture(), "image/png")}
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


@pytest.fixture(scope="module")
def open_server(tmp_path_factory, elsewhere, request):
    """Serve with a policy that lets references come from the test's own web server."""
    server_class = type(request.getfixturevalue("server"))
    policy = open_policy(allowed_references=["127.0.0.1"])
    with server_class(tmp_path_factory.mktemp("open"), policy) as running:
        yield running


def edit(server, *urls, **fields):
    return server.http.post(f"/run/{EDIT}", json={**BODY, "image_urls": list(urls), **fields})


def refusal(answer):
    assert answer.status_code == 422, answer.text
    (detail,) = answer.json()["detail"]
    return detail


def reference_sizes(server, answer):
    job = server.call(server.store.get(answer.headers["x-fal-request-id"]))
    records = [server.call(server.store.get_file(id)) for id in job.reference_file_ids]
    return [record.size for record in records]


def test_a_reference_from_elsewhere_is_fetched_once_and_stored(open_server, elsewhere):
    answer = edit(open_server, f"{elsewhere}/good.png", data_uri(picture((48, 48))))
    assert answer.status_code == 200, answer.text
    sizes = reference_sizes(open_server, answer)
    assert sizes == [len(picture()), len(picture((48, 48)))]
    job = open_server.call(open_server.store.get(answer.headers["x-fal-request-id"]))
    assert job.prior_key
    assert "base64," in job.input["image_urls"][1]
    assert len(job.input["image_urls"][1]) < 100


def test_an_own_file_is_used_as_it_is(server):
    made = server.http.post(f"/run/{APP}", json=BODY).json()["images"][0]["url"]
    # painted squares are too small to be references: a real picture takes their place
    file_id = made.split("/")[-2]
    record = server.call(server.store.get_file(file_id))
    server.call(server.files.put(record.path, picture((512, 512))))
    for url in (
        made,
        made.replace(server.url, "https://v3.fal.media").replace("/cdn", ""),
        f"{server.url}/cdn/files/b/{file_id}",
    ):
        answer = edit(server, url)
        assert answer.status_code == 200, answer.text
        job = server.call(server.store.get(answer.headers["x-fal-request-id"]))
        assert job.reference_file_ids == (file_id,)


def test_own_files_that_are_not_there(server):
    detail = refusal(edit(server, f"{server.url}/cdn/files/b/unknown/a.png"))
    assert (detail["type"], detail["loc"]) == ("file_download_error", ["body", "image_urls", 0])


def test_a_hidden_file_of_another_key_is_not_there(server):
    text, _ = server.call(server.store.create_key("another"))
    other = {"authorization": f"Key {text}"}
    made = server.http.post(f"/run/{APP}", json=BODY, headers=other).json()["images"][0]["url"]
    file_id = made.split("/")[-2]
    server.call(server.store.set_file_acl(file_id, {"default": "hide", "rules": []}, None))
    assert refusal(edit(server, made))["type"] == "file_download_error"
    rules = [{"user": server.key_record.id, "decision": "allow"}]
    server.call(server.store.set_file_acl(file_id, {"default": "hide", "rules": rules}, None))
    assert edit(server, made).status_code == 200


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1:1/a.png", "file_download_error"),
        ("http://169.254.169.254/latest", "file_download_error"),
        ("http://localhost/a.png", "file_download_error"),
        ("file:///etc/passwd", "file_download_error"),
        ("ftp://example.com/a.png", "file_download_error"),
        ("no url", "file_download_error"),
        ("https://", "file_download_error"),
        ("data:image/png;base64", "file_download_error"),
        ("data:image/png;base64,%%%", "file_download_error"),
        ("data:,", "file_download_error"),
        (data_uri(b"not a picture"), "image_load_error"),
        (data_uri(noise()[:2000]), "image_load_error"),
        (data_uri(picture((16, 64))), "image_too_small"),
        (data_uri(picture((400, 64))), "image_too_large"),
        (data_uri(picture((64, 64), "PPM"), "image/x-ppm"), "unsupported_image_format"),
    ],
)
def test_references_that_are_refused(server, url, kind):
    detail = refusal(edit(server, url))
    assert (detail["type"], detail["loc"]) == (kind, ["body", "image_urls", 0])
    assert detail["url"].endswith(f"#{kind}")
    if kind == "image_too_small":
        assert detail["ctx"] == {"min_width": 32, "min_height": 32}
    if kind == "unsupported_image_format":
        assert "png" in detail["ctx"]["supported_formats"]


def test_the_place_of_a_bad_reference_is_named(open_server, elsewhere):
    answer = edit(open_server, f"{elsewhere}/good.png", f"{elsewhere}/absent.png")
    assert refusal(answer)["loc"] == ["body", "image_urls", 1]


def test_a_bad_reference_on_the_queue_is_told_by_the_result(server):
    body = server.submit("an edit", EDIT, image_urls=["http://127.0.0.1:1/a.png"])
    assert server.result(body["request_id"]).status_code == 422


@pytest.mark.parametrize(("mode", "kind"), [("P", "GIF"), ("CMYK", "JPEG"), ("I;16", "PNG")])
def test_unusual_pictures_are_taken(server, mode, kind):
    uri = data_uri(picture((64, 64), kind, mode), "image/any")
    assert edit(server, uri).status_code == 200


def chat(text):
    content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    return (200, content, "application/json")


def test_expansion_replaces_the_prompt(serve, elsewhere):
    Elsewhere.answers["/expand/chat/completions"] = chat("A red bus, by night, 'OPEN'")
    endpoint = Endpoint(f"{elsewhere}/expand", "model", "", 5.0)
    server = serve(open_policy(expansion=endpoint))
    body = {**BODY, "prompt": "A bus, 'OPEN'", "enable_prompt_expansion": True}
    answer = server.http.post(f"/run/{APP}", json=body)
    assert answer.json()["prompt"] == "A red bus, by night, 'OPEN'"


def test_an_expansion_that_changes_quoted_text_is_not_used(serve, elsewhere):
    Elsewhere.answers["/lose/chat/completions"] = chat("A red bus, by night")
    server = serve(open_policy(expansion=Endpoint(f"{elsewhere}/lose", "model", "", 5.0)))
    body = {**BODY, "prompt": "A bus, 'OPEN'", "enable_prompt_expansion": True}
    answer = server.http.post(f"/run/{APP}", json=body)
    assert answer.json()["prompt"] == "A bus, 'OPEN'"
    logs = server.completed(answer.headers["x-fal-request-id"], logs=True)["logs"]
    assert "original prompt" in logs[0]["message"]
    assert logs[0]["level"] == "WARN"


def test_an_expanded_prompt_is_checked_again(serve, elsewhere):
    Elsewhere.answers["/bad/chat/completions"] = chat("explicit porn scene")
    server = serve(open_policy(expansion=Endpoint(f"{elsewhere}/bad", "model", "", 5.0)))
    body = {**BODY, "prompt": "A bus", "enable_prompt_expansion": True}
    answer = server.http.post(f"/run/{APP}", json=body)
    assert refusal(answer)["type"] == "content_policy_violation"


def test_expansion_that_is_not_configured(server, serve):
    body = {**BODY, "enable_prompt_expansion": True}
    answer = server.http.post(f"/run/{APP}", json=body)
    assert answer.json()["prompt"] == BODY["prompt"]
    strict = serve(open_policy(expansion_on_failure="error"))
    answer = strict.http.post(f"/run/{APP}", json=body)
    detail = refusal(answer)
    assert detail["type"] == "feature_not_supported"
    assert detail["loc"] == ["body", "enable_prompt_expansion"]
    assert answer.headers["x-fal-retryable"] == "false"
    job = strict.call(strict.store.get(answer.headers["x-fal-request-id"]))
    assert job.attempt == 1


def test_expansion_that_is_down(serve, elsewhere):
    Elsewhere.answers["/down/chat/completions"] = (503, b"", "text/plain")
    endpoint = Endpoint(f"{elsewhere}/down", "model", "", 5.0)
    strict = serve(open_policy(expansion=endpoint, expansion_on_failure="error"))
    answer = strict.http.post(f"/run/{APP}", json={**BODY, "enable_prompt_expansion": True})
    assert answer.status_code == 500
    assert answer.json()["detail"][0]["type"] == "downstream_service_unavailable"
    assert answer.headers["x-fal-retryable"] == "true"


def test_moderation_refuses(serve, elsewhere):
    def moderate(asked):
        flagged = "bus" in asked["input"]
        result = {"flagged": flagged, "categories": {"transport": flagged}}
        return (200, json.dumps({"results": [result]}).encode(), "application/json")

    Elsewhere.answers["/moderate/moderations"] = moderate
    server = serve(open_policy(moderation=Endpoint(f"{elsewhere}/moderate", "m", "", 5.0)))
    refused = server.http.post(f"/run/{APP}", json={**BODY, "prompt": "a bus"})
    detail = refusal(refused)
    assert (detail["type"], detail["loc"]) == ("content_policy_violation", ["body", "prompt"])
    assert server.http.post(f"/run/{APP}", json={**BODY, "prompt": "a car"}).status_code == 200
    Elsewhere.answers["/expand/chat/completions"] = chat("a red bus")
    expanding = open_policy(
        moderation=Endpoint(f"{elsewhere}/moderate", "m", "", 5.0),
        expansion=Endpoint(f"{elsewhere}/expand", "m", "", 5.0),
    )
    body = {**BODY, "prompt": "a car", "enable_prompt_expansion": True}
    answer = serve(expanding).http.post(f"/run/{APP}", json=body)
    assert refusal(answer)["type"] == "content_policy_violation"
    unchecked = {**BODY, "prompt": "a bus", "enable_safety_checker": False}
    assert server.http.post(f"/run/{APP}", json=unchecked).status_code == 200


def test_cancel_while_a_reference_is_fetched(open_server, elsewhere):
    arrived, leave = threading.Event(), threading.Event()

    class Slow(Elsewhere):
        def do_GET(self):
            arrived.set()
            leave.wait(10)

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}/slow.png"
        request_id = open_server.submit("x", EDIT, image_urls=[url])["request_id"]
        assert arrived.wait(10)
        one = f"/queue/{APP}/requests/{request_id}"
        assert open_server.http.get(f"{one}/status").json()["status"] == "IN_QUEUE"
        assert open_server.http.put(f"{one}/cancel").status_code == 202
        assert open_server.completed(request_id)["error_type"] == "client_cancelled"
        leave.set()
        web.shutdown()
