"""Tests that are coroutines: each runs in an event loop of its own, in the jail and with plain pytest."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any


def run_coroutine(item: Any) -> bool | None:
    """Runs ``item``, a pytest function, if it is a coroutine function; None leaves it to pytest. What the test left
    running is cancelled."""
    if not inspect.iscoroutinefunction(item.obj):
        return None
    names = item._fixtureinfo.argnames
    asyncio.run(item.obj(**{name: item.funcargs[name] for name in names}))
    return True
