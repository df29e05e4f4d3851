"""The plugins of the soak: two that behave, some that call the platform, and one for each way to misbehave."""

from __future__ import annotations

from pathlib import Path

from benchmarks.daemon import write_bundle

GOOD = ("good-one", "good-two")
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
TABLES = {"notes": {"owner": "user_id", "columns": ["id", "text", "tag"], "write": True}}
SCHEMA = "CREATE TABLE notes (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, text TEXT, tag TEXT)"


def write_plugins(folder: Path) -> list[str]:
    """Writes all of them below ``folder``. Returns the ids of all but the well-behaved ones; those that call the
    platform are in it three times."""
    for id_ in GOOD:
        write_bundle(folder, id_, ECHO.format(id=id_))
    for id_, body in WAYS.items():
        write_bundle(folder, id_, BAD.format(id=id_, body=body, top=""), limits=LIMITS)
    for id_, (permissions, body) in API.items():
        write_bundle(folder, id_, CALLERS.format(id=id_, body=body, permissions=permissions),
                     permissions=permissions, data={"tables": ["notes"]})
    write_bundle(folder, BOOT_FAILS, BAD.format(id=BOOT_FAILS, body="    pass", top="raise RuntimeError('no')"),
                 limits=LIMITS)
    return [*WAYS, *API, *API, *API, BOOT_FAILS]
