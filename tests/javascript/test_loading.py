"""What an entry point in JavaScript may be and may import, and what is said of it if it cannot be loaded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.client import CallError
from apex_exec.executor.outcome import at_place
from tests.support.daemon import Daemon
from tests.support.javascript import write_files

PLUGIN = """export default {{ id: "{id}", version: "1.0.0", permissions: [],
  hooks: {{ onActionExecute: () => ({{ result: v, metadata: {{}} }}) }} }};
"""
FINE: dict[str, tuple[dict[str, str | bytes], object]] = {
    "bom": ({"index.js": b"\xef\xbb\xbfconst v = 1;\r\nPLUGIN"}, 1),
    "modules": ({"index.mjs": "import { v } from './lib/a.mjs';PLUGIN", "lib/a.mjs":
                 "import data from '../data.json' with { type: 'json' }; export const v = [data.x, Object.keys(data)]",
                 "data.json": '{"x": [1], "__proto__": {"x": 2}}'}, [[1], ["x", "__proto__"]]),
    "cycle": ({"index.js": "import { v } from './a.js'; export const w = 2;PLUGIN",
               "a.js": "import { w } from './index.js'; export const v = 1; export const f = () => w"}, 1),
    "later": ({"index.js": "const { v } = await import('./a.js');PLUGIN", "a.js": "export const v = 9"}, 9),
    "timer": ({"index.js": "await new Promise((r) => setTimeout(r, 5)); const v = 3;PLUGIN"}, 3),
    "large": ({"index.js": "const v = '" + "x" * 2_000_000 + "'.length;PLUGIN"}, 2_000_000),
    "strict": ({"index.js": "const v = (function () { return String(this) })();PLUGIN"}, "undefined"),
}
REFUSED: dict[str, tuple[dict[str, str | bytes], str]] = {
    "outside": ({"index.js": "import v from '../../etc/passwd';PLUGIN"}, "not in the bundle"),
    "absolute": ({"index.js": "import v from '/etc/passwd';PLUGIN"}, "not in the bundle"),
    "package": ({"index.js": "import v from 'lodash';PLUGIN"}, "esbuild"),
    "no-suffix": ({"index.js": "import v from './a';PLUGIN", "a.js": "export default 1"}, "no-suffix/a.js"),
    "dots": ({"index.js": "import v from './x/../a.js';PLUGIN", "a.js": "export default 1"}, "dots/a.js"),
    "text": ({"index.js": "import v from './a.txt';PLUGIN", "a.txt": "1"}, "only .js, .mjs and .json"),
    "bad-json": ({"index.js": "import v from './a.json';PLUGIN", "a.json": "{1"}, "SyntaxError"),
    "no-export": ({"index.js": "1"}, "no default export"),
    "class": ({"index.js": "export default class {}"}, "a function or a class"),
    "null": ({"index.js": "export default null"}, "null"),
    "no-hooks": ({"index.js": "export default { id: 'no-hooks', version: '1.0.0' }"}, "`hooks`"),
    "not-a-hook": ({"index.js": "export default { id: 'not-a-hook', version: '1.0.0', hooks: { onActionExecute: 1 } }"},
                   "not a function"),
    "other-id": ({"index.js": "export default { id: 'q', version: '1.0.0', hooks: { onActionExecute() {} } }"}, "'q'"),
    "commonjs": ({"index.js": "module.exports = {}"}, "module is not defined"),
    "syntax": ({"index.js": "import './b.js'", "b.js": "\n\nlet a = = 2"}, "unexpected token"),
    "throws": ({"index.js": "\nfunction f() { throw new TypeError('at import') }\nf()"}, "TypeError: at import"),
    "waits": ({"index.js": "await new Promise(() => {})"}, "top-level await never ends"),
    "asks": ({"index.js": "await plugin.api.query('SELECT 1')"}, "there for hooks"),
    "not-utf8": ({"index.js": b"const a = '\xff'"}, "not UTF-8"),
    "memory": ({"index.js": "const a = []; for (;;) a.push([1, 2, 3])"}, "out of memory"),
    "deep": ({"index.js": "(" * 100_000}, "call stack"),
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    for id_, (files, _) in {**FINE, **REFUSED}.items():
        made = {}
        for name, text in files.items():
            plugin = PLUGIN.format(id=id_)
            made[name] = (text.replace(b"PLUGIN", plugin.encode()) if isinstance(text, bytes)
                          else text.replace("PLUGIN", plugin))
        write_files(folder / "plugins", id_, made, entrypoint=next(iter(files)))
    try:
        with Daemon(folder / "d", folder / "plugins", {"breaker.ends": 100, "limits.timeout_ms": 60_000,
                                                       "pool.boot_seconds": 60}) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("id_", FINE)
def test_modules_of_the_bundle_are_loaded(daemon: Daemon, id_: str) -> None:
    got = daemon.invoke(id_, "onActionExecute", {"action": "x", "context": {}}, deadline_ms=60_000)
    assert got["result"] == FINE[id_][1]


@pytest.mark.parametrize("id_", REFUSED)
def test_what_cannot_be_loaded_says_why_and_where(daemon: Daemon, id_: str) -> None:
    with pytest.raises(CallError) as caught:
        daemon.invoke(id_, "onActionExecute", {"action": "x", "context": {}}, deadline_ms=60_000)
    told = f"{caught.value.message} {caught.value.details}"
    assert caught.value.code == "BOOT_FAILED" and REFUSED[id_][1] in told, told
    assert "apex:" not in told


@pytest.mark.parametrize(("trace", "place"), [
    ("SyntaxError: x\n    at p/b.js:3:9", " (at p/b.js:3)"),
    ("TypeError: x\n    at f (p/index.js:2:25)\n    at <anonymous> (p/index.js:3:1)", " (at p/index.js:2 in f)"),
    ("Error: x", "")])
def test_a_failure_is_told_with_the_place_that_threw(trace: str, place: str) -> None:
    assert at_place("it failed", trace) == f"it failed{place}"
