"""Uploads that clients store in the bucket themselves: named before, looked for afterwards.

Nobody tells when one is there, so whoever asks for it first looks. It is moved then, to where the
address it was stored at does not lead: a file never changes under its id.
"""

from __future__ import annotations

from ..files import FileInfo, FileMissing
from ..jobs import AWAITED, FileRecord
from .services import Services

FOLDER = "incoming"


def incoming_path(file_id: str) -> str:
    """Return where the client stores it."""
    return f"{FOLDER}/{file_id[:2]}/{file_id}"


async def find_file(services: Services, file_id: str) -> FileRecord | None:
    """Return a file's record, whether it has expired or not; None when there is no such file."""
    record = await services.store.get_file(file_id)
    if record is None or record.kind != AWAITED:
        return record
    return await take_in(services, record)


async def take_in(services: Services, record: FileRecord) -> FileRecord | None:
    """Write down an upload that has come; None while it has not, or when it is too large."""
    files, waiting = services.files, incoming_path(record.id)
    try:
        found = await files.info(waiting)
        if found.size > services.settings.max_upload_bytes:
            await forget(services, record)
            return None
        await _move(services, record, found)
    except FileMissing:
        pass  # it has not come, or another server has just moved it
    try:
        stored = await files.info(record.path)
    except FileMissing:
        return None
    return await services.store.file_arrived(record.id, stored.size)


async def _move(services: Services, record: FileRecord, found: FileInfo) -> None:
    files = services.files
    if found.content_type == record.content_type:
        await files.rename(found.path, record.path)
        return
    # the type it was announced with is what readers are told
    content = files.read(found.path)
    await files.put(record.path, content, content_type=record.content_type, name=record.name)
    await files.delete(found.path)


async def forget(services: Services, record: FileRecord) -> None:
    """Delete an awaited upload and its record, whether it has come or not."""
    await services.files.delete(incoming_path(record.id))
    await services.store.delete_file_rows([record.id])
