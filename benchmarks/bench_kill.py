"""How late a hook that hangs is killed, how soon its plugin answers again, and how long a cold plugin takes."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.daemon import Host, context_of, serving, write_bundle, write_echo
from benchmarks.lab import Lab, Round

TITLE = "Cold start, kill, recovery"
MIXED = '''
from workers import Plugin
plugin = Plugin(id="{id}", version="1.0.0", permissions=[])
@plugin.hook("onActionExecute")
def run(params):
    while params["context"].get("hang"):
        pass
    return {{"result": None, "metadata": {{}}}}
'''
DEADLINE_MS = 60
COLD = "cold start, request to reply"


def run(lab: Lab) -> None:
    """Adds the rows."""
    kills = lab.scaled(60)
    colds = lab.scaled(100)
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        for n in range(kills):
            write_bundle(folder, f"mixed-{n:03}", MIXED.format(id=f"mixed-{n:03}"))
        for n in range(colds):
            write_echo(folder, f"cold-{n:03}")
        write_echo(folder, "echo-one")
        write_echo(folder, "echo-two")
        with serving(folder, limits__cpu_percent=100, breaker__ends=1000) as daemon:
            host = Host(daemon.endpoint)
            host.invoke("echo-one")
            lab.say("cold starts")
            _cold(lab, host, colds, COLD)
            lab.say("kills at rest")
            _kill(lab, host, [f"mixed-{n:03}" for n in range(kills // 2)], "at rest")
            _delays(lab, daemon.metrics(), "at rest")
            lab.say("kills at full load")
            stop = threading.Event()
            load = threading.Thread(target=_load, args=(daemon.endpoint, stop))
            load.start()
            _kill(lab, host, [f"mixed-{n:03}" for n in range(kills // 2, kills)], "at full load")
            stop.set()
            load.join()
            _delays(lab, daemon.metrics(), "in all")
            host.close()
        with serving(folder, limits__cpu_percent=100, pool__spare_workers=0) as daemon:
            host = Host(daemon.endpoint)
            host.invoke("echo-one")
            lab.say("cold starts without spare workers")
            _cold(lab, host, colds, f"{COLD}, pool.spare_workers = 0")
            host.close()


def _cold(lab: Lab, host: Host, count: int, row: str) -> None:
    """Cold starts one after the other, without a pause: spares are used up as fast as they come."""
    latencies_us = []
    for n in range(count):
        begun = time.perf_counter()
        reply = host.invoke(f"cold-{n:03}")
        latencies_us.append((time.perf_counter() - begun) * 1e6)
        if reply["type"] != "result" or not reply["usage"]["cold"]:
            raise SystemExit(f"not a cold start: {reply}")
    round_ = Round(0, latencies_us)
    for percent in (50, 90, 99):
        lab.add(row, f"p{percent}", "ms", round_.percentile(percent) / 1000, when="at rest")


def _kill(lab: Lab, host: Host, plugins: list[str], when: str) -> None:
    answered, again = [], []
    for plugin in plugins:
        host.invoke(plugin)
        begun = time.perf_counter()
        reply = host.invoke(plugin, {"hang": True}, deadlineMs=DEADLINE_MS)
        answered.append((time.perf_counter() - begun) * 1e6 - DEADLINE_MS * 1000)
        if reply.get("code") != "TIMEOUT":
            raise SystemExit(f"expected TIMEOUT: {reply}")
        begun = time.perf_counter()
        reply = host.invoke(plugin)
        again.append((time.perf_counter() - begun) * 1e6)
        if reply["type"] != "result":
            raise SystemExit(f"the plugin did not recover: {reply}")
    for name, figures in (("TIMEOUT answered after the deadline", answered), ("next call of the plugin", again)):
        round_ = Round(0, figures)
        for percent in (50, 90, 99):
            lab.add(name, f"p{percent}", "ms", round_.percentile(percent) / 1000, when=when)


def _delays(lab: Lab, metrics: str, when: str) -> None:
    """The daemon's own histogram, from the deadline to SIGKILL sent: the share of kills below each bound."""
    total = re.search(r"^apex_exec_kill_delay_seconds_count (\S+)", metrics, re.M)
    buckets = re.findall(r'^apex_exec_kill_delay_seconds_bucket\{le="([^"]+)"\} (\S+)', metrics, re.M)
    if total is None:
        lab.note("the daemon exports no kill_delay_seconds")
        return
    count = float(total[1])
    for bound in ("0.005", "0.02"):
        share = next((float(n) / count for le, n in buckets if abs(float(le) - float(bound)) < 1e-9), None)
        if share is not None:
            lab.add(f"SIGKILL sent within {float(bound) * 1000:g} ms of the deadline", "share", "%", share * 100,
                    when=when)


def _load(endpoint: str, stop: threading.Event) -> None:
    host = Host(endpoint)
    while not stop.is_set():
        host.rounds(["echo-one", "echo-two"], 2000, 64, context_of(100))
    host.close()
