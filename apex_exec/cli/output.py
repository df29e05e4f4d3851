"""What verbs print: tables for people, JSON for programs, progress for people who wait. Results go to stdout.

Nothing else in this package prints. Text that comes from a plugin, a host or a file passes through ``clean`` here, so
that it cannot send control sequences to the reader's terminal. ``tests/cli`` checks this for every verb.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from apex_exec.cli.cells import cell_len, chop_cells
from apex_exec.common.words import clean

GAP = "  "
FREE_TEXT = ("reason", "message", "hint", "problems", "is", "detail", "change", "note", "subject", "means", "value",
             "hooks", "users", "source", "approvals")
"""Columns that are sentences or lists, which may wrap on a narrow terminal. Everything else is an id, a state or a
number and stays whole."""
FREE_WIDTH_MIN = 12
WORD_WIDTH_MAX = 80
"""A longer word in free text is broken into pieces. Ids and digests are shorter than this."""


_SPACE = re.compile(r"[ \t\r\n]+")
"""What may stand between words. ``str.split`` takes more for white space, for example U+0085, and would show a file by
another name."""


class ReaderGone(Exception):
    """The reader of the output has closed it. Not an OSError, which click turns into status 1."""


def say(*values: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """``print``, cleaned. Raises ReaderGone."""
    try:
        print(*(clean(str(value)) for value in values), end=end, file=file, flush=flush)
    except BrokenPipeError:
        raise ReaderGone from None


def one_line(text: str) -> str:
    """The text as one line: what stood in several has a space between."""
    return _SPACE.sub(" ", text).strip(" ")


def say_error(message: str) -> None:
    """Prints the message on stderr, as one line."""
    say(f"apex-exec: {one_line(message)}", file=sys.stderr)


def say_coloured(lines: Iterable[str]) -> None:
    """Prints the lines of a unified diff: on a terminal in colours, unless NO_COLOR is set. Raises ReaderGone."""
    colours = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"} if (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR")) else {}
    try:
        for line in lines:
            colour = colours.get(line[:1], "")
            print(f"{colour}{clean(line)}\x1b[0m" if colour else clean(line))
    except BrokenPipeError:
        raise ReaderGone from None


def say_page(made: Callable[[bool], str]) -> None:
    """Prints a page of our own. ``made`` gets whether the page may have ANSI colours: on a terminal, unless NO_COLOR is
    set. Raises ReaderGone."""
    try:
        print(made(sys.stdout.isatty() and not os.environ.get("NO_COLOR")), end="")
    except BrokenPipeError:
        raise ReaderGone from None


class Said:
    """A file that ``csv`` can write to; the text goes to stdout, cleaned."""

    def write(self, text: str) -> int:
        """Prints ``text`` as it stands, its line ends too."""
        say(text, end="")
        return len(text)


def say_line(line: bytes) -> None:
    """Prints one line of the ledger's own JSON, with its line end. It is cleaned for a terminal; elsewhere it is
    written byte for byte, because those bytes were hashed."""
    if sys.stdout.isatty():
        say(line.decode("utf-8", "replace"), end="")
    else:
        try:
            sys.stdout.buffer.write(line)
        except BrokenPipeError:
            raise ReaderGone from None


def print_json(value: Any, *, raw: bool = False, indented: bool = False) -> None:
    """``value`` as JSON in the one style of ``cli.facts``; on a terminal indented, bytes as base64.

    With ``raw`` the keys stay as they are, for replies of a host or a plugin. With ``indented`` it is indented even in
    a pipe, for documents that people keep in a file.
    """
    if not raw:
        from apex_exec.cli.facts import facts

        value = facts(value)
    every_character = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    say(json.dumps(value, default=_plain, ensure_ascii=not every_character,
                   indent=2 if indented or sys.stdout.isatty() else None))


def json_line(value: Any) -> str:
    """``value`` as one line of JSON for files and programs; bytes as base64, moments as RFC 3339."""
    return json.dumps(value, default=_plain, ensure_ascii=False)


def show(done: Any, as_json: bool, line: str) -> None:
    """Prints what a verb has done: all of ``done`` as JSON for programs, or ``line`` for people."""
    if as_json:
        print_json(done)
    else:
        say(line)


def _plain(value: Any) -> Any:
    import base64

    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str], *, as_json: bool,
                empty: str = "nothing to show") -> None:
    """``rows`` as a table of ``columns`` (keys of ``facts``, or key → heading), or all of them as a JSON array.

    Nothing is ever left out. In a pipe every row is one line, however long. If a terminal is too narrow, free text
    wraps; if that is not enough, each cell gets a line of its own. Moments and amounts are words.
    """
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        say(empty, file=sys.stderr)
        return
    from apex_exec.cli.facts import facts, for_people

    headings = columns if isinstance(columns, Mapping) else {key: key for key in columns}
    shown = [for_people(facts(row)) for row in rows]
    table = [[cell(row.get(key)) for key in headings] for row in shown]
    numbers = [all(isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool) for row in shown)
               for key in headings]
    if not sys.stdout.isatty():
        table = [[" ".join(text.split("\n")) for text in line] for line in table]
        say(_lines(list(headings.values()), table, numbers, _widths(list(headings.values()), table)))
        return
    import shutil

    say(_fitted(headings, table, numbers, shutil.get_terminal_size().columns))


def _widths(headings: list[str], table: list[list[str]]) -> list[int]:
    return [max(cell_len(line) for text in column for line in text.split("\n"))
            for column in zip(headings, *table, strict=True)]


def _fitted(headings: Mapping[str, str], table: list[list[str]], numbers: list[bool], width: int) -> str:
    """The table for a terminal of ``width`` columns; only free text gives way."""
    names = list(headings.values())
    widths = _widths(names, table)
    free = [index for index, key in enumerate(headings) if key in FREE_TEXT]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    if over > 0:
        least = {index: _least_width([names[index], *(line[index] for line in table)]) for index in free}
        room = sum(widths[index] for index in free) - over - sum(least.values())
        if not free or room < 0:
            longest = max(map(len, names))
            blocks = ([f"{name:<{longest}}{GAP}{text}" for name, text in zip(names, line, strict=True)]
                      for line in table)
            return "\n\n".join(map("\n".join, blocks))
        for done, index in enumerate(sorted(free, key=lambda index: widths[index] - least[index])):
            more = min(widths[index] - least[index], room // (len(free) - done))
            widths[index] = least[index] + more
            room -= more
    return _lines(names, table, numbers, widths, ruled=True)


def _least_width(texts: list[str]) -> int:
    """The least width of a column of free text at which no word is broken, such as a hook's name or a digest."""
    words = max((cell_len(word) for text in texts for word in text.split()), default=1)
    widest = max(map(cell_len, texts))
    return min(widest, max(FREE_WIDTH_MIN, min(words, WORD_WIDTH_MAX)))


def _lines(names: list[str], table: list[list[str]], numbers: list[bool], widths: list[int], *,
           ruled: bool = False) -> str:
    def line(cells: Sequence[str]) -> str:
        padded = []
        for text, width, right in zip(cells, widths, numbers, strict=True):
            space = " " * (width - cell_len(text))
            padded.append(space + text if right else text + space)
        return GAP.join(padded).rstrip()

    out = [line(names)]
    if ruled:
        out.append("─" * (sum(widths) + len(GAP) * (len(widths) - 1)))
    for row in table:
        wrapped = [_wrapped(text, width) for text, width in zip(row, widths, strict=True)]
        out += [line(cells) for cells in itertools.zip_longest(*wrapped, fillvalue="")]
    return "\n".join(out)


def _wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells: broken at spaces, within a word only if it is wider."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        if cell_len(paragraph) <= width:
            lines.append(paragraph)
            continue
        now = ""
        for word in paragraph.split(" "):
            if now and cell_len(now) + 1 + cell_len(word) <= width:
                now += " " + word
                continue
            if now:
                lines.append(now)
            *whole, now = chop_cells(word, width) or [""]
            lines += whole
        lines.append(now)
    return lines


def cell(value: Any) -> str:
    """``value`` as it stands in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple | set):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, dict):
        return clean(json.dumps(value, default=_plain, ensure_ascii=False))
    return clean(str(value))


@contextmanager
def progress(label: str, total: int = 0) -> Iterator[Callable[[str], None]]:
    """Shows on stderr that long work is running. The body calls the yielded function with the name of each step.

    On a terminal this is one line that changes (with a count if ``total`` is known), elsewhere a line for each step.
    """
    if not sys.stderr.isatty():
        say(f"{label} …", file=sys.stderr, flush=True)
        yield lambda step: say(f"  {step}", file=sys.stderr, flush=True)
        return
    done = 0

    def redraw(text: str) -> None:
        import shutil

        line = " ".join(clean(text).split("\n"))
        width = max(1, shutil.get_terminal_size().columns - 1)
        sys.stderr.write(f"\r\x1b[K{(chop_cells(line, width) or [''])[0]}")  # clean, and never more than one line
        sys.stderr.flush()

    def tell(step: str) -> None:
        nonlocal done
        done += 1
        redraw(f"{label}: {f'[{done}/{total}] ' if total else ''}{step}")

    redraw(f"{label} …")
    try:
        yield tell
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


STYLES = {"": "", "heading": "\x1b[7m", "warning": "\x1b[33m", "chosen": "\x1b[1;44;97m"}
"""What a line of ``Screen`` may look like."""


class Screen:
    """The whole terminal, drawn again and again; a context manager that restores the previous content at its end."""

    def __enter__(self) -> Screen:
        self._write("\x1b[?1049h\x1b[?25l")
        return self

    def __exit__(self, *_: object) -> None:
        self._write("\x1b[?25h\x1b[?1049l")

    def draw(self, lines: Sequence[tuple[str, str]]) -> None:
        """Shows ``lines``, each (style, text), cut where the terminal ends."""
        import shutil

        width, height = shutil.get_terminal_size()
        shown = [f"{STYLES[style]}{(chop_cells(clean(text), width) or [''])[0]}\x1b[0m\x1b[K"
                 for style, text in lines[:height]]
        self._write("\x1b[H" + "\r\n".join(shown) + "\x1b[J")

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise ReaderGone from None
