"""Misbehaves: takes all the memory it can get."""


def hoard(params):
    """Grows until refused."""
    kept = []
    while True:
        kept.append(bytearray(1024 * 1024))


plugin = {"id": "hoarder", "version": "1.0.0", "permissions": [], "hooks": {"onActionExecute": hoard}}
