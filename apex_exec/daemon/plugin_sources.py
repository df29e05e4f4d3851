"""Which plugins the daemon is to serve, and from which source: the one place that decides it.

A *source* says what it wants served. ``replace`` takes all that a source wants and puts it in the place of what the
source wanted before (``Snapshot`` takes the same in parts); ``update`` takes what has changed since. No caller computes
a difference: it is computed here, against what the pool serves. So the pool can always be derived from what the sources
say, whatever was missed or had failed in between.

If two sources want the same plugin, the one that comes first in ``SOURCES`` is served. As soon as that one no longer
wants it, the other one's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from apex_exec.core.plugin import PluginSpec

Source = Literal["folder", "registry"]
SOURCES: tuple[Source, ...] = ("folder", "registry")
"""The sources, strongest first: a developer who puts a plugin into ``plugins_dir`` wants to see that one run."""


class PluginSources:
    """What each source wants served.

    ``served(plugin)`` returns the spec that is served now, or None; ``serve(spec)`` and ``withdraw(plugin)`` change it.
    One of them that raises costs its own plugin only: ``failed(duty, error, plugin)`` is called, and the other plugins
    are served all the same. ``overruled(plugin, source, by)`` is called if what a source wants is not served because
    the stronger source ``by`` wants that plugin too. ``adjusted(spec)`` is what is served for a spec that a source
    wants; ``settle`` is called when that has changed.
    """

    def __init__(self, *, served: Callable[[str], PluginSpec | None], serve: Callable[[PluginSpec], None],
                 withdraw: Callable[[str], None], failed: Callable[[str, Exception, str], None],
                 overruled: Callable[[str, Source, Source], None],
                 adjusted: Callable[[PluginSpec], PluginSpec] = lambda spec: spec) -> None:
        self._served = served
        self._serve = serve
        self._withdraw = withdraw
        self._failed = failed
        self._overruled = overruled
        self._adjusted = adjusted
        self._wanted: dict[Source, dict[str, PluginSpec]] = {source: {} for source in SOURCES}

    def replace(self, source: Source, specs: Iterable[PluginSpec]) -> None:
        """``source`` wants exactly ``specs`` served from now on."""
        snapshot = Snapshot(self, source)
        snapshot.add(specs)
        snapshot.finish()

    def update(self, source: Source, specs: Iterable[PluginSpec] = (), removed: Iterable[str] = ()) -> None:
        """``source`` wants ``specs`` served as they are now and ``removed`` no longer; all else as before."""
        wanted = self._wanted[source]
        for plugin in removed:
            wanted.pop(plugin, None)
            self.settle(plugin)
        for spec in specs:
            wanted[spec.id] = spec
            winner = self.winner(spec.id)
            if winner is not None and winner != source:
                self._overruled(spec.id, source, winner)
            self.settle(spec.id)

    def wanted(self, source: Source) -> frozenset[str]:
        """The ids of what ``source`` wants served, whatever state they are in."""
        return frozenset(self._wanted[source])

    def winner(self, plugin: str) -> Source | None:
        """The strongest source that wants ``plugin`` served; None if none does."""
        return next((source for source in SOURCES if plugin in self._wanted[source]), None)

    def settle(self, plugin: str) -> None:
        """Has the pool serve ``plugin`` as the sources want it; does nothing if it already does."""
        winner = self.winner(plugin)
        try:
            if winner is None:
                if self._served(plugin) is not None:
                    self._withdraw(plugin)
            else:
                spec = self._adjusted(self._wanted[winner][plugin])
                if self._served(plugin) != spec:
                    self._serve(spec)
        except Exception as error:
            self._failed("serving what the sources want", error, plugin)


class Snapshot:
    """All that ``source`` wants served, while it arrives in parts: ten thousand specs at once would take the loop a
    second. Each part is served as it comes; ``finish`` withdraws what no part had. A snapshot that is never finished
    withdraws nothing."""

    def __init__(self, sources: PluginSources, source: Source) -> None:
        self._sources = sources
        self._source = source
        self._arrived: set[str] = set()

    def add(self, specs: Iterable[PluginSpec]) -> None:
        """The next part."""
        part = list(specs)
        self._arrived.update(spec.id for spec in part)
        self._sources.update(self._source, part)

    def finish(self) -> None:
        """There are no more parts."""
        self._sources.update(self._source, removed=sorted(self._sources.wanted(self._source) - self._arrived))
