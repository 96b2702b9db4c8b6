"""Statements that are run all the time: compiled once for SQLite, and handed to it as they are.

SQLAlchemy's own way from a statement to its rows takes 100 us, of which SQLite is 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Executable

from .database import is_sqlite

Process = Callable[[Any], Any] | None


class _Compiled(NamedTuple):
    text: str
    binds: tuple[tuple[str, Any, Process], ...]
    processors: tuple[tuple[int, Callable[[Any], Any]], ...]


class Statement:
    """Run one statement of SQLAlchemy Core, always with the same names among its values."""

    def __init__(self, core: Executable) -> None:
        self.core = core
        self._compiled: _Compiled | None = None

    def all(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Any]:
        """Return all rows, each as a tuple."""
        if not is_sqlite(connection):
            result = connection.execute(self.core, values)
            return result.all() if result.returns_rows else ()
        compiled = self._compiled
        if compiled is None:
            compiled = self._compiled = _compile(self.core, connection.dialect, values)
        given = [
            process(values.get(name, constant)) if process else values.get(name, constant)
            for name, constant, process in compiled.binds
        ]
        raw: Any = connection.connection.dbapi_connection
        rows: list[Any] = raw.execute(compiled.text, given).fetchall()
        if compiled.processors:
            for number, row in enumerate(rows):
                cells = list(row)
                for index, convert in compiled.processors:
                    cells[index] = convert(cells[index])
                rows[number] = tuple(cells)
        return rows

    def first(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Return the first row, or None."""
        rows = self.all(connection, values)
        return rows[0] if rows else None

    def scalar(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Return the first value of the first row, or None."""
        row = self.first(connection, values)
        return None if row is None else row[0]


def _compile(core: Any, dialect: Dialect, values: Mapping[str, Any]) -> _Compiled:
    compiled = core.compile(dialect=dialect, column_keys=list(values))
    binds = []
    for name in compiled.positiontup:
        bind = compiled.binds[name]
        process = bind.type.dialect_impl(dialect).bind_processor(dialect)
        binds.append((name, bind.value, process))
    processors = []
    for index, column in enumerate(getattr(core, "exported_columns", ())):
        convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
        if convert is not None:
            processors.append((index, convert))
    return _Compiled(str(compiled), tuple(binds), tuple(processors))
