"""The streamed form: partial pictures while a request is painted, then the finished ones."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from ...files import FileMissing
from ...files.store import read_all
from ...jobs import FileRecord, Job
from ...jobs.records import preview_place
from ..fal.errors import WireError
from ..live_jobs import patiently
from ..services import Services
from .answer import Document, described, finished, read_base64, shown_images
from .params import ImageParams

PREVIEW_FORMAT = "jpeg"


async def stream_events(
    services: Services, job: Job, params: ImageParams, kind: str
) -> AsyncIterator[Document]:
    """Yield the events of one request. kind: "image_generation" or "image_edit"."""
    shown: set[str] = set()
    async for current in services.live.changes(job.id):
        # before looking at the end: a slow reader sees the preview and the end as one change
        if len(shown) < params.partial_images * job.num_images:
            for record in await _new_previews(services, job, shown):
                shown.add(record.name)
                with suppress(FileMissing):  # it expires sooner than the pictures
                    yield await _partial(services, job, params, kind, record)
        if current.ended:
            break
    try:
        result = finished(await patiently(partial(services.store.get, job.id)))
        images = shown_images(result)
        for index, image in enumerate(images):
            yield {
                "type": f"{kind}.completed",
                "b64_json": await read_base64(services, image),
                "created_at": int(time.time()),
                **described(result, params, (index, len(images))),
            }
    except WireError as error:
        yield {"type": "error", **error.body}
    if not job.store_io:
        await services.store.delete_payload(job.id)


async def _new_previews(services: Services, job: Job, shown: set[str]) -> list[FileRecord]:
    """Return the previews that a worker has stored since, the first of each picture first.

    A worker that takes the job up again makes some of them again: these have been shown.
    """
    records = await patiently(partial(services.store.files_of, job.id))
    fresh = {one.name: one for one in records if one.kind == "preview" and one.name not in shown}
    return sorted(fresh.values(), key=lambda one: preview_place(one.name)[::-1])


async def _partial(
    services: Services, job: Job, params: ImageParams, kind: str, record: FileRecord
) -> Document:
    """Return the event of one preview. image_index: ours, which of the n pictures it will be."""
    content = await read_all(services.files, record.path)
    image_index, number = preview_place(record.name)
    return {
        "type": f"{kind}.partial_image",
        "b64_json": base64.b64encode(content).decode("ascii"),
        "created_at": int(record.created),
        "background": "opaque",
        "output_format": PREVIEW_FORMAT,
        "quality": params.shown_quality,
        "size": f"{job.width}x{job.height}",
        "partial_image_index": number,
        "image_index": image_index,
    }
