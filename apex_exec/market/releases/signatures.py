"""Where plugins fail: the class of the exception and the line of the plugin's own code, and how often.

A traceback is the plugin's word, and may hold anything, also what a user typed. So nothing of its text is kept. The
supervisor takes a class and a place out of it, and here both are held to the bundle: the file must be one of its files,
the line must exist in it, and the class must be known to Python, JavaScript or the SDK, or be named in the bundle's own
source. Whatever is not is ``OTHER``. A plugin that wants to can still choose among its own lines and words; what an
author could learn that way is bounded by the number of rows.
"""

from __future__ import annotations

import asyncio
import binascii
import builtins
import configparser
import csv
import decimal
import json
import re
import statistics
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from apex_exec.errors import CODES, Code
from apex_exec.market.store import failure_places
from apex_exec.registry.bundles.bundle import Bundle

OTHER = "other"
"""A class or a place that could not be held to the bundle."""
ROWS_MAX = 100
"""Different failures of one version that are kept apart; the rest are counted as OTHER."""
SOURCES = (".py", ".js", ".mjs", ".ts", ".tsx")
_WORD = re.compile(rb"[A-Za-z_$][A-Za-z0-9_$]{0,59}")
_PLACE = re.compile(r"(.{1,200}):([0-9]{1,7})", re.DOTALL)
_MODULES = (asyncio.exceptions, binascii, builtins, configparser, csv, decimal, json, re, statistics, struct, zlib)
KNOWN = frozenset(name for module in _MODULES for name, value in vars(module).items()
                  if isinstance(value, type) and issubclass(value, BaseException)) | {
    "Error", "EvalError", "RangeError", "ReferenceError", "TypeError", "URIError", "AggregateError", "InternalError",
    "ApiError", "PermissionDenied", "RateLimited", "NotProvided", "DeadlineExceeded", "HTTPError", "URLError"}
"""Classes that are named in no bundle, because they are raised by what it uses."""


class Seen(NamedTuple):
    """One kind of failure as the supervisor counted it; every text is a plugin's word."""

    plugin: str
    digest: str
    code: str
    exception: str
    place: str
    failures: int


class Facts(NamedTuple):
    """What a bundle can be held to: lines of each file, and the words of its source."""

    lines: dict[str, int]
    words: frozenset[str]


def facts_of(bundle: Bundle) -> Facts:
    """The files of a bundle that run, with how many lines each has, and all their words."""
    sources = {path: body for path, body in bundle.files.items() if path.endswith(SOURCES)}
    return Facts({path: body.count(b"\n") + 1 for path, body in sources.items()},
                 frozenset(word.decode() for body in sources.values() for word in _WORD.findall(body)))


def held_to(facts: Facts | None, seen: Seen) -> tuple[str, str, str]:
    """(code, exception, place) of which nothing is a plugin's free text. ``facts`` None: the bundle is not here."""
    code = seen.code if seen.code in CODES else Code.INTERNAL.value
    exception = seen.exception.rpartition(".")[2]
    if exception and exception not in KNOWN and (facts is None or exception not in facts.words):
        exception = OTHER
    place = seen.place
    if place:
        found = _PLACE.fullmatch(place)
        known = facts.lines.get(found[1], 0) if facts is not None and found is not None else 0
        place = f"{found[1]}:{int(found[2])}" if found is not None and 1 <= int(found[2]) <= known else OTHER
    return code, exception, place


def keep(db: sa.Connection, now_ns: int, source: str, seen: Iterable[Seen],
         facts: Mapping[str, Facts | None]) -> None:
    """Adds what the supervisor has counted since it was asked last; ``facts`` of each digest."""
    for one in seen:
        _add(db, now_ns, source, one.digest, held_to(facts[one.digest], one), one.failures)


def _add(db: sa.Connection, now_ns: int, source: str, digest: str, kind: tuple[str, str, str], more: int) -> None:
    table = failure_places.c
    of_version = (table.source == source) & (table.digest == digest)

    def same(one: tuple[str, str, str]) -> sa.ColumnElement[bool]:
        return of_version & (table.code == one[0]) & (table.exception == one[1]) & (table.place == one[2])

    row = db.execute(sa.select(table.failures).where(same(kind))).first()
    if row is None and db.execute(sa.select(sa.func.count()).select_from(failure_places).where(
            of_version)).scalar_one() >= ROWS_MAX:
        kind = (kind[0], OTHER, OTHER)
        row = db.execute(sa.select(table.failures).where(same(kind))).first()
    if row is None:
        db.execute(sa.insert(failure_places).values(
            source=source, digest=digest, code=kind[0], exception=kind[1], place=kind[2], failures=more,
            first_ns=now_ns, last_ns=now_ns))
    else:
        db.execute(sa.update(failure_places).where(same(kind)).values(failures=row.failures + more, last_ns=now_ns))


def signatures(db: sa.Connection, digest: str, limit: int) -> list[dict[str, Any]]:
    """The most frequent failures of one version, all daemons together."""
    table = failure_places.c
    total = sa.func.sum(table.failures)
    rows = db.execute(sa.select(
        table.code, table.exception, table.place, total.label("failures"), sa.func.min(table.first_ns).label("first"),
        sa.func.max(table.last_ns).label("last")).where(table.digest == digest).group_by(
        table.code, table.exception, table.place).order_by(total.desc(), table.code, table.exception, table.place
                                                           ).limit(limit))
    return [{"code": row.code, "exception": row.exception, "place": row.place, "failures": int(row.failures),
             "firstNs": int(row.first), "lastNs": int(row.last)} for row in rows]
