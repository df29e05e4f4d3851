"""A marketplace for tests: a fake clock, a registry store beside it, and a machine whose answers the test chooses."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from apex_exec.config import Settings, load_settings
from apex_exec.market.arguments import OPERATIONS
from apex_exec.market.operations import Operations
from apex_exec.market.releases.watching import Watching
from apex_exec.market.review.states import CHECKLIST
from apex_exec.market.review.workflow import Machine
from apex_exec.market.shop.entitlements import Entitlements
from apex_exec.market.shop.following import Following
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry import store as registry
from apex_exec.registry.store import Store
from apex_exec.registry.trials.testing import Proof, Run

USER = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
PLUGIN = b'''"""Sums."""


def total(values):
    if not values:
        return 0
    return sum(values)
'''
GOOD_RUN = Run(passed=2, arcs={"plugin.py": [(-1, 1), (1, 4), (4, -1), (-4, 5), (5, 6), (6, -4), (5, 7), (7, -4)]})
POOR_RUN = Run(passed=1, arcs={"plugin.py": [(-1, 1), (1, 4), (4, -1)]})
README = "# Sums\n\nAdds up orders.\n\n## Set-up\n\n    apex-exec plugin install sums\n\n## Example\n\nopen it\n"
PAID = {"model": "subscription", "amount": 1995, "currency": "USD", "interval": "month"}


def at(text: str) -> int:
    """Nanoseconds of a UTC moment."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def write_bundle(folder: Path, files: dict[str, bytes] | None = None, **change: Any) -> Path:
    """A bundle's folder; ``change`` goes into the manifest, ``files`` over the files (None's content removes one)."""
    manifest = {"id": "sums", "name": "Sums", "version": "1.0.0", "author": "ACME Corp", "permissions": [],
                "manifest": {"entrypoint": "plugin.py", "hooks": ["onDataFetch"]}} | change
    everything = {"manifest.json": json.dumps(manifest).encode(), "plugin.py": PLUGIN, "README.md": README.encode(),
                  "tests/test_sums.py": b"def test_it():\n    assert True\n"} | (files or {})
    for name, body in everything.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


class Market:
    """The operations of one marketplace, called as the registrar calls them."""

    def __init__(self, folder: Path, url: str, registry_url: str = "") -> None:
        self.now_ns = at("2026-10-01")
        self.settings: Settings = load_settings(None, {"state_dir": str(folder / "state"), "market.url": url})
        self.shop = Shop(self.settings, lambda: self.now_ns)
        self.store = Store(registry_url or f"sqlite:///{folder}/registry.db")
        self.context: Any = SimpleNamespace(uid=1000, store=self.store, audit=self._audit,
                                            at_point=lambda _point: None)
        self.audited: list[tuple[str, str, dict[str, Any]]] = []
        self.run: Run | Exception = GOOD_RUN
        self.proof = Proof()
        self.scan_errors: list[str] = []
        self.scan_warnings: list[str] = []
        self.scaffold = ""
        self.stopped: list[str] = []
        self.disabled: list[tuple[str, str, str]] = []
        self.entitlements = Entitlements(self.shop, self._disable)
        machine = Machine(lambda _context, _bundle: (self.scan_errors, self.scan_warnings), self._tests,
                          lambda *_: self.proof, lambda _bundle: self.scaffold,
                          lambda _context, digest, _reason: self.stopped.append(digest))
        self.following = Following(self.shop)
        self.seconds = 0.0
        self.watching = Watching(self.shop, self.following, lambda: self.seconds)
        self.operations = Operations(self.shop, machine, self.entitlements, self.watching)
        self.handlers = self.operations.handlers()

    def _audit(self, resource: str, action: str, metadata: dict[str, Any]) -> None:
        self.audited.append((resource, action, metadata))

    def _tests(self, _context: Any, _bundle: Any) -> Run:
        if isinstance(self.run, Exception):
            raise self.run
        return self.run

    def _disable(self, _context: Any, plugin: str, user: str, reason: str) -> None:
        self.disabled.append((plugin, user, reason))
        self.disable(plugin, user)

    def enable(self, plugin: str, user: str) -> None:
        """As the registry does it."""
        self.store.transact(lambda db: registry.open_enablement(db, plugin, user, self.now_ns))

    def disable(self, plugin: str, user: str) -> None:
        """As the registry does it."""
        self.store.transact(lambda db: registry.close_enablement(db, plugin, self.now_ns, user))

    def __call__(self, op: str, **args: Any) -> Any:
        """One operation; arguments and results pass the wire's types."""
        kind = next(one.args for one in OPERATIONS if one.name == op)
        found = self.handlers[op](self.context, msgspec.convert(args, kind))
        return msgspec.msgpack.decode(msgspec.msgpack.encode(found))

    def publish(self, folder: Path) -> dict[str, Any]:
        """A bundle from submission to publication."""
        shown = self("market.submit", path=str(folder), submitter="ann")
        assert shown["state"] == "in_review", shown["result"]
        self("market.approve", submission=shown["id"], reviewer="rita", reason="read it", digest=shown["digest"],
             checklist=list(CHECKLIST))
        done: dict[str, Any] = self("market.publish", submission=shown["id"], publisher="olga")
        return done

    def close(self) -> None:
        """Gives the databases back."""
        self.shop.close()
        self.store.close()
