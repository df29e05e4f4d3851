"""The languages that plugins may be written in, one row each.

Everything that differs between languages is reached from here: the module that runs its plugins in a worker, what the
zygote has loaded before it forks, and who reads a bundle's source before it is installed. What a zygote forks loads the
plugin itself, from memory.

One zygote serves all languages: what JavaScript needs costs it 2 MB and a worker of Python nothing, while a zygote of
its own would cost 19 MB, as many spares again, and a second start. Zygotes and warm pools can still be kept apart
(``zygote``, ``local.LocalExecutor``), for a language that cannot live beside the others.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apex_exec.sandbox.modules import ALLOWED, HIDDEN, REFUSED, WITHHELD


class Runtime(msgspec.Struct, frozen=True):
    """One language. ``name`` is what ``PluginSpec.runtime`` says."""

    name: str
    suffixes: tuple[str, ...]
    """How the names of entry points end."""
    module: str
    """The module of ``workers`` that runs its plugins; the zygote imports it."""
    scan: str
    """The module that reads a bundle's source, in a process of its own, before the bundle is installed."""
    zygote: str = "python"
    """The language by whose zygote its workers are forked."""
    fresh: bool = False
    """Whether every call can have an engine of its own (``isolation: "call"``)."""


PYTHON = Runtime("python", (".py",), "workers.python.runtime", "apex_exec.registry.scan.child")
JAVASCRIPT = Runtime("javascript", (".js", ".mjs"), "workers.javascript.runtime", "apex_exec.registry.scan.child",
                     fresh=True)
RUNTIMES = {runtime.name: runtime for runtime in (PYTHON, JAVASCRIPT)}


def boot(plan: dict[str, Any], extra_modules: list[str]) -> dict[str, Any]:
    """Returns what a zygote is started with. ``plan`` is the jail's; ``extra_modules`` are the operator's.

    ``preload`` are modules that a Python plugin may import; the zygote loads them, since a confined worker can read no
    file. ``hidden`` are modules that those import only when they are first used. ``refused`` are modules that the
    zygote itself needs and a plugin is not to find; ``withheld`` says why a module is kept from plugins. Python comes
    last: it sees what the others have loaded.
    """
    languages = {row.name: (list(row.suffixes), row.module) for row in reversed(RUNTIMES.values())}
    return {"jail": plan, "preload": [*ALLOWED, *extra_modules], "hidden": list(HIDDEN),
            "refused": [name for name in REFUSED if name not in extra_modules],
            "withheld": WITHHELD, "languages": languages}


def runtime_of(path: str) -> Runtime | None:
    """Returns the runtime of a source file, by its name; None if there is none for it."""
    return next((runtime for runtime in RUNTIMES.values() if path.endswith(runtime.suffixes)), None)


def zygote_of(runtime: str) -> str:
    """Returns the name of the zygote that forks workers of the language ``runtime``."""
    row = RUNTIMES.get(runtime)
    return row.zygote if row is not None else runtime
