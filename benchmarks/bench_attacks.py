"""Plugins that attack their neighbours through what the daemon does for them, each way beside its own base.

Four plugins attack, another one (the victim) is called a hundred times a second. The base is the victim beside four
plugins that merely use their 10 % of CPU. Both are measured in the same daemon, in turn, so that what is compared is
what the machine made of both; ratios are printed, since absolute times are the machine's. The attackers declare no
permission (but for SQL: data:read) and write to their links themselves.
"""

from __future__ import annotations

import collections
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from apex_exec.ledger.reading import read_rows
from benchmarks.daemon import HOOK, USER, Daemon, Host, serving, write_bundle
from benchmarks.lab import Lab, Round

TITLE = "Attacks through what the daemon does for a plugin"
RATE = 100
ATTACKERS = 4
P50_MOST, P99_MOST, LEDGER_BYTES_MOST = 1.5, 2.0, 200_000
SECONDS_MAX = 1500
"""No further repetition begins if it might end after this time: one of every attack takes eight minutes on a machine
that does nothing else."""
ATTACKS: dict[str, dict[str, Any]] = {
    "ping flood": {"rate": 1}, "pings with no call pending": {"rate": 1}, "refused API calls": {"rate": 4},
    "dear results": {"rate": 5}, "widgets by the thousand, dispatched": {"rate": 2, "dispatch": True},
    "log lines of a megabyte": {"rate": 2}, "log lines in drips": {"rate": 2}, "dear SQL": {"rate": 1, "sql": True},
    "marks": {"rate": 1}, "allowed API calls": {"rate": 4, "permissions": ["events:emit"]},
    "lists for keys": {"rate": 4}, "effects of many lists": {"rate": 5, "permissions": ["events:emit"]},
    "spam in the name of old calls": {"rate": 4},
    "effects in frames": {"rate": 4, "permissions": ["events:emit"]}, "refused effects in frames": {"rate": 4},
    "API calls that are given up": {"rate": 2, "sql": True},
    "submissions": {},
}
"""How often each attacker is called a second; ``sql``: the victim queries as well."""

CODE = '''
import os
import time

import msgspec
from workers import ApiError, Plugin, wire

plugin = Plugin(id="{id}", version="1.0.0", permissions={permissions})
pack = msgspec.msgpack.encode


def frame(body):
    size = len(body)
    return bytes((0, size)) + body if size < 256 else b"\\x02" + size.to_bytes(8, "big") + body


def chains():
    one = b"\\x91" * 60 + b"\\xc0"
    nils = 980_000
    return (b"\\xdd" + (1090 + nils).to_bytes(4, "big") + one * 1090 + b"\\xc0" * nils)


def list_keys(count):
    whole, found, number = 2**64, [], 1
    first, second, begin = 11400714785074694791, 14029467366897019727, 2870177450012600261
    turn = lambda value, bits: (value << bits | value >> (64 - bits)) % whole
    wanted = turn((turn((begin + second) % whole, 31) * first + 12345 * second) % whole, 31)
    undone = pow(second, -1, whole)
    while len(found) < count:
        other = (turn(wanted, 33) - turn((begin + number * second) % whole, 31) * first) * undone % whole
        if other < 2**61 - 1:
            found.append(b"\\x92" + pack(number) + pack(other) + b"\\xc0")
        number += 1
    return b"\\xdf" + count.to_bytes(4, "big") + b"".join(found)


def widgets():
    one = pack({{"id": "w", "component": "C", "props": {{}}}})
    return b"\\x81" + pack("customWidgets") + b"\\xdd" + (26_000).to_bytes(4, "big") + one * 26_000


RESULTS = {{}}
PINGS = b"\\x04\\x07\\x04PING\\0\\0" * 9000
MEGABYTE = frame(pack(wire.Log("info", "x" * 1_000_000)))
SMALL = frame(pack(wire.Log("info", "x")))


def answers(worker, raw):
    """Has the worker answer with ready-made bytes, which costs it nothing."""
    worker._encoded = lambda seq, value, cpu: b"\\x94\\xa5reply" + pack(seq) + raw + b"\\x00"


def until(seconds, act):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        act()


def attack(context, how):
    worker = context.api._ask.__self__
    seq = context.api._seq
    if how == "ping flood":
        until(0.9, lambda: os.write(3, PINGS))
    elif how == "pings with no call pending":
        os.write(3, frame(b"\\x94\\xa5reply" + pack(seq) + pack({{"result": None, "metadata": {{}}}}) + b"\\x00"))
        until(0.9, lambda: os.write(3, PINGS))
    elif how in ("refused API calls", "allowed API calls"):
        method, params = ("insert", {{}}) if how[0] == "r" else ("emit", {{"event": "x"}})
        count = 3900 if how[0] == "r" else 900
        calls = [frame(pack(wire.ApiCall(seq, n, method, msgspec.Raw(pack(params))))) for n in range(count)]
        data = b"".join(calls)
        while data:
            data = data[os.write(3, data):]
        for _ in range(count):
            worker._host.next()
    elif how.endswith("effects in frames"):
        tries = [["emit", "x", {{"n": [1] * 20}}] for _ in range(16)]
        data = frame(pack(["effects", seq, tries])) * 60
        while data:
            data = data[os.write(3, data):]
    elif how == "API calls that are given up":
        params = msgspec.Raw(pack({{"sql": "SELECT n FROM notes ORDER BY n"}}))
        for n in range(1, 401):
            os.write(3, frame(pack(wire.ApiCall(seq, n, "query", params))) + frame(pack(wire.ApiCancel(seq, n))))
            worker._host.next()
    elif how == "spam in the name of old calls":
        data = b"".join(frame(pack(wire.ApiCall(max(0, seq - 1), n, "emit", wire.NIL))) for n in range(900))
        while data:
            data = data[os.write(3, data):]
        for _ in range(900):
            worker._host.next()
    elif how == "dear results":
        if how not in RESULTS:
            RESULTS[how] = b"\\x82" + pack("result") + chains() + pack("metadata") + b"\\x80"
        answers(worker, RESULTS[how])
    elif how == "lists for keys":
        if how not in RESULTS:
            RESULTS[how] = b"\\x82" + pack("result") + list_keys(20_000) + pack("metadata") + b"\\x80"
        answers(worker, RESULTS[how])
    elif how == "effects of many lists":
        raw = b"\\x82\\xa5event\\xa1x\\xa7payload\\xdc\\xea\\x60" + b"\\x90" * 60_000
        os.write(3, frame(pack(wire.ApiCall(seq, 1, "emit", msgspec.Raw(raw)))))
        worker._host.next()
    elif how == "log lines of a megabyte":
        for _ in range(300):
            os.write(3, MEGABYTE)
    elif how == "log lines in drips":
        for _ in range(900):
            for n in range(len(SMALL)):
                os.write(3, SMALL[n : n + 1])
    elif how == "dear SQL":
        columns = ", ".join(f"n + {{n}} AS c{{n}}" for n in range(280))
        def ask():
            try:
                context.api.query(f"SELECT {{columns}} FROM notes WHERE n = {{time.monotonic_ns()}}")
            except ApiError:
                pass
        until(0.9, ask)
    elif how == "marks":
        def mark():
            for fd in range(4, 8):
                try:
                    os.set_blocking(fd, False)
                    os.write(fd, b"m" * 4096)
                except OSError:
                    pass
        until(0.9, mark)
    elif how == "busy":
        until(2.0, lambda: None)


@plugin.hook("onActionExecute")
def act(context, params):
    attack(context, params["context"]["how"])
    return {{"result": None, "metadata": {{}}}}


@plugin.hook("onDashboardLoad")
def load(context, params):
    if "widgets" not in RESULTS:
        RESULTS["widgets"] = widgets()
    answers(context.api._ask.__self__, RESULTS["widgets"])
    return {{"customWidgets": []}}
'''
VICTIM = '''
from workers import Plugin
plugin = Plugin(id="victim", version="1.0.0", permissions=["data:read"])
@plugin.hook("onActionExecute")
def act(context, params):
    rows = context.api.query("SELECT n FROM notes LIMIT 3") if params["context"].get("sql") else []
    return {"result": rows, "metadata": {}}
'''
HOST = '''
import json, sys, time, msgspec, zmq
endpoint, plugins, how, rate, dispatch, user = (json.loads(a) for a in sys.argv[1:])
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(endpoint)
n, begun, out = 0, time.perf_counter(), {}
def send(key, message):
    global n
    n += 1
    out[n] = key
    socket.send(msgspec.msgpack.encode({**message, "id": n, "userId": user}))
due = {p: begun for p in (["all"] if dispatch else plugins)}
while True:
    now = time.perf_counter()
    for key in list(due):
        if due[key] <= now and key not in out.values():
            due[key] = now + 1 / rate
            if dispatch:
                send(key, {"type": "dispatch", "action": "onDashboardLoad", "payload": {"dashboardId": "d"}})
            else:
                send(key, {"type": "invoke", "plugin": key, "action": "onActionExecute",
                           "payload": {"action": "x", "context": {"how": how}}})
    while socket.poll(5):
        out.pop(msgspec.msgpack.decode(socket.recv())["id"], None)
'''
SUBMITTER = '''
import json, sys
from apex_exec.client.admin import AdminClient
endpoint, bundle = json.loads(sys.argv[1]), json.loads(sys.argv[2])
with AdminClient(endpoint) as admin:
    while True:
        try:
            admin.request("market.submit", {"submitter": "attacker", "path": bundle, "contact": "a@b.c",
                                            "responseHours": 4}, timeout_ms=600_000)
        except Exception as error:
            print(error, file=sys.stderr)
'''


def run(lab: Lab) -> None:
    """Adds the rows."""
    seconds = max(3, lab.scaled(10))
    table = [("attack", "victim p50", "victim p99", "failed", "AUDIT_UNAVAILABLE", "ledger kB/s a plugin", "")]
    begun = time.monotonic()
    for number in range(1, lab.repetitions + 1):
        for name, options in ATTACKS.items():
            lab.say(f"{number}/{lab.repetitions} {name}")
            _measure(lab, name, options, seconds)
        if number < lab.repetitions and (time.monotonic() - begun) * (number + 1) / number > SECONDS_MAX:
            lab.note(f"{number} of {lab.repetitions} repetitions: another one would take longer than {SECONDS_MAX} s")
            break
    for name in ATTACKS:
        if lab.row(name, "p50, ratio") is None:
            continue
        p50, p99 = lab.value(name, "p50, ratio") or 0.0, lab.value(name, "p99, ratio") or 0.0
        refused, grown = lab.value(name, "AUDIT_UNAVAILABLE") or 0.0, lab.value(name, "ledger growth a plugin") or 0.0
        failed = lab.value(name, "failed") or 0.0
        held = p50 <= P50_MOST and p99 <= P99_MOST and not refused and grown <= LEDGER_BYTES_MOST / 1000
        table.append((name, f"{p50:.2f} ×", f"{p99:.2f} ×", f"{failed:.0f}", f"{refused:.0f}", f"{grown:.0f}",
                      "held" if held else "NOT HELD"))
        lab.say(" · ".join(map(str, table[-1])))
    print("\n" + "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table), flush=True)
    lab.note(f"targets: p50 ≤ {P50_MOST} ×, p99 ≤ {P99_MOST} ×, no AUDIT_UNAVAILABLE, ledger ≤ "
             f"{LEDGER_BYTES_MOST // 1000} kB/s a plugin beyond the records of admitted invocations; ratios to the "
             "victim beside four busy plugins")


def _measure(lab: Lab, name: str, options: dict[str, Any], seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="apxp") as folder_name:
        folder = Path(folder_name)
        attackers = [f"attacker-{n}" for n in range(ATTACKERS)]
        busy = [f"busy-{n}" for n in range(ATTACKERS)]
        tables = {"tables": ["notes"]}
        for id_ in (*attackers, *busy):
            permissions = ["data:read"] if options.get("sql") and id_ in attackers else []
            if id_ in attackers:
                permissions = options.get("permissions", permissions)
            write_bundle(folder / "plugins", id_, CODE.format(id=id_, permissions=permissions),
                         [HOOK, "onDashboardLoad"] if options.get("dispatch") and id_ in attackers else [HOOK],
                         permissions, data=tables)
        write_bundle(folder / "plugins", "victim", VICTIM, permissions=["data:read"], data=tables)
        with closing(sqlite3.connect(folder / "data.db")) as database:
            database.execute("CREATE TABLE notes (id integer PRIMARY KEY, user_id text, n integer)")
            database.executemany("INSERT INTO notes VALUES (?, ?, ?)", [(n, USER, n) for n in range(20)])
            database.commit()
        config: dict[str, Any] = {
            "data__url": f"sqlite:///{folder}/data.db", "audit__min_free_bytes": 0,
            "data__tables": {"notes": {"owner": "user_id", "columns": ["id", "user_id", "n"]}}}
        with serving(folder / "plugins", scrape=False, state=folder / "state", **config) as daemon:
            host = Host(daemon.endpoint)
            context = {"sql": bool(options.get("sql"))}
            _victim(host, context, 1.0)
            with _beside(HOST, daemon.endpoint, busy, "busy", 1, False, USER):
                time.sleep(2.0)
                base, _ = _victim(host, context, seconds)
            time.sleep(1.0)
            before = _ledger_bytes(folder / "state" / "audit.db", attackers)
            begun = time.monotonic()
            with _attack(daemon, folder, name, options, attackers):
                time.sleep(2.0)
                round_, codes = _victim(host, context, seconds)
                passed = time.monotonic() - begun
            grown = _ledger_bytes(folder / "state" / "audit.db", attackers) - before
            host.close()
        lab.add(name, "p50, ratio", "×", round_.percentile(50) / base.percentile(50))
        lab.add(name, "p99, ratio", "×", round_.percentile(99) / base.percentile(99))
        lab.add(name, "p50 beside busy plugins", "µs", base.percentile(50))
        lab.add(name, "p99 beside busy plugins", "µs", base.percentile(99))
        lab.add(name, "p50", "µs", round_.percentile(50))
        lab.add(name, "p99", "µs", round_.percentile(99))
        lab.add(name, "failed", "calls", float(round_.failed))
        lab.add(name, "AUDIT_UNAVAILABLE", "calls", float(codes["AUDIT_UNAVAILABLE"]))
        lab.add(name, "ledger growth a plugin", "kB/s", grown / passed / ATTACKERS / 1000)


def _victim(host: Host, context: dict[str, Any], seconds: float) -> tuple[Round, collections.Counter[str]]:
    round_ = host.open_loop(["victim"], RATE, seconds, context, may_fail=True)
    return round_, round_.codes


def _ledger_bytes(path: Path, plugins: list[str]) -> int:
    """The ledger's records about ``plugins``, other than those of their invocations."""
    marks = [f'"resource":"{plugin}"'.encode() for plugin in plugins]
    time.sleep(0.3)  # what was handed over is committed
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        database.text_factory = bytes
        return sum(len(body) + 32 for _, body, _ in read_rows(database)
                   if b'"plugin.execution"' not in body and any(mark in body for mark in marks))


@contextmanager
def _attack(daemon: Daemon, folder: Path, name: str, options: dict[str, Any],
            attackers: list[str]) -> Iterator[None]:
    if name != "submissions":
        with _beside(HOST, daemon.endpoint, attackers, name, options["rate"], bool(options.get("dispatch")), USER):
            yield
        return
    processes = []
    for n in range(ATTACKERS):
        bundle = folder / f"submitted-{n}"
        write_bundle(folder, bundle.name, SUBMITTED.format(id=bundle.name))
        (bundle / "README.md").write_text("# A plugin\n")
        (bundle / "tests").mkdir()
        (bundle / "tests" / "test_plugin.py").write_text(SUBMITTED_TEST)
        processes.append(subprocess.Popen(
            [sys.executable, "-c", SUBMITTER, json.dumps(daemon.admin_endpoint),
             json.dumps(str(bundle))], stderr=subprocess.DEVNULL))
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


SUBMITTED = '''
from workers import Plugin
plugin = Plugin(id="{id}", version="1.0.0", permissions=[])
@plugin.hook("onActionExecute")
def act(context, params):
    return {{"result": 1, "metadata": {{}}}}
'''
SUBMITTED_TEST = '''
import time
def test_spin():
    end = time.monotonic() + 8
    while time.monotonic() < end:
        pass
'''


@contextmanager
def _beside(code: str, *arguments: Any) -> Iterator[None]:
    """Another process, as another host would be."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(json.dumps, arguments)])
    try:
        yield
    finally:
        process.kill()
        process.wait()
