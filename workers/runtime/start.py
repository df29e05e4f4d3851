"""Where the zygote's process begins: a module that costs its parent nothing to name.

``ssl`` is kept out of the zygote, unless the operator names it in ``sandbox.extra_modules``: asyncio would load it, few
plugins can use it, and its hundred mappings make every fork slower by a third of a millisecond (measured).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

def main(control: Connection, boot: dict[str, Any]) -> None:
    """Target of the spawned process; see ``workers.runtime.zygote.main``."""
    if "ssl" not in boot["preload"]:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # the import system's own sign for "may not be imported"
    from workers.runtime import zygote

    zygote.main(control, boot)
