"""Which files exist, whose they are, and until when."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, text, update

from .database import insert_for
from .records import AWAITED, Document, FileRecord
from .schema import files, storage_settings

_GET = select(files).where(files.c.id == bindparam("id"))


def add_file(connection: Connection, record: FileRecord) -> None:
    """Write down a file that is stored."""
    values = {column.name: getattr(record, column.name) for column in files.c}
    connection.execute(insert(files), values)


def get_file(connection: Connection, id: str) -> FileRecord | None:
    """Return a file's record, whether it has expired or not."""
    row = connection.execute(_GET, {"id": id}).first()
    return None if row is None else _record(row)


def files_of(connection: Connection, job_id: str) -> list[FileRecord]:
    """Return the files a job has made."""
    return [
        _record(row) for row in connection.execute(select(files).where(files.c.job_id == job_id))
    ]


def expired_files(connection: Connection, now: float, limit: int = 500) -> list[FileRecord]:
    """Return files whose time is over, the oldest first."""
    query = select(files).where(files.c.expires <= now).order_by(files.c.expires).limit(limit)
    return [_record(row) for row in connection.execute(query)]


# literal, so that the planner sees that the partial index serves
_IS_AWAITED = text(f"kind = '{AWAITED}'")


def awaited_files(connection: Connection, before: float, limit: int = 500) -> list[FileRecord]:
    """Return files that have been awaited since before a time, the oldest first."""
    query = select(files).where(_IS_AWAITED, files.c.created < before)
    rows = connection.execute(query.order_by(files.c.created).limit(limit))
    return [_record(row) for row in rows]


def file_arrived(connection: Connection, id: str, size: int) -> FileRecord | None:
    """Write down that an awaited file is stored; None when nobody knows it any more."""
    arrived = update(files).where(files.c.id == id, _IS_AWAITED).values(kind="upload", size=size)
    connection.execute(arrived)
    return get_file(connection, id)


def known_paths(connection: Connection, paths: Sequence[str]) -> set[str]:
    """Return those of the paths that belong to a file; the others are orphans."""
    query = select(files.c.path).where(files.c.path.in_(paths))
    return set(connection.execute(query).scalars())


def set_file_acl(
    connection: Connection, id: str, acl: Document | None, expires: float | None
) -> bool:
    """Change who may read a file and until when; False when there is none."""
    done = connection.execute(
        update(files).where(files.c.id == id).values(acl=acl, expires=expires)
    )
    return done.rowcount > 0


def delete_file_rows(connection: Connection, ids: Sequence[str]) -> int:
    """Forget files; the caller deletes the blobs first."""
    return connection.execute(delete(files).where(files.c.id.in_(ids))).rowcount


def get_storage_settings(connection: Connection, owner: str) -> Document:
    """Return the lifecycle that new files of a key get; {} when nothing was set."""
    query = select(storage_settings.c.lifecycle).where(storage_settings.c.owner == owner)
    found: Document | None = connection.execute(query).scalar()
    return found or {}


def set_storage_settings(connection: Connection, owner: str, lifecycle: Document) -> None:
    """Replace the lifecycle that new files of a key get."""
    insert = insert_for(connection.dialect.name)(storage_settings)
    row = insert.values(owner=owner, lifecycle=lifecycle)
    change = {"lifecycle": row.excluded.lifecycle}
    connection.execute(row.on_conflict_do_update(index_elements=["owner"], set_=change))


def _record(row: Row[tuple[object, ...]]) -> FileRecord:
    return FileRecord(**row._mapping)
