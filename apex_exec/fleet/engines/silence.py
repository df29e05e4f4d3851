"""What an engine raises that does not answer."""

from __future__ import annotations


class EngineSilent(Exception):
    """The engine does not say who the members are; ``str()`` is one line for a person."""
