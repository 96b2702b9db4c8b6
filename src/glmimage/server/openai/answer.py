"""Finished jobs in OpenAI's form."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from ...files import FileMissing
from ...files.store import read_all
from ...jobs import Job
from ..fal.render import file_url
from ..live_jobs import patiently
from ..services import Services
from .errors import ApiError, blocked, translate
from .params import ImageParams

FLAGGED = "the picture that was painted is one that must not be shown."
Document = dict[str, Any]


def finished(job: Job | None) -> Document:
    """Return the result of a job that has gone well; raise ApiError for any other."""
    if job is None or job.result is None:
        raise ApiError(404, "The answer is not kept any more.", "not_found")
    if job.state != "done":
        raise translate(job.status or 500, job.result)
    return job.result


def shown_images(result: Mapping[str, Any]) -> list[Document]:
    """Return the pictures that may be shown, at least one; raise ApiError when none is left.

    OpenAI refuses what its check finds; a black picture, as fal gives, would pass for an answer.
    """
    images = [image for image in result["images"] if not image.get("nsfw")]
    if not images:
        raise blocked(FLAGGED)
    return images


async def images_response(
    services: Services, job: Job | None, params: ImageParams, files_base: str
) -> Document:
    """Return the body of an answer that is not streamed; raise ApiError."""
    result = finished(job)
    data: list[Document] = []
    for image in shown_images(result):
        if params.response_format == "url" and "file_id" in image:
            entry = {"url": file_url(files_base, image["file_id"], image["file_name"])}
        else:
            entry = {"b64_json": await read_base64(services, image)}
        if result["prompt"] != params.prompt:
            entry["revised_prompt"] = result["prompt"]
        data.append(entry)
    return {"created": int(time.time()), "data": data, **described(result, params)}


def described(
    result: Mapping[str, Any], params: ImageParams, share: tuple[int, int] = (0, 1)
) -> Document:
    """Return what is said of all pictures of a request. seed, text_check: ours.

    share: (number, of how many) events that together tell of one request's usage.
    """
    first = result["images"][0]
    document: Document = {
        "background": "opaque",
        "output_format": params.output_format,
        "quality": params.shown_quality,
        "size": f"{first['width']}x{first['height']}",
        "seed": result["seed"],
    }
    for name, value in (
        ("usage", usage(result, *share)),
        ("safety_identifier", params.safety_identifier or params.user),
        ("text_check", _checks_of_shown(result)),
    ):
        if value:
            document[name] = value
    return document


def _checks_of_shown(result: Mapping[str, Any]) -> list[Document]:
    """Return what was read in the pictures that are shown, in their order."""
    checks = result.get("text_check") or [None] * len(result["images"])
    pairs = zip(result["images"], checks, strict=True)
    return [check for image, check in pairs if check and not image.get("nsfw")]


def usage(result: Mapping[str, Any], number: int = 0, parts: int = 1) -> Document | None:
    """Return the tokens of the autoregressive half: what it read, and what it wrote.

    Or part `number` of `parts`, which add up to it. None for a result of a version that did not
    count them.
    """
    counted = result.get("tokens")
    if counted is None:
        return None
    text, image, output = (
        counted[name] * (number + 1) // parts - counted[name] * number // parts
        for name in ("text", "image", "output")
    )
    return {
        "input_tokens": text + image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image},
        "output_tokens": output,
        "output_tokens_details": {"image_tokens": output, "text_tokens": 0},
        "total_tokens": text + image + output,
    }


async def read_base64(services: Services, image: Mapping[str, Any]) -> str:
    """Return a stored picture's file in base64; raise ApiError when it is gone."""
    if "data_uri" in image:
        return str(image["data_uri"]).partition(",")[2]
    record = await patiently(partial(services.store.get_file, image["file_id"]))
    try:
        content = b"" if record is None else await read_all(services.files, record.path)
    except FileMissing:
        content = b""
    if not content:
        raise ApiError(404, "The picture is not kept any more.", "not_found")
    return base64.b64encode(content).decode("ascii")
