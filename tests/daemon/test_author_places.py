"""A failure of a bundle with a source map names the author's source, in the reply and in the log."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from apex_exec.client import CallError, Client
from apex_exec.executor.outcome import at_place
from tests.common.test_source_map import encode
from tests.support.daemon import USER, Daemon, wait_for

CODE = b'''// src/plugin.ts
var fail = (n) => {
  throw new RangeError("no " + n);
};
export default {
  id: "%s", version: "1.0.0", permissions: [],
  hooks: { async onActionExecute({ action }) { fail(action) } },
};
//# sourceMappingURL=index.js.map
'''
MAPPINGS = encode([[], [(0, 0, 3, 0)], [(2, 0, 16, 60)], [], [], [], [(45, 0, 40, 4)]])
PLACE = "src/plugin.ts:17:61"


def write(folder: Path, plugin: str, source_map: bytes) -> None:
    path = folder / plugin
    (path / "src").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({
        "id": plugin, "name": plugin, "version": "1.0.0", "author": "tests", "permissions": [],
        "manifest": {"entrypoint": "index.js", "hooks": ["onActionExecute"]}}))
    (path / "index.js").write_bytes(CODE % plugin.encode())
    (path / "index.js.map").write_bytes(source_map)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("plugins")
    good = json.dumps({"version": 3, "sources": ["src/plugin.ts"], "names": [], "mappings": MAPPINGS}).encode()
    write(folder, "mapped", good)
    write(folder, "broken", b"{")
    write(folder, "costly", json.dumps({"version": 3, "sources": ["a.ts"], "names": [],
                                        "mappings": ";;" + "AAAA," * 300_000 + "AAAA"}).encode())
    with Daemon(plugins=folder, config={"breaker.ends": 1000, "limits.cpu_percent": 100}) as running:
        yield running


def failure(daemon: Daemon, plugin: str, action: str = "run") -> dict[str, Any]:
    with Client(daemon.endpoint) as client, pytest.raises(CallError) as caught:
        client.invoke(plugin, "onActionExecute", USER, {"action": action, "context": {}})
    assert caught.value.code == "PLUGIN_ERROR"
    return dict(caught.value.reply)


def places(daemon: Daemon) -> psutil.Process | None:
    return next((one for one in psutil.Process(daemon.pid).children() if one.name() == "apex-places"), None)


def test_the_reply_and_the_plugins_log_name_the_authors_source(daemon: Daemon) -> None:
    error = failure(daemon, "mapped")
    assert error["message"] == "RangeError: no run"
    frames = error["details"]["traceback"].splitlines()[1:]
    assert f"mapped/{PLACE}" in frames[0] and "mapped/src/plugin.ts:41:" in frames[1]
    assert "index.js" not in error["details"]["traceback"] and error["usage"]["hostCpuMs"] > 0
    assert at_place(error["message"], error["details"]["traceback"]).endswith(f"(at mapped/{PLACE} in fail)")
    log = Path(daemon.state) / "logs" / "mapped.log"
    wait_for(lambda: log.exists() and PLACE in log.read_text(), 10, "the log")
    assert "index.js" not in log.read_text()
    assert failure(daemon, "mapped")["details"] == error["details"], "and again, from memory"


def test_a_broken_map_leaves_the_places_of_the_javascript(daemon: Daemon) -> None:
    assert "broken/index.js:3:" in failure(daemon, "broken")["details"]["traceback"]


def test_the_process_lives_for_failures_with_maps_only_and_its_death_costs_no_reply(daemon: Daemon) -> None:
    failure(daemon, "mapped")
    process = places(daemon)
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    with Client(daemon.endpoint) as client:
        calls = [client.start({"type": "invoke", "plugin": "mapped", "action": "onActionExecute", "userId": USER,
                               "payload": {"action": f"away {number}", "context": {}}}) for number in range(3)]
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
        for number, call in enumerate(calls):  # the later ones may already meet a new process
            with pytest.raises(CallError) as caught:
                client.wait(call, 5000)
            assert caught.value.code == "PLUGIN_ERROR"
            assert "mapped/index.js:3:" in caught.value.reply["details"]["traceback"] or number
    wait_for(lambda: PLACE in failure(daemon, "mapped", str(time.time()))["details"]["traceback"], 20, "a new process")


def test_a_map_that_costs_much_is_left_alone_for_a_while_and_nobody_else_waits(daemon: Daemon) -> None:
    first = failure(daemon, "costly", "first")["details"]["traceback"]
    assert "costly/a.ts:" in first
    begun = time.monotonic()
    for number in range(20):
        failure(daemon, "costly", f"n{number}")
        assert f"mapped/{PLACE}" in failure(daemon, "mapped", f"m{number}")["details"]["traceback"]
    assert time.monotonic() - begun < 60
