"""The page of the API: routes, fields, errors and settings, read off the code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glmimage.config import PREFIX, Settings
from glmimage.lora import MAX_LORA_SCALE, MAX_LORAS, MIN_LORA_SCALE
from glmimage.server.app import ROUTES
from glmimage.server.fal.errors import REQUEST_ERRORS, RETRYABLE
from glmimage.server.fal.openapi import document
from glmimage.server.fal.schemas import IMAGE_TO_IMAGE, TEXT_TO_IMAGE
from glmimage.server.openai.params import (
    OWN_FIELDS,
    QUALITIES,
    SHORT,
    STEPS,
    UNSUPPORTED,
    ImageParams,
)
from glmimage.server.routing import FAL_HOSTS, PREFIXES, Route
from glmimage.types import MAX_IMAGES, SIZE_PRESETS

INTRODUCTION = """\
# API
`glmimage serve` speaks fal's protocol for `fal-ai/glm-image` and \
`fal-ai/glm-image/image-to-image`. fal's own clients work unmodified: see `glmimage exec` and \
`glmimage env` in [cli.md](cli.md). OpenAPI documents, without a key: \
`/api/openapi/{queue,run,rest,platform}/openapi.json?endpoint_id=...`.

## Where
A surface is told by the first part of the path, or by the Host header for the names that fal's \
clients have built in. `POST /fal-ai/glm-image` without either is refused: it would be a submit \
and a run at once. A slash at the end of a path means nothing; nothing is ever redirected. \
`/api/fal/proxy` is for web pages, which tell it the address at fal: \
[operations.md](operations.md#clients).
"""
AUTHENTICATION = """\
## Keys
`Authorization: Key <key>` (or `Bearer <key>`). Without a valid key the answer is 401, also for \
what does not exist. Health, the page at `/`, downloads of public files, upload addresses, the \
webhook key and the OpenAPI documents answer anybody. `/rest/tokens/` makes short-lived tokens for \
sockets and streams (`?fal_jwt_token=`).
"""
LIFE = """\
## Life of a request
Submit answers 200 with an id and three URLs, also when the input is invalid: the fault is then \
told by the result, as fal does (`GLMIMAGE_DEFER_VALIDATION=false` tells it at once, with 422). A \
status is `IN_QUEUE` (with `queue_position`), `IN_PROGRESS` or `COMPLETED` (with `error` and \
`error_type` when it failed); HTTP 202 while there is something to wait for, then 200. The result \
has the true status: 200, 422 (do not retry), 499 (cancelled), 500, 504. `run` and `stream` do the \
work while the caller waits; who hangs up cancels it.

Equal input with the same explicit `seed` is answered from the stored pictures as long as they \
live: `X-Fal-Served-From: cache`, and a line in the log; nothing is charged. \
`X-Glmimage-Cache: off` turns it off. With `GLMIMAGE_FALLBACK=true`, an overloaded server or one \
without a worker answers with the newest stored picture of the same prompt: \
`X-Fal-Served-From: fallback`.
"""
HEADERS = {
    "X-Fal-Request-Timeout, X-Fal-Request-Start-Timeout": "seconds until a worker must have begun; "
    "else 504 with `X-Fal-Request-Timeout-Type: user`; the second wins",
    "X-Fal-Queue-Priority": "`normal` or `low`, behind everything normal",
    "X-Fal-No-Retry": "`1`: a lost worker's request is not begun again",
    "X-Fal-Store-IO": "`0`: input and answer are forgotten after an hour",
    "X-Fal-Object-Lifecycle-Preference": "JSON: `expiration_duration_seconds`, `initial_acl` of "
    "the pictures",
    "X-App-Fal-Disable-Fallback": "any value: no fallback for this request",
    "X-Glmimage-Cache": "`off`: paint from the beginning, also when equal pictures or their "
    "prior are stored",
    "X-Glmimage-Preview": "`1` (or `on`) to `3`: so many previews of each picture, the first, "
    "small and soft, as soon as its layout is written, the others in equal parts of the painting; "
    "the newest is under `/platform/v1/models/requests/{request_id}/previews`, kept for an hour",
    "?fal_webhook=": "where the answer is posted to, signed; submit only",
    "?fal_max_queue_length=": "429 when more requests wait already; submit only",
}


def api_page(note: str) -> str:
    """Describe surfaces, routes, fields, errors and headers."""
    return "\n".join(
        [
            note,
            INTRODUCTION,
            *_surfaces(),
            "",
            AUTHENTICATION,
            LIFE,
            *_fields(),
            *_presets(),
            *_headers(),
            *_errors(),
            *_openai(),
            *_routes(),
            *_settings(),
            "",
        ]
    )


def _surfaces() -> Iterator[str]:
    yield from ("| surface | below | Host |", "| --- | --- | --- |")
    for surface in dict.fromkeys(PREFIXES.values()):
        hosts = ", ".join(f"`{host}`" for host, name in FAL_HOSTS.items() if name == surface)
        below = ", ".join(f"`/{prefix}`" for prefix in _prefixes(surface))
        yield row(surface, below, hosts)


def _prefixes(surface: str) -> list[str]:
    return [prefix for prefix, name in PREFIXES.items() if name == surface]


def _fields() -> Iterator[str]:
    yield from ("## Input", "", "| field | type | default | limits |", "| --- | --- | --- | --- |")
    schemas = document("queue", TEXT_TO_IMAGE)["components"]["schemas"]
    edits = document("queue", IMAGE_TO_IMAGE)["components"]["schemas"]
    properties = edits["GlmImageImageToImageInput"]["properties"]
    for name, schema in properties.items():
        only = (
            " (image to image only)" if name not in schemas["GlmImageInput"]["properties"] else ""
        )
        kind = schema.get("type") or " or ".join(_kind(one) for one in _branches(schema))
        default = f"`{schema['default']}`" if "default" in schema else ""
        yield row(f"`{name}`{only}", kind, default, _limits(schema))
    yield ""
    yield "Unknown fields are ignored. A custom size has both sides 512 to 2048 px in steps of 32;"
    yield "a side that is left out is 512."
    yield ""
    yield (
        "`text_check` and `best_of` are not fal's. With `text_check` each finished picture is read "
        "(rapidocr, in the worker; `pip install 'glmimage[eval]'` there), and the answer has "
        "`text_check`, an entry a picture: the prompt's words in quotes that were `found` and "
        "those `missing`, `accuracy`, `similarity`, the picture's own `seed`. `best_of: n`, up to "
        f"{MAX_IMAGES}, paints n pictures, picture k with `image_seed(seed, k)` and a prior of its "
        "own, and returns the `num_images` in which most words were found, the best first. "
        "All n are charged. Below `num_images`, or without words in quotes, it changes nothing."
    )
    yield ""
    yield (
        "`loras` is a list of up to "
        f"{MAX_LORAS} objects: `path`, the name of adapters that this server has, and `scale`, "
        f"{MIN_LORA_SCALE:g} to {MAX_LORA_SCALE:g}, by default 1. An unknown name is answered 422. "
        "It has the form of fal's other image models, and is not of fal's GLM-Image: "
        "[training.md](training.md#painting-with-adapters)."
    )


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = schema.get("anyOf") or schema.get("oneOf") or []
    return found


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "object"
    return "preset" if "enum" in schema else str(schema.get("type"))


def _limits(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "from {}",
        "maximum": "to {}",
        "minLength": "at least {} character",
        "maxLength": "at most {} characters",
    }
    found = [text.format(schema[name]) for name, text in words.items() if name in schema]
    for branch in _branches(schema):
        if "maxItems" in branch:
            found.append(f"{branch['minItems']} to {branch['maxItems']}")
    if "enum" in schema:
        found.append(", ".join(f"`{value}`" for value in schema["enum"]))
    return ", ".join(found)


def _presets() -> Iterator[str]:
    yield from ("", "| image_size | width x height |", "| --- | --- |")
    for name, (width, height) in SIZE_PRESETS.items():
        yield row(f"`{name}`", f"{width} x {height}")


def _headers() -> Iterator[str]:
    yield from ("", "## What a caller can ask for", "", "| | |", "| --- | --- |")
    for name, meaning in HEADERS.items():
        shown = ", ".join(f"`{part}`" for part in name.split(", "))
        yield row(shown, meaning)


def _errors() -> Iterator[str]:
    yield from ("", "## Errors", "")
    yield (
        "Wrong input: 422 with `detail[]`, each with `loc`, `msg`, `type`, `url`. All else: "
        "`detail` as a sentence, with `error_type`, mirrored in `X-Fal-Error-Type`. "
        "`X-Fal-Retryable` and `X-Fal-Needs-Retry` say whether trying again may help."
    )
    yield from ("", "| error_type | status | try again |", "| --- | --- | --- |")
    for name, status in REQUEST_ERRORS.items():
        yield row(f"`{name}`", str(status), "yes" if name in RETRYABLE else "no")


OPENAI = """
## OpenAI's form
`/v1/images/generations`, `/v1/images/edits`, `/v1/models`: what OpenAI's clients and Open-WebUI \
call, with `base_url` `http://HOST:8000/v1` and a key of this server. Everything goes the way of \
fal's requests: the same policy, queue, usage and price. Models: `glm-image`, what is loaded, and \
`GLMIMAGE_MODEL_ALIASES`.
"""
OPENAI_MEANING = {
    "prompt": "words to be written go in quotes; up to 4096 characters",
    "model": "an unknown one is 404 `model_not_found`",
    "n": f"pictures, 1 to {MAX_IMAGES}",
    "size": "`auto` or WIDTHxHEIGHT, both sides 512 to 2048 px in steps of 32; others are refused. "
    "`auto` is 1024x1024, and for an edit the shape of the first picture at about one megapixel "
    "when the picture comes with the request; for an address it is 1024x1024",
    "response_format": "`url`: downloadable as long as the picture is kept",
    "output_format": "",
    "output_compression": "quality of jpeg and webp, 0 to 100; by default 95. Refused for png",
    "background": "pictures are opaque; `transparent` is refused",
    "moderation": "there is one level; `enable_safety_checker: false` turns it off",
    "input_fidelity": "references are always read in full, whatever is asked for",
    "stream": "events `image_generation.completed` or `image_edit.completed`, one a picture",
    "partial_images": "0 to 3, for each picture: `....partial_image`, a JPEG. The first is small "
    "and soft, from the first tokens, for an edit from the first denoise step; the others show at "
    "full size what the picture is becoming, after equal parts of the steps; each of these costs a "
    "decode. Needs `stream`; none with `best_of`",
    "user": "comes back as `safety_identifier`",
    "safety_identifier": "comes back",
}
OPENAI_NOTES = """
`usage` counts tokens of the autoregressive half: the prompt and its references read, and the \
prior tokens written for all pictures. The price is by megapixel, as everywhere. Beside the \
pictures the answer has `seed`, and `text_check` where that was asked for. A picture that must not \
be shown is left out; when none is left, and for a prompt that is refused, the answer is 400 \
`moderation_blocked`. Errors: `{"error": {"message", "type", "param", "code"}}`; wrong input is \
400, a key 401, a rate limit 429 `rate_limit_exceeded`, a full queue 503 `server_overloaded`. \
Edits are multipart with `image` or `image[]`, 1 to 4 pictures, the subject first; or JSON with \
`images: [{"image_url": ...}]`.

**Z.ai's form**: `POST /paas/v4/images/generations`, also below `/api`: `model`, `prompt`, `size` \
(by default 1280x1280; every size above), `quality` (`hd`: 50 steps, `standard`: 30), `user_id`. \
One picture, a PNG, by URL. Errors: `{"error": {"code", "message"}}` with Z.ai's codes: 1002 key, \
1211 model, 1213 missing, 1214 invalid, 1301 unsafe, 1302 rate, 1305 overloaded.
"""


def _openai() -> Iterator[str]:
    yield OPENAI
    yield from ("| field | default | |", "| --- | --- | --- |")
    for name, field in ImageParams.model_fields.items():
        if name == "own":
            continue
        if name == "quality":
            steps = ", ".join(f"`{quality}` {number}" for quality, number in STEPS.items())
            same = ", ".join(f"`{a}` is `{b}`" for a, b in QUALITIES.items() if a != b)
            meaning = f"denoise steps: {steps}; {same}"
        else:
            meaning = OPENAI_MEANING[name]
        default = "" if field.is_required() or field.default is None else f"`{field.default}`"
        yield row(f"`{name}`", default, meaning)
    own = ", ".join(f"`{name}`" for name in OWN_FIELDS)
    short = ", ".join(f"`{word}` is `{name}`" for word, name in SHORT.items())
    meaning = f"ours, as in the input above; with the Python client in `extra_body`; {short}"
    yield row(own, "", meaning)
    yield row(", ".join(f"`{name}`" for name in UNSUPPORTED), "", "refused, each with its reason")
    yield OPENAI_NOTES


def _routes() -> Iterator[str]:
    yield from ("", "## Routes", "", "| method | path | key |", "| --- | --- | --- |")
    for route in ROUTES:
        yield row(route.method, f"`{_path(route)}`", "" if route.needs_key else "none")


def _path(route: Route) -> str:
    return f"/{_prefixes(route.surface)[0]}{route.path}" if route.surface else route.path


def _settings() -> Iterator[str]:
    names = (
        "max_body_bytes max_queue_length max_attempts no_worker_timeout_s fallback result_cache "
        "cors_origins open_proxy unit_price defer_validation"
    )
    yield from ("", "## Settings that change an answer", "", "| | | |", "| --- | --- | --- |")
    for name in names.split():
        field = Settings.model_fields[name]
        yield row(f"`{PREFIX}{name.upper()}`", f"`{field.default}`", field.description or "")


def row(*cells: str) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
