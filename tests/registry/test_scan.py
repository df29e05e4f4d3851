"""The static scan: what it finds, what it leaves alone, and that hostile source cannot hold it up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import apex_exec
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.scan import scanner as scan_module
from apex_exec.registry.scan.child import scan_files
from apex_exec.registry.scan.findings import RULES, Finding, Report
from apex_exec.registry.scan.scanner import ALLOWED, Request, scan
from apex_exec.testing.scan_samples import MALICIOUS, ORDINARY_PACKAGES, malicious_bundle, package_files
from tests.support import need
from tests.support.bundles import bundle

EXAMPLES = Path(apex_exec.__file__).parent / "examples" / "plugins"


def found(source: str, permissions: list[str] | None = None, **more: Any) -> list[Finding]:
    return list(scan_files(Request({"plugin.py": source.encode()}, list(ALLOWED), permissions or [], **more)))


def rules(source: str, permissions: list[str] | None = None, **more: Any) -> set[str]:
    return {item.rule for item in found(source, permissions, **more)}


@pytest.mark.parametrize("name", [name for name in MALICIOUS if not name.startswith("deep-")])
def test_each_malicious_sample_is_found_at_error_level(name: str) -> None:
    errors = [item for item in scan_files(Request(malicious_bundle(MALICIOUS[name]), list(ALLOWED), []))
              if item.severity == "error"]
    assert errors, name
    assert all(item.path == "plugin.py" and item.line > 0 and item.why and item.fix for item in errors)


@pytest.mark.parametrize("name", ORDINARY_PACKAGES)
@pytest.mark.slow_after(3)
def test_a_well_known_pure_python_package_has_no_finding_at_error_level(name: str) -> None:
    files = package_files(name)
    need(files, f"{name} is not installed")
    report = scan(files, None, with_bandit=False)
    assert [f"{item.path}:{item.line} {item.rule}" for item in report.errors] == []


@pytest.mark.slow
def test_the_example_plugins_have_no_finding_at_error_level() -> None:
    for folder in sorted(path.parent for path in EXAMPLES.glob("*/manifest.json")):
        made = read_folder(folder)
        assert scan(made.files, made.manifest, with_bandit=False).errors == (), folder.name


@pytest.mark.parametrize(("source", "rule"), [
    ("exec(x)", "dynamic-code"), ("import socket", "import-not-allowed"), ("import pickle\npickle.loads(x)",
                                                                           "unsafe-deserialisation"),
    ("import sys\nsys._getframe(1)", "frame-inspection"), ("open('x')", "file-access"),
    ("import sys\nsys.gettrace().__self__.data", "coverage-reach"),
    ("import os\nos._exit(3)", "coverage-reach"), ("from linecache import getlines as g\ng('p')", "coverage-reach"),
    ("import io\nclass R(io.RawIOBase): pass", "coverage-reach"),
    ("class R:\n    def readinto(self, b): pass", "coverage-reach"),
    ("f.__code__.replace(co_code=b'')", "coverage-reach"),
    ("import sys\nsys.modules['mar' + 'shal'].loads", "coverage-reach"),
    ("setattr(R, 'readinto', f)", "coverage-reach"),
    ("import gc\nfind = gc.get_objects", "coverage-reach"), ("import sys\nm = sys.monitoring", "coverage-reach"),
    ("import sys\nsys.modules['workers.jail.base'].libc", "coverage-reach"), ("f.__code__.co_code", "coverage-reach"),
    ("def t(frame, e, a):\n    frame.f_lineno = 3", "coverage-reach"), ("import ctypes\nctypes.CDLL", "coverage-reach"),
    ("import os\nos.getenv('X')", "environment"), ("x = 'a\u200bb'", "invisible-character"), ("x = (", "unparsable"),
    ("if __name__ == '__main__':\n    import os\n    os.system('x')", "script-part"),
    ("import ctypes\nctypes.CDLL(None)", "native-library"), ("X = '" + "aB3dE5gH7jK9mN1pQ3sT5vX7zC/+=" * 100 + "'",
                                                             "large-literal"),
])
def test_what_a_person_should_look_at_is_a_warning_or_a_note(source: str, rule: str) -> None:
    assert rule in rules(source)
    assert RULES[rule].severity != "error" or rule == "unparsable"


def test_every_rule_of_the_table_is_shown_by_a_test() -> None:
    shown = {item.rule for source in MALICIOUS.values() if len(source) < 5000
             for item in scan_files(Request(malicious_bundle(source), list(ALLOWED), []))}
    shown |= {"dynamic-code", "import-not-allowed", "unsafe-deserialisation", "frame-inspection", "file-access",
              "environment", "invisible-character", "unparsable", "script-part", "native-library", "large-literal"}
    shown |= {"unused-permission", "idle-declaration", "scan-unfinished"}  # below
    shown |= {"import-outside", "not-a-plugin", "declaration-differs", "common-js", "absent-global"}  # of JavaScript
    shown |= {"deprecated"}  # tests/catalogue/test_endings.py
    assert shown == set(RULES)
    assert len({rule.id for rule in RULES.values()}) == len(RULES)


def test_a_name_that_is_assigned_cannot_switch_the_script_part_on() -> None:
    guarded = "if __name__ == '__main__':\n    import os\n    os.system('x')"
    assert "process-start" in rules(f"__name__ = '__main__'\n{guarded}")


def test_api_calls_are_compared_with_the_declared_permissions_both_ways() -> None:
    call = "def f(context):\n    context.api.query('SELECT 1')\n"
    assert "undeclared-permission" in rules(call) and not rules(call, ["data:read"])
    assert rules("x = 1", ["data:read"]) == {"unused-permission"}
    assert not rules("def f(context):\n    api = context.api\n    api.emit('e')\n", ["events:emit"])
    assert not rules("def f(context):\n    context.api.call('admin.billing.list')\n", ["admin:billing"])
    assert not rules("def f(context):\n    helper(context.api)\n", ["data:read"])  # what helper does is not followed
    assert rules("x = 1", network=["a.example.com"]) == {"idle-declaration"}


@pytest.mark.parametrize("body", ["context.api.storage.set('k', 1)", "s = context.api.storage\n    s.set('k', 1)",
                                  "api = context.api\n    api.storage.delete('k')"])
def test_calls_of_the_storage_need_their_permission(body: str) -> None:
    code = f"def f(context):\n    {body}\n"
    assert "undeclared-permission" in rules(code) and not rules(code, ["data:write"])
    assert rules(code, ["data:write", "data:read"]) == {"unused-permission"}
    assert not rules("def f(context):\n    helper(context.api.storage)\n", ["data:read"])


def test_a_plugins_own_modules_may_be_imported_and_tests_may_import_what_they_like() -> None:
    files = {"plugin.py": b"import helper\nfrom parts.x import y\n", "helper.py": b"", "parts/x.py": b"y = 1\n",
             "tests/test_x.py": b"import pytest, socket\n"}
    assert list(scan_files(Request(files, list(ALLOWED), []))) == []


@pytest.mark.parametrize("source", [
    "x = " + "(" * 50_000, "x = " + "[" * 90 + "1" + "]" * 90 + "\n" + "y = " + "-" * 500_000 + "1",
    "x = " + "+".join(["1"] * 200_000), "x" + ".a" * 200_000, "f" + "()" * 100_000, "lambda: " * 50_000 + "1",
    "x = '" + "A" * 1_900_000 + "'", "x = " + "9" * 1_900_000,
    "\n".join(f"a{n} = a{n + 1} + a{n + 1}" for n in range(9000)),
    "getattr(getattr(" * 20 + "a" + ", 'b'), 'c')" * 20, "\n".join(["exec(eval('exec(1)'))"] * 20_000),
    "if 1:\n" + "".join(" " * n + "if 1:\n" for n in range(1, 99)) + " " * 99 + "pass",
], ids=range(12))
@pytest.mark.slow_after(4)
def test_hostile_source_ends_within_the_bounds_and_says_so(source: str) -> None:
    begun = time.monotonic()
    report = scan({"plugin.py": source.encode()}, None, with_bandit=False)
    assert time.monotonic() - begun < 25
    assert isinstance(report, Report)


def test_a_scan_that_does_not_finish_is_an_error_and_not_a_clean_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = scan({"plugin.py": b"x = 1"}, None, with_bandit=False, seconds=0.001)
    assert [item.rule for item in slow.errors] == ["scan-unfinished"]
    monkeypatch.setattr(scan_module, "MEMORY_BYTES_MAX", 8 * 1024 * 1024)
    assert [item.rule for item in scan({"p.py": b"x = 1"}, None, with_bandit=False).errors] == ["scan-unfinished"]
    deep = scan(malicious_bundle(MALICIOUS["deep-unary"]), None, with_bandit=False)
    assert {item.rule for item in deep.errors} & {"scan-unfinished", "unparsable"}


def test_the_three_outputs_say_the_same() -> None:
    made = bundle(code="import os\nos.system('id')\n")
    report = scan(made.files, made.manifest, with_bandit=False)
    assert "plugin.py:2: error:" in report.text() and "%" not in report.text()
    assert report.as_json()["errors"] == 1 and report.as_json()["findings"][0]["line"] == 2
    run = report.as_sarif()["runs"][0]
    result = run["results"][0]
    assert result["level"] == "error" and result["ruleId"] == "APX006"
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "plugin.py"}, "region": {"startLine": 2}}
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "APX006"


def test_bandit_adds_warnings_and_its_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle(code="import hashlib\nhashlib.md5(b'x').hexdigest()\n")
    monkeypatch.setattr(scan_module, "find_spec", lambda _: None)
    report = scan(made.files, made.manifest)
    assert report.extras_missing == ("bandit",) and "bandit is not installed" in report.text()
    monkeypatch.undo()
    need(scan_module.find_spec("bandit") is not None, "bandit is not installed")
    listed = {(item.rule, item.severity, item.path) for item in scan(made.files, made.manifest).findings}
    assert ("bandit-B324", "warning", "plugin.py") in listed
