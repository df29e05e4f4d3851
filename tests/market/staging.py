"""One operator's registry, marketplace and ledger with one clock: a release in stages is published, installed, called.

The supervisor's part is played by ``Stage``; the stores, the ledger and the index are real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apex_exec.config import Settings
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.records import AuditRecord, ExecutionMetadata
from apex_exec.market.arguments import Publish
from apex_exec.market.review.states import CHECKLIST
from apex_exec.registry.bundles.bundle import pack, read_path
from tests.market.shops import USER, Market, write_bundle
from tests.registry.conftest import Stage

SECOND_NS = 10**9


class Operator:
    """``market`` and ``stage`` share the clock and the state folder. ``policy`` is ``market.halted``,
    ``market_url`` a marketplace that another operator has opened."""

    def __init__(self, folder: Path, url: str = "", policy: str = "keep", market_url: str = "") -> None:
        registry = url or f"sqlite:///{folder}/registry.db"
        self.folder = folder
        self.market = Market(folder, market_url or url or f"sqlite:///{folder}/market.db", registry)
        self.stage = Stage(folder / "state", registry)
        self.audited: list[tuple[str, str, dict[str, Any]]] = []
        self.measured: dict[str, float] = {}
        self.failed: list[tuple[str, str, str, str, str, int]] = []
        """What the supervisor has counted of failures."""
        self._asked = self.stage.context.ask
        self.stage.change(
            settings=Settings.model_validate({"state_dir": str(folder / "state"),
                                              "market": {"halted": policy}}),
            halted=lambda _context, digest: self.market.watching.halted(digest),
            audit=lambda plugin, action, metadata: self.audited.append((plugin, action, metadata)),
            ask=self._ask, measure=self._measure, now_ns=lambda: self.market.now_ns)
        self.watching = self.market.watching
        self.ledger = AuditStore(self.market.settings.state_path / "audit.db", self.market.settings.state_path)

    def _ask(self, kind: str, params: dict[str, Any], seconds: float) -> Any:
        if kind != "failures":
            return self._asked(kind, params, seconds)
        taken, self.failed = self.failed, []
        return taken

    def _measure(self, name: str, _labels: tuple[str, ...], value: float) -> None:
        self.measured[name] = value if not name.endswith("_total") else self.measured.get(name, 0) + value

    @property
    def context(self) -> Any:
        return self.stage.context

    def approved(self, version: str) -> dict[str, Any]:
        """A submission of ``sums`` that may be published."""
        folder = write_bundle(self.folder / f"sums-{version}", version=version)
        shown: dict[str, Any] = self.market("market.submit", path=str(folder), submitter="ann")
        self.market("market.approve", submission=shown["id"], reviewer="rita", reason="read it",
                    digest=shown["digest"], checklist=list(CHECKLIST))
        return shown

    def publish(self, submission: int, percent: int = 0) -> dict[str, Any]:
        """A stage, as the registrar runs the operation: with the whole context."""
        handler = self.market.handlers["market.publish"]
        done: dict[str, Any] = handler(self.context, Publish(submission=submission, publisher="olga", percent=percent))
        return done

    def install(self, version: str) -> Any:
        """A version of ``sums``, from its folder."""
        self.market.now_ns += SECOND_NS
        made = read_path(self.folder / f"sums-{version}")[0]
        served = self.stage.served.get("sums") is not None and self.stage.served["sums"].state != "registered"
        return self.stage.run("plugin.upgrade" if served else "plugin.install", bundle=pack(made))

    def call(self, good: int, bad: int = 0, code: str = "PLUGIN_ERROR", run_ms: float = 5.0) -> None:
        """Calls that ran, as the loop records them; a second passes before each."""
        records = []
        for number in range(good + bad):
            self.market.now_ns += SECOND_NS
            failed = number >= good
            records.append(AuditRecord(
                self.market.now_ns, "plugin.execution", USER, "sums", "onDataFetch",
                "failure" if failed else "success",
                ExecutionMetadata(run_ms, 18.0, code=code if failed else "")))
        self.ledger.append(records)

    def look(self) -> float:
        """One look of the thread that watches."""
        return self.watching.look(self.context)

    def served(self) -> str:
        """The version of ``sums`` that the supervisor serves."""
        return self.stage.served["sums"].version

    def close(self) -> None:
        """Gives everything back."""
        self.ledger.close()
        self.market.close()
        self.stage.context.store.close()
