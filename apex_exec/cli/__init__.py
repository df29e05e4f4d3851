"""The command line: one verb a file. Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 no daemon."""

from __future__ import annotations

import importlib
import pkgutil

from apex_exec.cli.root import GROUPS, app
from apex_exec.cli.run import main

__all__ = ["app", "main"]

for _module in sorted(module.name for module in pkgutil.walk_packages(__path__, f"{__name__}.") if not module.ispkg):
    importlib.import_module(_module)  # each registers its verbs
for _name, _group in GROUPS.items():
    if _group.registered_commands or _group.registered_groups:
        app.add_typer(_group, name=_name)
