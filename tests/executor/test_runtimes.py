"""The table of runtimes: what a plugin's language decides is reached from one row, and an unknown one is refused."""

from __future__ import annotations

import time
from importlib.util import find_spec

import msgspec
import pytest

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.errors import Refusal
from apex_exec.executor.processes.runtimes import PYTHON, RUNTIMES, Runtime, runtime_of, zygote_of
from apex_exec.executor.processes.runtimes import boot as boot_of
from apex_exec.executor.processes.zygote_keeper import ZygoteSource
from apex_exec.registry.bundles.bundle import make_bundle
from tests.support.executor import SPEC, PlayedExecutor, PlayedZygote


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_what_a_row_names_is_there(runtime: Runtime) -> None:
    assert find_spec(runtime.module) is not None and find_spec(runtime.scan) is not None
    assert all(runtime_of(f"src/plugin{suffix}") is runtime for suffix in runtime.suffixes)
    assert zygote_of(runtime.name) == PYTHON.name  # one zygote forks the workers of every language


def test_a_zygote_is_given_what_the_operator_adds_and_refuses_the_rest() -> None:
    boot = boot_of({"level": "L4"}, ["ctypes"])
    assert list(boot["languages"])[-1] == PYTHON.name  # it is prepared last: it sees what the others have loaded
    assert boot["jail"] == {"level": "L4"} and boot["preload"][-1] == "ctypes" and "json" in boot["preload"]
    assert "ctypes" not in boot["refused"] and "multiprocessing" in boot["refused"]


def manifest(entrypoint: str) -> bytes:
    return msgspec.json.encode({
        "id": "sample", "name": "Sample", "version": "1.0.0", "author": "A", "permissions": [],
        "manifest": {"entrypoint": entrypoint, "hooks": ["onDataFetch"]}})


def test_a_plugin_has_the_runtime_of_its_entry_point() -> None:
    from apex_exec.core.plugin import Limits

    for entrypoint, runtime in {"plugin.py": "python", "index.js": "javascript", "src/index.mjs": "javascript"}.items():
        bundle = make_bundle({"manifest.json": manifest(entrypoint), entrypoint: b""}, "here")
        assert bundle.spec(Limits()).runtime == runtime


@pytest.mark.parametrize("entrypoint", ["plugin.rb", "plugin", "plugin.ts", "plugin.cjs", "plugin.tsx", "plugin.JS"])
def test_a_language_without_a_row_is_refused(entrypoint: str) -> None:
    with pytest.raises(Refusal) as caught:
        make_bundle({"manifest.json": manifest(entrypoint), entrypoint: b""}, "here")
    assert caught.value.reason == "unsupported_runtime"


def test_no_worker_is_started_for_a_runtime_that_this_daemon_has_not() -> None:
    played = PlayedExecutor()
    played.executor.start(act.StartWorker(1, msgspec.structs.replace(SPEC, runtime="cobol")), time.monotonic_ns())
    played.turn()
    assert [event.worker for event in played.events if isinstance(event, ev.ForkRefused)] == [1]
    assert not played.zygote.links
    played.close()


def test_each_runtime_has_its_zygote_and_its_spares() -> None:
    other = PlayedZygote()
    played = PlayedExecutor(spares=1, more=[ZygoteSource("other", lambda: other, other)])  # type: ignore[arg-type,return-value]  # played
    played.executor.refill(time.monotonic_ns())
    played.turn()
    assert len(played.zygote.links) == len(other.links) == 1
    played.executor.start(act.StartWorker(1, SPEC), time.monotonic_ns())
    played.executor.start(act.StartWorker(2, msgspec.structs.replace(SPEC, runtime="other")), time.monotonic_ns())
    played.turn()
    assert 1 in played.zygote.links and 1 not in other.links
    assert 2 in other.links and 2 not in played.zygote.links
    played.close()
