"""Source with colours, a line at a time. Pure, and linear in the text whatever it contains.

Colours help a reader and decide nothing, so a small scanner of our own does: the lexers of Pygments try regular
expressions that hostile text has made run for minutes before, and this process serves everybody from one thread.
"""

from __future__ import annotations

import re
from typing import NamedTuple

COLOURED_CHARS_MAX = 256 * 1024
"""A longer file is shown without colours: a tenth of a second of the console is enough."""
LINE_CHARS_MAX = 2000
"""What is shown of one line; the page says how much more there is."""
_PYTHON_WORDS = frozenset("""False None True and as assert async await break class continue def del elif else except
    finally for from global if import in is lambda match nonlocal not or pass raise return try while with
    yield""".split())
_SCRIPT_WORDS = frozenset("""async await break case catch class const continue debugger default delete do else export
    extends false finally for from function if import in instanceof let new null of return static super switch this
    throw true try typeof undefined var void while with yield""".split())
_PYTHON = re.compile(r'''
    (?P<comment>\#[^\n]*+)
  | (?P<string>[rRbBuUfF]{0,2}(?:"""(?:[^\\"]|\\.|"(?!""))*+(?:"""|\\?\Z)|\'\'\'(?:[^\\']|\\.|'(?!''))*+(?:\'\'\'|\\?\Z)
        |"(?:[^\\"\n]|\\.)*+"?|'(?:[^\\'\n]|\\.)*+'?))
  | (?P<number>\b\d[\w.]*+) | (?P<word>[^\W\d]\w*+) | (?P<name>@[\w.]++)''', re.VERBOSE | re.DOTALL)
_SCRIPT = re.compile(r'''
    (?P<comment>//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?)
  | (?P<string>`(?:[^\\`]|\\.)*+`?|"(?:[^\\"\n]|\\.)*+"?|'(?:[^\\'\n]|\\.)*+'?)
  | (?P<number>\b\d[\w.]*+) | (?P<word>[^\W\d][\w$]*+)''', re.VERBOSE | re.DOTALL)
_SCANNERS = {**dict.fromkeys(("py", "pyi"), (_PYTHON, _PYTHON_WORDS)),
             **dict.fromkeys(("js", "mjs", "cjs", "jsx", "ts", "mts", "tsx", "json"), (_SCRIPT, _SCRIPT_WORDS))}


class Span(NamedTuple):
    """A piece of a line. ``kind``: comment, string, number, keyword, name or "" for the rest."""

    kind: str
    text: str


class Line(NamedTuple):
    """One line, cut to ``LINE_CHARS_MAX``; ``more`` is how many characters are missing."""

    spans: tuple[Span, ...]
    more: int


def coloured(path: str, text: str) -> list[Line]:
    """The lines of ``text`` by the suffix of ``path``. A line end at the very end begins no further line."""
    scanner = _SCANNERS.get(path.rpartition(".")[2].lower())
    if scanner is None or len(text) > COLOURED_CHARS_MAX:
        return [_cut((Span("", line),), len(line)) for line in _split(text)]
    lines: list[list[Span]] = [[]]
    for kind, piece in _pieces(text, *scanner):
        first, *others = piece.split("\n")
        lines[-1].append(Span(kind, first))
        lines.extend([Span(kind, other)] for other in others)
    if len(lines) > 1 and not any(span.text for span in lines[-1]):
        lines.pop()
    return [_cut(tuple(span for span in line if span.text), sum(len(span.text) for span in line)) for line in lines]


def _pieces(text: str, pattern: re.Pattern[str], keywords: frozenset[str]) -> list[Span]:
    found, at = [], 0
    for match in pattern.finditer(text):
        if match.start() > at:
            found.append(Span("", text[at:match.start()]))
        kind, piece = str(match.lastgroup), match[0]
        if kind == "word":
            kind = "keyword" if piece in keywords else ""
        found.append(Span(kind, piece))
        at = match.end()
    found.append(Span("", text[at:]))
    return found


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def _cut(spans: tuple[Span, ...], length: int) -> Line:
    if length <= LINE_CHARS_MAX:
        return Line(spans, 0)
    kept, left = [], LINE_CHARS_MAX
    for span in spans:
        if left <= 0:
            break
        kept.append(Span(span.kind, span.text[:left]))
        left -= len(span.text)
    return Line(tuple(kept), length - LINE_CHARS_MAX)


def numbers(ranges: str) -> frozenset[int]:
    """The lines that 3-5,9 names; the daemon wrote it."""
    found: set[int] = set()
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
