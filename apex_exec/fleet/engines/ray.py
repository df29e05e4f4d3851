"""The engine ``ray``: the members that this machine's keeper has written down, from what Ray says of its nodes.

The daemon knows nothing of Ray: its ports take pickles, and a process that has joined Ray ends with it. The keeper
(``keeper.py``) is a process of Ray's, and writes a file beside the node's keys once a second. If Ray ends, the file
stays.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from apex_exec.common.files import replace_file
from apex_exec.fleet.engines.silence import EngineSilent
from apex_exec.fleet.statements import NAME

FILE = "members.ray"
FILE_BYTES_MAX = 64 * 1024
SILENT_SECONDS = 15.0
"""How long the keeper may write nothing before ``fleet status`` says so. A busy machine delays it for seconds."""


class Ray:
    """``keys_dir`` is ``fleet.keys_dir``, where the keeper writes."""

    def __init__(self, keys_dir: Path) -> None:
        self._path = keys_dir / FILE

    def members(self) -> set[str]:
        """The keeper's list. Raises EngineSilent if there is none, or if the keeper has ended."""
        try:
            age = time.time() - self._path.stat().st_mtime
            found = read(self._path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise EngineSilent(f"{self._path}: {why}; has `apex-exec fleet up` placed a keeper on this node?"
                               ) from None
        if age > SILENT_SECONDS:
            raise EngineSilent(f"the keeper has written nothing for {age:.0f} s; does Ray run on this machine? Start "
                               "it, and run `apex-exec fleet up` again")
        return found


def read(path: Path) -> set[str]:
    """The names in the file. Raises OSError, or ValueError if it is not a keeper's."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    try:
        names = msgspec.json.decode(data, type=list[str])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    if len(data) > FILE_BYTES_MAX or not all(map(NAME.fullmatch, names)):
        raise ValueError("it is not a list of nodes' names")
    return set(names)


def write(path: Path, names: set[str]) -> None:
    """Writes the list, and its time even if nothing else has changed. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, msgspec.json.encode(sorted(names)), sync_folder=False)
