"""What a reviewer reads of a submission: its source with the findings in place, what is different from the version
before, and what that changes for users. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.vendored.lock import LOCK_NAME

LINE_CHARACTERS_MAX = 400
DIFF_LINES_MAX = 20_000
_PLACE = re.compile(r"([^:]+):(\d+): (.+)", re.DOTALL)


def findings_by_line(lines: Sequence[str]) -> dict[str, dict[int, list[str]]]:
    """path → line → messages, of the scan's ``path:line: message``; line 0 is the whole file."""
    found: dict[str, dict[int, list[str]]] = {}
    for text in lines:
        if match := _PLACE.fullmatch(text):
            found.setdefault(match[1], {}).setdefault(int(match[2]), []).append(match[3])
    return found


def source(bundle: Bundle, path: str, findings: dict[int, list[str]]) -> Iterator[str]:
    """The lines of one file with their numbers, each finding below its line."""
    body = bundle.files[path]
    if b"\0" in body[:1024]:
        yield f"({len(body):,} bytes that are no text)"
        return
    for message in findings.get(0, ()):
        yield f"      >>> {message}"
    for number, line in enumerate(body.decode("utf-8", "replace").splitlines(), 1):
        yield f"{number:>5} {line[:LINE_CHARACTERS_MAX]}"
        for message in findings.get(number, ()):
            yield f"      >>> {message}"


def difference(before: Bundle, after: Bundle) -> Iterator[str]:
    """The unified diff of the author's own files; vendored ones are compared by package (``changes``)."""
    count = 0
    paths = sorted((before.files.keys() | after.files.keys()) - before.vendored.keys() - after.vendored.keys()
                   - {LOCK_NAME})
    for path in paths:
        old, new = before.files.get(path, b""), after.files.get(path, b"")
        if old == new:
            continue
        if b"\0" in old[:1024] or b"\0" in new[:1024]:
            yield f"binary {path}: {len(old):,} -> {len(new):,} bytes"
            continue
        for line in difflib.unified_diff(
                old.decode("utf-8", "replace").splitlines(), new.decode("utf-8", "replace").splitlines(),
                f"a/{path}" if path in before.files else "/dev/null",
                f"b/{path}" if path in after.files else "/dev/null", lineterm=""):
            count += 1
            if count > DIFF_LINES_MAX:
                yield f"(over {DIFF_LINES_MAX:,} lines: export both and compare them in an editor)"
                return
            yield line[:LINE_CHARACTERS_MAX]


def changes(before: Bundle | None, after: Bundle) -> list[str]:
    """What the new version asks for beyond the one before, one line each: permissions, hosts, tables, packages."""
    lines = []
    for what, old, new in _parts(before, after):
        lines += [f"+ {what} {name}" for name in sorted(new - old)] + [f"- {what} {name}" for name in sorted(old - new)]
    return lines


def _parts(before: Bundle | None, after: Bundle) -> Iterator[tuple[str, set[str], set[str]]]:
    def facts(made: Bundle | None) -> dict[str, Any]:
        if made is None:
            return {}
        one = made.manifest
        return {"permission": one.permissions, "host": one.network.allow, "table": one.data.tables,
                "hook": one.manifest.hooks,
                "package": {f"{package.name} {package.version}" for package in made.vendored.values()}}

    old, new = facts(before), facts(after)
    for what in new:
        yield what, set(old.get(what, ())), set(new[what])
