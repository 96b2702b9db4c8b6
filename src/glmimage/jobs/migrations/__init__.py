"""Bring a database to the newest schema; one file a change under versions/."""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from ..errors import StoreOutdated

HEAD = "0006"
ONE_AT_A_TIME = threading.Lock()
"""Held around `migrate`: alembic keeps what it works on in globals of the process."""
_TABLE = "alembic_version"


def migrate(connection: Connection, version: str = HEAD) -> None:
    """Upgrade within the caller's transaction; raise StoreOutdated for a newer database."""
    if _version(connection) == version:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, version)
    except CommandError:
        raise StoreOutdated(
            f"The database is of a newer version of glmimage ({_version(connection)!r}).",
            hint="Install that version, or use another data folder.",
        ) from None


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {_TABLE}")).scalar()
