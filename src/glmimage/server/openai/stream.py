"""The streamed form: partial pictures while a request is painted, then the finished ones."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from ...files import FileMissing
from ...files.store import read_all
from ...jobs import FileRecord, Job
from ..fal.errors import WireError
from ..services import Services
from .answer import Document, described, finished, read_base64, shown_images
from .params import ImageParams

PREVIEW_FORMAT = "jpeg"
_NUMBER = re.compile(r"preview-(\d+)\.")


async def stream_events(
    services: Services, job: Job, params: ImageParams, kind: str
) -> AsyncIterator[Document]:
    """Yield the events of one request. kind: "image_generation" or "image_edit"."""
    shown: set[str] = set()
    async for current in services.live.changes(job.id):
        # before looking at the end: a slow reader sees the preview and the end as one change
        if params.partial_images and len(shown) < job.num_images:
            for record in await _new_previews(services, job, shown):
                shown.add(record.id)
                with suppress(FileMissing):  # it expires sooner than the pictures
                    yield await _partial(services, job, params, kind, record)
        if current.ended:
            break
    try:
        ended = await services.store.get(job.id)
        result = finished(ended)
        for image in shown_images(result):
            yield {
                "type": f"{kind}.completed",
                "b64_json": await read_base64(services, image),
                "created_at": int(time.time()),
                **described(result, params),
            }
    except WireError as error:
        yield {"type": "error", **error.body}
    if not job.store_io:
        await services.store.delete_payload(job.id)


async def _new_previews(services: Services, job: Job, shown: set[str]) -> list[FileRecord]:
    """Return the previews that a worker has stored since, in the order of the pictures."""
    records = await services.store.files_of(job.id)
    fresh = [one for one in records if one.kind == "preview" and one.id not in shown]
    return sorted(fresh, key=lambda one: one.name)


async def _partial(
    services: Services, job: Job, params: ImageParams, kind: str, record: FileRecord
) -> Document:
    """Return the event of one preview: the picture's first tokens, painted small and soft.

    image_index: ours, which of the n pictures it will be.
    """
    content = await read_all(services.files, record.path)
    number = _NUMBER.match(record.name)
    return {
        "type": f"{kind}.partial_image",
        "b64_json": base64.b64encode(content).decode("ascii"),
        "created_at": int(record.created),
        "background": "opaque",
        "output_format": PREVIEW_FORMAT,
        "quality": params.shown_quality,
        "size": f"{job.width}x{job.height}",
        "partial_image_index": 0,
        "image_index": int(number[1]) if number else 0,
    }
