"""Statements that are run all the time: compiled once, and handed to the driver as they are.

Always on SQLite, where SQLAlchemy's own way from a statement to its rows takes 100 us, of which
SQLite is 5; on PostgreSQL where many are sent together (`postgres_batch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Executable

from .database import is_sqlite

FLOAT8 = 701
"""PostgreSQL's number of double precision, which is what all our floats are."""
Process = Callable[[Any], Any] | None


class Compiled(NamedTuple):
    """A statement in a driver's words."""

    text: str
    binds: tuple[tuple[str, Any, Process], ...]
    processors: tuple[tuple[int, Callable[[Any], Any]], ...]

    def given(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the values as the driver takes them, in the order of the text."""
        return [
            process(values.get(name, constant)) if process else values.get(name, constant)
            for name, constant, process in self.binds
        ]

    def converted(self, rows: list[Any]) -> list[Any]:
        """Return the driver's rows with their values as the columns' types have them."""
        if not self.processors:
            return rows
        converted = []
        for row in rows:
            cells = list(row)
            for index, convert in self.processors:
                cells[index] = convert(cells[index])
            converted.append(tuple(cells))
        return converted


class Statement:
    """Run one statement of SQLAlchemy Core, always with the same names among its values."""

    def __init__(self, core: Executable) -> None:
        self.core = core
        self._compiled: dict[str, Compiled] = {}

    def all(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Any]:
        """Return all rows, each as a tuple."""
        if not is_sqlite(connection):
            result = connection.execute(self.core, values)
            return result.all() if result.returns_rows else ()
        compiled = self.compiled(connection, values)
        raw: Any = connection.connection.dbapi_connection
        rows: list[Any] = raw.execute(compiled.text, compiled.given(values)).fetchall()
        return compiled.converted(rows)

    def first(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Return the first row, or None."""
        rows = self.all(connection, values)
        return rows[0] if rows else None

    def scalar(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Return the first value of the first row, or None."""
        row = self.first(connection, values)
        return None if row is None else row[0]

    def compiled(self, connection: Connection, values: Mapping[str, Any]) -> Compiled:
        """Return the statement for the connection's database."""
        dialect, core = connection.dialect, self.core
        known = self._compiled.get(dialect.name)
        if known is not None:
            return known
        compiled: Any = core.compile(dialect=dialect, column_keys=list(values))  # type: ignore[attr-defined]
        binds = []
        for name in compiled.positiontup:
            bind = compiled.binds[name]
            process = bind.type.dialect_impl(dialect).bind_processor(dialect)
            binds.append((name, bind.value, process))
        processors = []
        for index, column in enumerate(getattr(core, "exported_columns", ())):
            convert = column.type.dialect_impl(dialect).result_processor(dialect, FLOAT8)
            if convert is not None:
                processors.append((index, convert))
        made = Compiled(str(compiled), tuple(binds), tuple(processors))
        self._compiled[dialect.name] = made
        return made
