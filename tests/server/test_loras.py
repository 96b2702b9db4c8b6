"""`loras` of a request: names of the server's folder, refused in fal's form, part of its key."""

import json

import pytest

RUN = "/run/fal-ai/glm-image"
BODY = {"prompt": "a square", "image_size": "square", "seed": 3}


@pytest.fixture
def styles(tmp_path):
    """Write two folders that look like adapters."""
    root = tmp_path / "styles"
    for name in ("ink", "neon"):
        folder = root / name / "decoder"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        (folder / "adapter_model.safetensors").write_bytes(b"")
    return root


@pytest.fixture
def stylish(serve, styles):
    return serve(lora_dir=styles)


def ask(server, *loras):
    return server.http.post(RUN, json={**BODY, "loras": list(loras)})


def test_adapters_go_to_the_worker_and_are_part_of_what_is_equal(stylish, styles):
    served = []
    for loras in (
        [],
        [{"path": "ink"}],
        [{"path": "ink", "scale": 1}],
        [{"path": "ink", "scale": 0.5}],
        [{"path": "ink"}, {"path": "neon"}],
        [{"path": "ink", "scale": 0}],
    ):
        answer = ask(stylish, *loras)
        assert answer.status_code == 200, answer.text
        served.append(answer.headers.get("x-fal-served-from"))
    # the third is the second, and an adapter that does not count is none
    assert served == [None, None, "cache", None, None, "cache"]
    assert stylish.worker.claimed[1].input["loras"] == [{"path": "ink", "scale": 1.0}]
    keys = [(job.cache_key, job.prior_key) for job in stylish.worker.claimed]
    assert len(set(keys)) == len({prior for _, prior in keys}) == 4
    (styles / "ink/decoder/adapter_model.safetensors").write_bytes(b"trained further")
    assert ask(stylish, {"path": "ink"}).headers.get("x-fal-served-from") is None


@pytest.mark.parametrize(
    ("lora", "loc", "kind", "words"),
    [
        ({"path": "oil"}, ["path"], "value_error", "no adapter 'oil'; known are: ink, neon"),
        ({"path": "../styles/ink"}, ["path"], "value_error", "no adapter"),
        ({"path": ""}, ["path"], "string_too_short", "at least 1"),
        ({"scale": 1}, ["path"], "missing", "required"),
        ({"path": "ink", "scale": 4.5}, ["scale"], "less_than_equal", "4"),
        ({"path": "ink", "scale": -1}, ["scale"], "greater_than_equal", "0"),
        ({"path": "ink", "scale": True}, ["scale"], "float_type", "number"),
    ],
)
def test_wrong_adapters_are_refused_in_fals_form(stylish, lora, loc, kind, words):
    answer = ask(stylish, {"path": "neon"}, lora)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == ["body", "loras", 1, *loc]
    assert detail["type"] == kind
    assert words in detail["msg"]
    assert detail["url"].endswith(f"#{kind}")


def test_openai_s_form_takes_them_as_well(stylish):
    asked = {"prompt": "a square", "size": "512x512"}
    answer = stylish.http.post("/v1/images/generations", json={**asked, "loras": [{"path": "ink"}]})
    assert answer.status_code == 200, answer.text
    assert stylish.worker.claimed[-1].input["loras"] == [{"path": "ink", "scale": 1.0}]
    wrong = stylish.http.post("/v1/images/generations", json={**asked, "loras": [{"path": "oil"}]})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "loras[0]"
    assert "known are: ink, neon" in wrong.json()["error"]["message"]


def test_too_many(stylish):
    answer = ask(stylish, *[{"path": "ink"}] * 5)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert (detail["loc"], detail["type"]) == (["body", "loras"], "sequence_too_long")


def test_a_server_without_adapters_says_so(serve):
    answer = ask(serve(), {"path": "ink"})
    assert answer.status_code == 422
    assert "this server has none" in answer.json()["detail"][0]["msg"]
