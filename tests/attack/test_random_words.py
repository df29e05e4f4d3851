"""Random messages on a worker's link, of every kind and with extremes in every field: the daemon serves on."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.daemon import ECHO, Daemon, write_plugin
from tests.support.host import Host, action

PERMISSIONS = ("events:emit", "ui:render", "data:read", "data:write", "network:fetch")
SPEAKER = r'''
import os
import random
import time

import msgspec

INTEGERS = [0, 1, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, 4096]
KEYS = ["result", "metadata", "sql", "params", "table", "values", "where", "event", "payload", "component", "props",
        "url", "method", "headers", "body", "id", "customWidgets", "transformedData"]
TEXTS = ["", "x", "x" * 300, "x" * 9000, "\x00\x1b\u202e\x9b", "/../..", "__proto__", "permission_denied", "query"]
METHODS = ["query", "insert", "upsert", "update", "delete", "renderWidget", "emit", "fetch", "call", "none", "\x1b"]


def framed(body):
    size = len(body)
    return bytes((0, size)) + body if size < 256 else b"\x02" + size.to_bytes(8, "big") + body


def value(draw, depth=0):
    kind = draw.randrange(14)
    if kind < 6:
        return [None, draw.choice(INTEGERS), draw.choice([float("nan"), float("inf"), -0.0, 5e-324, 1e308]),
                draw.choice(TEXTS), draw.randbytes(draw.randrange(40)), True][kind]
    if kind == 6:
        return msgspec.msgpack.Ext(draw.choice([-1, 0, 5, 127, -128]), draw.randbytes(draw.choice([0, 4, 8, 12, 15])))
    if depth > 6:
        return 0
    if kind < 10:
        return [value(draw, depth + 1) for _ in range(draw.randrange(5))]
    return {draw.choice(KEYS): value(draw, depth + 1) for _ in range(draw.randrange(5))}


def tried(draw):
    one = [draw.choice(["emit", "emit", "renderWidget", "query", "\x1b"]), draw.choice(TEXTS), value(draw)]
    if draw.random() < 0.4:
        one += [draw.choice(["", "permission_denied", "effect_limit", "audit_unavailable", "none"]),
                draw.choice([1, 1, 2, 4000, 2**31, *INTEGERS])]
    return one


def message(draw, seq):
    tag = draw.choice(["booted", "ready", "failed", "reply", "reply", "raised", "raised", "bad_output", "bad_input",
                       "skipped", "api", "api", "api", "log", "pong", "tested", "placed", "call", "load", "effects",
                       "effects", "effects", "api_cancel", "ended", "blocked"])
    number = draw.choice([seq, seq, seq, seq + 1, max(0, seq - 1), 2**63 - 1, -1, 2**64 - 1])
    body = {
        "reply": lambda: [number, value(draw), draw.choice(INTEGERS)],
        "raised": lambda: [number, draw.choice(TEXTS), draw.choice(TEXTS), "t", draw.choice(INTEGERS),
                           draw.choice(["", "permission_denied", "rate_limited", "deadline_exceeded", "none"]),
                           draw.choice(METHODS), draw.choice(INTEGERS), draw.choice([True, False])],
        "bad_output": lambda: [number, draw.choice(TEXTS), draw.choice(TEXTS), draw.choice(INTEGERS)],
        "bad_input": lambda: [number, draw.choice(TEXTS), draw.choice(INTEGERS)],
        "skipped": lambda: [number],
        "api": lambda: [number, draw.choice([0, 1, 2, 3, 2**63 - 1]), draw.choice(METHODS), value(draw)],
        "log": lambda: [draw.choice(["info", "critical", "none", "\x1b"]), draw.choice(TEXTS) * draw.choice([1, 9])],
        "pong": lambda: [draw.choice(INTEGERS)], "ended": lambda: [number, draw.choice(INTEGERS)],
        "blocked": lambda: [number], "api_cancel": lambda: [number, draw.choice([0, 1, 2, 3, 2**63 - 1])],
        "effects": lambda: [number, [tried(draw) for _ in range(draw.choice([0, 1, 2, 16, 17]))]],
    }.get(tag, lambda: [value(draw) for _ in range(draw.randrange(7))])()
    body = [tag, *body]
    if draw.random() < 0.1:
        body = body[: draw.randrange(1, len(body) + 1)]
    if draw.random() < 0.1:
        body.append(value(draw))
    raw = bytearray(msgspec.msgpack.encode(body))
    if draw.random() < 0.1:
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    return framed(bytes(raw))


@plugin.hook("onActionExecute")
HOW def act(context, params):
    draw, seq = random.Random(params["context"]["seed"]), context.api._seq
    os.write(3, b"".join(message(draw, seq) for _ in range(draw.choice([1, 1, 2, 5]))))
    if draw.random() < 0.5:
        os.write(3, framed(msgspec.msgpack.encode(["reply", seq, {"result": 1, "metadata": {}}, 0])))
    WAIT(0.02)
    return {"result": value(draw), "metadata": {}}
'''


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 2000), marks=pytest.mark.slow)],
                         ids=["20", "1,980"])
def test_whatever_a_worker_says_the_daemon_serves_on(tmp_path: Path, seeds: range) -> None:
    data = {"tables": ["notes"]}
    for n in range(3):
        write_plugin(tmp_path / "plugins", f"speaker-{n}", SPEAKER.replace("HOW ", "").replace("WAIT", "time.sleep"),
                     permissions=PERMISSIONS, data=data, network={"allow": ["example.com"]}, limits={"timeoutMs": 400})
    write_plugin(tmp_path / "plugins", "several", "import asyncio\n" + SPEAKER.replace("HOW ", "async ").replace(
        "WAIT", "await asyncio.sleep"), permissions=PERMISSIONS, data=data, limits={"concurrency": 4, "timeoutMs": 400},
        network={"allow": ["example.com"]}, settings={"properties": {"word": {"type": "string", "secret": True}}})
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    with closing(sqlite3.connect(tmp_path / "data.db")) as database:
        database.execute("CREATE TABLE notes (id integer PRIMARY KEY, user_id text, n integer)")
    codes: Counter[str] = Counter()
    config = {
        "breaker.ends": 1_000_000, "breaker.open_seconds": 0.001, "breaker.backoff_min_seconds": 0.001,
        "breaker.backoff_max_seconds": 0.002, "limits.cpu_percent": 100,
        "data.url": f"sqlite:///{tmp_path}/data.db",
        "data.tables": {"notes": {"owner": "user_id", "columns": ["id", "user_id", "n"], "write": True}}}
    with Daemon(plugins=tmp_path / "plugins", config=config) as running, Host(running.endpoint) as host:
        for seed in seeds:
            time.sleep(0.01)  # the breaker opens with each violation, and lets the next worker come
            asked = [host.send(action(f"speaker-{seed % 3}", {"seed": seed})),
                     *(host.send(action("several", {"seed": 1_000_000 + 4 * seed + n})) for n in range(4))]
            for reply in map(host.reply, asked):
                codes[reply.get("code", "ok")] += 1
                assert reply.get("code") != "INTERNAL", f"seed {seed}: {reply}"
            if not seed % 20:
                assert host.invoke("echo", {"n": seed})["type"] == "result", f"seed {seed}"
        assert codes["WORKER_VIOLATION"] and (len(codes) > 2 or len(seeds) < 100), codes
        assert "apex_exec_duty_failures_total{" not in running.metrics()
        status, why = running.get("/readyz")
        assert status == 200, why
        assert "Traceback (most recent call last):\n" not in running.log
        assert not set("\x1b\x9b‮") & set(running.log)
