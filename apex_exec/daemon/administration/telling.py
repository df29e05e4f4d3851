"""What the registrar has sent to the supervisor to be served, so that it sends only differences, and what may end.

A registry on a server is compared with what was sent every half minute, and the loop would spend a second on ten
thousand specs that are as they were. A registry that nobody shares is sent as it is read, and nothing is kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration import registrar_messages as messages

SPECS_A_MESSAGE = 200
"""Specs sent at once: a few milliseconds of the loop's time."""
RESTORED = "registry_restored"

Ends = dict[str, dict[str, int]]
"""plugin → user ("": everybody) → the moment (ns) at which the right to run it ends. What is not here does not end."""


class Telling:
    """``send`` writes a message to the supervisor. The registrar's lock is held around every method."""

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        self._send = send
        self._told: dict[str, PluginSpec] = {}
        self.keeps = False
        """Whether what is sent is kept, to be compared and stored: a registry on a server."""
        self.changed = False
        """Set when something else was sent; the part that stores it clears it."""
        self.held: set[str] = set()
        """Plugins that an older copy of the database would bring back, and that nobody has decided about since."""
        self.ends: Ends = {}

    @property
    def told(self) -> list[PluginSpec]:
        """Every spec that holds, where they are kept."""
        return list(self._told.values())

    def remember(self, specs: Iterable[PluginSpec]) -> None:
        """What was sent by an earlier run, which the supervisor of this one does not know."""
        self._told = {spec.id: spec for spec in specs}

    def some(self, specs: Iterable[PluginSpec]) -> None:
        """What has become of some plugins; the others stay."""
        made = [self._as_held(spec) for spec in specs]
        if self.keeps:
            made = [spec for spec in made if self._told.get(spec.id) != spec]
            self._told.update({spec.id: spec for spec in made})
            self.changed |= bool(made)
        for start in range(0, len(made), SPECS_A_MESSAGE):
            self._send(messages.Specs(messages.encoded(made[start : start + SPECS_A_MESSAGE])))

    def removed(self, plugin: str) -> None:
        """The plugin is served no longer."""
        if not self.keeps or self._told.pop(plugin, None) is not None:
            self.changed = True
            self._send(messages.Removed(plugin))

    def everything(self, specs: list[PluginSpec]) -> int:
        """All that is to be served, in place of all that was, in messages whose last one says so; how many."""
        made = [self._as_held(spec) for spec in specs]
        if self.keeps:
            self._told = {spec.id: spec for spec in made}
            self.changed = True
        for start in range(0, max(1, len(made)), SPECS_A_MESSAGE):
            part = messages.encoded(made[start : start + SPECS_A_MESSAGE])
            self._send(messages.Snapshot(part, start + SPECS_A_MESSAGE >= len(made)))
        return len(made)

    def differences(self, specs: list[PluginSpec]) -> None:
        """The same, for a supervisor that knows what was sent before: only what differs is sent."""
        self.some(specs)
        for plugin in self._told.keys() - {spec.id for spec in specs}:
            self.removed(plugin)

    # ------------------------------------------------------------------ an older copy of the database
    def hold(self, specs: Iterable[PluginSpec]) -> list[str]:
        """Keeps out of service what ``specs``, of a database that was set back, would bring back into it: whatever was
        disabled, quarantined or removed since the copy was made. Returns those plugins."""
        back = [spec.id for spec in specs if spec.state == "enabled" and (
            (before := self._told.get(spec.id)) is None or before.state != "enabled")]
        self.held.update(back)
        return sorted(back)

    def release(self, plugins: Iterable[str]) -> None:
        """Somebody has decided about these plugins since the database was set back."""
        if self.held and (found := self.held & set(plugins)):
            self.held -= found
            self.changed = True

    def _as_held(self, spec: PluginSpec) -> PluginSpec:
        if spec.id not in self.held or spec.state != "enabled":
            return spec
        return msgspec.structs.replace(
            spec, state="disabled", reason=f"{RESTORED}: the registry was set back to an older copy, in which this "
            f"plugin is still enabled; if it is to run, `apex-exec plugin disable {spec.id}` and enable it again")

    # ------------------------------------------------------------------ rights that end
    def end_rights(self, now_ns: int) -> None:
        """Ends what was paid for until now at the latest, from memory: the database may be gone."""
        over: list[PluginSpec] = []
        for plugin, users in self.ends.items():
            gone = {user for user, end_ns in users.items() if end_ns <= now_ns}
            spec = self._told.get(plugin)
            if not gone or spec is None:
                continue
            if spec.entitled is None and "" in gone:
                over.append(msgspec.structs.replace(spec, entitled=frozenset()))
            elif spec.entitled is not None and spec.entitled & gone:
                over.append(msgspec.structs.replace(spec, entitled=spec.entitled - gone))
        self.some(over)
