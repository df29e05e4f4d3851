"""No manifest, however it reaches a living daemon, ends it, costs it a turn or keeps another plugin from answering.

Each example is one manifest, as bytes, in one language. It goes the ways that there are: it is registered, installed,
enabled and invoked as a bundle, passed as the registration object beside its bundle, and read from the plugins' folder
by a reload. Whatever is refused is refused with one clear error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from apex_exec.catalogue.hooks import HOOKS
from apex_exec.catalogue.limits import LIMITS, key_of
from apex_exec.catalogue.permissions import PERMISSIONS
from apex_exec.client import AdminClient, CallError
from tests.support.bundles import zip_of
from tests.support.daemon import ECHO, Daemon, write_plugin
from tests.support.host import Host

ANSWER_MS = 60_000
"""How long one operation may take on a machine that is busy with something else."""
MESSAGE_CHARACTERS_MAX = 4200
"""The longest text of a refusal: 100 problems are cut at 4,000, and say first which file they are in."""
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 23, 24, 25, 100, 101, 10_000, 10_001, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64,
    10**12, 10**12 + 1, 10**400, -(2**63), -(10**400), 5e-324, 1e-320, 2.2250738585072014e-308, 1e-300, 0.09, 0.1, 0.5,
    1.0, 1.5, 99.99999999999999, 100.0, 100.00000000000001, 3_600_000, 3_600_001, 1e19, 1.7976931348623157e308, -0.0,
    float("inf"), float("-inf"), float("nan"))
TEXTS: tuple[str, ...] = (
    "", " ", "x", "a" * 100, "a" * 101, "x" * 50_000, "\0", "a\0b", "\n", "a\r\nb", "\x1b[31m", "\x9b31m", "\x7f",
    "\u202e", "\u200b", "\ufeff", "\ud800", "\udfff", "\udcff", "\ufffe", "\uffff", "\U0010ffff", "e\u0301", "é", "İ",
    "ß", "ǅ", "ﬀ", "٣", "Ⅷ", "\u00a0", "\u3000", "👩‍👩‍👧‍👦", "z̷" * 100, "../x", "/etc/passwd", "a/../b.py",
    "plugin.py\0.js", "CON", "%s%n", "{0}", "${x}", "<b>", "' OR 1", "__proto__", "constructor", "1e999", "NaN",
    "9" * 400, ">=1,<2", ">=" + "1." * 40, "==1.*", "1!1", ",".join([">=1"] * 30), "~=1.0", "===1", "*.com",
    "*." + "a." * 100 + "org", "a@b.c", "https://" + "x" * 180, "USD")
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [{}], [None], [None] * 1000, ["x"] * 200, {"": ""},
                           {"__proto__": {"x": 1}}, {"a" * 5000: 1}, {"\ud800": 1}, {"\0": 1})


def nested(depth: int, text: bool = False) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = {"a": made} if text else [made]
    return made


VALUES = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.sampled_from(OTHERS), st.floats(), st.integers(),
    st.text(max_size=20), st.text(st.characters(), max_size=5),
    st.builds(nested, st.sampled_from((1, 2, 63, 64, 65, 200)), st.booleans()),
    st.lists(st.one_of(st.sampled_from(TEXTS), st.sampled_from(NUMBERS)), max_size=4))
FIELDS: tuple[str, ...] = (
    "id", "name", "version", "author", "permissions", "manifest", "manifest.entrypoint", "manifest.hooks",
    "manifest.more", "apiVersion", "priority", "limits", *(f"limits.{key_of(name)}" for name in LIMITS),
    "limits.more", "network", "network.allow", "data", "data.tables", "pricing", "pricing.model", "pricing.amount",
    "pricing.currency", "pricing.interval", "support", "support.contact", "support.responseHours", "isolation",
    "enabled", "more", "")
NEAR: dict[str, st.SearchStrategy[Any]] = {
    "permissions": st.lists(st.sampled_from(sorted(PERMISSIONS)), max_size=30),
    "manifest.hooks": st.lists(st.sampled_from(sorted(HOOKS)), max_size=30),
    "isolation": st.sampled_from(("shared", "call")), "enabled": st.booleans(),
    "pricing.model": st.sampled_from(("free", "one-time", "subscription")),
    **{f"limits.{key_of(name)}": st.sampled_from((limit.low, limit.high, limit.low - 1, limit.high + 1))
       for name, limit in LIMITS.items()}}
"""Values that a manifest may well hold: without them nearly every example would be refused by its first wrong field."""
PYTHON = '''
from workers import Plugin

plugin = Plugin(id="fuzzed", version="1.0.0", permissions=[])


@plugin.hook("onActionExecute")
def act(context, params):
    return {"result": sum(range(1000)), "metadata": {}}
'''
JAVASCRIPT = '''
export default { id: "fuzzed", version: "1.0.0", permissions: [], hooks: {
  onActionExecute: () => ({ result: 499500, metadata: {} }) } };
'''
CODES = {"plugin.py": PYTHON, "index.js": JAVASCRIPT}
COSTS: dict[str, Any] = {"max_examples": 5, "deadline": None, "phases": [Phase.explicit, Phase.generate],
         "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "honest", ECHO)
    write_plugin(plugins, "fuzzed-folder", ECHO)
    with Daemon(plugins=plugins, config={
            "limits.cpu_burst_seconds": 0.01, "breaker.ends": 1_000_000, "breaker.backoff_min_seconds": 0.001,
            "breaker.backoff_max_seconds": 0.001}) as running:
        yield running


@st.composite
def changes(draw: Callable[..., Any]) -> dict[str, Any]:
    """Some fields of a good manifest, and what stands there instead."""
    made: dict[str, Any] = {}
    for field in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)):
        made[field] = draw(st.one_of(VALUES, NEAR.get(field, VALUES)))
    return made


def manifest(id_: str, entrypoint: str, changed: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": id_, "name": "Fuzzed", "version": "1.0.0", "author": "tests", "permissions": [],
        "manifest": {"entrypoint": entrypoint, "hooks": ["onActionExecute"]}}
    for path, value in changed.items():
        section, _, key = path.rpartition(".")
        if section and not isinstance(made.get(section), dict):
            made[section] = {}
        (made[section] if section else made)[key] = value
    return made


def encoded(value: Any) -> bytes:
    """As many a writer of JSON does it: NaN and Infinity as words, half an emoji as an escape, any number whole."""
    return json.dumps(value).encode()


class Asked:
    """One daemon, asked for what may be refused. Each refusal must be one clear error; it counts what was taken."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.taken: list[str] = []

    def operate(self, op: str, **args: Any) -> bool:
        """Whether ``op`` was carried out."""
        with AdminClient(self._daemon.admin) as client:
            try:
                client.request(op, args, ANSWER_MS)
            except CallError as error:
                assert error.code not in ("INTERNAL", "TIMEOUT", "DEADLINE_EXCEEDED"), (op, error)
                text = str(error)
                assert text and len(text) <= MESSAGE_CHARACTERS_MAX and "Traceback" not in text, (op, text[:300])
                assert text.isprintable(), (op, ascii(text)[:300])
                assert error.details.get("reason") not in ("internal", "bug"), (op, text)
                return False
        self.taken.append(op)
        return True

    def others_are_served(self) -> None:
        with Host(self._daemon.endpoint) as host:
            reply = host.invoke("honest", {"n": 1})
        assert reply["type"] == "result", reply
        assert self._daemon.process.poll() is None, self._daemon.log[-2000:]


def go_all_ways(daemon: Daemon, changed: dict[str, Any], entrypoint: str, deadline_ms: int = 500) -> list[str]:
    """Returns the operations that were carried out."""
    asked = Asked(daemon)
    text = encoded(manifest("fuzzed", entrypoint, changed))
    source = CODES[entrypoint].encode()
    name = changed.get("manifest.entrypoint", entrypoint)
    files = {"manifest.json": text, entrypoint: source, "README.md": b"# Fuzzed\n",
             "tests/test_plugin.py": b"def test_nothing() -> None:\n    pass\n"}
    if isinstance(name, str) and name.isascii() and name.isprintable() and 0 < len(name) < 100 and ":" not in name:
        files.setdefault(name, source)
    bundle = zip_of(files)
    asked.operate("plugin.register", bundle=bundle)
    if asked.operate("plugin.install", bundle=bundle):
        asked.operate("plugin.enable", id="fuzzed")
    with Host(daemon.endpoint) as host:
        for _ in range(2):  # the first call may overdraw the plugin's bucket, and the second one finds it so
            reply = host.invoke("fuzzed", {}, deadlineMs=deadline_ms)
            assert reply["type"] == "result" or reply["code"] != "INTERNAL", reply
            if reply["type"] == "result":
                asked.taken.append("invoke")
    with_object = zip_of({**files, "manifest.json": encoded(manifest("fuzzed", entrypoint, {}))})
    try:
        registration = json.loads(text)
        if isinstance(registration, dict):
            asked.operate("plugin.register", bundle=with_object, manifest=registration)
    except (OverflowError, ValueError, UnicodeEncodeError, TypeError):
        pass  # MessagePack has no such number, or no such text: the client refuses before anything is sent
    asked.operate("plugin.remove", id="fuzzed")
    folder = Path(str(daemon.config["plugins_dir"])) / "fuzzed-folder"
    folder_text = encoded(manifest("fuzzed-folder", entrypoint, changed))
    (folder / "manifest.json").write_bytes(folder_text)
    (folder / entrypoint).write_bytes(source.replace(b'"fuzzed"', b'"fuzzed-folder"'))
    asked.operate("daemon.reload")
    with Host(daemon.endpoint) as host:
        reply = host.invoke("fuzzed-folder", {}, deadlineMs=500)
        assert reply["type"] == "result" or reply["code"] != "INTERNAL", reply
    asked.others_are_served()
    return asked.taken


def nothing_was_lost(daemon: Daemon) -> None:
    """No duty of the loop failed, and nothing but lines stands in the log."""
    failures = [line for line in daemon.metrics().splitlines() if line.startswith("duty_failures_total{")]
    assert all(line.endswith(" 0.0") for line in failures), failures
    assert "Traceback" not in daemon.log, daemon.log[daemon.log.index("Traceback"):][:3000]


@pytest.mark.parametrize("entrypoint", CODES)
def test_a_plain_manifest_goes_all_ways(daemon: Daemon, entrypoint: str) -> None:
    """Without this an error in the harness would refuse every example, and prove nothing."""
    taken = go_all_ways(daemon, {}, entrypoint, 30_000)
    assert taken == ["plugin.register", "plugin.install", "plugin.enable", "invoke", "invoke", "plugin.register",
                     "plugin.remove", "daemon.reload"], taken


@pytest.mark.timeout(600)
@pytest.mark.parametrize("entrypoint", CODES)
@settings(**COSTS)
@given(changes())
@example({"limits.cpuPercent": 1e-320})
@example({"limits.cpuPercent": 0.1, "limits.timeoutMs": 1, "limits.memoryMb": 1, "limits.networkPerMinute": 0})
@example({"priority": 10**400, "limits.timeoutMs": float("nan")})
@example({"name": "\ud800", "author": "z̷" * 50})
@example({"more": nested(200)})
@example({"id": "../../x"})
def test_no_manifest_costs_a_turn_or_another_plugins_answer(
        daemon: Daemon, entrypoint: str, changed: dict[str, Any]) -> None:
    go_all_ways(daemon, changed, entrypoint)
    nothing_was_lost(daemon)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("entrypoint", CODES)
@settings(**{**COSTS, "max_examples": 300})
@given(changes())
def test_no_manifest_of_many_costs_a_turn_or_another_plugins_answer(
        daemon: Daemon, entrypoint: str, changed: dict[str, Any]) -> None:
    go_all_ways(daemon, changed, entrypoint)
    nothing_was_lost(daemon)


RAW: tuple[bytes, ...] = (
    b"", b"\xff\xfe{}\x00", b"\xef\xbb\xbf{}", b"{", b"[]", b"null", b"1e999", b'"x"', b"[" * 60_000,
    b'{"a":' * 10_000, b'{"id":NaN}', b'{"limits":{"cpuPercent":1e-400}}', b'{"limits":{"cpuPercent":-1e-324}}',
    b'{"priority":' + b"9" * 60_000 + b"}", b'{"priority":1e' + b"9" * 60_000 + b"}",
    b'{"id":"honest","id":"fuzzed"}', b'{"a":"\\ud800"}', b'{"\\ud800\\udc00":1}', b'{"a":"\\u0000"}',
    b'{"a":"\x01"}', b"{" + b",".join(b'"k%d":1' % n for n in range(6000)) + b"}",
    b'{"permissions":[' + b",".join([b'"data:reed"'] * 4000) + b"]}", b"/*x*/{}", b"{} {}", b"\x00" * 1000,
    b" " * 65_537)


@pytest.mark.parametrize("entrypoint", CODES)
@pytest.mark.slow_after(1)
def test_bytes_that_are_no_manifest_are_refused_by_every_way(daemon: Daemon, entrypoint: str) -> None:
    asked = Asked(daemon)
    folder = Path(str(daemon.config["plugins_dir"])) / "fuzzed-folder"
    for text in RAW:
        bundle = zip_of({"manifest.json": text, entrypoint: CODES[entrypoint].encode()})
        assert not asked.operate("plugin.register", bundle=bundle), text[:60]
        assert not asked.operate("plugin.install", bundle=bundle), text[:60]
        (folder / "manifest.json").write_bytes(text)
        asked.operate("daemon.reload")
        asked.others_are_served()
    nothing_was_lost(daemon)
