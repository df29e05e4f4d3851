"""The requests a minute of a plugin are those of the version that serves, whatever a version on trial may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.registry.bundles.bundle import pack
from tests.support.bundles import bundle
from tests.support.daemon import USER, Daemon

LIMIT = 6
HOOK = '''
from workers import ApiError, Plugin

plugin = Plugin(id="sample", version="{version}", permissions=["network:fetch", "ui:render"])


@plugin.hook("onDashboardLoad")
async def load(context, params):
    try:
        await context.api.fetch("https://not-allowed.example/")
    except ApiError as error:
        if "{version}" != "1.0.0":
            raise KeyError("this version shall not serve")
        return {{"customWidgets": [{{"id": "w", "component": "W", "props": {{"code": error.code}}}}]}}
'''


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon(plugins=None, config={"fetch.allow": ["allowed.example"], "limits.cpu_percent": 100}) as running:
        yield running


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 60_000)


def version(number: str, limit: int) -> bytes:
    return pack(bundle(code=HOOK.format(version=number), version=number, permissions=["network:fetch", "ui:render"],
                       network={"allow": ["allowed.example"]}, limits={"networkPerMinute": limit}))


def asked(daemon: Daemon, times: int) -> list[str]:
    """What each of ``times`` requests was answered."""
    codes = []
    with Client(daemon.endpoint) as client:
        for _ in range(times):
            reply = client.invoke("sample", "onDashboardLoad", USER, {"dashboardId": "d"})
            codes.append(str(reply["result"]["customWidgets"][0]["props"]["code"]))
    return codes


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2, 100])
def test_a_canarys_limit_neither_shortens_nor_empties_the_window_of_the_version_that_serves(
        daemon: Daemon, limit: int) -> None:
    admin(daemon, "plugin.install", bundle=version("1.0.0", LIMIT))
    admin(daemon, "plugin.enable", id="sample")
    before = asked(daemon, 3)
    with pytest.raises(CallError) as caught:
        admin(daemon, "plugin.upgrade", bundle=version("1.1.0", limit))
    assert caught.value.details["reason"] == "canary_failed"
    codes = before + asked(daemon, LIMIT)
    passed = codes.count("host_not_allowed")
    assert LIMIT - 2 <= passed <= LIMIT, codes  # the canary's own requests count, too
    assert codes[passed:] == ["rate_limited"] * (len(codes) - passed), "and what has been asked for is not forgotten"
