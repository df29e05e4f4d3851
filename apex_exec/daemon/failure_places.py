"""Counts failures of plugins by their kind: version, code, class of the exception, line of the plugin's own code.

The registrar takes the counts every few seconds and holds them to the bundles (``market/releases/signatures.py``);
until then every text here is a plugin's word. Only failures come here, so a plain call pays nothing; and the table has
bounds, whether anybody takes it or not.
"""

from __future__ import annotations

from collections import Counter

from apex_exec.executor.outcome import own_place

KINDS_MAX = 2000
"""Kinds of failures that are kept apart until they are taken, of all plugins."""
KINDS_OF_PLUGIN_MAX = 50
"""Those of one plugin: what has no room is counted by its code alone."""
CODES_MAX = 20_000
"""Versions and codes that are counted at all: more than as many plugins as a daemon serves."""
EXCEPTION_CHARS_MAX, PLACE_CHARS_MAX = 100, 300

Kind = tuple[str, str, str, str, str]
"""plugin, digest, code, class of the exception, place; the last two may be ""."""


class FailurePlaces:
    """The counts since they were last taken."""

    def __init__(self) -> None:
        self._counts: Counter[Kind] = Counter()
        self._kinds: Counter[str] = Counter()

    def add(self, plugin: str, digest: str, code: str, exception: str, traceback: str) -> None:
        """Counts one failure; ``exception`` and ``traceback`` are "" if nothing was raised."""
        place = own_place(traceback, plugin)[:PLACE_CHARS_MAX] if traceback else ""
        kind = (plugin, digest, code, exception[:EXCEPTION_CHARS_MAX], place)
        counts = self._counts
        if kind not in counts:
            if len(counts) >= KINDS_MAX or self._kinds[plugin] >= KINDS_OF_PLUGIN_MAX:
                kind = (plugin, digest, code, "", "")
            if kind not in counts:
                if len(counts) >= CODES_MAX:
                    return
                self._kinds[plugin] += 1
        counts[kind] += 1

    def take(self) -> list[tuple[str, str, str, str, str, int]]:
        """Everything that was counted, each kind with its number; counting begins anew."""
        taken, self._counts, self._kinds = self._counts, Counter(), Counter()
        return [(*kind, count) for kind, count in taken.items()]
