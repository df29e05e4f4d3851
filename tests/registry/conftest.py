"""A registry on each database, with the supervisor's part played by ``Stage``."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import Settings
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import Refusal
from apex_exec.registry.arguments import OPERATIONS
from apex_exec.registry.bundles.blobs import BlobStore
from apex_exec.registry.bundles.bundle import Bundle, pack
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.context import Context
from apex_exec.registry.operations import HANDLERS
from apex_exec.registry.scan.findings import Report
from apex_exec.registry.store import Store

SECOND_NS = 1_000_000_000
BEGIN_NS = 1_800_000_000 * SECOND_NS


class Stage:
    """A registry whose clock and supervisor are the test's. ``served`` is what the supervisor was sent last."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self.now_ns = BEGIN_NS
        self.served: dict[str, PluginSpec] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fails: dict[str, Refusal] = {}
        self.declares: dict[str, Any] = {}
        self.report = Report(())
        self.points: list[str] = []
        self.context = Context(
            settings=Settings.model_validate({"state_dir": str(folder), **settings}), store=Store(url),
            blobs=BlobStore(folder / "bundles"), now_ns=lambda: self.now_ns, ask=self._ask, publish=self._publish,
            withdraw=lambda plugin: self.served.pop(plugin, None), scan=self._scan, at_point=self.points.append,
            uid=1000, lock=threading.RLock())

    def _scan(self, _files: dict[str, bytes], _manifest: Manifest) -> Report:
        return self.report

    def _publish(self, specs: list[PluginSpec]) -> None:
        self.served.update({spec.id: spec for spec in specs})

    def _ask(self, kind: str, params: dict[str, Any], _seconds: float) -> Any:
        self.asked.append((kind, params))
        if kind in self.fails:
            raise self.fails[kind]
        if kind == "probe":
            spec = params["spec"]
            return {"hooks": spec["hooks"], "permissions": spec["permissions"], "version": spec["version"],
                    "usesLoop": False, **self.declares}
        return {"executionTimeMs": 1.0, "digest": ""}

    def run(self, operation: str, **arguments: Any) -> Any:
        """One operation as the registrar runs it."""
        args = next(one.args for one in OPERATIONS if one.name == operation)
        return HANDLERS[operation](self.context, args(**arguments))

    def change(self, **parts: Any) -> None:
        """Other parts of the context from now on, as ``ask`` or ``settings``."""
        self.context = dataclasses.replace(self.context, **parts)

    def refused(self, operation: str, **arguments: Any) -> Refusal:
        """The refusal of an operation."""
        with pytest.raises(Refusal) as caught:
            self.run(operation, **arguments)
        return caught.value

    def install(self, bundle: Bundle, signatures: bytes = b"") -> Any:
        """``plugin.install`` of the bundle's bytes."""
        return self.run("plugin.install", bundle=pack(bundle, signatures))

    def later(self, seconds: float) -> None:
        """Time passes."""
        self.now_ns += int(seconds * SECOND_NS)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database, one of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    return str(request.getfixturevalue("postgres").url("registry"))


@pytest.fixture
def stage(tmp_path: Path, url: str) -> Iterator[Stage]:
    """An empty registry."""
    made = Stage(tmp_path / "state", url)
    yield made
    made.context.store.close()
