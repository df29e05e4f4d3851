"""pytest's plugin for authors: in a plugin's own folder, plain `pytest` runs its tests under the platform's rules.

It is an entry point of pytest, so it is loaded in every run of an environment that has apex-exec: it imports nothing
until it finds itself in the folder of a plugin. There the plugin's modules can be imported, ``FakePlatform`` refuses
what the daemon refuses, and tests may be coroutines. The jail is not part of it: `apex-exec plugin test` runs the same
tests there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

MANIFEST_BYTES_MAX = 65_536


def is_plugin_folder(folder: Path) -> bool:
    """Whether ``folder`` has a plugin's manifest and tests."""
    try:
        text = (folder / "manifest.json").read_bytes()[:MANIFEST_BYTES_MAX]
    except OSError:
        return False
    return b'"entrypoint"' in text and b'"hooks"' in text and (folder / "tests").is_dir()


def import_folders(root: Path) -> list[str]:
    """Where a plugin's modules are imported from, as in a worker: its own come before those of ``vendor/``."""
    vendor = root / "vendor"
    return [str(root), *([str(vendor)] if vendor.is_dir() else [])]


def pytest_configure(config: Any) -> None:
    """Makes the plugin's modules importable, and gives its tests the platform's rules."""
    root = Path(config.rootpath)
    if not is_plugin_folder(root):
        return
    folders = import_folders(root)
    sys.path[:] = [*folders, *(path for path in sys.path if path not in folders)]
    import importlib

    importlib.import_module("apex_exec.registry.trials.fake_rules")
    config.pluginmanager.register(_Coroutines(config.pluginmanager), "apex-exec-coroutines")


class _Coroutines:
    """Runs tests that are coroutines, unless a plugin of pytest that does so is there."""

    def __init__(self, plugins: Any) -> None:
        self._plugins = plugins

    def pytest_pyfunc_call(self, pyfuncitem: Any) -> bool | None:
        """Runs one test."""
        if self._plugins.hasplugin("asyncio") or self._plugins.hasplugin("anyio"):
            return None
        from workers.async_tests import run_coroutine

        return run_coroutine(pyfuncitem)
