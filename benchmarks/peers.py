"""What apex-exec could be replaced by, each behind the same two questions: how many calls a second, how long one.

Every peer runs the same hook (``echo``) on two processes and is driven from the same kind of client: one Python
process that keeps N calls in flight. None of them jails, validates, audits or measures what it runs. A peer that is
not installed says so and is left out (``pip install 'apex-exec[bench]'``).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from benchmarks import fixed_rate
from benchmarks.lab import Round

Run = Callable[[int, int, dict[str, Any]], Round]
"""(total calls, in flight, context) → the round."""
AtRate = Callable[[float, float, dict[str, Any]], Round]
"""(calls a second, seconds, context) → the round."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def echo(params: dict[str, Any]) -> dict[str, Any]:
    """The hook, as a function."""
    return {"result": params["context"], "metadata": {}}


def _futures(submit: Callable[[dict[str, Any]], Future[Any]]) -> Run:
    def run(total: int, in_flight: int, context: dict[str, Any]) -> Round:
        params = {"action": "echo", "context": context}
        done: queue.SimpleQueue[tuple[Future[Any], float]] = queue.SimpleQueue()
        latencies_us: list[float] = []
        clock = time.perf_counter

        def send() -> None:
            started = clock()
            future = submit(params)
            if in_flight == 1:
                done.put((future, started))
            else:  # not `concurrent.futures.wait`: it touches every pending future each time
                future.add_done_callback(lambda future: done.put((future, started)))

        begun, sent = clock(), 0
        while len(latencies_us) < total:
            while sent < total and sent - len(latencies_us) < in_flight:
                send()
                sent += 1
            future, started = done.get()
            future.result()  # waits, where it is the only one; raises where the call failed
            latencies_us.append((clock() - started) * 1e6)
        return Round(total / (clock() - begun), latencies_us)

    return run


def _futures_at_rate(submit: Callable[[dict[str, Any]], Future[Any]]) -> AtRate:
    def run(rate: float, seconds: float, context: dict[str, Any]) -> Round:
        return fixed_rate.over_futures(lambda: submit({"action": "echo", "context": context}), rate, seconds)
    return run


@contextmanager
def _process_pool() -> Iterator[tuple[Run, AtRate]]:
    with ProcessPoolExecutor(2) as pool:
        def submit(params: dict[str, Any]) -> Future[Any]:
            return pool.submit(echo, params)
        yield _futures(submit), _futures_at_rate(submit)


@contextmanager
def _pebble() -> Iterator[tuple[Run, AtRate]]:
    from pebble import ProcessPool

    pool = ProcessPool(2)
    def submit(params: dict[str, Any]) -> Future[Any]:
        future: Future[Any] = pool.schedule(echo, args=[params], timeout=5)
        return future
    try:
        yield _futures(submit), _futures_at_rate(submit)
    finally:
        pool.stop()
        pool.join()


@contextmanager
def process_pool() -> Iterator[Run]:
    """The standard library's pool."""
    with _process_pool() as (run, _):
        yield run


@contextmanager
def pebble() -> Iterator[Run]:
    """pebble: a pool that kills a task at its timeout. The nearest peer in what it promises."""
    with _pebble() as (run, _):
        yield run


@contextmanager
def loky() -> Iterator[Run]:
    """loky: joblib's reusable executor."""
    from loky import ProcessPoolExecutor as Loky

    pool: Executor = Loky(2)
    try:
        yield _futures(lambda params: pool.submit(echo, params))
    finally:
        pool.shutdown()


@contextmanager
def monty() -> Iterator[Run]:
    """pydantic-monty: a sandboxed interpreter of a Python subset, one hop, one call at a time."""
    from pydantic_monty import Monty

    with Monty(min_processes=1) as pool, pool.checkout() as session:
        session.feed_run('def echo(params):\n    return {"result": params["context"], "metadata": {}}\n')

        def run(total: int, in_flight: int, context: dict[str, Any]) -> Round:
            if in_flight > 1:
                raise LookupError("it takes one call at a time")
            params = {"action": "echo", "context": context}
            latencies_us = []
            begun = time.perf_counter()
            for _ in range(total):
                started = time.perf_counter()
                session.feed_run("echo(params)", inputs={"params": params})
                latencies_us.append((time.perf_counter() - started) * 1e6)
            return Round(total / (time.perf_counter() - begun), latencies_us)

        yield run


@contextmanager
def ray_actors() -> Iterator[Run]:
    """Two ray actors."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=100 * 1024 * 1024)
    try:
        actor = ray.remote(num_cpus=0)(_Echo)
        actors = [actor.remote(), actor.remote()]
        ray.get([a.echo.remote({"context": {}}) for a in actors])

        def run(total: int, in_flight: int, context: dict[str, Any]) -> Round:
            params = {"action": "echo", "context": context}
            pending: dict[Any, float] = {}
            latencies_us: list[float] = []
            begun, sent = time.perf_counter(), 0
            while len(latencies_us) < total:
                while sent < total and len(pending) < in_flight:
                    started = time.perf_counter()
                    pending[actors[sent % 2].echo.remote(params)] = started
                    sent += 1
                done, _ = ray.wait(list(pending), num_returns=1)
                ray.get(done)
                for reference in done:
                    latencies_us.append((time.perf_counter() - pending.pop(reference)) * 1e6)
            return Round(total / (time.perf_counter() - begun), latencies_us)

        yield run
    finally:
        ray.shutdown()


class _Echo:
    def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        """The hook, as an actor's method."""
        return echo(params)


# --- the floor: two hops of bare ZeroMQ, nothing decided in between
def _zmq_worker(endpoint: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as link:
        link.linger = 0
        link.connect(endpoint)
        while True:
            frames = link.recv_multipart()
            body = _decode(frames[-1])
            if body is None:
                return
            frames[-1] = _encode({"id": body["id"], "type": "result", "result": echo(body["payload"])})
            link.send_multipart(frames)


def _zmq_broker(front_endpoint: str, back_endpoints: list[str]) -> None:
    with zmq.Context() as context:
        front = context.socket(zmq.ROUTER)
        front.linger = 0
        front.bind(front_endpoint)
        backs = []
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        for endpoint in back_endpoints:
            back = context.socket(zmq.DEALER)
            back.linger = 0
            back.bind(endpoint)
            poller.register(back, zmq.POLLIN)
            backs.append(back)
        turn = 0
        while True:
            for ready, _ in poller.poll():
                with contextlib.suppress(zmq.Again):
                    for _ in range(64):
                        frames = ready.recv_multipart(zmq.NOBLOCK)
                        if ready is not front:
                            front.send_multipart(frames)
                            continue
                        turn += 1
                        backs[turn % len(backs)].send_multipart(frames)


@contextmanager
def zmq_two_hops() -> Iterator[Run]:
    """Client → ROUTER → DEALER → worker and back, libzmq on every hop, free placement."""
    with _zmq_two_hops() as (run, _):
        yield run


@contextmanager
def _zmq_two_hops() -> Iterator[tuple[Run, AtRate]]:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="apxz") as folder:
        front, backs = f"ipc://{folder}/front", [f"ipc://{folder}/back{n}" for n in range(2)]
        processes = [spawn.Process(target=_zmq_broker, args=(front, backs), daemon=True)]
        processes += [spawn.Process(target=_zmq_worker, args=(endpoint,), daemon=True) for endpoint in backs]
        for process in processes:
            process.start()
        with zmq.Context() as context, context.socket(zmq.DEALER) as client:
            client.linger = 0
            client.connect(front)

            def run(total: int, in_flight: int, context: dict[str, Any]) -> Round:
                payload = {"action": "echo", "context": context}
                return _closed_loop(total, in_flight, payload, client.send, client.recv)

            def at_rate(rate: float, seconds: float, context: dict[str, Any]) -> Round:
                payload = {"action": "echo", "context": context}
                return fixed_rate.over_socket(client, lambda n: _invoke(n, payload), rate, seconds)

            try:
                run(50, 4, {})  # both workers are there
                yield run, at_rate
            finally:
                for process in processes:
                    process.kill()
                    process.join()


def _invoke(number: int, payload: dict[str, Any]) -> bytes:
    return _encode({"id": number, "type": "invoke", "payload": payload})


def _closed_loop(total: int, in_flight: int, payload: dict[str, Any], send: Callable[[bytes], Any],
                 receive: Callable[[], bytes]) -> Round:
    sent_at: dict[int, float] = {}
    latencies_us: list[float] = []
    clock = time.perf_counter
    begun, sent = clock(), 0
    while len(latencies_us) < total:
        while sent < total and len(sent_at) < in_flight:
            sent_at[sent] = clock()
            send(_invoke(sent, payload))
            sent += 1
        reply = _decode(receive())
        latencies_us.append((clock() - sent_at.pop(reply["id"])) * 1e6)
    return Round(total / (clock() - begun), latencies_us)


# --- the physical limit: two hops of unix sockets, forwarded unread
def _socket_worker(fd: int) -> None:
    link = socket.socket(fileno=fd)
    while data := link.recv(1 << 20):
        body = _decode(data)
        link.send(_encode({"id": body["id"], "type": "result", "result": echo(body["payload"])}))


@contextmanager
def socket_two_hops() -> Iterator[Run]:
    """Client → forwarder → worker and back over SEQPACKET unix sockets, one call at a time."""
    client, front = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    back, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    children = []
    for role in ("worker", "forwarder"):
        pid = os.fork()
        if pid == 0:
            client.close()
            if role == "worker":
                front.close()
                back.close()
                _socket_worker(worker.detach())
            else:
                worker.close()
                while data := front.recv(1 << 20):
                    back.send(data)
                    front.send(back.recv(1 << 20))
            os._exit(0)
        children.append(pid)
    for end in (front, back, worker):
        end.close()

    def run(total: int, in_flight: int, context: dict[str, Any]) -> Round:
        if in_flight > 1:
            raise LookupError("it forwards one call at a time")
        payload = {"action": "echo", "context": context}
        return _closed_loop(total, 1, payload, client.send, lambda: client.recv(1 << 20))

    try:
        yield run
    finally:
        client.close()
        for pid in children:
            os.waitpid(pid, 0)


@contextmanager
def bubblewrap() -> Iterator[Run]:
    """A new ``bwrap`` and a new Python for every call: what one would script by hand."""
    program = shutil.which("bwrap")
    if program is None:
        raise ImportError("bwrap is not installed (Debian's package bubblewrap)")
    code = "import sys,json; p=json.load(sys.stdin); json.dump({'result':p['context'],'metadata':{}},sys.stdout)"
    base = Path(sys.base_prefix)
    command = [program, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev",
               str(base / "bin" / "python3") if (base / "bin" / "python3").exists() else sys.executable, "-I", "-c",
               code]

    def run(total: int, in_flight: int, context: dict[str, Any]) -> Round:
        if in_flight > 1:
            raise LookupError("one call at a time is enough to see it")
        body = msgspec.json.encode({"context": context})
        total = max(5, total // 100)
        latencies_us = []
        begun = time.perf_counter()
        for _ in range(total):
            started = time.perf_counter()
            subprocess.run(command, input=body, capture_output=True, check=True)
            latencies_us.append((time.perf_counter() - started) * 1e6)
        return Round(total / (time.perf_counter() - begun), latencies_us)

    yield run


PEERS: dict[str, Callable[[], contextlib.AbstractContextManager[Run]]] = {
    "bare unix socket, two hops": socket_two_hops,  # first: it forks, and the others have threads
    "ProcessPoolExecutor(2)": process_pool,
    "pebble(2, timeout 5)": pebble,
    "loky(2)": loky,
    "pydantic-monty": monty,
    "bare ZeroMQ, two hops": zmq_two_hops,
    "bubblewrap + python a call": bubblewrap,
}

RATED: dict[str, Callable[[], contextlib.AbstractContextManager[tuple[Run, AtRate]]]] = {
    "ProcessPoolExecutor(2)": _process_pool,
    "pebble(2, timeout 5)": _pebble,
    "bare ZeroMQ, two hops": _zmq_two_hops,
}
"""Those that can be driven at a fixed rate too."""

APART: dict[str, Callable[[], contextlib.AbstractContextManager[Run]]] = {"ray, two actors": ray_actors}
"""Peers that bring a crowd of busy processes: measured by themselves, so that nobody else pays for them."""
