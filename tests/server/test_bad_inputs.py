"""Bad values of every field, each with its documented type; none is a 500.

With the bad requests of test_bad_requests.py they are more than 300. After each of them the server
takes the next good request.
"""

import base64

import pytest

APP = "fal-ai/glm-image"
EDIT = f"{APP}/image-to-image"
GOOD = {"prompt": "a square", "image_size": "square"}
HUGE = 10**30
DEEP: object = "deep"
for _ in range(60):
    DEEP = [DEEP]

INTEGER = [  # what is wrong for every whole number
    ("many", "int_parsing"),
    ("", "int_parsing"),
    (" ", "int_parsing"),
    ("12.5", "int_parsing"),
    ("1e1", "int_parsing"),
    ("0x10", "int_parsing"),
    ("NaN", "int_parsing"),
    ("1,0", "int_parsing"),
    (11.5, "int_from_float"),
    ([], "int_type"),
    ([10], "int_type"),
    ({}, "int_type"),
    (True, "int_type"),
    (False, "int_type"),
]
NUMBER = [
    ("much", "float_parsing"),
    ("", "float_parsing"),
    ("1,5", "float_parsing"),
    ("1.5.1", "float_parsing"),
    ("nan", "finite_number"),
    ("inf", "finite_number"),
    ("-Infinity", "finite_number"),
    ([], "float_type"),
    ({}, "float_type"),
    ([1.5], "float_type"),
    (True, "float_type"),
]
BOOLEAN = [
    ("perhaps", "bool_parsing"),
    ("", "bool_parsing"),
    ("truee", "bool_parsing"),
    (" true", "bool_parsing"),
    ("yes", "bool_parsing"),
    ("1", "bool_parsing"),
    (0, "bool_type"),
    (1, "bool_type"),
    (-1, "bool_type"),
    (0.5, "bool_type"),
    ([], "bool_type"),
    ({}, "bool_type"),
    (None, "bool_type"),
]
CHOICE = [
    ("", "one_of"),
    ("webp", "one_of"),
    (" jpeg", "one_of"),
    ("JPEG", "one_of"),
    ("png ", "one_of"),
    (0, "one_of"),
    (None, "one_of"),
    ([], "one_of"),
    (True, "one_of"),
    (DEEP, "one_of"),
]
SIDE = [
    *INTEGER,
    (None, "int_type"),
    (0, "greater_than_equal"),
    (-512, "greater_than_equal"),
    (31, "multiple_of"),
    (511, "multiple_of"),
    (513, "multiple_of"),
    (1000, "multiple_of"),
    (2047, "multiple_of"),
    (2049, "multiple_of"),
    (2080, "less_than_equal"),
    (HUGE, "less_than_equal"),
    ("4096", "less_than_equal"),
]
TEXT = [(0, "string_type"), (1.5, "string_type"), (True, "string_type"), (None, "string_type")]
FIELDS = {
    "prompt": [
        *TEXT,
        (["a"], "string_type"),
        ({"text": "a"}, "string_type"),
        (DEEP, "string_type"),
        ("", "string_too_short"),
        (" ", "value_error"),
        ("\t\n\r", "value_error"),
        ("\u2003\u3000", "value_error"),
        ("a\0b", "value_error"),
        ("\0", "value_error"),
        ("x" * 4097, "string_too_long"),
        ("漢" * 4097, "string_too_long"),
        ("x" * 100_000, "string_too_long"),
    ],
    "num_inference_steps": [
        *INTEGER,
        (None, "int_type"),
        (9, "greater_than_equal"),
        (0, "greater_than_equal"),
        (-30, "greater_than_equal"),
        ("9", "greater_than_equal"),
        (101, "less_than_equal"),
        (HUGE, "less_than_equal"),
        (1e300, "int_parsing_size"),
    ],
    "guidance_scale": [
        *NUMBER,
        (None, "float_type"),
        (0, "greater_than_equal"),
        (0.999, "greater_than_equal"),
        (-1.5, "greater_than_equal"),
        (10.01, "less_than_equal"),
        (HUGE, "less_than_equal"),
        ("11", "less_than_equal"),
    ],
    "seed": [
        *INTEGER,
        (-1, "greater_than_equal"),
        (2**63, "less_than_equal"),
        (HUGE, "less_than_equal"),
        ("-1", "greater_than_equal"),
    ],
    "num_images": [
        *INTEGER,
        (None, "int_type"),
        (0, "greater_than_equal"),
        (-1, "greater_than_equal"),
        (5, "less_than_equal"),
        (HUGE, "less_than_equal"),
        ("5", "less_than_equal"),
    ],
    "enable_safety_checker": BOOLEAN,
    "sync_mode": BOOLEAN,
    "enable_prompt_expansion": BOOLEAN,
    "output_format": CHOICE,
    "image_size": [
        *CHOICE,
        ("huge", "one_of"),
        ("1024x1024", "one_of"),
        ("Square", "one_of"),
        ([1024, 1024], "one_of"),
        (1024, "one_of"),
    ],
    "image_size.width": SIDE,
    "image_size.height": SIDE,
}
URLS = [  # of image to image: value, type, where
    (None, "list_type", []),
    (5, "list_type", []),
    (True, "list_type", []),
    ({}, "list_type", []),
    ([], "sequence_too_short", []),
    (["a", "b", "c", "d", "e"], "sequence_too_long", []),
    ([None], "string_type", [0]),
    ([5], "string_type", [0]),
    ([["a"]], "string_type", [0]),
    ([{"url": "https://x.example/a.png"}], "string_type", [0]),
    ([""], "string_too_short", [0]),
    ("", "string_too_short", [0]),
    (["not a url"], "file_download_error", [0]),
    ("not a url", "file_download_error", [0]),
    (["/etc/passwd"], "file_download_error", [0]),
    (["file:///etc/passwd"], "file_download_error", [0]),
    (["ftp://x.example/a.png"], "file_download_error", [0]),
    (["gopher://127.0.0.1/"], "file_download_error", [0]),
    (["javascript:alert(1)"], "file_download_error", [0]),
    (["http://"], "file_download_error", [0]),
    (["http://127.0.0.1/a.png"], "file_download_error", [0]),
    (["http://[::1]/a.png"], "file_download_error", [0]),
    (["http://2130706433/"], "file_download_error", [0]),
    (["http://0177.0.0.1/"], "file_download_error", [0]),
    (["http://user:pass@x.example/a"], "file_download_error", [0]),
    (["http://x.example:22/"], "file_download_error", [0]),
    (["https://x.example/\n"], "file_download_error", [0]),
    (["data:"], "file_download_error", [0]),
    (["data:image/png;base64,"], "file_download_error", [0]),
    (["data:image/png;base64,!!!"], "file_download_error", [0]),
    (["data:image/png;base64,iVBORw0KGgo="], "image_load_error", [0]),
    (["data:text/plain,hello"], "image_load_error", [0]),
    (["data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"], "image_load_error", [0]),
]


def fields():
    for field, cases in FIELDS.items():
        for number, (value, kind) in enumerate(cases):
            yield pytest.param(field, value, kind, id=f"{field}-{number}-{kind}")


def test_there_are_enough_of_them():
    assert len(list(fields())) + len(URLS) >= 220


@pytest.fixture(autouse=True)
def _the_next_good_request_is_taken(server):
    yield
    server.submit()


def only_detail(answer):
    assert answer.status_code == 422, answer.text
    assert answer.headers["x-fal-retryable"] == "false"
    (detail,) = answer.json()["detail"]
    assert detail["msg"]
    assert detail["url"] == f"https://docs.fal.ai/errors#{detail['type']}"
    assert len(answer.content) < 10_000
    return detail


@pytest.mark.parametrize(("field", "value", "kind"), list(fields()))
def test_fields(server, field, value, kind):
    name, _, side = field.partition(".")
    body = {**GOOD, name: {"width": 512, "height": 512, side: value} if side else value}
    detail = only_detail(server.http.post(f"/run/{APP}", json=body))
    assert detail["type"] == kind
    assert detail["loc"] == ["body", *field.split(".")]


@pytest.mark.parametrize(("value", "kind", "where"), URLS)
def test_references(server, value, kind, where):
    answer = server.http.post(f"/run/{EDIT}", json={**GOOD, "image_urls": value})
    detail = only_detail(answer)
    assert (detail["type"], detail["loc"]) == (kind, ["body", "image_urls", *where])


def test_several_faults_are_told_at_once(server):
    body = {"prompt": "", "seed": "x", "num_images": 9, "image_size": {"width": 5, "height": 5}}
    answer = server.http.post(f"/run/{APP}", json=body)
    places = [".".join(map(str, detail["loc"][1:])) for detail in answer.json()["detail"]]
    assert sorted(places) == [
        "image_size.height",
        "image_size.width",
        "num_images",
        "prompt",
        "seed",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": None},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"num_inference_steps": "30", "guidance_scale": "1.5", "seed": "7"},
        {"num_inference_steps": 30.0, "num_images": 1.0},
        {"enable_safety_checker": "false", "sync_mode": "True"},
        {"image_size": {"width": 512}},
        {"image_size": {}},
        {"image_size": {"width": 2048, "height": 512, "depth": 3}},
        {"unknown": DEEP, "loras": []},
        {"prompt": "x" * 4096},
        {"prompt": "\u202eabc \U0001f600 é"},
        {"image_urls": ["ignored"]},
    ],
)
def test_what_is_good_after_all(server, fields):
    answer = server.http.post(f"/run/{APP}", json={**GOOD, **fields})
    assert answer.status_code == 200, answer.text


def test_a_long_data_uri_is_not_repeated_in_its_error(server):
    uri = "data:image/png;base64," + base64.b64encode(b"x" * 100_000).decode()
    detail = only_detail(server.http.post(f"/run/{EDIT}", json={**GOOD, "image_urls": [uri]}))
    assert detail["input"] == f"data:image/png;base64,... ({len(uri)} characters)"
