"""A page of the guide as text for a terminal: headings, paragraphs, lists, tables and code.

It reads the Markdown that our own pages use and nothing more: a page with something else (an image, HTML, a numbered
list) is shown as it was written. Lines are wrapped at ``width``; code and tables that fit are not.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator

BOLD, DIM, CODE, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[0m"
COLUMN_MIN = 12
_COMMENT = re.compile(r"<!--.*?-->\n?", re.S)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])")
_BLOCK = re.compile(r"[#|`]|[-*] ")
"""How a line begins that ends the paragraph before it."""
Styled = Callable[[str, str], str]


def rendered(text: str, width: int, *, colours: bool) -> str:
    """``text``, which is Markdown, as lines of at most ``width`` characters; with ANSI colours if wanted."""

    def styled(style: str, words: str) -> str:
        return f"{style}{words}{PLAIN}" if colours and words else words

    lines = _COMMENT.sub("", text).splitlines()
    return "\n".join(_blocks(lines, width, styled)) + "\n"


def _blocks(lines: list[str], width: int, styled: Styled) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("```")), len(lines))
            yield from (f"    {styled(CODE, code)}".rstrip() for code in lines[at + 1:end])
            at = end + 1
        elif line.startswith("|"):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("|")), len(lines))
            yield from _table(lines[at:end], width, styled)
            at = end
        elif heading := re.match(r"(#+) (.+)", line):
            words = heading[2].upper() if len(heading[1]) == 1 else heading[2]
            yield styled(BOLD, _bare(words))
            at += 1
        elif bullet := re.match(r"( *)[-*] ", line):
            end = _end_of_paragraph(lines, at + 1)
            joined = " ".join(part.strip() for part in (line[bullet.end():], *lines[at + 1:end]))
            lead = f"{bullet[1]}  "
            yield from _wrapped(joined, width, styled, f"{lead}- ", f"{lead}  ")
            at = end
        elif not line.strip():
            yield ""
            at += 1
        else:
            end = _end_of_paragraph(lines, at + 1)
            yield from _wrapped(" ".join(part.strip() for part in lines[at:end]), width, styled, "", "")
            at = end


def _end_of_paragraph(lines: list[str], at: int) -> int:
    """Where the paragraph that ``at`` goes on with has ended."""
    while at < len(lines) and lines[at].strip() and not _BLOCK.match(lines[at].lstrip()):
        at += 1
    return at


def _linked(text: str) -> str:
    """A link to another page of the guide as the command that shows it; any other as its words alone."""
    return _LINK.sub(lambda link: f"`apex-exec help {link[2][:-3]}`" if re.fullmatch(r"[a-z]+\.md", link[2])
                     else link[1], text)


def _bare(text: str) -> str:
    """``text`` without marks."""
    return _SPAN.sub(lambda span: span[1] or span[2] or span[3], _linked(text))


def _wrapped(text: str, width: int, styled: Styled, first: str, rest: str) -> list[str]:
    """``text`` in lines, the first behind ``first``, others behind ``rest``. What stands together without a space, such
    as code and the full stop behind it, stays together."""
    lines, now, length, is_empty = [], first, len(first), True
    for word in _words(_linked(text)):
        size = sum(len(piece) for piece, _ in word)
        if not is_empty and length + 1 + size > width:
            lines.append(now)
            now, length, is_empty = rest, len(rest), True
        now += ("" if is_empty else " ") + "".join(styled(style, piece) if style else piece for piece, style in word)
        length += size + (not is_empty)
        is_empty = False
    return [*lines, now]


def _words(text: str) -> Iterator[list[tuple[str, str]]]:
    """The words of ``text``, each as its pieces with their styles."""
    word: list[tuple[str, str]] = []
    for piece, style in _pieces(text):
        for part in re.split(r"(\s+)", piece):
            if part.isspace():
                if word:
                    yield word
                word = []
            elif part:
                word.append((part, style))
    if word:
        yield word


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """``text`` without its marks, in pieces of one style each."""
    at = 0
    for span in _SPAN.finditer(text):
        yield text[at:span.start()], ""
        yield span[1] or span[2] or span[3], CODE if span[1] else BOLD if span[2] else ""
        at = span.end()
    yield text[at:], ""


def _table(rows: list[str], width: int, styled: Styled) -> Iterator[str]:
    """A table whose columns share ``width``: the widest give way first, and their cells wrap."""
    cells = [[_bare(cell.strip()).replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip()[1:-1])]
             for row in rows if not re.fullmatch(r"[|\-: ]+", row)]
    count = max(map(len, cells))
    for row in cells:
        row += [""] * (count - len(row))
    widths = [max(len(row[column]) for row in cells) for column in range(count)]
    while sum(widths) + 2 * (count - 1) > width and max(widths) > COLUMN_MIN:
        widths[widths.index(max(widths))] -= 1
    for number, row in enumerate(cells):
        parts = [textwrap.wrap(cell, size, break_on_hyphens=False) or [""] for cell, size in
                 zip(row, widths, strict=True)]
        for line in range(max(map(len, parts))):
            text = "  ".join((part[line] if line < len(part) else "").ljust(size)
                             for part, size in zip(parts, widths, strict=True)).rstrip()
            yield styled(BOLD, text) if number == 0 else text
        if number == 0:
            yield styled(DIM, "  ".join("-" * size for size in widths))
