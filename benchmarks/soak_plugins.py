"""The plugins of the soak, half of them in JavaScript: two that behave, some that call the platform, and one for each
way to misbehave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.daemon import write_bundle

GOOD = ("good-python", "good-js")
LIMITS = {"timeoutMs": 250, "memoryMb": 24, "cpuPercent": 10}
"""The limits of the plugins that misbehave."""

ECHO = '''
def act(params):
    return {{"result": params["context"]["echo"], "metadata": {{}}}}

plugin = {{"id": "{id}", "version": "1.0.0", "permissions": [], "hooks": {{"onActionExecute": act}}}}
'''
BAD = '''
import sys
import time

calls = 0


def worker_module():
    """The globals of the module that serves this plugin, found on the stack by a name that it has."""
    try:
        raise ValueError
    except ValueError as error:
        frame = error.__traceback__.tb_frame
    while "LOOK_NS" not in frame.f_globals:
        frame = frame.f_back
    return frame.f_globals


def misbehave():
{body}


def act(params):
    """Two in three calls are honest: a plugin that only fails is paused, and then nothing happens."""
    global calls
    calls += 1
    if calls % 3 == 0:
        misbehave()
    return {{"result": params["context"]["echo"], "metadata": {{}}}}


{top}
plugin = {{"id": "{id}", "version": "1.0.0", "permissions": [], "hooks": {{"onActionExecute": act}}}}
'''
WAYS = {
    "raises": "    raise RuntimeError('a fault')",
    "exits": "    worker_module()['os']._exit(3)",
    "spins": "    while True:\n        pass",
    "sleeps": "    time.sleep(60)",
    "hoards": "    kept = []\n    while True:\n        kept.append(bytearray(1 << 20))",
    "overflows": "    sys.setrecursionlimit(10**9)\n    nest = []\n    for _ in range(300_000):\n"
                 "        nest = [nest]\n    repr(nest)",
    "shouts": "    for _ in range(200):\n        print('x' * 200)",
    "forges": "    link = worker_module()['Link']\n    write = link.write\n"
              "    link.write = lambda self, data: write(self, b'x' * 99)",
    "doubles": "    link = worker_module()['Link']\n    write = link.write\n"
               "    link.write = lambda self, data: write(self, data + data)",
}
JAVASCRIPT = """
let calls = 0;
const fail = {fail};

export default {{ id: "{id}", version: "1.0.0", permissions: {permissions}, hooks: {{
  async onActionExecute({{ api, context }}) {{
    if (++calls % 3 === 0) await fail(api, context.echo);
    return {{ result: context.echo, metadata: {{}} }};
  }},
}} }};
"""
JAVASCRIPT_WAYS = {
    "throws": "() => { throw new Error('a fault') }",
    "rejects": "(api) => { api.emit('left', 1); return Promise.reject('a fault') }",
    "spins": "() => { for (;;); }",
    "backtracks": "() => /^(a+)+$/.test('a'.repeat(50) + 'b')",
    "sleeps": "() => new Promise((done) => setTimeout(done, 60_000))",
    "waits": "() => new Promise(() => {})",
    "hoards": "() => { const kept = []; for (;;) kept.push(new Uint8Array(1 << 20)) }",
    "overflows": "() => { const nest = () => nest(); nest() }",
    "shouts": "() => { for (let i = 0; i < 200; i++) console.log('x'.repeat(200)) }",
    "crashes": "() => { let it = [1].values(); for (let i = 0; i < 1e5; i++) it = it.map((x) => x); return [...it] }",
}
"""The last one ends the process: the engine recurses without a check, and the worker's stack is its wall."""
BOOT_FAILS = "boot-fails"
CALLERS = '''
def act(context, params):
    number = params["context"]["echo"]
{body}
    return {{"result": number, "metadata": {{}}}}

plugin = {{"id": "{id}", "version": "1.0.0", "permissions": {permissions}, "hooks": {{"onActionExecute": act}}}}
'''
API = {
    "asks": (["data:read", "ui:render", "events:emit"],
             "    context.api.query('SELECT COUNT(*) AS n FROM notes WHERE tag = $1', ['none'])\n"
             "    context.api.render_widget('Chart', {'n': number})\n    context.api.emit('tick', {'n': number})"),
    "writes": (["data:write"], "    context.api.insert('notes', {'text': str(number), 'tag': 'soak'})"),
    "denied": ([], "    context.api.query('SELECT text FROM notes')"),
}
"""Plugins that call the platform: their permissions, and what they do."""
JAVASCRIPT_API = {
    "asks": "(api, n) => Promise.all([api.query(\"SELECT COUNT(*) AS n FROM notes WHERE tag = $1\", ['none']),"
            " api.renderWidget({ component: 'Chart', props: { n } }), api.emit('tick', { n })])",
    "writes": "(api, n) => api.insert('notes', { text: String(n), tag: 'soak' })",
    "denied": "(api) => api.query('SELECT text FROM notes')",
}
"""The same in JavaScript."""
WRITERS = ("writes", "js-writes")
"""Those of them that write a row in each call."""
TABLES = {"notes": {"owner": "user_id", "columns": ["id", "text", "tag"], "write": True}}
SCHEMA = "CREATE TABLE notes (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, text TEXT, tag TEXT)"


def write_plugins(folder: Path) -> list[str]:
    """Writes all of them below ``folder``. Returns the ids of all but the well-behaved ones; those that call the
    platform are in it three times."""
    write_bundle(folder, GOOD[0], ECHO.format(id=GOOD[0]))
    _write_js(folder, GOOD[1], "() => {}")
    for id_, body in WAYS.items():
        write_bundle(folder, id_, BAD.format(id=id_, body=body, top=""), limits=LIMITS)
    for id_, fail in JAVASCRIPT_WAYS.items():
        _write_js(folder, f"js-{id_}", fail, limits=LIMITS)
    for id_, (permissions, body) in API.items():
        write_bundle(folder, id_, CALLERS.format(id=id_, body=body, permissions=permissions),
                     permissions=permissions, data={"tables": ["notes"]})
        _write_js(folder, f"js-{id_}", JAVASCRIPT_API[id_], "++calls % 1", permissions, data={"tables": ["notes"]})
    write_bundle(folder, BOOT_FAILS, BAD.format(id=BOOT_FAILS, body="    pass", top="raise RuntimeError('no')"),
                 limits=LIMITS)
    _write_js(folder, f"js-{BOOT_FAILS}", "(() => { throw new Error('no') })()", limits=LIMITS)
    callers = [*API, *(f"js-{id_}" for id_ in API)] * 3
    return [*WAYS, *(f"js-{id_}" for id_ in JAVASCRIPT_WAYS), *callers, BOOT_FAILS, f"js-{BOOT_FAILS}"]


def _write_js(folder: Path, id_: str, fail: str, every: str = "++calls % 3", permissions: list[str] | None = None,
              **manifest: Any) -> None:
    """A plugin in JavaScript that echoes, and calls ``fail(api, number)`` when ``every`` is 0."""
    code = JAVASCRIPT.format(id=id_, fail=fail, permissions=json.dumps(permissions or [])).replace("++calls % 3", every)
    write_bundle(folder, id_, code, permissions=permissions or [], entrypoint="index.js", **manifest)
