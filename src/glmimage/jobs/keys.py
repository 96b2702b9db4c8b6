"""API keys: `ID:SECRET`, of which only a hash is stored."""

from __future__ import annotations

import hashlib
import secrets
import uuid

from sqlalchemy import Connection, bindparam, insert, select, update

from .database import store_time
from .records import ApiKey
from .schema import api_keys

_COLUMNS = [column for column in api_keys.c if column.name != "hash"]
_FIND = select(*_COLUMNS).where(
    api_keys.c.hash == bindparam("hash"), api_keys.c.revoked_at.is_(None)
)


def create_key(
    connection: Connection, name: str, concurrency: int | None = None, rate: float | None = None
) -> tuple[str, ApiKey]:
    """Make a key; its text is returned once and never stored."""
    id, secret = str(uuid.uuid4()), secrets.token_hex(24)
    key = ApiKey(id, name, secret[-4:], store_time(connection), concurrency=concurrency, rate=rate)
    text = f"{id}:{secret}"
    values = {column.name: getattr(key, column.name) for column in _COLUMNS}
    connection.execute(insert(api_keys), values | {"hash": _hash(text)})
    return text, key


def find_key(connection: Connection, text: str) -> ApiKey | None:
    """Return the valid key with this text."""
    row = connection.execute(_FIND, {"hash": _hash(text)}).first()
    return None if row is None else _key(row._mapping)


def list_keys(connection: Connection) -> list[ApiKey]:
    """Return all keys, revoked ones too, oldest first."""
    rows = connection.execute(select(*_COLUMNS).order_by(api_keys.c.created_at, api_keys.c.id))
    return [_key(row._mapping) for row in rows]


def revoke_key(connection: Connection, id: str) -> bool:
    """Make a key worthless; False when there is no valid one with this id."""
    done = connection.execute(
        update(api_keys)
        .where(api_keys.c.id == id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=store_time(connection))
    )
    return done.rowcount > 0


def _hash(text: str) -> str:
    # a secret of 192 random bits needs no slow hash
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: object) -> ApiKey:
    return ApiKey(**dict(row))  # type: ignore[call-overload]
