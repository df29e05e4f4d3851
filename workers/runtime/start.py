"""The entry point of the zygote's process, in a module that is cheap for its parent to import.

``ssl`` is kept out of the zygote, unless ``sandbox.extra_modules`` names it: asyncio would load it, few plugins can use
it, and its hundred memory mappings make every fork slower by a third of a millisecond (measured).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

def main(control: Connection, boot: dict[str, Any]) -> None:
    """The target of the spawned process; see ``workers.runtime.zygote.main``."""
    if "ssl" not in boot["preload"]:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # the import system's own sign for "may not be imported"
    from workers.runtime import zygote

    zygote.main(control, boot)
