"""The streamed form: partial pictures while a request is painted, then the finished ones."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from ...jobs import Job
from ..fal.errors import WireError
from ..services import Services
from .answer import Document, described, finished, read_base64, shown_images
from .params import ImageParams


async def stream_events(
    services: Services, job: Job, params: ImageParams, kind: str
) -> AsyncIterator[Document]:
    """Yield the events of one request. kind: "image_generation" or "image_edit"."""
    async for current in services.live.changes(job.id):
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
