"""A submission's tests take minutes; nobody else's operation waits for them, and they get no more than their share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client import AdminClient, CallError
from apex_exec.daemon.administration import registrar
from apex_exec.daemon.administration.registrar import Submissions
from apex_exec.errors import Refusal
from apex_exec.market import service
from apex_exec.registry.bundles.bundle import pack
from tests.market.shops import write_bundle
from tests.support import need
from tests.support.bundles import bundle
from tests.support.daemon import Daemon, wait_for

SPIN = b"""import time


def test_spin():
    end = time.monotonic() + 600
    while time.monotonic() < end:
        pass
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    need(find_spec("coverage"), "coverage is not installed")
    with Daemon(plugins=None) as running:
        yield running


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 90_000)


@pytest.mark.slow
def test_an_installation_does_not_wait_for_a_submission(daemon: Daemon, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "sums", {"tests/test_sums.py": SPIN})
    done: list[Any] = []

    def submit() -> None:
        try:
            done.append(admin(daemon, "market.submit", submitter="ann", path=str(folder)))
        except Exception as error:  # noqa: BLE001 - the daemon ends before the tests do
            done.append(error)

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()

    def spinning() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):  # some process ended while we looked
            return [process for process in psutil.Process(daemon.pid).children(recursive=True)
                    if any("testing_child" in word for word in process.cmdline())]
        return []

    wait_for(spinning, 20, "the tests' process")
    child = spinning()[0]
    wait_for(lambda: child.children(recursive=True), 20, "the tests' zygote")
    assert {process.nice() for process in (child, *child.children(recursive=True))} == {19}
    assert admin(daemon, "plugin.install", bundle=pack(bundle()))["state"] == "installed"
    assert admin(daemon, "plugin.enable", id="sample")["state"] == "enabled"
    assert admin(daemon, "plugin.verify", id="sample")["id"] == "sample"
    assert not done and child.is_running(), "the submission is still at its tests"
    for _ in range(registrar.SUBMITTER_WAITING_MAX + 1):  # one more than may wait
        threading.Thread(target=submit, daemon=True).start()
    wait_for(lambda: done, 20, "a refusal")
    assert isinstance(done[0], CallError) and "too many submissions are waiting" in str(done[0])
    child.kill()


def test_a_submitter_whose_tests_cost_much_waits_and_another_goes_before() -> None:
    lane, work = Submissions(), (0, None, None, 0)
    for submitter in ("greedy", "greedy", "modest"):
        assert lane.put(submitter, work)  # type: ignore[arg-type]  # what is done is not looked at
    assert lane.get()[0] == "greedy"
    lane.spend("greedy", 500.0)
    assert lane.get()[0] == "modest"
    assert lane._queue.next_due_ns(0) is not None
    for _ in range(registrar.SUBMITTER_WAITING_MAX - 1):
        assert lane.put("greedy", work)  # type: ignore[arg-type]  # never run here
    assert not lane.put("greedy", work)  # type: ignore[arg-type]  # never run here
    assert lane.put("third", work)  # type: ignore[arg-type]  # never run here
    assert lane.get()[0] == "third", "and nobody waits with it"


def test_tests_that_are_too_long_to_be_proven_are_told_so() -> None:
    service._begun.at = time.monotonic() - 59
    with pytest.raises(Refusal) as refused:
        service._prove(None, None, {})  # type: ignore[arg-type]  # it is refused before they are looked at
    assert refused.value.reason == "tests_too_long" and "59 s" in refused.value.message
