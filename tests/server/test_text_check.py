"""`text_check` and `best_of` as input fields; what the worker does with them is tested there."""

import pytest

from glmimage.server.fal.render import output

RUN = "/run/fal-ai/glm-image"
BODY = {"prompt": "A sign 'OPEN'", "image_size": "square"}


def test_off_unless_asked_for(server):
    answer = server.http.post(RUN, json=BODY)
    assert "text_check" not in answer.json()
    job = server.call(server.store.get(answer.headers["x-fal-request-id"]))
    assert (job.input["text_check"], job.input["best_of"], job.num_images) == (False, 1, 1)


def test_every_candidate_is_painted_and_charged(server):
    answer = server.http.post(RUN, json={**BODY, "best_of": 3})
    job = server.call(server.store.get(answer.headers["x-fal-request-id"]))
    assert job.num_images == 3
    assert float(answer.headers["x-fal-billable-units"]) == pytest.approx(3 * 512 * 512 / 1e6)


@pytest.mark.parametrize(
    ("changes", "num_painted"),
    [
        ({"best_of": 2, "num_images": 3}, 3),
        ({"best_of": 4, "num_images": 2}, 4),
        ({"best_of": 4, "prompt": "A hill"}, 1),
        ({"best_of": 4, "prompt": "A hill ' '", "num_images": 2}, 2),
    ],
)
def test_no_more_are_painted_than_can_be_chosen_from(server, changes, num_painted):
    answer = server.http.post(RUN, json={**BODY, **changes})
    assert answer.status_code == 200
    job = server.call(server.store.get(answer.headers["x-fal-request-id"]))
    assert job.num_images == num_painted


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"best_of": 0}, "greater_than_equal"),
        ({"best_of": 5}, "less_than_equal"),
        ({"best_of": True}, "int_type"),
        ({"text_check": "perhaps"}, "bool_parsing"),
    ],
)
def test_what_cannot_be_chosen_is_refused(server, changes, kind):
    answer = server.http.post(RUN, json={**BODY, **changes})
    (entry,) = answer.json()["detail"]
    assert answer.status_code == 422
    assert (entry["type"], entry["loc"][-1]) == (kind, next(iter(changes)))


def test_equal_input_is_shared_only_when_it_is_read_alike(server):
    ways = ({}, {"text_check": True}, {"best_of": 2})
    first = [server.http.post(RUN, json={**BODY, "seed": 41, **way}) for way in ways]
    again = [server.http.post(RUN, json={**BODY, "seed": 41, **way}) for way in ways]
    assert all("x-fal-served-from" not in answer.headers for answer in first)
    assert [answer.headers["x-fal-served-from"] for answer in again] == ["cache"] * 3


def test_the_answer_tells_what_was_read():
    check = {"found": ["OPEN"], "missing": [], "seed": 7}
    image = {"file_id": "f", "file_name": "f.png", "nsfw": False}
    result = {"images": [image], "seed": 7, "prompt": "x", "text_check": [check]}
    assert output(result, "http://x")["text_check"] == [check]
