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
"""What is shown of one line; what is missing is said, since code could stand behind many spaces."""
DIFF_LINES_MAX = 20_000
_PLACE = re.compile(r"([^:]+):(\d+): (.+)", re.DOTALL)


def findings_by_line(lines: Sequence[str]) -> dict[str, dict[int, list[str]]]:
    """path → line → messages, of the scan's ``path:line: message``; line 0 is the whole file."""
    found: dict[str, dict[int, list[str]]] = {}
    for text in lines:
        if match := _PLACE.fullmatch(text):
            found.setdefault(match[1], {}).setdefault(int(match[2]), []).append(match[3])
    return found


def _shown(line: str) -> str:
    more = len(line) - LINE_CHARACTERS_MAX
    return line if more <= 0 else f"{line[:LINE_CHARACTERS_MAX]} >>> ({more:,} more characters: export it to read them)"


def _lines(body: bytes) -> list[str]:
    """The lines as the interpreter and the scan count them."""
    lines = body.decode("utf-8", "replace").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def source(bundle: Bundle, path: str, findings: dict[int, list[str]]) -> Iterator[str]:
    """The lines of one file with their numbers, each finding below its line."""
    body = bundle.files[path]
    if b"\0" in body[:1024]:
        yield f"({len(body):,} bytes that are no text)"
        return
    for message in findings.get(0, ()):
        yield f"      >>> {message}"
    for number, line in enumerate(_lines(body), 1):
        yield f"{number:>5} {_shown(line)}"
        for message in findings.get(number, ()):
            yield f"      >>> {message}"


def difference(before: Bundle, after: Bundle) -> Iterator[str]:
    """The unified diff of the author's own files; vendored ones are compared by package (``changes``). A file that was
    a package's, and is the author's now, is the author's."""
    count = 0
    gone = before.vendored.keys() - after.files.keys()
    for path in sorted((before.files.keys() | after.files.keys()) - gone - after.vendored.keys() - {LOCK_NAME}):
        old, new = before.files.get(path, b""), after.files.get(path, b"")
        if old == new:
            continue
        if b"\0" in old[:1024] or b"\0" in new[:1024] or not (_is_text(old) and _is_text(new)):
            yield f"binary {path}: {len(old):,} -> {len(new):,} bytes"
            continue
        for line in difflib.unified_diff(
                _lines(old), _lines(new), f"a/{path}" if path in before.files else "/dev/null",
                f"b/{path}" if path in after.files else "/dev/null", lineterm=""):
            count += 1
            if count > DIFF_LINES_MAX:
                yield f"(over {DIFF_LINES_MAX:,} lines: export both and compare them in an editor)"
                return
            yield _shown(line)


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def changes(before: Bundle | None, after: Bundle) -> list[str]:
    """What the new version asks for beyond the one before, one line each: permissions, hosts, tables, packages."""
    lines = []
    for what, old, new in _parts(before, after):
        lines += [f"+ {what} {name}" for name in sorted(new - old)] + [f"- {what} {name}" for name in sorted(old - new)]
    was, now = _packages(before), _packages(after)
    return lines + [f"~ package {name}: its files are others than before, under the same version"
                    for name in sorted(was.keys() & now.keys()) if was[name] != now[name]]


def _packages(made: Bundle | None) -> dict[str, tuple[str, str]]:
    """name and version of each package → the hashes of its wheel and of its list of files."""
    return {f"{package.name} {package.version}": (package.sha256, package.record)
            for package in (made.vendored.values() if made is not None else ())}


def _parts(before: Bundle | None, after: Bundle) -> Iterator[tuple[str, set[str], set[str]]]:
    def facts(made: Bundle | None) -> dict[str, Any]:
        if made is None:
            return {}
        one = made.manifest
        return {"permission": one.permissions, "host": one.network.allow, "table": one.data.tables,
                "hook": one.manifest.hooks,
                "package": _packages(made).keys()}

    old, new = facts(before), facts(after)
    for what in new:
        yield what, set(old.get(what, ())), set(new[what])
