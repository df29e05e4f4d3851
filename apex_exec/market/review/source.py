"""What a reviewer reads: the files of a submission beside those of an earlier one, with findings and coverage by line.

Only reads. The bytes are hashed again before they are shown, so that what is read is what is decided about.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.submissions import Submission
from apex_exec.market.shop.storefront import Shop
from apex_exec.market.store import as_struct, submissions
from apex_exec.registry.bundles.bundle import Bundle

NO_BASE = -1
EARLIER_MAX = 20
TEXT_BYTES_MAX = 2 * 1024 * 1024
"""The longest text that is shown of one file; two of them fit into an answer."""
_PLACE = re.compile(r"(.{1,400}?):(\d{1,7}): (.*)", re.DOTALL)


def files(shop: Shop, submission: int, base: int) -> dict[str, Any]:
    """Every file with its size and what has become of it since ``base``. Raises Refusal: submission_unknown,
    digest_changed."""
    one, earlier, before = _both(shop, submission, base)
    bundle, _ = shop.kept(one)
    old = _kept(shop, before)
    rows = []
    for path in sorted({*bundle.files, *(old.files if old else ())}):
        body = bundle.files.get(path)
        was = old.files.get(path) if old else None
        change = ("" if old is None else "removed" if body is None else "added" if was is None else
                  "same" if was == body else "changed")
        rows.append({"path": path, "size": len(body if body is not None else was or b""), "change": change})
    return {"submission": one.id, "files": rows, "earlier": earlier, "base": _named(before, old)}


def file(shop: Shop, submission: int, path: str, base: int) -> dict[str, Any]:
    """One file: its text, that of ``base``, the findings and the coverage of its lines. Raises Refusal("file_unknown"),
    and as ``files``."""
    one, earlier, before = _both(shop, submission, base)
    bundle, _ = shop.kept(one)
    old = _kept(shop, before)
    body, was = bundle.files.get(path), old.files.get(path) if old else None
    if body is None and was is None:
        raise Refusal("file_unknown", f"submission {submission} has no file {path[:100]!a}", code=Code.NOT_FOUND)
    found = msgspec.json.decode(one.result) if one.result else {}
    return {"submission": one.id, "path": path, **_text("", body), "base": _named(before, old), "earlier": earlier,
            **_text("base", was), "findings": findings(found, path), "coverage": coverage(found, path),
            "sha256": hashlib.sha256(body).hexdigest() if body is not None else ""}


def lines_of(bundle: Bundle, path: str) -> int | None:
    """How many lines a file of the bundle has; None if there is no such file."""
    body = bundle.files.get(path)
    return None if body is None else body.count(b"\n") + 1


def findings(found: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """What the machine's scan says about lines of ``path``."""
    rows = []
    for check in found.get("checks", []):
        for severity, texts in (("error", check["problems"]), ("warning", check["detail"].get("warnings", []))):
            for text in texts:
                place = _PLACE.fullmatch(text)
                if place is not None and place[1] == path:
                    rows.append({"line": int(place[2]), "severity": severity, "text": place[3]})
    return rows


def coverage(found: dict[str, Any], path: str) -> dict[str, str]:
    """The lines of ``path`` that the tests ran and those that they did not, as ``coverage.ranges`` writes them."""
    detail: dict[str, Any] = next((one["detail"] for one in found.get("checks", []) if one["name"] == "coverage"), {})
    return {kind: detail.get(kind, {}).get(path, "") for kind in ("run", "missed")}


def _both(shop: Shop, submission: int, base: int) -> tuple[Submission, list[dict[str, Any]], Submission | None]:
    def work(db: sa.Connection) -> tuple[Submission, list[Submission]]:
        one = subs.get(db, submission)
        rows = db.execute(sa.select(submissions).where(
            submissions.c.plugin == one.plugin, submissions.c.id < one.id).order_by(
            submissions.c.id.desc()).limit(EARLIER_MAX))
        return one, [as_struct(row, Submission) for row in rows]

    one, others = shop.read(work)
    earlier = [{"id": other.id, "version": other.version, "state": other.state} for other in others]
    if base == NO_BASE:
        return one, earlier, None
    if base:
        chosen = next((other for other in others if other.id == base), None)
        if chosen is None:
            raise Refusal("base_unknown", f"submission {base} is none of the earlier ones of {one.plugin}",
                          code=Code.NOT_FOUND)
        return one, earlier, chosen
    approved = (other for other in others if other.state in ("approved", "staged", "published", "deprecated"))
    return one, earlier, next(approved, None)


def _kept(shop: Shop, before: Submission | None) -> Bundle | None:
    if before is None:
        return None
    try:
        return shop.kept(before)[0]
    except Refusal:
        return None  # its bytes are gone: there is nothing to compare with, and the page says so


def _named(before: Submission | None, old: Bundle | None) -> dict[str, Any] | None:
    if before is None:
        return None
    return {"id": before.id, "version": before.version, "state": before.state, "gone": old is None}


def _text(prefix: str, body: bytes | None) -> dict[str, Any]:
    """The text of one side, "" if it has none; ``binary`` if it is not text, ``cut`` if it is longer than we show."""
    def name(word: str) -> str:
        return prefix + word.capitalize() if prefix else word

    try:
        text, binary = (body or b"").decode(), False
    except UnicodeDecodeError:
        text, binary = "", True
    cut = len(body or b"") > TEXT_BYTES_MAX
    return {name("there"): body is not None, name("size"): len(body or b""), name("binary"): binary,
            name("cut"): cut, name("text"): text[:TEXT_BYTES_MAX] if cut else text}
