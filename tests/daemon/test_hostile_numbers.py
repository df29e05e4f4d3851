"""No number that a manifest or a configuration can hold ends the daemon, or keeps an honest plugin from answering."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apex_exec.config import Settings, load_settings
from apex_exec.core.governor import Governor
from apex_exec.daemon.policies import breaker_policy, pool_limits, recycle_policy, spares_of
from apex_exec.errors import ConfigError
from tests.support.daemon import ECHO, Daemon, write_plugin
from tests.support.host import Host

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63),
    5e-324, 1e-320, 2.2250738585072014e-308, 1e-300, 1e-290, 1e-10, 1e-3, 0.09, 0.1, 0.5, 99.9, 100.0, 100.1,
    1e15, 1e19, 1e308, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan"), -0.0)
OTHERS: tuple[Any, ...] = (None, True, False, "", "x", "x" * 60_000, "\0", "\x9b31m", "\u202e", "9" * 50, [], {}, [[]],
                           [None] * 1000, {"a": {"a": {"a": 1}}})
VALUES = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(OTHERS), st.floats(), st.integers(), st.text(max_size=30))
FIELDS = (
    "id", "name", "version", "author", "permissions", "apiVersion", "priority", "limits", "limits.timeoutMs",
    "limits.memoryMb", "limits.cpuPercent", "limits.networkPerMinute", "network.allow", "data.tables", "pricing.model",
    "pricing.amount", "pricing.currency", "pricing.interval", "support.contact", "support.responseHours",
    "manifest.entrypoint", "manifest.hooks", "unknown")
SPIN = '''
import time

@plugin.hook("onActionExecute")
def act(context, params):
    end = time.thread_time() + 0.03
    while time.thread_time() < end:
        pow(3, 999)
    return {"result": None, "metadata": {}}
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "honest", ECHO)
    write_plugin(plugins, "extreme", SPIN)
    with Daemon(plugins=plugins, config={
            "sandbox.governor": "psutil", "limits.cpu_burst_seconds": 0.01, "breaker.ends": 1_000_000,
            "breaker.backoff_min_seconds": 0.001, "breaker.backoff_max_seconds": 0.001}) as running:
        yield running


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
@example({"limits.cpuPercent": 1e-320})
@example({"limits.cpuPercent": 5e-324})
@example({"limits.cpuPercent": 0.1})
@example({"limits.timeoutMs": 1, "limits.memoryMb": 1, "limits.networkPerMinute": 0})
@example({"limits.timeoutMs": 2**63, "priority": 2**63})
def test_no_manifest_ends_the_daemon_or_keeps_an_honest_plugin_from_answering(
        daemon: Daemon, changes: dict[str, Any]) -> None:
    folder = Path(str(daemon.config["plugins_dir"])) / "extreme"
    made: dict[str, Any] = {
        "id": "extreme", "name": "extreme", "version": "1.0.0", "author": "tests", "permissions": [],
        "manifest": {"entrypoint": "plugin.py", "hooks": ["onActionExecute"]}}
    for path, value in changes.items():
        section, _, key = path.rpartition(".")
        if section and not isinstance(made.get(section), dict):
            made[section] = {}
        (made[section] if section else made)[key] = value
    (folder / "manifest.json").write_text(json.dumps(made))  # NaN and Infinity too, as many a writer of JSON does
    daemon.operate("daemon.reload")
    with Host(daemon.endpoint) as host:
        for _ in range(2):  # the first call overdraws the bucket, the second one finds it so
            host.invoke("extreme", {}, deadlineMs=200)
        reply = host.invoke("honest", {"n": 1})
    assert reply["type"] == "result", reply
    assert daemon.process.poll() is None, daemon.log[-2000:]


def numbers_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of every number below ``schema``."""
    def walk(path: str, part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
        if part.get("type") in ("number", "integer"):
            yield path, part
        for key, inner in part.get("properties", {}).items():
            yield from walk(f"{path}.{key}" if path else key, inner)
        for inner in (*part.get("prefixItems", ()), *part.get("anyOf", ())):
            yield from walk(path, inner)
    return walk("", schema)


def test_every_number_of_the_configuration_has_both_bounds() -> None:
    found = list(numbers_of(Settings.model_json_schema()))
    assert len(found) > 25
    for path, part in found:
        assert ("minimum" in part or "exclusiveMinimum" in part) and "maximum" in part, path


@given(st.sampled_from([path for path, _ in numbers_of(Settings.model_json_schema())]),
       st.one_of(st.sampled_from(NUMBERS), st.floats(), st.integers()))
def test_a_number_of_the_configuration_is_refused_or_can_be_served_with(path: str, value: Any) -> None:
    try:
        made = load_settings(None, {path: [value, value] if path == "sandbox.uid_range" else value})
    except ConfigError as error:
        assert path in str(error)
        return
    assert pool_limits(made, 1 << 20).workers_max >= 1 and spares_of(made) >= 0
    breaker_policy(made)
    recycle_policy(made)
    governor = Governor()
    governor.tune("p", made.limits.policy().cpu_percent, made.limits.cpu_burst_seconds, 0)
    governor.charge("p", 2**62, 1)


@pytest.mark.parametrize(("key", "value", "says"), [
    ("sandbox.uid_range", [300_000, 200_000], "greater than the last"),
    ("sandbox.uid_range", [0, 10], "greater than or equal to 1"),
    ("sandbox.uid_range", [5], "required"), ("http.address", "127.0.0.1:99999", "65535"),
    ("http.address", "x", "HOST:PORT"),
    ("http.address", "h:-1", "HOST:PORT"), ("breaker.backoff_min_seconds", 100, "is greater than")])
def test_what_contradicts_itself_is_refused_by_name(key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(None, {key: value})
    assert key.partition(".")[0] in str(caught.value)


@pytest.mark.parametrize("text", [
    f"drain_seconds = {'9' * 5000}\n", "a = " + "[" * 20_000, "drain_seconds = 1e999\n", "drain_seconds = nan\n",
    "\udcff"])
def test_a_file_of_absurd_numbers_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert len(str(caught.value)) < 400


def test_a_key_of_the_environment_below_a_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_EXEC_LIMITS", "5")
    monkeypatch.setenv("APEX_EXEC_LIMITS__CPU_PERCENT", "5")
    with pytest.raises(ConfigError, match="limits"):
        load_settings(None)


def extremes(which: str) -> dict[str, Any]:
    """Every number at its least or greatest value, but for what would only make the test itself wait or fail."""
    found = {path: part[which] for path, part in numbers_of(Settings.model_json_schema()) if which in part}
    found["sandbox.uid_range"] = [1, 1] if which == "minimum" else [2**32 - 2, 2**32 - 2]
    found["audit.min_free_bytes"] = 0
    found.pop("drain_seconds", None)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", ["minimum", "maximum"])
def test_a_daemon_with_every_number_at_its_bound_answers_each_request(which: str, tmp_path: Path) -> None:
    write_plugin(tmp_path, "honest", ECHO)
    with Daemon(plugins=tmp_path, config=extremes(which)) as running, Host(running.endpoint) as host:
        for n in range(3):
            reply = host.invoke("honest", {"n": n}, deadlineMs=8000)
            assert reply["type"] in ("result", "error") and reply.get("code") != "INTERNAL"
        assert running.get("/livez")[0] == 200
        assert "Traceback" not in running.log


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [
    (path, part[which]) for path, part in numbers_of(Settings.model_json_schema()) for which in ("minimum", "maximum")
    if which in part and path.startswith(("pool.", "recycle.", "log.", "audit.", "breaker.", "host."))
    and path not in ("audit.min_free_bytes", "pool.boot_seconds")])
def test_a_daemon_with_one_number_at_its_bound_serves(key: str, value: Any, tmp_path: Path) -> None:
    write_plugin(tmp_path, "honest", ECHO)
    config = {key: value}
    if key == "breaker.backoff_min_seconds":
        config["breaker.backoff_max_seconds"] = max(value, 30)
    elif key == "breaker.backoff_max_seconds":
        config["breaker.backoff_min_seconds"] = min(value, 0.1)
    with Daemon(plugins=tmp_path, config=config) as running, Host(running.endpoint) as host:
        assert host.invoke("honest", {"n": 1})["result"]["result"] == {"n": 1}
        assert running.get("/readyz")[0] == 200
