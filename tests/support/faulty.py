"""Plugins that go wrong: in one phase of a worker's life, in one way. One bundle a combination.

A plugin shares its interpreter with the worker that serves it, so what is hostile can reach the worker's own
functions; these do, to fail in phases where no honest plugin's code runs.
"""

from __future__ import annotations

import json
from pathlib import Path

PHASES = ("boot", "idle", "decode", "run", "encode", "written")
FAULTS = ("raise", "exit", "overflow", "oom", "SIGSEGV", "SIGKILL", "SIGSTOP")
"""The last three come from outside, while the worker sleeps in the phase."""

CODE = '''
"""Goes wrong in the phase {phase!r} by {fault!r}."""

import sys
import time

PHASE, FAULT = {phase!r}, {fault!r}


def worker_module(name="LOOK_NS"):
    """The globals of the module on the stack that has ``name``: the one that serves this plugin, if nothing is said."""
    try:
        raise ValueError
    except ValueError as error:
        frame = error.__traceback__.tb_frame
    while name not in frame.f_globals:
        frame = frame.f_back
    return frame.f_globals


def fault():
    if FAULT == "raise":
        raise RuntimeError("a fault")
    if FAULT == "exit":
        worker_module()["os"]._exit(3)
    if FAULT == "overflow":
        sys.setrecursionlimit(10**9)
        nest = []
        for _ in range(300_000):
            nest = [nest]
        repr(nest)
    if FAULT == "oom":
        kept = []
        while True:
            kept.append(bytearray(1024 * 1024))
    time.sleep(60)  # until the signal comes


def fault_instead(*_):
    fault()


def arm(module):
    if PHASE == "decode":
        worker_module("_decode_params")["_decode_params"] = fault_instead
    elif PHASE == "encode":
        module["_encode"] = fault_instead
    elif PHASE == "idle":
        # The link waits only when nothing is to be done.
        module["Link"]._wait = property(lambda self: fault_instead)
    elif PHASE == "written":
        write = module["Link"].write

        def write_and_fail(self, data):
            write(self, data)
            fault()

        module["Link"].write = write_and_fail


if PHASE == "boot":
    fault()


def act(params):
    if params["action"] == "arm":
        arm(worker_module())
    elif params["action"] == "fault":
        fault()
    elif params["action"] == "sleep":
        time.sleep(params["context"]["seconds"])
    return {{"result": params["context"].get("echo"), "metadata": {{}}}}


plugin = {{"id": {id!r}, "version": "1.0.0", "permissions": [], "hooks": {{"onActionExecute": act}}}}
'''


def write_plugin(folder: Path, plugin: str, code: str, **limits: int) -> None:
    """One bundle with one hook, ``onActionExecute``."""
    bundle = folder / plugin
    bundle.mkdir(parents=True)
    manifest = {"id": plugin, "name": plugin, "version": "1.0.0", "author": "tests", "permissions": [],
                "manifest": {"entrypoint": "plugin.py", "hooks": ["onActionExecute"]}, "limits": limits}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "plugin.py").write_text(code)


def write_faulty(folder: Path, phase: str, fault: str) -> str:
    """The bundle of one combination; its id."""
    plugin = f"{phase}-{fault.lower()}"
    write_plugin(folder, plugin, CODE.format(phase=phase, fault=fault, id=plugin))
    return plugin


def write_steady(folder: Path, plugin: str = "steady") -> str:
    """A plugin that never goes wrong by itself; its id. ``sleep`` and ``echo`` do what they say."""
    write_plugin(folder, plugin, CODE.format(phase="", fault="", id=plugin))
    return plugin
