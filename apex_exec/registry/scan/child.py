"""The scan's own process: it reads sources from stdin and writes findings to stdout, both as MessagePack. It runs no
code of the sources."""

from __future__ import annotations

import gc
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import msgspec

from apex_exec.registry.scan.api_use import ApiUse
from apex_exec.registry.scan.findings import FINDINGS_MAX, Finding, finding, lowered
from apex_exec.registry.scan.scanner import Request
from apex_exec.registry.scan.text import scan_text

PER_FILE_MAX = 100
VENDORED_MAX = 200
"""How many findings in vendored packages are kept, which must not crowd out the author's own."""

Reader = Callable[[Mapping[str, str], Request, ApiUse], Iterator[Finding]]


def scan_files(request: Request) -> Iterator[Finding]:
    """Every finding in the request's files, each rule once a line."""
    seen: set[tuple[str, str, int]] = set()
    kept: Counter[str] = Counter()
    api = ApiUse()
    vendored = 0
    for item in _all(request, api):
        if package := request.vendored.get(item.path):
            vendored += 1
            if vendored > VENDORED_MAX:
                continue
            item = lowered(item, package)
        if (item.rule, item.path, item.line) not in seen and kept[item.path] < PER_FILE_MAX:
            seen.add((item.rule, item.path, item.line))
            kept[item.path] += 1
            yield item
    yield from api.compared(request)


def _all(request: Request, api: ApiUse) -> Iterator[Finding]:
    texts: dict[str, str] = {}
    for path in sorted(request.files, key=lambda path: path in request.vendored):
        body = request.files[path]
        try:
            texts[path] = body.decode("utf-8")
        except UnicodeDecodeError:
            continue  # a data file; a source that is not UTF-8 never becomes a bundle
        yield from scan_text(path, texts[path])
    for read in _readers(texts):
        yield from read(texts, request, api)


def _readers(texts: Mapping[str, str]) -> Iterator[Reader]:
    """The languages that the files are written in. What reads a language is imported only where it is needed."""
    from apex_exec.registry.scan.python import sources as python

    if any(path.endswith(python.SUFFIXES) for path in texts):
        yield python.scan_sources
    if any(path.endswith((".js", ".mjs", ".cjs")) for path in texts):
        from apex_exec.registry.scan.javascript import sources as javascript

        yield javascript.scan_sources


def main() -> int:
    """Reads the request, writes the findings and returns the exit status."""
    warnings.simplefilter("ignore")  # SyntaxWarnings of the source are not ours to print
    sys.setrecursionlimit(1500)
    gc.disable()  # a short life with few cycles and many nodes, which the collector would visit again and again
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
