"""Misbehaves: it never returns, and swallows every exception that it can."""

from typing import Any, NoReturn

plugin: dict[str, Any] = {"id": "spinner", "version": "1.0.0", "permissions": [], "hooks": {}}


def spin(params: dict[str, Any]) -> NoReturn:
    """Loops for ever."""
    while True:
        try:
            pow(3, 10**6)
        except BaseException:
            continue


plugin["hooks"]["onActionExecute"] = spin
