"""The plugins that a dispatch goes to, by the index, against a look at every plugin."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import Pool, PoolLimits
from apex_exec.core.scheduler.subscribers import Subscribers

HOOKS, USERS = ("onA", "onB", "onC"), ("u1", "u2", "u3", "u4")
some_users = st.none() | st.frozensets(st.sampled_from(USERS))
specs = st.builds(
    PluginSpec, id=st.sampled_from([f"p{n}" for n in range(6)]), version=st.just("1.0.0"), digest=st.just("d"),
    entrypoint=st.just("plugin.py"), hooks=st.sets(st.sampled_from(HOOKS)).map(tuple),
    priority=st.sampled_from((1, 50, 100)), state=st.sampled_from(("enabled", "enabled", "enabled", "disabled")),
    users=some_users, entitled=some_users)
changes = st.lists(specs | st.sampled_from([f"p{n}" for n in range(6)]), max_size=30)


@settings(deadline=None, max_examples=150)
@given(changes)
def test_a_dispatch_goes_to_whom_a_look_at_every_plugin_finds(made: list[PluginSpec | str]) -> None:
    """After any changes of plugins: versions, hooks, priorities, users, purchases, refunds, states, removals."""
    pool = Pool(PoolLimits(), BreakerPolicy(), random.random)
    for now_ns, change in enumerate(made, 1):
        pool.step(ev.PluginRemoved(change) if isinstance(change, str) else ev.PluginSet(change), now_ns)
        for hook in HOOKS:
            for user in (*USERS, "nobody"):
                assert pool.subscribers(hook, user) == [
                    spec.id for spec in pool.specs() if hook in spec.hooks and not spec.barred(user)]


def test_nothing_is_kept_of_what_is_gone() -> None:
    index = Subscribers()
    for n in range(50):
        users = frozenset(f"u{m}" for m in range(n)) if n % 2 else None
        index.set(PluginSpec(f"p{n}", "1.0.0", "d", "plugin.py", HOOKS, users=users))
    assert all(vars(index).values())
    for n in range(50):
        index.remove(f"p{n}")
    assert not any(vars(index).values())
