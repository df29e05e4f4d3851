"""What the registrar has done in jailed workers: a probe, a canary or a smoke call that fails leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.daemon.administration.jail_requests import PROBES_MAX
from apex_exec.daemon.sides.result_checks import is_dear
from apex_exec.registry.bundles.bundle import pack
from tests.support.bundles import bundle
from tests.support.daemon import USER, Daemon, wait_for

HOOK = '''
import time
from workers import Plugin

plugin = Plugin(id="sample", version="{version}", permissions=["ui:render"])


@plugin.hook("onDashboardLoad")
def load(params):
    {body}
    return {{"customWidgets": []}}
'''


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(plugins=None) as running:
        admin(running, "plugin.install", bundle=version("1.0.0", "pass"))
        admin(running, "plugin.enable", id="sample")
        yield running


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 60_000)


def version(number: str, body: str) -> bytes:
    return pack(bundle(code=HOOK.format(version=number, body=body), version=number))


def answers(daemon: Daemon) -> bool:
    with Client(daemon.endpoint) as client:
        return bool(client.invoke("sample", "onDashboardLoad", USER, {"dashboardId": "d"})["type"] == "result")


@pytest.mark.slow
def test_probes_that_fail_give_their_places_back(daemon: Daemon) -> None:
    for number in range(PROBES_MAX + 2):
        with pytest.raises(CallError) as caught:
            admin(daemon, "plugin.install", bundle=pack(bundle(id="broken", code="raise RuntimeError")))
        assert caught.value.details["reason"] == "load_failed", (number, caught.value)
    wait_for(lambda: not daemon.pids("broken"), 5, "the end of every probe")
    admin(daemon, "plugin.install", bundle=pack(bundle(id="good")))


@pytest.mark.slow
def test_a_canary_that_hangs_or_dies_is_told_ends_and_leaves_the_one_that_serves(daemon: Daemon) -> None:
    assert answers(daemon)
    (serving,) = daemon.pids("sample")
    for number, body, cause in (
            ("1.1.0", "time.sleep(60)", "timeout"), ("1.2.0", "__import__('os')._exit(3)", "worker_crashed"),
            ("1.3.0", "raise KeyError('x')", "plugin_error")):
        with pytest.raises(CallError) as caught:
            admin(daemon, "plugin.upgrade", bundle=version(number, body))
        assert (caught.value.details["reason"], caught.value.details["cause"]) == ("canary_failed", cause), number
        assert answers(daemon)
    wait_for(lambda: daemon.pids("sample") == [serving], 5, "one worker, the one of before")


MANY = "[*({'id': str(n), 'component': 'Text', 'props': {}} for n in range(8_000)), 7]"


@pytest.mark.parametrize(("number", "result"), [("1.0.1", "[7]"), pytest.param("1.1.1", MANY, marks=pytest.mark.slow)],
                         ids=["checked at once", "checked in another process"])
def test_a_canary_whose_result_no_host_would_get_leaves_the_one_that_serves(daemon: Daemon, number: str, result: str
                                                                            ) -> None:
    """A result with many parts is checked in another process, after the core has judged its worker."""
    assert is_dear(msgspec.msgpack.encode({"customWidgets": eval(result)})) == (result == MANY)
    assert answers(daemon)
    (serving,) = daemon.pids("sample")
    with pytest.raises(CallError) as caught:
        admin(daemon, "plugin.upgrade", bundle=version(number, f"return {{'customWidgets': {result}}}"))
    details = caught.value.details
    assert (details["reason"], details["cause"]) == ("canary_failed", "invalid_output"), details
    assert "Expected `" in str(caught.value) and answers(daemon)
    wait_for(lambda: daemon.pids("sample") == [serving], 5, "one worker, the one of before")
    upgraded = admin(daemon, "plugin.upgrade", bundle=version(f"{number}1", "return {'customWidgets': []}"))
    assert upgraded["version"] == f"{number}1" and answers(daemon)


@pytest.mark.slow
def test_a_smoke_call_that_fails_is_told_with_its_code_and_one_of_nobody_too(daemon: Daemon) -> None:
    admin(daemon, "plugin.install", bundle=pack(bundle(id="moody", code=HOOK.format(
        version="1.0.0", body="raise KeyError('moody')").replace('id="sample"', 'id="moody"'))))
    admin(daemon, "plugin.enable", id="moody")
    checks = admin(daemon, "plugin.verify", id="moody")
    assert not checks["ok"] and "KeyError" in str(checks), checks
    assert answers(daemon)
