"""The scan's own process: it reads sources from stdin and writes findings to stdout, both as MessagePack. It runs no
code of the sources."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator

import msgspec

from apex_exec.catalogue.hooks import BUILT_IN
from apex_exec.registry.scan.findings import FINDINGS_MAX, Finding, finding
from apex_exec.registry.scan.rules import ApiUse, FileScan
from apex_exec.registry.scan.scanner import Request
from apex_exec.registry.scan.text import scan_identifiers, scan_text

PER_FILE_MAX = 100
WIDGET_FIELDS = frozenset(hook.collects for hook in BUILT_IN if hook.renders)
"""Fields of results that hold widgets."""


def scan_files(request: Request) -> Iterator[Finding]:
    """Every finding in the request's files."""
    own = frozenset(path.split("/", 1)[0].removesuffix(".py") for path in request.files) | frozenset(
        part.removesuffix(".py") for path in request.files for part in path.split("/"))
    allowed = frozenset(request.allowed)
    api = ApiUse()
    for path, body in request.files.items():
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            continue  # a data file; a Python source that is not UTF-8 never becomes a bundle
        found = _file(path, text, allowed, own, api) if path.endswith(".py") else scan_text(path, text)
        seen: set[tuple[str, int]] = set()
        for item in found:
            if (item.rule, item.line) not in seen and len(seen) < PER_FILE_MAX:
                seen.add((item.rule, item.line))
                yield item
    yield from _permissions(request, api)


def _file(path: str, text: str, allowed: frozenset[str], own: frozenset[str], api: ApiUse) -> Iterator[Finding]:
    yield from scan_text(path, text)
    yield from scan_identifiers(path, text)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield finding("unparsable", path, error.lineno or 0, f"not Python: {error.msg}")
        return
    except (ValueError, RecursionError, MemoryError) as error:
        yield finding("scan-unfinished", path, 0, f"the parser gave up: {type(error).__name__}")
        return
    api.renders = api.renders or any(
        (isinstance(node, ast.Constant) and node.value in WIDGET_FIELDS)
        or (isinstance(node, ast.keyword) and node.arg in WIDGET_FIELDS) for node in ast.walk(tree))
    try:
        yield from FileScan(path, tree, allowed, own, api, is_test=path.startswith("tests/")).run()
    except (RecursionError, MemoryError) as error:
        yield finding("scan-unfinished", path, 0, f"the rules gave up: {type(error).__name__}")


def _permissions(request: Request, api: ApiUse) -> Iterator[Finding]:
    if request.permissions is None:
        return
    for permission, (path, line, call) in api.needed.items():
        if permission not in request.permissions:
            yield finding("undeclared-permission", path, line, f"context.api.{call} needs {permission}")
    for permission in request.permissions:
        if permission == "ui:render" and api.renders:
            continue  # the widgets in a result are rendered too
        if permission not in api.needed and not api.opaque:
            yield finding("unused-permission", "manifest.json", 0, f"{permission} is declared, but no call uses it")
    for name, permission, items in (("network.allow", "network:fetch", request.network),
                                    ("data.tables", "data:read", request.tables)):
        if items and permission not in request.permissions and "data:write" not in request.permissions:
            yield finding("idle-declaration", "manifest.json", 0, f"{name} is listed without {permission}")


def main() -> int:
    """Reads the request, writes the findings and returns the exit status."""
    warnings.simplefilter("ignore")  # SyntaxWarnings of the source are not ours to print
    sys.setrecursionlimit(1500)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    found: list[Finding] = []
    for item in scan_files(request):
        found.append(item)
        if len(found) >= FINDINGS_MAX:
            found.append(finding("scan-unfinished", "$", 0, f"more than {FINDINGS_MAX} findings"))
            break
    sys.stdout.buffer.write(msgspec.msgpack.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
