"""The languages that plugins may be written in, one row each. Python is the only one today.

Everything that differs between languages is reached from here: how a zygote is started, what it has loaded before it
forks, and who reads a bundle's source before it is installed. What a zygote forks loads the plugin itself, from memory.
Zygotes and warm pools are kept per runtime (``local.LocalExecutor``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.sandbox.modules import ALLOWED, HIDDEN, REFUSED
from workers.runtime import start

if TYPE_CHECKING:
    from apex_exec.sandbox.bare import Connection


class Runtime(msgspec.Struct, frozen=True):
    """One language. ``name`` is what ``PluginSpec.runtime`` says."""

    name: str
    suffix: str
    """How the names of its source files end."""
    start: Callable[[Connection, dict[str, Any]], None]
    """What the zygote's process runs; ``boot`` says what it is given."""
    preload: tuple[str, ...]
    """Modules that a plugin may import; the zygote loads them, since a confined worker can read no file."""
    hidden: tuple[str, ...]
    """Modules that those import only when they are first used; loaded as well, if this machine has them."""
    refused: tuple[str, ...]
    """Modules that the zygote itself needs and a plugin is not to find."""
    scan: str
    """The module that reads a bundle's source, in a process of its own, before the bundle is installed."""

    def boot(self, plan: dict[str, Any], extra_modules: list[str]) -> dict[str, Any]:
        """Returns what a zygote is started with. ``plan`` is the jail's; ``extra_modules`` are the operator's."""
        return {"jail": plan, "preload": [*self.preload, *extra_modules], "hidden": list(self.hidden),
                "refused": [name for name in self.refused if name not in extra_modules]}


PYTHON = Runtime("python", ".py", start.main, ALLOWED, HIDDEN, REFUSED, "apex_exec.registry.scan.child")
RUNTIMES = {runtime.name: runtime for runtime in (PYTHON,)}


def runtime_of(path: str) -> Runtime | None:
    """Returns the runtime of a source file, by its name; None if there is none for it."""
    return next((runtime for runtime in RUNTIMES.values() if path.endswith(runtime.suffix)), None)
