"""The scan of JavaScript: what it finds, what it leaves alone, and that hostile source cannot hold it up."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.registry.bundles.manifest import parse_manifest
from apex_exec.registry.scan.child import scan_files
from apex_exec.registry.scan.findings import RULES, Finding
from apex_exec.registry.scan.javascript.counters import points_of
from apex_exec.registry.scan.javascript.syntax import Tree, parse
from apex_exec.registry.scan.scanner import Request, scan
from apex_exec.testing.scan_samples import MALICIOUS_JAVASCRIPT, ORDINARY_JAVASCRIPT, javascript_bundle
from tests.support import need

PLUGIN = "export default { id: 'sample', version: '1.0.0', permissions: [], hooks: { async onDataFetch(c) { %s } } };\n"


def found(source: str, permissions: list[str] | None = None, files: dict[str, bytes] | None = None,
          **more: Any) -> list[Finding]:
    request = Request({"index.js": source.encode(), **(files or {})}, [], permissions or [], entrypoint="index.js",
                      id="sample", version="1.0.0", hooks=["onDataFetch"], **more)
    return list(scan_files(request))


def rules(source: str, permissions: list[str] | None = None, **more: Any) -> set[str]:
    return {item.rule for item in found(source, permissions, **more)}


def inside(body: str, permissions: list[str] | None = None) -> set[str]:
    """The rules that a line inside a hook of an otherwise faultless plugin breaks."""
    said = ", ".join(f"'{name}'" for name in permissions or [])
    return rules(PLUGIN.replace("permissions: []", f"permissions: [{said}]") % body, permissions)


@pytest.mark.parametrize("name", MALICIOUS_JAVASCRIPT)
def test_each_malicious_sample_is_found_at_error_level(name: str) -> None:
    errors = [item for item in found(javascript_bundle(MALICIOUS_JAVASCRIPT[name])) if item.severity == "error"]
    assert errors, name
    assert all(item.path == "index.js" and item.line > 0 and item.why and item.fix for item in errors)


@pytest.mark.parametrize("name", ORDINARY_JAVASCRIPT)
def test_ordinary_code_has_no_finding_at_all(name: str) -> None:
    assert found(javascript_bundle(ORDINARY_JAVASCRIPT[name])) == []


@pytest.mark.parametrize(("body", "rule"), [
    ("eval(c.text)", "dynamic-code"), ("(0, eval)(c.text)", "dynamic-code"), ("\\u0065val(c.text)", "dynamic-code"),
    ("\\u{00000000065}val(c.text)", "dynamic-code"), ("\\u{" + "0" * 400 + "65}val(c.text)", "dynamic-code"),
    ("[].at.constructor('return 1')()", "dynamic-code"), ("class A {} A.constructor('return 1')()", "dynamic-code"),
    ("const run = eval; run(c.text)", "dynamic-code"), ("[c.text].map(eval)", "dynamic-code"),
    ("new Function('return 1')()", "dynamic-code"), ("Function.call(null, c.text)", "dynamic-code"),
    ("const A = (async () => {}).constructor; A(c.text)", "dynamic-code"), ("setTimeout('go()', 1)", "dynamic-code"),
    ("const { eval: e } = globalThis; e(c.text)", "dynamic-code"), ("globalThis[c.name](1)", "dynamic-code"),
    ("Reflect.get(globalThis, 'eval')(c.text)", "dynamic-code"), ("await import(c.name)", "dynamic-code"),
    ("Reflect.construct(Function, [c.text])", "dynamic-code"), ("process.env.HOME", "environment"),
    ("new Intl.NumberFormat()", "absent-global"), ("WebAssembly.compile(c.x)", "absent-global"),
    ("require('lodash')", "absent-global"), ("Buffer.from('x')", "absent-global"),
    ("const x = 'a\u200bb'", "invisible-character"), ("Error.prepareStackTrace = (e, s) => s", "frame-inspection"),
    ("const x = '" + "aB3dE5gH7jK9mN1pQ3sT5vX7zC/+=" * 100 + "'", "large-literal"),
])
def test_what_a_person_should_look_at_is_a_warning_or_a_note(body: str, rule: str) -> None:
    assert rule in inside(body)
    assert RULES[rule].severity != "error"


@pytest.mark.parametrize(("name", "advice"), [
    ("process", "--define:process.env.NODE_ENV"), ("require", "--format=esm"), ("Intl", "date-fns"),
    ("WebAssembly", "plain JavaScript"), ("Buffer", "Uint8Array"), ("localStorage", "plugin.api"),
])
def test_what_a_worker_does_not_have_is_named_with_what_to_do(name: str, advice: str) -> None:
    [item] = [item for item in found(PLUGIN % f"\n  return {name};") if item.rule == "absent-global"]
    assert name in item.message and advice in item.message and item.line == 2


@pytest.mark.parametrize("body", [
    "return new this.constructor('x')", "return c.constructor.name", "return c.constructor(c)",
    "return typeof process", "if (typeof Intl !== 'undefined') return new Intl.NumberFormat()",
    "const process = c.steps; return process", "return c.window", "return { require: 1 }",
    "for (const self of c.x) self()",
])
def test_a_name_that_is_asked_for_or_the_sources_own_is_not_reported(body: str) -> None:
    assert inside(body) == set()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\u2028", "\u2029"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_nothing_hides_behind_a_first_line_for_a_shell(mark: str, end: str) -> None:
    source = f"{mark}#!/usr/bin/env node{end}eval(globalThis.x);\n{PLUGIN % ''}"
    assert "dynamic-code" in rules(source)
    assert len(points_of(source.encode())) == len(points_of(f"eval(globalThis.x);\n{PLUGIN % ''}".encode()))


@pytest.mark.parametrize("before", [
    "() => {}", "x = async (a) => {}", "const f = a => { b }", "export const f = () => {}",
    "export default function () {}", "export default class {}", "x = a ? () => {} : () => {}", "x = 1, () => {}",
    "const f = a => {} // why", "const f = a => {} /* a\n */ // b\r/* } */", "() => {}\u2028\u00a0//\u2028"])
def test_no_code_hides_behind_a_regular_expression_that_looks_like_a_division(before: str) -> None:
    for hidden in ("/a//x; eval(c);", "/[/]//x; eval(c);", "/=\\///x; eval(c);"):
        source = f"{before}\n{hidden}\n"
        assert "dynamic-code" in {item.rule for item in found(source)}, source
        assert len(points_of(source.encode())) == len(points_of(source.replace(hidden, "a; eval(c);").encode()))
    assert {item.rule for item in found(f"{before}\n/'/.test(c); eval(c); /'/\n")} & {"dynamic-code", "unparsable"}


def test_a_division_stays_one_and_endless_doubt_is_an_error() -> None:
    source = b"x = function () {}\n/a//x; eval(c)"
    assert "comment" in str(parse(source)) and not parse(source).has_error
    honest = b"const f = () => {}\n/x/.test(y) && go()\n" * 5
    assert not parse(honest).has_error and parse(honest * 2).has_error
    assert Tree(honest).source == honest


def test_a_declaration_in_another_function_hides_nothing() -> None:
    assert "tampering" in inside("function f(Array) { return Array } Array.prototype.push = f")
    assert inside("function f(Array) { Array.prototype.push = f }") == set()


# ---------------------------------------------------------------------- permissions against use
@pytest.mark.parametrize("body", [
    "await c.api.query('SELECT 1')", "await plugin.api.query('SELECT 1')", "const { api } = c; await api.query('x')",
    "const { query } = plugin.api; await query('x')", "const a = c.api; await a.query('x')",
    "await c.api['qu' + 'ery']('x')", "await c.api?.query?.('x')", "const q = plugin.api.query; await q('x')",
    "await (({ api }) => api.query('x'))(c)", "await c.api.query.call(c.api, 'x')",
    "await c.api.storage.get('k')", "await plugin.api['storage'].list()",
])
def test_a_call_of_the_api_needs_its_permission(body: str) -> None:
    assert "undeclared-permission" in inside(body)
    assert inside(body, ["data:read"]) == set()


def test_fetch_the_host_and_widgets_need_theirs() -> None:
    assert "undeclared-permission" in inside("await fetch('https://example.org')")
    assert inside("await fetch('https://example.org')", ["network:fetch"]) == set()
    assert inside("await c.api.call('admin.billing.list')", ["admin:billing"]) == set()
    assert inside("return { customWidgets: [] }", ["ui:render"]) == set()
    assert inside("const customWidgets = []; return { 'customWidgets': customWidgets }", ["ui:render"]) == set()
    assert inside("return 1", ["ui:render"]) == {"unused-permission"}
    assert inside("return 1", ["data:read"]) == {"unused-permission"}
    assert inside("const { storage } = c.api; await storage.get('k')", ["data:read"]) == set()
    assert inside("return helper(c.api.storage)", ["data:write"]) == set()
    assert inside("await c.api.storage.get('k')", ["data:read", "data:write"]) == {"unused-permission"}
    assert inside("return helper(c.api)", ["data:read"]) == set(), "what helper does is not followed"


# ---------------------------------------------------------------------- what the platform loads
@pytest.mark.parametrize(("source", "rule", "line", "words"), [
    ("export default { id: 'x' \n hooks }", "unparsable", 1, "not valid JavaScript"),
    ("export default { hooks: { async onDataFetch(c: Context) {} } }", "unparsable", 1, "TypeScript"),
    ("module.exports = { hooks: {} }", "common-js", 1, "CommonJS"),
    ("const x = require('lodash');\nexports.hooks = {}", "common-js", 2, "CommonJS"),
    ("export const plugin = { hooks: {} }", "not-a-plugin", 1, "no default export"),
    ("export default class Plugin {}", "not-a-plugin", 1, "class"),
    ("class Plugin {}\nexport { Plugin as default }", "not-a-plugin", 1, "class"),
    ("export default function () {}", "not-a-plugin", 1, "function"),
    ("export default async (c) => 1", "not-a-plugin", 1, "function"),
    ("export default 'plugin'", "not-a-plugin", 1, "text"),
    ("export default { id: 'sample' }", "not-a-plugin", 1, "no hooks"),
    ("export default { hooks: {} }", "not-a-plugin", 1, "no hooks"),
    ("export default { hooks: {\n onDataFetch: 'x' } }", "not-a-plugin", 2, "'onDataFetch' is text"),
    ("const run = { a: 1 };\nexport default { hooks: { onDataFetch: run } }", "not-a-plugin", 2, "an object"),
    ("export default { hooks: () => 1 }", "not-a-plugin", 1, "not an object of functions"),
    (PLUGIN.replace("'sample'", "'other'") % "", "declaration-differs", 1, "'other'"),
    (PLUGIN.replace("'1.0.0'", "'1.0.' + 1") % "", "declaration-differs", 1, "'1.0.1'"),
    (PLUGIN.replace("[]", "['data:read']") % "", "declaration-differs", 1, "'data:read'"),
    (PLUGIN.replace("onDataFetch", "onActionExecute") % "", "declaration-differs", 1, "'onActionExecute'"),
    ("import { z } from 'zod';\n" + PLUGIN % "", "import-outside", 1, "esbuild"),
    ("import fs from 'node:fs';\n" + PLUGIN % "", "import-outside", 1, "none of node's"),
    ("import x from 'https://example.org/x.js';\n" + PLUGIN % "", "import-outside", 1, "nowhere else"),
    ("import '../other/x.js';\n" + PLUGIN % "", "import-outside", 1, "outside the bundle"),
    ("import './lib/x';\n" + PLUGIN % "", "import-outside", 1, "lib/x.js"),
    ("export * from './gone.js';\n" + PLUGIN % "", "import-outside", 1, "no such file"),
    (PLUGIN % "await import('./gone.js')", "import-outside", 1, "no such file"),
    ("import './tests/x.test.js';\n" + PLUGIN % "", "import-outside", 1, "tests/"),
    ("import { exec } from 'node:child_process';\n" + PLUGIN % "", "process-start", 1, "child_process"),
    ("import http from 'http';\n" + PLUGIN % "", "direct-network", 1, "http"),
])
def test_what_could_not_be_loaded_is_an_error_with_its_line(source: str, rule: str, line: int, words: str) -> None:
    files = {"lib/x.js": b"export {}", "tests/x.test.js": b"export {}"}
    items = [item for item in found(source, files=files) if item.rule == rule]
    assert items and items[0].severity == "error" and items[0].line == line and words in items[0].message, items


@pytest.mark.parametrize("source", [
    PLUGIN % "", "const p = { hooks: { onDataFetch } };\nfunction onDataFetch() {}\nexport { p as default };",
    "import h from './lib/hooks.js';\nexport default { hooks: { ...h } };",
    "export default Object.freeze({ hooks: { onDataFetch: async (c) => 1 } });",
    "export { default } from './lib/x.js';",
    "import data from './data.json' with { type: 'json' };\n" + PLUGIN % "return data",
    "const names = ['onDataFetch'];\nexport default { hooks: { [names[0]]() {} } };",
    "import x from './lib/x.js';\nexport default make(x);", "\ufeff".join(["", PLUGIN % ""]),
    (PLUGIN % "").replace("{ async", "{\r\n async"),
])
def test_what_can_be_loaded_or_cannot_be_seen_is_no_error(source: str) -> None:
    files = {"lib/hooks.js": b"export default { onDataFetch() {} }", "lib/x.js": b"export default 1",
             "data.json": b"{}"}
    assert [item.rule for item in found(source, files=files) if item.severity == "error"] == []


def test_only_what_the_entry_point_loads_has_to_be_loadable() -> None:
    files = {"tests/index.test.js": b"import test from 'node:test'; import p from '../index.js'; test('x', () => {})",
             "src/plugin.js": b"import { z } from 'zod'; export default z", "tools/build.cjs": b"module.exports = 1"}
    assert found(PLUGIN % "", files=files) == []
    loaded = found("import './lib/a.js';\n" + PLUGIN % "",
                   files={"lib/a.js": b"import './b.js'", "lib/b.js": b"import 'zod'"})
    assert [(item.path, item.rule) for item in loaded] == [("lib/b.js", "import-outside")]


LIBRARIES = ("zod", "date-fns", "lodash-es", "nanoid", "uuid", "dayjs", "mustache", "marked", "big.js", "ramda",
             "immer", "superjson", "ajv")


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(600)
def test_popular_npm_libraries_have_no_finding_at_error_level(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    need(npm, "npm is not installed")
    for command in ([npm, "init", "-y"], [npm, "install", "--no-audit", "--no-fund", "esbuild", *LIBRARIES]):
        done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True)
        need(done.returncode == 0, f"npm cannot install: {done.stderr[-200:]}")
    for name in LIBRARIES:
        (tmp_path / "in.mjs").write_text(f"import * as it from '{name}'; export * from '{name}'; export default it")
        subprocess.run([
            tmp_path / "node_modules/.bin/esbuild", "in.mjs", "--bundle", "--format=esm", "--target=es2022",
            "--platform=neutral", "--main-fields=module,main", "--conditions=import,browser", "--outfile=out.js",
            "--define:process.env.NODE_ENV=\"production\""], cwd=tmp_path, check=True, capture_output=True)
        report = scan({"index.js": (tmp_path / "out.js").read_bytes()}, None, with_bandit=False)
        assert [f"{item.line} {item.rule} {item.message}" for item in report.errors] == [], name


def test_a_cycle_of_imports_ends() -> None:
    files = {"a.js": b"import './b.js'", "b.js": b"import './a.js'"}
    assert found("import './a.js';\n" + PLUGIN % "", files=files) == []


def test_reserved_words_as_export_names_are_javascript() -> None:
    for source in (b"export { a as catch, b as if, c as default }", b"import { catch as a } from './x.js'",
                   b"export * as null from './x.js'", b"import x, { if as y } from './x.js'"):
        assert not parse(source).has_error, source
    tree = Tree(b"export { f as function }; export class A { x = null }")
    assert tree.source.endswith(b"null }") and not tree.root.has_error


# ---------------------------------------------------------------------- bounds, and the child process
@pytest.mark.parametrize("source", [
    "x = " + "(" * 50_000, "x = " + "[" * 5000 + "1" + "]" * 5000, "x = " + "-" * 500_000 + "1",
    "x = " + "+".join(["'a'"] * 200_000), "x" + ".a" * 200_000, "f" + "()" * 100_000, "() => " * 50_000 + "1",
    "x = '" + "A" * 1_900_000 + "'", "x = " + "9" * 1_900_000, "`" + "${`" * 5000,
    ";".join(f"a{n} = a{n + 1} + a{n + 1}" for n in range(9000)), "eval(" * 20_000 + ")" * 20_000,
    "\n".join(["eval(\"eval('1')\")"] * 20_000), "a=b;" * 400_000, "const {" + "a:{" * 9000 + "}" * 9000 + "}=x",
    ";".join(f"a{n}=a{n + 1}(a{n + 1},a{n + 2})" for n in range(9000)) + ";eval(a0)", "import {" * 100_000,
    "export {" + "a as b," * 100_000 + "}", "/" * 1_000_000, "class A{" * 30_000, "a?b:" * 100_000 + "c",
], ids=range(21))
@pytest.mark.slow_after(3)
def test_hostile_source_ends_within_the_bounds_and_says_so(source: str) -> None:
    begun = time.monotonic()
    report = scan({"index.js": source.encode()}, None, with_bandit=False)
    assert time.monotonic() - begun < 60
    assert report.errors or report.findings == () or all(item.rule in RULES for item in report.findings)


def test_the_scan_of_a_bundle_runs_in_the_child_with_the_manifest() -> None:
    manifest = msgspec.json.encode({
        "id": "sample", "name": "Sample", "version": "1.0.0", "author": "A", "permissions": ["data:read"],
        "manifest": {"entrypoint": "plugin.py", "hooks": ["onDataFetch"]}})
    report = scan({"plugin.py": b"", "index.js": b"eval(atob(x))"}, parse_manifest(manifest), with_bandit=False)
    assert {(item.path, item.rule) for item in report.findings} == {
        ("index.js", "decoded-code"), ("manifest.json", "unused-permission")}
    assert report.as_sarif()["runs"][0]["results"][0]["ruleId"] == RULES["decoded-code"].id
