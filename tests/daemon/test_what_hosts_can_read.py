"""What a plugin returns, emits, renders or passes to a host method: one rule for values, one for rendering."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from apex_exec.client import CallError, Client
from tests.gateway.bundles import bundle
from tests.support.daemon import USER, Daemon

OBJECT_PROTOTYPE = (
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
    "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__", "then", "prototype", "")
"""Keys that look dangerous to a JavaScript host and are not, since libraries define them as own properties."""

SPEAKER = '''
import datetime, decimal, enum, json, uuid
from workers import ApiError, Plugin

plugin = Plugin(id="speaker", version="1.0.0", permissions=["ui:render", "events:emit", "admin:users"])


class Colour(enum.Enum):
    RED = 1


ODD = {
    "decimal": decimal.Decimal("1.5"), "uuid": uuid.UUID(int=1), "date": datetime.date(2020, 1, 1),
    "time": datetime.time(1, 2), "timedelta": datetime.timedelta(1), "naive": datetime.datetime(2020, 1, 1),
    "set": {1}, "enum": Colour.RED, "key": {1: "a"}, "float": float("nan"), "int": 2**60, "surrogate": "\\ud800",
    "proto": {"a": [{"__proto__": 1}]},
}
PLAIN = {"bytes": b"\\x00\\xff", "aware": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)}
WAYS = {
    "result": lambda api, value: value,
    "metadata": lambda api, value: None,
    "emit": lambda api, value: api.emit("odd", {"x": value}),
    "render": lambda api, value: api.render_widget("Chart", {"x": value}),
    "call": lambda api, value: api.call("admin.users.list", {"x": value}),
}


@plugin.hook("onActionExecute")
def run(context, params):
    given = params["context"]
    value = PLAIN if "plain" in given else ODD[given["odd"]] if "odd" in given else json.loads(given["json"])
    try:
        found = WAYS[given["way"]](context.api, value)
    except ApiError as error:
        if not given.get("handled"):
            raise
        found = error.code
    return {"result": found, "metadata": {"x": value} if given["way"] == "metadata" else {}}
'''

SPITEFUL = '''
from workers import ApiError, Plugin

plugin = Plugin(id="spiteful", version="1.0.0", permissions=["events:emit"])


@plugin.hook("onActionExecute")
def run(context, params):
    """Raises an error of its own making, of the class that the refusal of a value has."""
    try:
        context.api.emit("odd", {1})
    except ApiError as error:
        kind = type(error)

    class Spite(kind):
        path = method = property(lambda self: 1 / 0)

        def __init__(self): pass

        def __str__(self): raise KeyError("no text")

    raise Spite()
'''

DASHBOARD = '''
from workers import Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions={permissions})


@plugin.hook("onDashboardLoad")
def load(params):
    many = 300 if params["dashboardId"] == "many" else 1
    widget = {{"id": "w", "component": params["dashboardId"].split()[0], "props": {{"x": ["y" * 100]}}}}
    return {{"customWidgets": [] if params["dashboardId"] == "none" else
            [{{**widget, "component": "Chart", "id": str(n)}} for n in range(many - 1)] + [widget]}}
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("plugins")
    bundle(folder, "speaker", ["ui:render", "events:emit", "admin:users"], SPEAKER)
    bundle(folder, "spiteful", ["events:emit"], SPITEFUL)
    for name, permissions in (("shows", ["ui:render"]), ("hides", [])):
        path = bundle(folder, name, permissions, DASHBOARD.format(id=name, permissions=permissions))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["manifest"]["hooks"] = ["onDashboardLoad"]
        (path / "manifest.json").write_text(json.dumps(manifest))
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text('allow = ["ui:render", "events:emit"]\n'
                      '[plugin.speaker]\nallow = ["ui:render", "events:emit", "admin:users"]\n')
    with Daemon(plugins=folder, config={"ui.components": ["Chart", "many"], "security.policy_file": policy}) as running:
        yield running


@pytest.fixture
def host(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.endpoint) as made:
        yield made


def speak(host: Client, way: str, **what: Any) -> dict[str, Any]:
    return host.invoke("speaker", "onActionExecute", USER, {"action": "x", "context": {"way": way, **what}})


def refusal(host: Client, way: str, **what: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        speak(host, way, **what)
    return caught.value


@pytest.mark.parametrize("way", ["result", "metadata", "emit", "render"])
def test_a_value_that_would_change_on_its_way_is_invalid_output_with_its_path(host: Client, way: str) -> None:
    for odd in ("decimal", "uuid", "date", "time", "timedelta", "naive", "set", "enum", "key", "float", "int",
                "surrogate", "proto"):
        error = refusal(host, way, odd=odd)
        assert error.code == "INVALID_OUTPUT", (odd, error)
        expected = {"result": "$.result", "metadata": "$.metadata.x", "emit": "$.payload.x", "render": "$.props.x"}[way]
        assert error.reply["details"]["path"].startswith(expected), (odd, error.reply["details"])


def test_a_plugin_may_handle_the_refusal_of_an_effect(host: Client) -> None:
    reply = speak(host, "emit", odd="proto", handled=True)
    assert reply["result"]["result"] == "invalid_output" and reply["effects"] == []


@pytest.mark.parametrize("way", ["result", "metadata", "emit", "render"])
def test_no_map_that_reaches_a_host_has_the_key_proto_and_every_other_key_arrives(host: Client, way: str) -> None:
    for text in ('{"__proto__": 1}', '{"__proto__": {"admin": true}}', '[[{"a": {"__proto__": null}}]]',
                 '{"long": "' + "y" * 70_000 + '", "b": {"__proto__": 1}}'):
        error = refusal(host, way, json=text)
        assert error.code == "INVALID_OUTPUT" and error.reply["details"]["path"].endswith("__proto__"), error
    harmless = {key: key for key in OBJECT_PROTOTYPE} | {"text": "__proto__"}
    assert arrived(speak(host, way, json=json.dumps(harmless)), way) == harmless


def arrived(reply: dict[str, Any], way: str) -> Any:
    """The value that the plugin sent that way, as the host has it."""
    found = {"result": lambda: reply["result"]["result"], "metadata": lambda: reply["result"]["metadata"]["x"],
             "emit": lambda: reply["effects"][0]["payload"]["x"], "render": lambda: reply["effects"][0]["props"]["x"]}
    return found[way]()


@pytest.mark.parametrize("way", ["result", "metadata", "emit", "render"])
def test_bytes_and_aware_timestamps_arrive_whichever_way_they_go(host: Client, way: str) -> None:
    plain = {"bytes": b"\x00\xff", "aware": datetime(2026, 1, 2, tzinfo=UTC)}
    assert arrived(speak(host, way, plain=True), way) == plain


def test_an_error_of_a_plugins_own_making_has_its_answer_and_its_worker_lives(daemon: Daemon, host: Client) -> None:
    for _ in range(3):
        with pytest.raises(CallError) as caught:
            host.invoke("spiteful", "onActionExecute", USER, {"action": "x", "context": {}})
        assert caught.value.code == "INVALID_OUTPUT" and caught.value.reply["details"]["path"] == "$"
    assert len(daemon.pids("spiteful")) == 1


def load(host: Client, plugin: str, dashboard: str) -> dict[str, Any]:
    return host.invoke(plugin, "onDashboardLoad", USER, {"dashboardId": dashboard})


@pytest.mark.parametrize("dashboard", ["Chart", "many"], ids=["one", "so many that the checks' process looks"])
def test_widgets_in_a_result_need_the_permission_to_render(host: Client, dashboard: str) -> None:
    assert load(host, "shows", dashboard)["result"]["customWidgets"]
    with pytest.raises(CallError) as caught:
        load(host, "hides", dashboard)
    assert caught.value.code == "PERMISSION_DENIED"
    assert caught.value.reply["details"]["method"] == "renderWidget"
    together = host.dispatch("onDashboardLoad", USER, {"dashboardId": dashboard})
    codes = {one["plugin"]: one.get("error", {}).get("code", "") for one in together["outcomes"]}
    assert codes["hides"] == "PERMISSION_DENIED" and not codes["shows"]
    assert all(widget["id"].startswith("shows/") for widget in together["result"]["customWidgets"])


def test_a_component_that_the_platform_does_not_render_is_invalid_output_with_its_path(host: Client) -> None:
    with pytest.raises(CallError) as caught:
        load(host, "shows", "Script x")
    assert caught.value.code == "INVALID_OUTPUT"
    assert caught.value.reply["details"]["path"] == "$.customWidgets[0].component"


def test_an_empty_list_of_widgets_needs_neither(host: Client) -> None:
    assert load(host, "hides", "none")["result"] == {"customWidgets": []}
