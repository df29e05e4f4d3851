"""Which plugins a dispatch goes to, found without looking at the other plugins.

A dispatch names a hook and a user. A plugin that everybody may use stands in one list for each of its hooks; a plugin
that only some users may use stands in one list for each of these users. So the time that a dispatch takes grows with
the plugins that it may run, and not with all that are registered. The time that a change takes grows with what changes:
a purchase adds one user, and does not touch the thousands who have bought the plugin before.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from apex_exec.core.plugin import PluginSpec

Place = tuple[int, str]
"""(priority, id): the order in which plugins are dispatched to."""


class Subscribers:
    """The index. ``set`` and ``remove`` maintain it; ``of`` reads it."""

    def __init__(self) -> None:
        self._specs: dict[str, PluginSpec] = {}
        self._by_hook: dict[str, list[Place]] = {}
        self._by_user: dict[str, list[Place]] = {}

    def set(self, spec: PluginSpec) -> None:
        """The plugin is served by ``spec`` from now on."""
        before = self._specs.get(spec.id)
        if before is not None and _served(before) and _served(spec) and before.priority == spec.priority:
            old, new = _users(before), _users(spec)
            place = (spec.priority, spec.id)
            if old is not None and new is not None:
                _take_out(self._by_user, old - new, place)
                _put_in(self._by_user, new - old, place)
                self._specs[spec.id] = spec
                return
            if old is None and new is None:
                _take_out(self._by_hook, frozenset(before.hooks) - frozenset(spec.hooks), place)
                _put_in(self._by_hook, frozenset(spec.hooks) - frozenset(before.hooks), place)
                self._specs[spec.id] = spec
                return
        self.remove(spec.id)
        self._specs[spec.id] = spec
        if _served(spec):
            _put_in(*self._row(spec), (spec.priority, spec.id))

    def remove(self, plugin: str) -> None:
        """The plugin is served no longer."""
        spec = self._specs.pop(plugin, None)
        if spec is not None and _served(spec):
            _take_out(*self._row(spec), (spec.priority, spec.id))

    def of(self, hook: str, user_id: str) -> list[str]:
        """The plugins that declare ``hook`` and serve ``user_id``, in (priority, id) order."""
        found = self._by_hook.get(hook, ())
        if own := self._by_user.get(user_id):
            specs = self._specs
            found = sorted([*found, *(place for place in own if hook in specs[place[1]].hooks)])
        return [place[1] for place in found]

    def _row(self, spec: PluginSpec) -> tuple[dict[str, list[Place]], frozenset[str]]:
        """The index that ``spec`` stands in, and under which keys."""
        users = _users(spec)
        return (self._by_hook, frozenset(spec.hooks)) if users is None else (self._by_user, users)


def _served(spec: PluginSpec) -> bool:
    return spec.state == "enabled"


def _users(spec: PluginSpec) -> frozenset[str] | None:
    """Who is served; None for everybody. ``PluginSpec.barred`` says the same of one user."""
    if spec.users is None or spec.entitled is None:
        return spec.entitled if spec.users is None else spec.users
    return spec.users & spec.entitled


def _put_in(index: dict[str, list[Place]], keys: frozenset[str], place: Place) -> None:
    for key in keys:
        insort(index.setdefault(key, []), place)


def _take_out(index: dict[str, list[Place]], keys: frozenset[str], place: Place) -> None:
    for key in keys:
        places = index[key]
        del places[bisect_left(places, place)]
        if not places:
            del index[key]
