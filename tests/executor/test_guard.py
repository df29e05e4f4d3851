"""A duty of the loop that fails costs the plugin that it was done for, or a moment; never the daemon."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.executor.guard import REST_NS_MAX, TOLD_MAX, WELL_NS, Guard
from apex_exec.executor.loop import Loop
from apex_exec.observe.logs import Logs
from apex_exec.observe.metrics import Metrics
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host

BROKEN = '''
"""A daemon whose duties fail, one by one as a file says, for the plugins named so: by a bug that their data meets."""

import sys

ARMED = "{armed}"


def main():
    import importlib
    import os

    def armed():
        with open(ARMED) as file:
            return file.read()

    def once(*_):
        failed.append(armed())
        return failed.count(armed()) == 1

    def cursed(plugin):
        return plugin == "cursed-" + armed()

    failed = []
    for where, (module, owner, method, concerns) in {{
        "sample": ("executor.resource_monitor", "Governing", "_sample", lambda self, known, _: cursed(known.plugin)),
        "start": ("executor.local", "LocalExecutor", "start", lambda self, action, _: cursed(action.spec.id)),
        "send": ("executor.local", "LocalExecutor", "send", lambda self, action, _: cursed(action.request.plugin)),
        "flush": ("executor.links.worker_link", "WorkerLink", "flush", lambda self: cursed(self.spec.id)),
        "message": ("executor.links.worker_protocol", "WorkerProtocol", "_answered",
                    lambda self, link, *_: cursed(link.spec.id)),
        "verdict": ("daemon.hosts.verdicts", "Verdicts", "verdict",
                    lambda self, told: cursed(told.plugin) and not told.code),
        "end": ("executor.resource_monitor", "Governing", "worker_gone",
                lambda self, worker, _: cursed(self._workers[worker].plugin)),
        "zygote": ("executor.processes.forks", "Forks", "forked",
                   lambda self, n, *_: cursed(self.links[n].spec.id)),
        "charge": ("core.governor", "Governor", "charge", lambda self, plugin, *_: cursed(plugin)),
        "due": ("core.scheduler.watch", "Watch", "due", lambda self, worker, *_: cursed(worker.plugin)),
        "gauges": ("core.scheduler.pool", "Pool", "gauge", lambda self, plugin, _: cursed(plugin)),
        "timer": ("executor.processes.warm_pool", "WarmPool", "upkeep", lambda *_: True),
        "hosts": ("daemon.hosts.stream_peers", "StreamPeers", "flush", once),
        "ledger": ("daemon.sides.audit_trail", "AuditTrail", "_commit", once),
        "exporter": ("observe.metrics", "Metrics", "changes", once),
    }}.items():
        found = getattr(importlib.import_module("apex_exec." + module), owner)

        def fails(*args, where=where, concerns=concerns, real=getattr(found, method), **named):
            if armed() == where and concerns(*args, **named):
                raise RuntimeError("a bug in " + where)
            return real(*args, **named)

        setattr(found, method, fails)
    import signal
    send = signal.pidfd_send_signal

    def refused(pidfd, number, *rest):
        if armed() == "kill" and number == signal.SIGKILL:
            raise PermissionError(1, "Operation not permitted")
        return send(pidfd, number, *rest)

    signal.pidfd_send_signal = refused
    from apex_exec.cli import main as run
    sys.argv[0] = "apex-exec"
    run()


if __name__ == "__main__":
    main()
'''
OF_A_PLUGIN = ("sample", "start", "send", "flush", "message", "verdict", "end", "zygote", "charge", "due", "gauges")
OF_NOBODY = ("timer", "hosts", "exporter", "ledger")
SLOW = '''
import time

@plugin.hook("onActionExecute")
def act(context, params):
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
    if params["context"].get("sleep"):
        time.sleep(60)
    if params["context"].get("exit"):
        import os
        os._exit(3)
    return {"result": 1, "metadata": {}}
'''


class Broken(Daemon):
    """A daemon in which ``fail`` chooses the duty that fails from now on."""

    def __init__(self, folder: Path) -> None:
        for where in OF_A_PLUGIN:
            write_plugin(folder / "plugins", f"cursed-{where}", SLOW)
        for name in ("honest", "spared"):
            write_plugin(folder / "plugins", name, ECHO)
        write_plugin(folder / "plugins", "stuck", SLOW)
        self.armed, script, launch = folder / "armed", folder / "broken.py", folder / "launch.sh"
        script.write_text(BROKEN.format(armed=self.armed))
        launch.write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" "{script}" "$@"\n')
        launch.chmod(0o755)
        self.fail("")
        super().__init__(plugins=folder / "plugins", wrapper=[str(launch)], config={
            "sandbox.governor": "psutil", "limits.timeout_ms": 2500, "pool.spare_workers": 0})

    def fail(self, where: str) -> None:
        """``where`` is one of OF_A_PLUGIN and OF_NOBODY, or "" for none."""
        self.armed.with_suffix(".new").write_text(where)
        self.armed.with_suffix(".new").replace(self.armed)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    with Broken(tmp_path_factory.mktemp("broken")) as running:
        yield running


@pytest.mark.parametrize("where", OF_A_PLUGIN)
@pytest.mark.slow_after(4)
def test_a_duty_that_fails_for_one_plugin_quarantines_it_and_nobody_else(broken: Broken, where: str) -> None:
    cursed = f"cursed-{where}"
    with Host(broken.endpoint) as host:
        if where not in ("start", "zygote"):
            assert host.invoke(cursed, {})["type"] == "result"
        broken.fail(where)
        codes = [host.invoke(cursed, {"sleep": where == "due", "exit": where == "end"}).get("code")]
        for _ in range(100):
            assert host.invoke("honest", {"n": 1})["type"] == "result"
            codes.append(host.invoke(cursed, {}).get("code"))
            if codes[-1] == "QUARANTINED":
                break
            time.sleep(0.02)
        broken.fail("")
        assert codes[-1] == "QUARANTINED", (codes, broken.log[-3000:])
        assert host.invoke("honest", {"n": 2})["result"]["result"] == {"n": 2}
    wait_for(lambda: f"for plugin {cursed}, which is quarantined" in broken.log, 10, "its line")
    assert f"a bug in {where}" in broken.log
    wait_for(lambda: broken.get("/readyz")[0] == 200, 10, "one plugin's fault is no reason to be out of service; it")
    for state in ("starting", "draining"):  # the core does not wait for an end that it will never hear of
        broken.wait_metric(f'workers{{state="{state}"}}', 0.0)


def test_a_refused_kill_is_told_and_done_by_another_way(broken: Broken) -> None:
    with Host(broken.endpoint) as host:
        assert host.invoke("spared", {})["type"] == "result"
        (spared,), zygote = broken.pids("spared"), broken.zygote().pid
        broken.fail("kill")
        asked = host.send({"type": "invoke", "plugin": "stuck", "action": "onActionExecute", "userId": USER,
                           "payload": {"action": "a", "context": {"sleep": True}}})
        wait_for(lambda: broken.pids("stuck"), 5, "its worker")
        (stuck,) = broken.pids("stuck")
        assert host.reply(asked)["code"] == "TIMEOUT"
        wait_for(lambda: not os.path.exists(f"/proc/{stuck}"), 5, "the end of what could not be killed")
        assert host.invoke("stuck", {})["code"] == "QUARANTINED"
        broken.fail("")
        assert host.invoke("spared", {"n": 1})["type"] == "result"
    assert broken.pids("spared") == [spared] and broken.zygote().pid == zygote, "nobody else had to go for it"
    assert "the duty 'kill' of the supervisor failed for plugin stuck" in broken.log


@pytest.mark.parametrize("where", OF_NOBODY)
def test_a_duty_that_fails_for_nobody_is_told_and_the_daemon_goes_on(broken: Broken, where: str) -> None:
    broken.fail(where)
    with Host(broken.endpoint) as host:
        for _ in range(100):
            host.invoke("honest", {"n": 1})
            time.sleep(0.02)
            if f"a bug in {where}" in broken.log:
                break
        assert f"a bug in {where}" in broken.log
        wait_for(lambda: host.invoke("honest", {"n": 1})["type"] == "result", 5, "service")
    wait_for(lambda: broken.get("/readyz")[0] == 503, 5, "the health")
    assert "a duty of the supervisor fails" in broken.get("/readyz")[1]
    broken.fail("")
    wait_for(lambda: "duty_failures_total{" in broken.metrics(), 5, "the metric")


@pytest.fixture
def guard() -> Guard:
    with open(os.devnull, "w") as nowhere:
        return Guard(Metrics(), Logs(level="error", format="text", plugin_lines_per_second=1, folder=None,
                                     stream=nowhere))


def test_a_loop_whose_duty_always_fails_does_not_spin(guard: Guard) -> None:
    loop = Loop(guard=guard)
    read, write = os.pipe()
    os.write(write, b"x")  # ready for ever

    def handle(_: int) -> None:
        raise RuntimeError("a handler that never takes what is there")

    def turn() -> int:
        if time.monotonic_ns() > end_ns:
            loop.stop()
        raise RuntimeError("a turn that always fails")

    loop.add(read, handle)
    end_ns = time.monotonic_ns() + 1_000_000_000
    used = time.thread_time()
    loop.run(turn)
    assert time.thread_time() - used < 0.3
    assert guard._metrics.get("duty_failures_total", ("turn",)) < 60, "it rests longer and longer"
    assert guard._metrics.health["loop"]


def test_what_the_guard_remembers_is_bounded_and_ends(guard: Guard) -> None:
    for number in range(2 * TOLD_MAX):
        guard.failed("duty", ValueError(), f"p{number}")
        guard.failed("duty", ValueError())
    assert len(guard._told) <= TOLD_MAX and guard.rest_ns == REST_NS_MAX
    guard.upkeep(time.monotonic_ns() + WELL_NS + 1)
    assert not guard._metrics.health["loop"]
    guard.failed("duty", ValueError())
    assert guard.rest_ns < REST_NS_MAX
