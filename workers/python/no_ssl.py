"""The names of ``ssl`` for libraries that only mention them: ``from ssl import SSLContext`` in an annotation or an
``except``. A plugin has no network, and making one of these is an error that says so.

The real module is not there: it would make every fork slower (``workers.runtime.start`` says by how much).
"""

from __future__ import annotations

from typing import Any, NoReturn

from workers.python.preload import NO_NETWORK


def _refuse(*_arguments: Any, **_named: Any) -> NoReturn:
    raise RuntimeError(NO_NETWORK)


def __getattr__(name: str) -> type:
    """A class of that name that cannot be made; an error's can be caught. Raises AttributeError for other names."""
    if not name[:1].isupper() or name.isupper():
        raise AttributeError(f"a plugin has no ssl, and so no ssl.{name}: use context.api.fetch")
    base: type = OSError if name.endswith("Error") else object
    made = globals()[name] = type(name, (base,), {"__init__": _refuse, "__module__": "ssl"})
    return made
