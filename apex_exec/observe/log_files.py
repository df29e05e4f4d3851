"""Reads the end of a plugin's log file: lines with time and level, whatever ``log.format`` they were written in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec

TAIL_BYTES_MAX = 512 * 1024
"""How much of the newest end of a log is read: some thousands of ordinary lines."""
_TEXT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([A-Z]+) (.*)", re.S)


class _Entry(msgspec.Struct):
    time: str = ""
    level: str = "info"
    message: str = ""


def tail(folder: Path, plugin: str, count: int) -> list[dict[str, Any]]:
    """The latest ``count`` lines of ``plugin``, oldest first, each ``{at, level, text}``; of the older file too if the
    present one is short. A log that does not exist is empty. Blocks for a read of at most TAIL_BYTES_MAX."""
    path = folder / f"{plugin}.log"
    lines, room = _end_of(path, TAIL_BYTES_MAX)
    if len(lines) < count and room > 0:
        lines = _end_of(path.with_suffix(".log.1"), room)[0] + lines
    return [_read(line) for line in lines[-count:]] if count else []


def _end_of(path: Path, bytes_max: int) -> tuple[list[bytes], int]:
    """The whole lines within the last ``bytes_max`` bytes of a file, and how many of those bytes it does not have."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - bytes_max))
            lines = file.read(bytes_max).split(b"\n")
    except FileNotFoundError:
        return [], bytes_max
    # what follows the last line end is still being written; what precedes the first one may be half a line
    return lines[1 if size > bytes_max else 0 : -1], bytes_max - size


def _read(line: bytes) -> dict[str, Any]:
    text = line.decode("utf-8", "replace")
    if text.startswith("{"):
        try:
            entry = msgspec.json.decode(line, type=_Entry)
            return {"at": entry.time, "level": entry.level, "text": entry.message}
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # a line of another format that begins like an object
    found = _TEXT.fullmatch(text)
    if found is None:
        return {"at": "", "level": "info", "text": text}
    return {"at": found[1], "level": found[2].lower(), "text": found[3]}
