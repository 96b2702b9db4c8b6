"""From painted pictures to what is stored: checked, encoded, and described."""

from __future__ import annotations

import base64
import io
import math
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ..errors import GlmImageError, InvalidImage, InvalidRequest, OutOfMemory
from ..evaluation.judge import Reads
from ..evaluation.text_check import TextCheck, check_text, choose_best
from ..files import FileMissing, FileStore
from ..files.lifecycle import expiry_and_acl
from ..files.store import read_all
from ..jobs import Claim, FileRecord, Job, JobStore
from ..jobs.records import MAX_PREVIEWS, PREVIEW_FIELD, preview_name
from ..lora import Lora, find_lora
from ..output import encode_picture
from ..policy.picture_check import PictureChecker, black_like
from ..policy.references import OPENED_FORMATS
from ..source_images import normalise_source_image
from ..types import GenerationRequest, PictureReady

PictureFormat = Literal["jpeg", "png", "webp"]
CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
SUFFIXES = {"jpeg": "jpg", "png": "png", "webp": "webp"}
# checking and encoding both let go of the interpreter
_encoders = ThreadPoolExecutor(1, "encoder")
PREVIEW_LIFETIME_S = 3600.0
PREVIEW_QUALITY = 70


@dataclass(frozen=True)
class Preview:
    """Show a picture before it is painted. number: from 0, each better than the one before."""

    image_index: int
    number: int
    image: Image.Image


def num_previews(job: Job) -> int:
    """Return how many previews of each picture the caller asked for.

    None where nothing is to be stored, and of `best_of`, where the picture may be another's.
    """
    asked = job.input or {}
    fitting = not asked.get("sync_mode", False) and asked.get("best_of", 1) == 1
    return min(int(asked.get(PREVIEW_FIELD, 0)), MAX_PREVIEWS) if fitting else 0


@dataclass(frozen=True)
class Encoded:
    """Hold one picture as it will be stored, or sent.

    score: of the picture check, 0 without it. check: what was read in it, when that was asked for.
    """

    content: bytes
    picture_format: PictureFormat
    width: int
    height: int
    seed: int
    flagged: bool
    score: float
    timings: Mapping[str, float]
    check: TextCheck | None = None


async def build_request(
    claim: Claim, store: JobStore, files: FileStore, lora_dir: Path | None = None
) -> GenerationRequest:
    """Turn a job into a request of the engine; raise InvalidRequest when a reference is gone.

    lora_dir: where the adapters are that requests name.
    """
    job, asked = claim.job, claim.job.input or {}
    images = []
    for index, file_id in enumerate(job.reference_file_ids):
        label = f"reference image {index + 1}"
        record = await store.get_file(file_id)
        try:
            content = b"" if record is None else await read_all(files, record.path)
        except FileMissing:
            content = b""
        if not content:
            raise InvalidImage(f"The file of {label} does not exist any more.")
        try:
            image = Image.open(io.BytesIO(content), formats=OPENED_FORMATS)
            images.append(normalise_source_image(image, label))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise InvalidImage(f"The file of {label} is not a picture.") from None
    return GenerationRequest(
        prompt=asked.get("prompt", ""),
        width=job.width,
        height=job.height,
        num_inference_steps=asked.get("num_inference_steps", 30),
        guidance_scale=asked.get("guidance_scale", 1.5),
        seed=job.seed,
        num_images=job.num_images,
        source_images=tuple(images),
        loras=[
            Lora(str(find_lora(lora_dir, lora["path"])), lora["scale"])
            for lora in asked.get("loras", ())
            if lora["scale"]
        ],
    )


def reads_text(asked: Mapping[str, Any]) -> bool:
    """Say whether a job's pictures are to be read; choosing the best means reading all."""
    return bool(asked.get("text_check")) or asked.get("best_of", 1) > 1


def finish_picture(
    event: PictureReady,
    asked: Mapping[str, Any],
    checker: PictureChecker,
    reader: Reads | None = None,
) -> Encoded:
    """Check and encode one picture side by side, and read it; a flagged one is black from here."""
    image, flagged, score = event.image, False, 0.0
    picture_format, quality = _encoding(asked)
    if asked.get("enable_safety_checker", True):
        encoding = _encoders.submit(encode_picture, image, picture_format, quality)
        verdict = checker.check(image)
        flagged, score = verdict.flagged, verdict.score
        content = encoding.result()
    else:
        content = encode_picture(image, picture_format, quality)
    if flagged:
        image = black_like(image)
        content = encode_picture(image, picture_format, quality)
    check = None if reader is None else check_text(image, asked.get("prompt", ""), reader)
    width, height = image.size
    return Encoded(
        content, picture_format, width, height, event.seed, flagged, score, event.timings, check
    )


def choose_pictures(pictures: Sequence[Encoded], asked: Mapping[str, Any]) -> list[Encoded]:
    """Return the pictures that were asked for: of `best_of` the best, else all."""
    checks = [picture.check for picture in pictures if picture.check is not None]
    if asked.get("best_of", 1) == 1 or len(checks) < len(pictures):
        return list(pictures)
    return [pictures[index] for index in choose_best(checks, asked.get("num_images", 1))]


def describe_check(picture: Encoded, num_candidates: int) -> dict[str, Any] | None:
    """Return what was read in a picture as the result tells it."""
    if picture.check is None:
        return None
    own = {"seed": picture.seed, "num_candidates": num_candidates}
    return picture.check.as_document() | own


def _encoding(asked: Mapping[str, Any]) -> tuple[PictureFormat, int | None]:
    encoding = asked.get("encoding")
    if encoding is not None:
        return encoding["format"], encoding["quality"]
    return "png" if asked.get("output_format") == "png" else "jpeg", None


def file_record(claim: Claim, picture: Encoded, lifetime_s: float, now: float) -> FileRecord:
    """Describe the file of a picture. lifetime_s: of files whose request says nothing."""
    file_id = str(uuid.uuid4())
    suffix = SUFFIXES[picture.picture_format]
    expires, acl = expiry_and_acl(claim.job.lifecycle, lifetime_s, now)
    return FileRecord(
        id=file_id,
        path=f"outputs/{file_id[:2]}/{file_id}.{suffix}",
        content_type=CONTENT_TYPES[picture.picture_format],
        size=len(picture.content),
        name=f"{file_id[:8]}.{suffix}",
        created=now,
        expires=expires,
        acl=acl,
        owner=claim.job.api_key_id,
        kind="output",
        job_id=claim.job.id,
    )


def finish_preview(
    preview: Preview, claim: Claim, checker: PictureChecker, now: float
) -> tuple[FileRecord, bytes] | None:
    """Check and encode a preview, and describe its file; None when the picture check flags it."""
    asked = claim.job.input or {}
    if asked.get("enable_safety_checker", True) and checker.check(preview.image).flagged:
        return None
    content = io.BytesIO()
    preview.image.save(content, "JPEG", quality=PREVIEW_QUALITY)
    file_id = str(uuid.uuid4())
    expires, acl = expiry_and_acl(claim.job.lifecycle, PREVIEW_LIFETIME_S, now)
    record = FileRecord(
        id=file_id,
        path=f"previews/{file_id[:2]}/{file_id}.jpg",
        content_type="image/jpeg",
        size=content.tell(),
        name=preview_name(preview.image_index, preview.number),
        created=now,
        expires=min(expires or math.inf, now + PREVIEW_LIFETIME_S),
        acl=acl,
        owner=claim.job.api_key_id,
        kind="preview",
        job_id=claim.job.id,
    )
    return record, content.getvalue()


def describe_picture(picture: Encoded, record: FileRecord | None) -> dict[str, Any]:
    """Return a picture's entry of the result; without a file it carries its content."""
    content_type = CONTENT_TYPES[picture.picture_format]
    entry: dict[str, Any] = {
        "width": picture.width,
        "height": picture.height,
        "content_type": content_type,
        "file_size": len(picture.content),
        "nsfw": picture.flagged,
    }
    if record is None:
        data = base64.b64encode(picture.content).decode("ascii")
        suffix = SUFFIXES[picture.picture_format]
        return entry | {
            "data_uri": f"data:{content_type};base64,{data}",
            "file_name": f"{uuid.uuid4().hex[:8]}.{suffix}",
        }
    return entry | {"file_id": record.id, "file_name": record.name}


def error_body(error: GlmImageError) -> tuple[int, dict[str, Any], bool]:
    """Return (status, body, retryable) of a request that could not be painted."""
    if isinstance(error, InvalidImage):
        return 422, _detail("image_load_error", error, ["body", "image_urls"]), False
    if isinstance(error, InvalidRequest):
        location = ["body", error.field] if error.field else ["body"]
        return 422, _detail("value_error", error, location), False
    if isinstance(error, OutOfMemory):
        return 500, _detail("internal_server_error", error, ["body"]), True
    message = "The picture could not be made because of an internal error."
    hidden = GlmImageError(message)  # the cause is in the server's log, not for the caller
    return 500, _detail("internal_server_error", hidden, ["body"]), True


def _detail(kind: str, error: GlmImageError, location: list[str]) -> dict[str, Any]:
    text = f"{error.message} {error.hint}".strip()
    return {"detail": [{"loc": location, "msg": text, "type": kind}]}
