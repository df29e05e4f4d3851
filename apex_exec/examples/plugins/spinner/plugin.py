"""Misbehaves: it never returns, and swallows every exception that it can."""

plugin = {"id": "spinner", "version": "1.0.0", "permissions": [], "hooks": {}}


def spin(params):
    """Loops for ever."""
    while True:
        try:
            pow(3, 10**6)
        except BaseException:
            continue


plugin["hooks"]["onActionExecute"] = spin
