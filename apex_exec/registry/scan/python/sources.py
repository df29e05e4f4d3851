"""All rules over the Python files of a bundle."""

from __future__ import annotations

import ast
import builtins
import io
import keyword
import tokenize
from collections.abc import Iterator, Mapping

from apex_exec.registry.scan.api_use import WIDGET_FIELDS, ApiUse
from apex_exec.registry.scan.findings import Finding, finding
from apex_exec.registry.scan.python.rules import FileScan
from apex_exec.registry.scan.scanner import Request
from apex_exec.registry.scan.text import NAMES_MAX, scan_names

SUFFIXES = (".py",)
_WELL_KNOWN = frozenset(dir(builtins)) | frozenset(keyword.kwlist)


def scan_sources(texts: Mapping[str, str], request: Request, api: ApiUse) -> Iterator[Finding]:
    """Every finding in the Python files among ``texts``; ``api`` collects the permissions that they use."""
    own = frozenset(path.split("/", 1)[0].removesuffix(".py") for path in request.files) | frozenset(
        part.removesuffix(".py") for path in request.files for part in path.split("/"))
    allowed = frozenset(request.allowed)
    unseen = ApiUse()  # what a package calls `api` is not the platform's
    for path, text in texts.items():
        if path.endswith(SUFFIXES):
            yield from _file(path, text, allowed, own, unseen if path in request.vendored else api)


def _file(path: str, text: str, allowed: frozenset[str], own: frozenset[str], api: ApiUse) -> Iterator[Finding]:
    if not text.isascii():
        yield from scan_names(path, _identifiers(text), _WELL_KNOWN, "read as")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield finding("unparsable", path, error.lineno or 0, f"this is not valid Python: {error.msg}")
        return
    except (ValueError, RecursionError, MemoryError) as error:
        yield finding("scan-unfinished", path, 0, f"Python's parser could not read the file: {type(error).__name__}")
        return
    api.renders = api.renders or any(
        (isinstance(node, ast.Constant) and node.value in WIDGET_FIELDS)
        or (isinstance(node, ast.keyword) and node.arg in WIDGET_FIELDS) for node in ast.walk(tree))
    try:
        yield from FileScan(path, tree, allowed, own, api, is_test=path.startswith("tests/")).run()
    except (RecursionError, MemoryError) as error:
        yield finding("scan-unfinished", path, 0, f"the rules could not be applied to the file: {type(error).__name__}")


def _identifiers(text: str) -> dict[str, int]:
    """Name → the first line that it is on."""
    names: dict[str, int] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and len(names) < NAMES_MAX:
                names.setdefault(token.string, token.start[0])
    except (tokenize.TokenError, SyntaxError):
        pass  # the parser reports it; the names before it are still checked
    return names
