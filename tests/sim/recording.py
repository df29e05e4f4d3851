"""A history in a file: how the pool was made, each event with its time, and what the pool wanted done about it.

Everything reaches the pool by events, so the file is all that a replay needs: neither the simulated world nor its seed
is asked again. ``python -m tests.sim --seed N --record FILE`` writes one, ``--replay FILE`` plays it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import Pool, PoolLimits, RecyclePolicy

EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in ev.Event.__args__}  # type: ignore[attr-defined]  # a union


class Differs(AssertionError):
    """The replay of a history wants other actions than the history did."""


class Recorded(Struct):
    """One step: ``event`` names the event's type, ``given`` is the event, ``wanted`` are the actions."""

    now_ns: int
    event: str
    given: Raw
    wanted: Raw


class Recording(Struct):
    """A history: what the pool was made with, and every step of it."""

    seed: int
    limits: PoolLimits
    breaker: BreakerPolicy
    recycle: RecyclePolicy
    steps: list[Recorded] = []

    def pool(self) -> Pool:
        """A pool as this history begins with. What it draws comes from the seed and from nothing else."""
        return Pool(self.limits, self.breaker, random.Random(f"pool {self.seed}").random, self.recycle)

    def add(self, now_ns: int, kind: type[Any], given: bytes, actions: list[act.Action]) -> None:
        """Keeps one step."""
        self.steps.append(Recorded(now_ns, kind.__name__, Raw(given), Raw(_named(actions))))

    def save(self, path: Path) -> None:
        """Writes the history to ``path``."""
        path.write_bytes(encode(self))


def encode(value: Any) -> bytes:
    """``value`` as MessagePack, the same bytes in every process (a set has an order in them)."""
    return msgspec.msgpack.encode(value, enc_hook=repr, order="deterministic")


def _named(actions: list[act.Action]) -> bytes:
    return encode([(type(action).__name__, action) for action in actions])


def replay(path: Path, tell: Callable[[str], None] | None = None) -> int:
    """Plays the history in ``path`` on a pool of its own; the number of its steps. Raises Differs at the first step
    that wants other actions than were written down."""
    history = msgspec.msgpack.decode(path.read_bytes(), type=Recording)
    pool = history.pool()
    for number, step in enumerate(history.steps):
        event = msgspec.msgpack.decode(step.given, type=EVENTS[step.event])
        actions = pool.step(event, step.now_ns)
        if tell is not None:
            tell(f"{(step.now_ns - 10**12) / 1e6:10.3f} ms  {event}")
            for action in actions:
                tell(f"{'':16}→ {action}")
        if (wanted := _named(actions)) != bytes(step.wanted):
            raise Differs(f"step {number}, {event}: the history wanted {msgspec.msgpack.decode(step.wanted)}, "
                          f"this pool wants {msgspec.msgpack.decode(wanted)}")
    return len(history.steps)
