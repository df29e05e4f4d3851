"""PostgreSQL's errors in the API's codes and in our words."""

from __future__ import annotations

import re

import psycopg

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.owners import INACTIVE
from apex_exec.gateway.sql.wording import plain_names
from apex_exec.gateway.sql.writes import Write

_OUR_WORDS = re.compile(r'"(the query in IN returns [^"]*|the values of \w+ come to more [^"]*|generate_series returns '
                        r'[^"]*|WITH RECURSIVE takes [^"]*|[^"]*: a number (?:in JSON )?has at most [^"]*)"')
"""Text of errors that come from casts in the SQL that we generate, when a bound is exceeded: SQL has no other way to
raise an error."""
_KINDS = {"23502": "need", "23505": "unique", "23503": "link", "23001": "link", "23514": "check", "23P01": "unique"}
_KEY = re.compile(r"\((\w+(?:, \w+)*)\)=\(")
"""The columns in the DETAIL of a unique constraint, "Key (a, b)=(1, 2) …", in any language."""


def refused(error: psycopg.IntegrityError, write: Write) -> ApiFailure:
    """PostgreSQL's error in our words."""
    diag = error.diag
    columns: list[str] = []
    schema, _, table = write.table.rpartition(".")
    if diag.table_name == table and schema in ("", diag.schema_name):
        key = _KEY.search(diag.message_detail or "")
        columns = [diag.column_name] if diag.column_name else key[1].split(", ") if key else []
    return write.refused(_KINDS.get(error.sqlstate or "", "check"), columns, "")


def failure_of(error: psycopg.Error) -> ApiFailure:
    """The API's code for ``error``. Only the primary message is used: DETAIL may quote a row."""
    message = plain_names(error.diag.message_primary or str(error).split("\n")[0] or type(error).__name__)
    state = error.sqlstate or ""
    if state in ("57014", "55P03"):
        return ApiFailure("deadline_exceeded", "the invocation's time ended in the database")
    if state == "22P02" and INACTIVE in message:
        return ApiFailure("data_unavailable", "row-level security is not in force on a table of which it is to decide "
                                              "whose the rows are; `apex-exec config check` says which")
    if state == "42501":
        if error.diag.source_function == "ExecWithCheckOptions":
            return ApiFailure("constraint", "row-level security does not let the caller write this row")
        return ApiFailure("data_unavailable", "the role that data.url names has no right to do this with a table that "
                                              "data.tables names; GRANT it")
    if state in ("22P02", "22P05") and (ours := _OUR_WORDS.search(message)):
        return ApiFailure("too_large", ours[1])
    if state == "42703":
        return ApiFailure("column_not_allowed", message)
    if state.startswith("23"):
        return ApiFailure("constraint", message)
    if state in ("08P01", "42P18", "42P08", "22P02") or isinstance(error, psycopg.DataError) and not state:
        return ApiFailure("sql_parameters", message)
    if isinstance(error, psycopg.OperationalError) and (not state or state[:2] in ("08", "53", "57", "58")):
        return ApiFailure("data_unavailable", message)
    return ApiFailure("sql_error", message)
