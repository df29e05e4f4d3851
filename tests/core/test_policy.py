"""Permission is a function: each method needs its own, admin methods an approval that is valid now."""

from __future__ import annotations

import msgspec
import pytest

from apex_exec.catalogue import methods as api
from apex_exec.catalogue.permissions import ADMIN_PERMISSIONS, PREFIXES, STANDARD_PERMISSIONS
from apex_exec.core.effects import EFFECTS_BYTES_MAX, EFFECTS_MAX, EffectRefused, Effects
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.policy import Allowed, Denied, check

ALL = STANDARD_PERMISSIONS + ADMIN_PERMISSIONS
REQUESTS: dict[str, api.Request] = {
    "query": api.Query("SELECT 1"), "insert": api.Insert("t", {"a": 1}), "update": api.Update("t", {"a": 1}, {"b": 1}),
    "delete": api.Delete("t", {"a": 1}), "renderWidget": api.RenderWidget("C"), "emit": api.Emit("e"),
    "fetch": api.Fetch("http://x/"),
}
CALLS = [*REQUESTS.items(), *(("call", api.HostMethod(prefix + "x")) for prefix in PREFIXES)]


def spec(permissions: tuple[str, ...], approved: tuple[str, ...] = (), **more: object) -> PluginSpec:
    return PluginSpec("p", "1.0.0", "d", "plugin.py", (), permissions, approved=approved, **more)  # type: ignore[arg-type]  # the test names the fields


@pytest.mark.parametrize(("method", "request_"), CALLS)
def test_each_call_needs_exactly_its_own_permission(method: str, request_: api.Request) -> None:
    allowing = [one for one in ALL if isinstance(check(spec((one,), (one,)), method, request_, 0), Allowed)]
    assert len(allowing) == 1
    others = tuple(one for one in ALL if one != allowing[0])
    denied = check(spec(others, others), method, request_, 0)
    assert isinstance(denied, Denied) and denied.permission == allowing[0]


def test_every_method_of_the_wire_has_a_permission() -> None:
    assert [name for name, method in api.METHODS.items() if method.permission not in ALL] == ["call"]
    assert set(PREFIXES.values()) == set(ADMIN_PERMISSIONS)


@pytest.mark.parametrize("permission", ADMIN_PERMISSIONS)
def test_admin_methods_need_an_approval_that_has_not_expired(permission: str) -> None:
    prefix = next(prefix for prefix, needed in PREFIXES.items() if needed == permission)
    call = api.HostMethod(prefix + "list")
    assert isinstance(check(spec((permission,)), "call", call, 0), Denied)
    approved = spec((permission,), (permission,), approval_expires={permission: 100.0})
    assert isinstance(check(approved, "call", call, 99.9), Allowed)
    assert isinstance(check(approved, "call", call, 100.0), Denied)


@pytest.mark.parametrize("name", ["admin.users", "admin.users.", "admin.usersx.list", "Admin.users.list", "x",
                                  "system.list", " admin.users.list", "admin.billing", "system.config"])
def test_no_other_prefix_reaches_the_host(name: str) -> None:
    assert isinstance(check(spec(ALL, ALL), "call", api.HostMethod(name), 0), Denied)


@pytest.mark.parametrize(("method", "params"), [
    ("query", {"sql": 5}), ("query", {"sql": "x", "params": "y"}), ("query", {"sql": "x", "params": [1] * 101}),
    ("query", {"sql": "x", "user": "other"}), ("insert", {"table": "", "values": {}}), ("update", {"table": "t"}),
    ("update", {"table": "t", "values": {"a": 1}, "where": {}}), ("delete", {"table": "t", "where": {}}),
    ("fetch", {"url": "x" * 9000}), ("fetch", {"url": "x", "headers": {"a": 1}}), ("call", {"method": "x" * 101}),
    ("emit", []), ("renderWidget", {"component": 1}),
])
def test_parameters_that_do_not_fit_the_method_are_refused(method: str, params: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        api.decode(method, msgspec.msgpack.encode(params))


def add(effects: Effects, request: api.RenderWidget | api.Emit, components: frozenset[str] = frozenset()) -> None:
    effects.add("shop", request, components)


def emit(event: str, payload: object = None) -> api.Emit:
    return api.Emit(event, msgspec.Raw(msgspec.msgpack.encode(payload)))


def widget(component: str, props: object) -> api.RenderWidget:
    return api.RenderWidget(component, msgspec.Raw(msgspec.msgpack.encode(props)))


def told(effects: Effects) -> object:
    """The effects as a host gets them."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(effects.items))


def test_effects_keep_their_order_and_events_their_plugins_name() -> None:
    effects = Effects()
    add(effects, widget("Chart", {"a": [1, None]}))
    add(effects, emit("custom-event", {"x": b"1"}))
    add(effects, api.Emit("shop/again"))
    assert told(effects) == [
        {"kind": "render", "component": "Chart", "props": {"a": [1, None]}},
        {"kind": "emit", "event": "shop/custom-event", "payload": {"x": b"1"}},
        {"kind": "emit", "event": "shop/again", "payload": None}]


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(("request_", "code"), [
    (api.Emit("x" * 96), "invalid_params"), (api.Emit("other/x"), "invalid_params"), (api.Emit(""), "invalid_params"),
    (api.Emit("a b"), "invalid_params"), (api.Emit("é"), "invalid_params"), (api.Emit("a\n"), "invalid_params"),
    (emit("x", 2**53), "invalid_output"), (emit("x", float("nan")), "invalid_output"),
    (emit("x", {"__proto__": 1}), "invalid_output"),
    (emit("x", {"a": [nested(32)]}), "effect_limit"), (emit("x", nested(70)), "invalid_output"),
    (emit("x", "y" * EFFECTS_BYTES_MAX), "effect_limit"), (api.RenderWidget("<b>"), "invalid_params"),
    (api.RenderWidget("C" * 101), "invalid_params"), (widget("C", {"a": {"__proto__": 1}}), "invalid_output"),
    (api.RenderWidget("Other"), "component_not_allowed"), (widget("C", 1), "invalid_params"),
    (widget("C", {"a": [[]] * 5000}), "effect_limit"), (emit("x", [[b""]] * 2000), "effect_limit"),
    (emit("x", {"a": [None] * 70_000}), "effect_limit"),
])
def test_an_effect_that_breaks_a_rule_is_refused_and_changes_nothing(request_: api.Emit, code: str) -> None:
    effects = Effects()
    with pytest.raises(EffectRefused) as refused:
        add(effects, request_, frozenset({"C", "Chart"}))
    assert refused.value.code == code and effects.items == []


def test_number_and_size_of_effects_are_bounded() -> None:
    effects = Effects()
    add(effects, api.Emit("x" * 95))
    for _ in range(EFFECTS_MAX - 1):
        add(effects, api.Emit("x"))
    with pytest.raises(EffectRefused):
        add(effects, api.Emit("x"))
    effects = Effects()
    add(effects, emit("x", "y" * (EFFECTS_BYTES_MAX // 2)))
    with pytest.raises(EffectRefused):
        add(effects, emit("x", "y" * (EFFECTS_BYTES_MAX // 2)))
