"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import signal

from tests.support.postgres import postgres

__all__ = ["postgres"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background of a shell, where ctrl-C is ignored; children inherit that, and tests send them one.
    signal.signal(signal.SIGINT, signal.default_int_handler)

