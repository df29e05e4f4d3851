"""What verbs print: tables for people, JSON for programs, progress for those who wait. Results go to stdout.

Nothing else in this package prints: what a plugin, a host or a file has named passes ``clean`` on its way out, here and
nowhere else, so that no word of theirs steers the terminal of whoever reads it. ``tests/cli`` holds every verb to it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

WIDTH_WITHOUT_TERMINAL = 240
"""A pipe has no width: nothing is cut there for the sake of a screen."""
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
"""C0 but tab and newline, DEL, C1 (U+009B is CSI to many terminals), what turns the direction of text, line separators,
and lone surrogates, which no encoding has."""


def clean(text: str) -> str:
    """``text`` with what steers a terminal written as ``\\u009b``: the same in JSON, where it stays the same string."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(*values: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """``print``, cleaned."""
    print(*(clean(str(value)) for value in values), end=end, file=file, flush=flush)


class Said:
    """A file that ``csv`` may write to: stdout, cleaned."""

    def write(self, text: str) -> int:
        """Prints ``text`` as it stands, its line ends too."""
        say(text, end="")
        return len(text)


def say_line(line: bytes) -> None:
    """One line of the ledger's own JSON, with its end. To a terminal cleaned; elsewhere byte for byte, since that is
    what was hashed."""
    if sys.stdout.isatty():
        say(line.decode("utf-8", "replace"), end="")
    else:
        sys.stdout.buffer.write(line)


def print_json(value: Any) -> None:
    """``value`` as JSON; on a terminal indented. Timestamps as ISO 8601, bytes as base64."""
    say(json.dumps(value, default=_plain, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def _plain(value: Any) -> Any:
    import base64

    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str], *, as_json: bool,
                empty: str = "nothing to show") -> None:
    """``rows`` as a table of ``columns`` (keys, or key → heading), or all of them as a JSON array.

    On a terminal long cells wrap; in a pipe every row is one line of columns two spaces apart.
    """
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        say(empty, file=sys.stderr)
        return
    headings = columns if isinstance(columns, Mapping) else {key: key for key in columns}
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False, padding=(0, 1),
                  show_edge=False)
    for key, heading in headings.items():
        right = all(isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool) for row in rows)
        table.add_column(heading, justify="right" if right else "left", no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*(Text(cell(row.get(key))) for key in headings))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    with console.capture() as captured:
        console.print(table)
    say("\n".join(line.rstrip() for line in captured.get().split("\n")).rstrip("\n"))


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
    """Shows on stderr that long work goes on; the body calls the given function with what it does now.

    On a terminal one line that changes (with a count where ``total`` is known), else one line a step.
    """
    if not sys.stderr.isatty():
        say(f"{label} …", file=sys.stderr, flush=True)
        yield lambda step: say(f"  {step}", file=sys.stderr, flush=True)
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    done = 0

    with console.status(clean(label)) as status:

        def tell(step: str) -> None:
            nonlocal done
            done += 1
            count = f"[{done}/{total}] " if total else ""
            from rich.text import Text

            status.update(Text(f"{label}: {count}{clean(step)}"))

        yield tell
