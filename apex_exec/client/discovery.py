"""Finds a daemon on this machine if no endpoint is named: the usual folders, and who may own them.

An endpoint that is named explicitly is trusted. An endpoint that is searched for is not: everybody may make a folder in
/tmp where a daemon would have its own, and would get every request of a host that connected there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from apex_exec.client.errors import ConnectionLost


def look(socket: str, folders: Iterable[Path], *, any_owner: bool = False) -> tuple[str, str]:
    """(endpoint, "") of the first of ``folders`` with ``<socket>.sock`` that belongs to root or the caller; else ("",
    why existing ones were skipped). ``any_owner`` skips the owner check, for a folder that the caller named."""
    passed = ""
    for folder in folders:
        try:
            (folder / f"{socket}.sock").stat()
            owner = folder.stat().st_uid
        except PermissionError:
            passed += (f"; {folder} is another user's, uid {os.geteuid()} may not enter it: "
                       f"{remedy(folder / f'{socket}.sock')}")
        except OSError:
            continue
        else:
            if any_owner or owner in (0, os.geteuid()):
                return f"ipc://{folder}/{socket}.sock", ""
            passed += f"; {folder} was made by uid {owner}, name it with --runtime-dir if you trust that user"
    return "", passed


def remedy(path: Path) -> str:
    """What to do if a user may not connect to the socket ``path``. The administrators' endpoint is recognized by its
    usual name."""
    if path.name == "admin.sock":
        return ("run this as the daemon's user, or have admin.socket_group name a group of this user's and admin.roles "
                "give it a role")
    return "run this as the daemon's user, or have host.socket_group name a group of this user's"


def find(socket: str = "host") -> str:
    """The endpoint of this user's daemon, or of root's. ``socket`` is ``host`` or ``admin``. Raises ConnectionLost."""
    from apex_exec.config import runtime_candidates

    tried = runtime_candidates()
    endpoint, passed = look(socket, tried)
    if not endpoint:
        why = passed.replace("name it with --runtime-dir", "name the endpoint")
        raise ConnectionLost(f"no daemon: looked for {socket}.sock in {', '.join(map(str, tried))}"
                             f"{why or '; is `apex-exec serve` running?'}", False)
    return endpoint
