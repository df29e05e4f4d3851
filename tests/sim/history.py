"""One history from its seed: input for a while, faults all along, then silence until everything has come to rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from apex_exec.core import events as ev
from tests.sim.model import MS
from tests.sim.world import World


def run(seed: int, tell: Callable[[str], None] | None = None, record: Path | None = None) -> World:
    """Plays the history of ``seed``, and writes it to ``record`` even if it fails. Raises Broken, or whatever the core
    raised, if it does."""
    world = World(seed, tell, record is not None)
    try:
        _play(world)
    finally:
        if record is not None:
            world.recording.save(record)
    return world


def _play(world: World) -> None:
    rnd = world.random
    names = ("aaa", "bbb", "ccc")[: len(world.plugins)]
    pace_ns = rnd.choice((200_000, 2 * MS, 20 * MS))
    for _ in range(rnd.choice((20, 60, 120))):
        world.run_until(world.now_ns + rnd.randrange(2 * pace_ns))
        if rnd.random() < 0.02:
            world.run_until(world.now_ns + rnd.choice((100, 1000, 6000)) * MS)
        _input(world, rnd.choice(names))
        if world.operator.random() < world.operates:
            world.operate(world.operator.choice(names))
        if world.ledger.random() < world.stops:
            world.turn_ledger()
        if world.ledger.random() < world.takes and (taken := world.ledger.choice(names)) in world.plugins:
            world.take(taken)
    if rnd.random() < 0.2:
        after_ms = rnd.choice((1, 300, 5000))
        world.drain(after_ms)
        if world.ledger.random() < 0.5:  # dispatches go on from plugin to plugin
            for _ in range(12):
                world.run_until(world.now_ns + world.ledger.randrange(1, after_ms * MS // 5))
                world.ask(world.ledger.choice(names), "u1", world.ledger.choice((1, 100, 5000)))
    rest(world)


def _input(world: World, plugin: str) -> None:
    rnd = world.random
    for _ in range(rnd.choice((1, 1, 1, 2, 6))):
        world.ask(plugin, world.user(rnd.randrange(6)), rnd.choice((1, 20, 100, 500, 5000)))
    if world.hits("cancel") and world.open:
        world.cancel(rnd.choice(list(world.open)))
    if world.hits("toggle") and rnd.random() < 0.3:
        world.toggle(plugin)
    if plugin in world.plugins:
        if world.hits("upgrade"):
            world.upgrade(plugin)
        if world.hits("prepare"):
            world.prepare(plugin)
    if world.hits("stall"):
        world.stall(rnd.choice((10, 300, 30_000)) * MS, rnd.random() < 0.5)
    if world.hits("zygote") and rnd.random() < 0.2:
        world.lose_zygote()
    if world.hits("reconfigure") and rnd.random() < 0.3:
        world.reconfigure()
    if world.workers:
        _to_worker(world)


def _to_worker(world: World) -> None:
    rnd = world.random
    worker = world.workers[rnd.choice(list(world.workers))]
    if world.hits("throttle"):
        world.throttle(worker, True)
    if world.hits("samples"):
        worker.memory_bytes += rnd.choice((0, 100_000, 4_000_000))
        world.step(ev.WorkerSampled(worker.id, worker.memory_bytes, rnd.choice((0, 0, 0, 4000_000 * MS))))
    if world.hits("runs_on") and worker.alive and worker.ready:
        world.step(ev.WorkerRanOn(worker.id))
        if worker.alive and worker.link and not worker.killed:
            worker.doubted = worker.oldest_seq()
            world.step(ev.WorkerHesitates(worker.id))
    if world.hits("faulted") and rnd.random() < 0.3:
        world.fault(worker.spec.id)
    if world.hits("limits") and worker.alive and worker.forked:
        world.step(ev.LimitExceeded(worker.id, rnd.choice(("MEMORY_LIMIT", "CPU_LIMIT")), "over its bound"))
    if world.hits("idle_crash"):
        world._die(worker, "WORKER_CRASHED") if worker.forked else None


def rest(world: World) -> None:
    """No more input or faults: hooks end, hangs are killed, idle workers leave, and then nothing is left."""
    world.rates = dict.fromkeys(world.rates, 0.0)
    while world.refusing:
        world.turn_ledger()
    for _ in range(40):
        world.run_until(world.now_ns + 1000 * MS)
    for _ in range(30):
        world.run_until(world.now_ns + 10_000 * MS)
    world.invariants.final()
