"""The tests of a JavaScript bundle: run in the jail and, unchanged, by node; measured by us, proven line by line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import apex_exec
from apex_exec.config import load_settings
from apex_exec.errors import Refusal
from apex_exec.market.review.checks import check
from apex_exec.market.review.coverage import Measured, measure
from apex_exec.registry.bundles.bundle import make_bundle
from apex_exec.registry.scan.javascript.counters import points_of
from apex_exec.registry.trials.javascript import counted, prove
from apex_exec.registry.trials.testing import Proof, Request, Run
from apex_exec.registry.trials.testing_child import Zygote
from tests.market.javascript_features import ABSENT, FAILING, HEAD, PASSING
from tests.support import has_landlock, need
from tests.support.bundles import manifest

PLUGIN = b"""import { total } from "./lib/sums.js";

export default {
  id: "sums",
  version: "1.0.0",
  permissions: ["data:read"],
  hooks: {
    async onDataFetch(context) {
      const rows = await context.api.query(context.query, []);
      if (rows.length === 0) {
        return { transformedData: null };
      }
      return { transformedData: total(rows) };
    },
    async onActionExecute(context) {
      const rows = await plugin.api.query("SELECT 1", []);
      return { result: rows.length, metadata: {} };
    },
  },
};
"""
SUMS = b"""export function total(rows) {
  let sum = 0;
  for (const row of rows) {
    if (row.amount < 0) {
      throw new RangeError("a negative amount");
    }
    sum += row.amount;
  }
  return sum;
}

export function neverTested(x) {
  const y = x + 1;
  return y > 2
    ? y
    : x;
}
"""
TESTS = """import assert from "node:assert/strict";
import test, { describe, it, beforeEach } from "node:test";
import sums from "../index.js";

const context = (rows) => ({ query: "q", api: { async query() { return rows } } });

test("a sum", async () => {
  assert.deepEqual(await sums.hooks.onDataFetch(context([{ amount: 1 }, { amount: 2 }])), { transformedData: 3 });
});
describe("odd rows", () => {
  let rows;
  beforeEach(() => { rows = [] });
  it("has none", async () => {
    assert.equal((await sums.hooks.onDataFetch(context(rows))).transformedData, null);
  });
  it("has a negative one", async () => {
    rows.push({ amount: -1 });
    await assert.rejects(() => sums.hooks.onDataFetch(context(rows)), { name: "RangeError", message: /negative/ });
  });
});
"""
UNRUN = {"lib/sums.js": {13, 14, 15, 16}, "index.js": {16, 17}}
"""Lines that the tests above do not come to."""
SOURCES = ["index.js", "lib/sums.js"]


def files_of(tests: str, plugin: bytes = PLUGIN, **more: bytes) -> dict[str, bytes]:
    return {"index.js": plugin, "lib/sums.js": SUMS, "tests/index.test.js": tests.encode(),
            **{name.replace("__", "/") + ".js": body for name, body in more.items()}}


@pytest.fixture(scope="module")
def request_() -> Request:
    uid = load_settings(None).sandbox.uid_range[1] if os.geteuid() == 0 else 0
    return Request("sums", "1.0.0", "index.js", files_of(TESTS), 150 << 20, [], [], "L2", uid, 30.0, SOURCES,
                   proof_seconds=120.0, proofs_min=40)


@pytest.fixture(scope="module")
def zygote(request_: Request) -> Iterator[Zygote]:
    try:
        made = Zygote(request_)
    except OSError as error:
        need(False, str(error))
    yield made
    made.close()


def run_of(zygote: Zygote, files: dict[str, bytes]) -> Run:
    return zygote.run(counted(files, SOURCES))[0]


def both(zygote: Zygote, request: Request, files: dict[str, bytes]) -> tuple[Run, Measured, Proof]:
    """What the tests claim, how much that is, and what is proven of it."""
    run = run_of(zygote, files)
    found = measure(files, run.arcs, SOURCES)
    return run, found, prove(zygote, msgspec.structs.replace(request, files=files, points=found.claims))


def test_honest_tests_pass_and_every_line_that_they_run_is_proven(zygote: Zygote, request_: Request) -> None:
    run, found, proof = both(zygote, request_, request_.files)
    assert (run.ended, run.failed, run.passed) == ("", 0, 3), run.failures
    assert {path: set(lines) for path, lines in found.missing.items()} == UNRUN
    assert (found.enough, found.percent()) == (True, "72.72")
    assert proof.path == "" and proof.proven == proof.claimed == found.lines_run > 10


def test_a_bundle_whose_tests_run_too_little_does_not_pass_the_gate(zygote: Zygote) -> None:
    little = files_of("import test from 'node:test';\nimport '../index.js';\ntest('loads', () => {});\n")
    run = run_of(zygote, little)
    found = measure(little, run.arcs, SOURCES)
    assert run.passed == 1 and not found.enough and float(found.percent()) < 10, found


def node() -> str:
    found = shutil.which("node")
    need(found, "node is not installed")
    return str(found)


@pytest.mark.system
def test_the_same_files_pass_under_node_and_miss_the_same_lines(request_: Request, tmp_path: Path) -> None:
    for path, body in request_.files.items():
        (tmp_path / "sums" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sums" / path).write_bytes(body)
    (tmp_path / "sums" / "package.json").write_text('{"type": "module"}')
    done = subprocess.run([node(), "--test", "--experimental-test-coverage", "--test-reporter=tap"],
                          cwd=tmp_path / "sums", capture_output=True, text=True)
    assert done.returncode == 0 and "# pass 3" in done.stdout, done.stdout
    said = {line.split("|")[0].strip("# ").strip(): line.split("|")[-1].strip() for line in done.stdout.splitlines()
            if ".js" in line and "|" in line}
    missed = {name: {line for part in text.replace(",", " ").split() for line in _range(part)}
              for name, text in said.items()}
    for path, lines in UNRUN.items():
        counted_lines = {point.line for point in points_of(request_.files[path])}
        assert missed[path] & counted_lines == lines, (path, said)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.mark.parametrize(("body", "words"), [
    ("assert.equal(1, 2)", "1 !== 2"), ("assert.equal(1, '1')", "AssertionError"),
    ("assert.deepEqual({ a: [1, { b: 2 }] }, { a: [1, { b: 3 }] })", "deep-equal"),
    ("assert.deepEqual([0], [-0])", "deep-equal"), ("assert.deepEqual({ a: undefined }, {})", "deep-equal"),
    ("assert.deepEqual(new Date(1), new Date(2))", "deep-equal"), ("assert.throws(() => 1)", "expected exception"),
    ("assert.throws(() => { throw new TypeError('x') }, RangeError)", "TypeError"),
    ("assert.throws(() => { throw new Error('abc') }, /xyz/)", "did not match"),
    ("await assert.rejects(Promise.resolve(1))", "expected rejection"), ("assert.match('abc', /x/)", "did not match"),
    ("throw new Error('mine')", "mine"), ("null.x", "TypeError"), ("await Promise.reject(new Error('later'))", "later"),
    ("await t.test('inner', () => { throw new Error('inside') })", "inside"),
    ("new Map() === 1 || assert.ok(0)", "falsy"),
    ("assert.deepEqual(new Map([['a', 1]]), new Map([['a', 2]]))", "deep-equal"),
])
def test_a_test_that_fails_is_reported_with_its_reason(zygote: Zygote, body: str, words: str) -> None:
    run = run_of(zygote, files_of("import assert from 'node:assert/strict';\nimport test from 'node:test';\n"
                                  f"test('good', () => {{}});\ntest('bad', async (t) => {{ {body} }});\n"))
    assert run.ended == "" and run.failed >= 1 and run.passed == 1, run.failures
    assert words in "".join(run.failures) and "bad" in run.failures[0]


@pytest.mark.parametrize(("tests", "words"), [
    ("import test from 'node:test'; test('x', () => {", "SyntaxError"),
    ("import x from 'lodash'; x()", "esbuild"), ("import '../gone.js'", "not in the bundle"),
    ("throw new Error('at the top')", "at the top"), ("await new Promise(() => {})", "never"),
    ("import fs from 'node:fs'", "tests have node:test"),
])
def test_a_test_file_that_cannot_be_run_fails(zygote: Zygote, tests: str, words: str) -> None:
    run = run_of(zygote, files_of(tests))
    assert run.passed == 0 and (run.failed == 1 or run.ended), run
    assert words in "".join(run.failures) + run.ended


@pytest.mark.parametrize("name", PASSING)
def test_what_tests_of_node_use_passes_in_the_jail(zygote: Zygote, name: str) -> None:
    run = run_of(zygote, files_of(HEAD + PASSING[name]))
    assert run.ended == "" and run.failed == 0 and run.passed >= 1, (run.failures, run.ended)


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_under_node_fails_in_the_jail_with_its_reason(zygote: Zygote, name: str) -> None:
    body, word = FAILING[name]
    run = run_of(zygote, files_of(HEAD + body))
    assert run.ended == "" and run.failed >= 1 and word in "".join(run.failures), run


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_absent_says_so_by_its_name(zygote: Zygote, name: str) -> None:
    run = run_of(zygote, files_of(HEAD + ABSENT[name]))
    assert run.failed == 1 and name in run.failures[0], run


def test_a_promise_that_a_test_forgets_is_told(zygote: Zygote) -> None:
    run = run_of(zygote, files_of(HEAD + "test('x', () => { Promise.reject(new RangeError('forgotten')) });"))
    assert any("nobody handled it" in line and "RangeError: forgotten" in line for line in run.output), run


def test_a_file_that_fails_at_the_top_takes_no_other_file_with_it(zygote: Zygote) -> None:
    files = files_of(HEAD + "test('a', () => {}); throw new Error('top');")
    files["tests/other.test.js"] = (HEAD + "test('b', () => {});").encode()
    run = run_of(zygote, files)
    assert (run.passed, run.failed) == (2, 1) and "top" in run.failures[0], run


@pytest.mark.system
@pytest.mark.parametrize("name", [*PASSING, *FAILING])
def test_the_very_same_file_does_the_same_under_node(name: str, tmp_path: Path) -> None:
    body = PASSING.get(name) or FAILING[name][0]
    (tmp_path / "index.test.mjs").write_text(HEAD + body)
    done = subprocess.run([node(), "--test", "--test-reporter=tap", "index.test.mjs"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=100)
    assert (done.returncode == 0) == (name in PASSING), done.stdout


def test_a_loop_without_end_is_stopped_and_named(request_: Request) -> None:
    need(has_landlock(), "the tests run at L2, which takes Landlock or namespaces")
    made = Zygote(msgspec.structs.replace(request_, run_seconds=2.0))
    try:
        run = run_of(made, files_of("import test from 'node:test'; test('spins', () => { for (;;); })"))
    finally:
        made.close()
    assert "longer than 2 s" in run.ended and run.test == "spins"


def test_the_fake_platform_answers_context_and_global_alike(zygote: Zygote) -> None:
    tests = """import assert from "node:assert/strict";
import test from "node:test";
import { FakePlatform } from "@apex-exec/plugin/testing";
import sums from "../index.js";
test("both", async () => {
  const platform = new FakePlatform(sums, { query: [{ amount: 4 }] });
  assert.deepEqual(await platform.call("onDataFetch", { query: "q", filters: {} }), { transformedData: 4 });
  assert.equal((await platform.call("onActionExecute", { action: "a", context: {} })).result, 1);
  assert.deepEqual(platform.calls.map(([method]) => method), ["query", "query"]);
});
"""
    run = run_of(zygote, files_of(tests))
    assert (run.failed, run.passed) == (0, 1), run.failures


TOGETHER = """import assert from "node:assert/strict";
import test from "node:test";
import { FakePlatform } from "@apex-exec/plugin/testing";
let user;
const said = [], order = [];
const racy = {
  id: "p", version: "1.0.0", permissions: ["data:read"],
  hooks: {
    async onDataFetch(c) {
      user = c.userId;
      order.push(`${c.userId} begins`);
      await c.api.query("SELECT 1");
      said.push(`${c.userId} ${user}`);
      order.push(`${c.userId} ends`);
      return c.params.query;
    },
    async onActionExecute() { await plugin.api.query("global"); throw new Error("mine") },
  },
};
const calls = (n) => Array.from({ length: n }, (_, i) => ["onDataFetch", { query: i, filters: {} }]);
const run = async (seed) => {
  said.length = 0;
  await new FakePlatform(racy).runTogether(calls(6), { seed });
  return [...said];
};
test("races are found, in an order of each seed", async () => {
  assert.deepEqual(await run(3), await run(3));
  assert((await run(3)).some((line) => line.slice(0, 36) !== line.slice(37)));
  const orders = new Set();
  for (let seed = 0; seed < 10; seed++) orders.add((await run(seed)).map((line) => line.slice(0, 36)).join());
  assert(orders.size > 5);
});
test("one user's calls follow each other", async () => {
  order.length = 0;
  const platform = new FakePlatform(racy);
  const both = [["onDataFetch", { query: 1 }, "u"], ["onDataFetch", { query: 2 }, "u"]];
  assert.deepEqual(await platform.runTogether(both), [1, 2]);
  assert.deepEqual(order, ["u begins", "u ends", "u begins", "u ends"]);
  assert.deepEqual(platform.callsBy.map(([by, method]) => [by, method]), [["u", "query"], ["u", "query"]]);
  order.length = 0;
  await platform.runTogether(calls(3), { concurrency: 1 });
  assert(order.every((line, i) => line.endsWith(i % 2 ? "ends" : "begins")));
});
test("what fails says which call", async () => {
  const wrong = new FakePlatform(racy).runTogether([...calls(2), ["onActionExecute", {}, "u"]], { seed: 5 });
  await assert.rejects(wrong, { message: "mine (call 2 of runTogether, seed 5: onActionExecute of user u)" });
});
"""


def test_the_fake_platform_runs_calls_together(zygote: Zygote) -> None:
    run = run_of(zygote, files_of(TOGETHER))
    assert (run.failed, run.passed) == (0, 3), run.failures


@pytest.mark.system
def test_calls_run_together_under_node_too(tmp_path: Path) -> None:
    kit = Path(apex_exec.__file__).parent / "npm" / "plugin"
    target = tmp_path / "node_modules" / "@apex-exec" / "plugin"
    shutil.copytree(kit, target)
    (tmp_path / "together.test.mjs").write_text(TOGETHER)
    done = subprocess.run([node(), "--test", "together.test.mjs"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=100)
    assert done.returncode == 0, done.stdout


FORGERIES = {
    "counters-by-name": ("import { counters } from 'apex:counters/50/lib/sums.js'; counters.fill(1);", PLUGIN),
    "counters-in-the-plugin": (TESTS, PLUGIN + b"import { array } from 'apex:tests';\n"
                               b"const all = array('lib/sums.js', 12); all.fill(1);\n"
                               b"import('apex:counters/12/lib/sums.js').then((m) => m.counters.fill(1));\n"),
    "filled-arrays": (TESTS + "import { report } from 'apex:tests';\n"
                      "Uint32Array.prototype.hit = 1; Object.defineProperty(Array.prototype, 'push', "
                      "{ value(x) { this[this.length] = x } });\n", PLUGIN),
    "a-global-with-a-trap": (TESTS + "for (const name of Object.getOwnPropertyNames(globalThis))\n"
                             "  if (/^t[0-9a-f]{24}$/.test(name)) globalThis[name]();\n", PLUGIN),
    "text-of-functions": ("import { neverTested } from '../lib/sums.js';\n" + TESTS +
                          "const text = String(sums.hooks.onActionExecute) + String(neverTested);\n"
                          "const seen = /t[0-9a-f]{24}/.exec(text);\n"
                          "if (seen) (await import(`apex:${seen[0]}`))[seen[0]]();\n", PLUGIN),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_forged_is_not_proven(zygote: Zygote, request_: Request, name: str) -> None:
    tests, plugin = FORGERIES[name]
    files = files_of(tests, plugin)
    unrun = {path: [number for number, point in enumerate(points_of(files[path])) if point.line in lines]
             for path, lines in UNRUN.items()}  # what the forgery would have us believe
    proof = prove(zygote, msgspec.structs.replace(request_, files=files, points=unrun))
    assert proof.path and proof.proven == 0, (name, proof)


def test_a_forged_report_fails_whole(zygote: Zygote, request_: Request) -> None:
    forged = TESTS + "const made = await import('apex:tests');\nmade.array('lib/sums.js', 12).fill(1);\n"
    _, found, proof = both(zygote, request_, files_of(forged))
    assert set(found.run["lib/sums.js"]) >= {13, 14}, "the claim is made"
    assert (proof.path, proof.line) != ("", 0) and proof.line in UNRUN[proof.path]


def test_what_stands_on_one_line_is_proven_statement_by_statement(zygote: Zygote, request_: Request) -> None:
    """A bundler writes a plugin on one line, so that to come to the line says nothing of what else stands there."""
    plugin = b"export default{hooks:{onDataFetch(c){if(c.no){a();b();c1();d();e();f();g()}return{transformedData:1}}}}"
    tests = ("import test from 'node:test';\nimport sums from '../index.js';\nconst m = await import('apex:tests');\n"
             "test('x', () => { sums.hooks.onDataFetch({}) });\nm.array('index.js', %d).fill(1);\n")
    files = {"index.js": plugin, "tests/index.test.js": (tests % len(points_of(plugin))).encode()}
    request = msgspec.structs.replace(request_, files=files, sources=["index.js"])
    found = measure(files, zygote.run(counted(files, ["index.js"]))[0].arcs, ["index.js"])
    assert found.percent() == "100.00", "the claim is made"
    proof = prove(zygote, msgspec.structs.replace(request, points=found.claims))
    assert (proof.path, proof.line) == ("index.js", 1) and proof.proven < 3


@pytest.mark.parametrize(("name", "problem"), [
    ("index.test.js", ""), ("test.mjs", ""), ("test_sums.py", "put them into tests/*.test.js")])
def test_a_bundle_in_javascript_passes_the_gate_by_its_own_tests(name: str, problem: str) -> None:
    files = files_of(TESTS) | {"manifest.json": json.dumps(manifest(
        id="sums", permissions=["data:read"],
        manifest={"entrypoint": "index.js", "hooks": ["onDataFetch", "onActionExecute"]})).encode()}
    files[f"tests/{name}"] = files.pop("tests/index.test.js")
    arcs = {path: [(number, 1) for number, _ in enumerate(points_of(files[path]))] for path in SOURCES}
    claims: list[dict[str, list[int]]] = []
    found = check(make_bundle(files, "sums"), now_ns=0, scan=lambda _: ([], []),
                  run_tests=lambda _: Run(passed=3, arcs=arcs), prove=lambda _, lines: claims.append(lines) or Proof(),
                  contact="a@b.c", response_hours=24, scaffold="")
    told = {one.name: one.problems for one in found.checks}
    assert problem in "".join(told["tests"]) and bool(told["tests"]) == bool(problem)
    if not problem:
        assert told["coverage"] == [] and {path: len(numbers) for path, numbers in claims[0].items()} == {
            path: sum(not point.is_branch for point in points_of(files[path])) for path in SOURCES}


def test_counters_and_files_that_do_not_exist_are_forged(request_: Request) -> None:
    for arcs in ({"lib/sums.js": [(5000, 1)]}, {"other.js": [(0, 1)]}, {"lib/sums.js": [(-1, 1)]}):
        with pytest.raises(Refusal) as caught:
            measure(request_.files, arcs, SOURCES)
        assert caught.value.reason == "report_forged"


def test_the_kit_that_the_jail_is_given_is_the_packages_own() -> None:
    package = Path(apex_exec.__file__).parent / "npm" / "plugin" / "testing.js"
    assert counted({}, [])["/kit/@apex-exec/plugin/testing"] == package.read_bytes()


BENDS = """import test from "node:test";

test("bends the report", () => {
  const push = Array.prototype.push;
  Array.prototype.push = function (...added) {
    for (let n = 0; n < 100; n++) push.call(this, "forged " + n + "x".repeat(3000));
    return push.apply(this, added);
  };
  throw new Error("x");
});
"""


def test_a_report_that_the_tests_have_bent_is_no_longer_than_ours(zygote: Zygote) -> None:
    """Each failure's places are looked up, and a person reads them."""
    run = run_of(zygote, files_of(BENDS))
    assert "forged" in str(run.failures), "it bends something"
    assert len(run.failures) <= 20 and max(map(len, run.failures)) <= 2000
