"""The engine ``static``: the list in ``fleet.members``. Machines under systemd, which starts the daemons again."""

from __future__ import annotations

from collections.abc import Sequence


class Static:
    """The names that the operator wrote down; another list takes a restart."""

    def __init__(self, members: Sequence[str]) -> None:
        self._members = set(members)

    def members(self) -> set[str]:
        """The list."""
        return self._members
