"""The manifest: what is accepted, and that everything wrong with one is said at once, with where and how to mend it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apex_exec.catalogue.limits import Limits
from apex_exec.errors import Code, Refusal
from apex_exec.registry.bundles.manifest import check_manifest, parse_manifest, registration_object
from tests.support.bundles import manifest

DOCUMENT = {  # the document's registration object, letter for letter
    "id": "custom-analytics", "name": "Custom Analytics Dashboard", "version": "1.0.0", "author": "ACME Corp",
    "permissions": ["data:read", "ui:render"],
    "manifest": {"entrypoint": "/plugins/custom-analytics/index.js", "hooks": ["onDashboardLoad", "onDataFetch"]},
}


def problems(**changes: Any) -> list[tuple[str, str]]:
    return [(p["path"], p["code"]) for p in check_manifest(json.dumps(manifest(**changes)).encode())[1]]


def test_the_documents_registration_object_is_accepted_as_it_is() -> None:
    parsed = parse_manifest(json.dumps(DOCUMENT).encode())
    assert (parsed.entrypoint, parsed.runtime) == ("index.js", "javascript")
    python = {**DOCUMENT, "manifest": {**DOCUMENT["manifest"], "entrypoint": "/plugins/custom-analytics/index.py"}}
    assert parse_manifest(json.dumps(python).encode()).entrypoint == "index.py"


@pytest.mark.parametrize("entrypoint", ["src/plugin.ts", "index.cjs", "index.tsx", "index.mts", "index.jsx"])
def test_what_has_to_be_bundled_first_is_refused_with_the_command_that_does_it(entrypoint: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_manifest(json.dumps(manifest(manifest={"entrypoint": entrypoint, "hooks": ["onDashboardLoad"]})).encode())
    assert caught.value.reason == "unsupported_runtime" and "esbuild" in caught.value.hint


def test_every_problem_is_reported_at_once_with_code_path_message_and_hint() -> None:
    _, found = check_manifest(json.dumps({
        "id": "A", "nme": "x", "version": "1.0", "author": "", "permissions": ["data:reed", "data:read", "data:read"],
        "manifest": {"entrypoint": "index.ts", "hooks": ["onLoad"]}, "apiVersion": "^1.2", "priority": "1",
        "limits": {"timeoutMs": 0, "memryMb": 5}, "network": {"allow": ["http://x.org/"]},
        "data": {"tables": ["a; drop"]}, "pricing": {"model": "gift"},
    }).encode())
    assert {(p["path"], p["code"]) for p in found} == {
        ("$.id", "malformed"), ("$.nme", "unknown_key"), ("$.name", "missing"), ("$.version", "malformed"),
        ("$.author", "too_short"), ("$.permissions[0]", "unknown_permission"), ("$.permissions[2]", "duplicate"),
        ("$.manifest.entrypoint", "unsupported_runtime"), ("$.manifest.hooks[0]", "unknown_hook"),
        ("$.apiVersion", "malformed"), ("$.priority", "wrong_type"), ("$.limits.timeoutMs", "out_of_range"),
        ("$.limits.memryMb", "unknown_key"), ("$.network.allow[0]", "malformed"), ("$.data.tables[0]", "malformed"),
        ("$.pricing.model", "not_one_of"),
    }
    assert all(set(p) == {"code", "path", "message", "hint"} and p["message"] for p in found)
    hints = {p["path"]: p["hint"] for p in found}
    assert hints["$.permissions[0]"] == "did you mean data:read?"
    assert hints["$.limits.memryMb"] == "did you mean memoryMb?"
    assert hints["$.nme"] == "did you mean name?"


@pytest.mark.parametrize(("given", "wanted"), [
    ("^1.0", ">=1.0,<2"), ("^1.2.3", ">=1.2.3,<2"), ("^0", ">=0.0,<1"), ("~1.4", ">=1.4,<1.5"),
])
def test_a_caret_range_is_refused_with_its_translation(given: str, wanted: str) -> None:
    _, found = check_manifest(json.dumps(manifest(apiVersion=given)).encode())
    assert [p["path"] for p in found] == ["$.apiVersion"] and wanted in found[0]["hint"]


def test_a_range_without_this_daemons_api_is_incompatible() -> None:
    with pytest.raises(Refusal) as caught:
        parse_manifest(json.dumps(manifest(apiVersion=">=2.0")).encode())
    assert caught.value.reason == "incompatible_api_version" and caught.value.code == Code.INVALID_INPUT
    assert problems(apiVersion=">=1.0,<2") == [] and problems(apiVersion="==1.*") == []


@pytest.mark.parametrize(("key", "value"), [
    ("id", "abc\n"), ("id", "a٣c"), ("id", "ab"), ("id", "a" * 51), ("id", "Abc"), ("id", "a_b"),
    ("version", "1.0.0\n"), ("version", "1.0.٣"), ("version", "01.0.0"), ("version", "1.0.0-01"), ("version", "1.0"),
    ("name", "x" * 101), ("name", "a\u202eb"), ("name", "a\u200bb"), ("name", " a"), ("name", "a\ud800"),
    ("author", "e\u0301"), ("apiVersion", ">=١"), ("apiVersion", "1"), ("apiVersion", ""),
    ("manifest", {"entrypoint": "../plugin.py", "hooks": ["onDashboardLoad"]}),
    ("manifest", {"entrypoint": "/etc/plugin.py", "hooks": ["onDashboardLoad"]}),
    ("manifest", {"entrypoint": "plugin.py\n", "hooks": ["onDashboardLoad"]}),
    ("manifest", {"entrypoint": "plugin.so", "hooks": ["onDashboardLoad"]}),
    ("manifest", {"entrypoint": "plugin.py", "hooks": []}),
    ("manifest", {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad", "onDashboardLoad"]}),
    ("network", {"allow": ["*.com"]}), ("network", {"allow": ["1.2.3.4"]}), ("network", {"allow": ["a.b.com:80"]}),
    ("network", {"allow": ["EXAMPLE.com"]}), ("network", {"allow": ["exämple.com"]}), ("network", {"allow": ["*"]}),
    ("data", {"tables": ["1x"]}), ("data", {"tables": ["Ürders"]}), ("data", {"tables": ["a.b.c"]}),
    ("limits", {"memoryMb": True}), ("limits", {"cpuPercent": 0}), ("limits", {"timeoutMs": 1.5}),
    ("limits", {"cpuPercent": 1e-320}), ("limits", {"cpuPercent": 0.09}),
    ("priority", -1), ("priority", True), ("permissions", "data:read"), ("permissions", ["admin:*"]),
    ("pricing", {"model": "one-time", "amount": 0.1, "currency": "USD"}),
    ("pricing", {"model": "one-time", "amount": -5, "currency": "USD"}),
    ("pricing", {"model": "one-time", "amount": 5}), ("pricing", {"model": "free", "amount": 5, "currency": "USD"}),
    ("pricing", {"model": "subscription", "amount": 5, "currency": "USD"}),
    ("pricing", {"model": "one-time", "amount": 5, "currency": "usd"}),
    ("support", {"contact": "nobody"}), ("support", {"contact": "a@b.org", "responseHours": 25}),
])
def test_a_value_out_of_its_shape_is_refused_where_it_stands(key: str, value: Any) -> None:
    found = problems(**{key: value})
    assert found and all(path.startswith(f"$.{key}") for path, _ in found), found


@pytest.mark.parametrize("value", [
    {"model": "free"}, {"model": "one-time", "amount": 1995, "currency": "USD"},
    {"model": "subscription", "amount": 500, "currency": "EUR", "interval": "year"},
])
def test_the_three_prices_are_accepted_and_survive_a_round_trip(value: dict[str, Any]) -> None:
    made = parse_manifest(json.dumps(manifest(pricing=value, support={"contact": "help@acme.example"})).encode())
    assert parse_manifest(json.dumps(registration_object(made)).encode()) == made


@pytest.mark.parametrize("data", [
    b"", b"{", b"[]", b"null", b"\xff{}", b"\xef\xbb\xbf{}", b'{"id": NaN}', b"[" * 50_000, b'{"a":' * 5_000,
    b'{"priority": ' + b"9" * 10_000 + b"}", b'{"id": "aaa", "id": "bbb"}', b" " * 70_000,
])
def test_what_is_not_a_manifest_at_all_is_one_clear_refusal(data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse_manifest(data)
    assert caught.value.reason == "manifest_invalid" and caught.value.problems
    assert caught.value.code == Code.INVALID_INPUT


def test_a_key_that_stands_twice_is_refused_and_not_silently_the_last() -> None:
    text = json.dumps(manifest()).replace(
        '"permissions": ["ui:render"]', '"permissions": [], "permissions": ["data:read"]')
    assert [p["code"] for p in check_manifest(text.encode())[1]] == ["duplicate"]


def test_limits_lower_the_platforms_policy_and_never_raise_it() -> None:
    made = parse_manifest(json.dumps(manifest(limits={"timeoutMs": 100, "memoryMb": 500})).encode())
    assert made.limits.within(Limits(5000, 50, 10.0, 100)) == Limits(100, 50, 10.0, 100)
    assert made.limits.within(Limits(50, 20, 5.0, 7)) == Limits(50, 20, 5.0, 7)
