"""Misbehaves: ends its own process."""

import os


def crash(params):
    """Exits without an answer."""
    os._exit(3)


plugin = {"id": "crasher", "version": "1.0.0", "permissions": [], "hooks": {"onActionExecute": crash}}
