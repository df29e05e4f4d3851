"""One user of a plugin does not take it away from the others: neither by inputs that end its worker nor by requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apex_exec.client import CallError, Client
from apex_exec.ledger.reading import read_events
from tests.support.daemon import USER, Daemon, wait_for, write_plugin

BAD, GOOD = f"{USER[:-2]}aa", f"{USER[:-2]}bb"
CODE = '''
@plugin.hook("onActionExecute")
async def act(context, params):
    if params["action"] == "hang":
        while True:
            pass
    if params["action"] == "fetch":
        await context.api.fetch("https://not-allowed.example/")
    return {"result": "served", "metadata": {}}
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "hung", CODE, limits={"timeoutMs": 400})
    write_plugin(plugins, "asking", CODE, permissions=("network:fetch",), network={"allow": ["allowed.example"]},
                 limits={"networkPerMinute": 20})
    with Daemon(plugins=plugins, config={"fetch.allow": ["allowed.example"], "limits.cpu_percent": 100}) as running:
        yield running


def outcome(client: Client, plugin: str, user: str, action: str) -> tuple[str, str]:
    """(code, scope of a refusal or code of an API error) of one call; the code is "" for a result."""
    try:
        client.invoke(plugin, "onActionExecute", user, {"action": action, "context": {}})
    except CallError as error:
        return error.code, str(error.details.get("scope") or error.details.get("apiCode") or "")
    return "", ""


def test_a_user_whose_inputs_hang_is_paused_and_the_others_are_served(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        seen = []
        for _ in range(12):
            seen.append(outcome(client, "hung", BAD, "hang"))
            assert outcome(client, "hung", GOOD, "serve") == ("", ""), seen
        assert seen == [("TIMEOUT", "")] * 5 + [("QUARANTINED", "user")] * 7
        assert outcome(client, "hung", BAD, "serve")[0] == "QUARANTINED", "the pause is of the user and the hook"
        status = daemon.plugin("hung")
        assert status["breaker"] == "closed" and status["pausedUsers"] == 1
        daemon.wait_metric('user_limited_total{limit="breaker",plugin="hung"}', 1)
        assert daemon.operate("breaker.reset", id="hung")["was"] == "closed"
        assert outcome(client, "hung", BAD, "serve") == ("", "")
    assert "is paused for one user" in daemon.log and BAD not in daemon.log
    wait_for(lambda: any(event.metadata.get("scope") == "user" and event.user_id == BAD
                         for event in read_events(daemon.state / "audit.db")), 5, "its event")


def test_a_user_who_spends_the_requests_leaves_three_quarters_to_the_others(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        assert outcome(client, "asking", GOOD, "fetch") == ("PLUGIN_ERROR", "host_not_allowed")
        seen = [outcome(client, "asking", BAD, "fetch") for _ in range(10)]
        assert seen == [("PLUGIN_ERROR", "host_not_allowed")] * 5 + [("RATE_LIMITED", "rate_limited")] * 5
        assert outcome(client, "asking", GOOD, "fetch") == ("PLUGIN_ERROR", "host_not_allowed")
        daemon.wait_metric('user_limited_total{limit="network",plugin="asking"}', 5)
