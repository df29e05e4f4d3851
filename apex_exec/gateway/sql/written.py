"""What a write returns, held to the bounds of a call before the write is committed. Pure."""

from __future__ import annotations

from typing import Any

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.values import RESULT_BYTES_MAX, Rows
from apex_exec.gateway.sql.writes import ROWS_CHANGED_MAX, Write

_NIL = b"\xc0"


class Written:
    """Counts the rows that ``write`` returns, and encodes those that the plugin has asked for."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._rows = Rows(write.returning)
        self._keys: set[str] = set()
        self._count = 0

    def add(self, row: Any) -> None:
        """Adds one row: the columns that were asked for, and then those of the key. Raises ApiFailure."""
        write = self._write
        self._count += 1
        if self._count > ROWS_CHANGED_MAX:
            raise too_many()
        width = len(write.returning)
        if write.otherwise and None not in row[width:]:
            key = repr(row[width:])
            if key in self._keys:  # as PostgreSQL refuses it: SQLite would change the row of its own call again
                raise write.twice()
            self._keys.add(key)
        if width:
            try:
                self._rows.add(row[:width])
            except ApiFailure as failure:
                raise ApiFailure(failure.code, f"the returned rows have more than {RESULT_BYTES_MAX} bytes; ask for "
                                               "fewer columns or write fewer rows; nothing was changed") from None

    def answer(self, changed: int) -> tuple[int, bytes | None]:
        """How many rows were written, and those that were asked for: one row if one was given, otherwise a list.

        ``changed`` is what the database counted, if the statement returned nothing. Raises ApiFailure."""
        write = self._write
        count = self._count if write.ending else changed
        if count > ROWS_CHANGED_MAX:
            raise too_many()
        if write.otherwise and count < write.rows:
            raise write.others_row()
        if not write.returning:
            return count, None
        encoded = self._rows.encoded()
        return count, encoded if not write.is_single else encoded[1:] or _NIL


def too_many() -> ApiFailure:
    """The failure of a call that would change more rows than it may."""
    return ApiFailure("row_limit", f"one call changes at most {ROWS_CHANGED_MAX} rows; nothing was changed")
