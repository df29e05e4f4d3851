"""To add a hook, a method or a limit is to edit one file of the catalogue, and the code that does the new thing.

Each test does exactly that on a copy of the tree, makes what is made from the catalogue, and runs a daemon of the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import ECHO, ROOT, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host


class Tree:
    """A copy of the code that can be edited and run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for package in ("apex_exec", "workers"):
            shutil.copytree(ROOT / package, root / package,
                            ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        self.env = {**os.environ, "PYTHONPATH": str(root)}

    def edit(self, path: str, before: str, after: str) -> None:
        """Replaces ``before``, which stands exactly once in the file."""
        text = (self.root / path).read_text("utf-8")
        assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {path}"
        (self.root / path).write_text(text.replace(before, after), "utf-8")

    def run(self, *arguments: str) -> str:
        """Runs Python in the copy; what it printed. Fails if it fails."""
        done = subprocess.run([sys.executable, *arguments], cwd=self.root, env=self.env, capture_output=True, text=True,
                              timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def make(self) -> None:
        """Writes what is made from the catalogue."""
        made = self.run("-m", "apex_exec.catalogue")
        assert str(self.root) in made and str(ROOT) not in made
        self.run("-m", "compileall", "-q", "-j", "0", "apex_exec", "workers")  # else each process of a daemon does it


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield Tree(tmp_path / "tree")


@pytest.mark.slow
def test_a_fifth_hook_is_one_entry_of_the_catalogue(tree: Tree, tmp_path: Path) -> None:
    tree.edit("apex_exec/catalogue/hooks.py", "class Hook:\n", '''class ReportPayload(Struct, rename="camel"):
    month: str
    totals: dict[str, Raw]
    user_id: str | UnsetType = UNSET


class ReportResult(Struct):
    lines: list[str]


class Hook:
''')
    tree.edit("apex_exec/catalogue/hooks.py", "\n)\n\nHOOKS: ", '''
    Hook("onReport", mode="all", params=ReportPayload, result=ReportResult, collects="lines",
         sample={"month": "2026-01", "totals": {}}, sample_result={"lines": []}, doc="all at once; the lines together"),
)

HOOKS: ''')
    tree.make()
    assert "onReport: { month: string; totals: Record<string, unknown>; userId?: string };" in (
        tree.root / "apex_exec/examples/host-ts/protocol.ts").read_text()
    code = '''
@plugin.hook("onReport")
def report(params):
    return {"lines": [params["userId"], params["month"]] if params["totals"] else 7}
'''
    for plugin in ("one", "two"):
        write_plugin(tmp_path / "plugins", plugin, code, ("onReport",))
    shown = tree.run("-m", "apex_exec", "plugin", "validate", str(tmp_path / "plugins" / "one"))
    assert shown.rstrip().endswith(": valid")
    with Daemon(plugins=tmp_path / "plugins", tree=tree.root) as daemon, Host(daemon.endpoint) as host:
        assert host.ask({"type": "hello", "protocol": [1]})["hooks"][-1] == "onReport"
        call = {"type": "invoke", "plugin": "one", "action": "onReport", "userId": USER}
        payload = {"month": "2026-01", "totals": {"n": 1}}
        assert host.ask({**call, "payload": payload})["result"] == {"lines": [USER, "2026-01"]}
        wrong = host.ask({**call, "payload": {"month": "2026-01", "totals": {}}})
        assert (wrong["code"], wrong["details"]["path"]) == ("INVALID_OUTPUT", "$.lines")
        assert host.ask({**call, "payload": {"month": 1}})["details"]["path"] == "$.payload.month"
        both = host.ask({"type": "dispatch", "action": "onReport", "userId": USER, "payload": payload})
        assert both["result"] == {"lines": [USER, "2026-01"] * 2} and not both["partial"]


@pytest.mark.slow
def test_a_ninth_method_is_one_entry_of_the_catalogue_and_its_handler(tree: Tree, tmp_path: Path) -> None:
    tree.edit("apex_exec/catalogue/methods.py", "\nclass HostMethod(", '''
class Count(Struct, gc=False, forbid_unknown_fields=True):
    """How many letters the words have."""

    words: Annotated[list[str], Meta(max_length=3)]


class HostMethod(''')
    tree.edit("apex_exec/catalogue/methods.py", '''    Method("call", "call",''', '''    Method(
           "countWords", "count_words", "words: list[str] | None = None",
           "How many letters the words have.", Count, "data:read", event="data.access"),
    Method("call", "call",''')
    tree.edit("apex_exec/gateway/router.py", '    "query": ', '    "countWords": count, "query": ')
    handler = '''async def count(router: Router, call: Call, request: Any) -> Answer:
    return _encode(sum(map(len, request.words))), {"words": len(request.words)}


HANDLERS: '''
    tree.edit("apex_exec/gateway/router.py", "HANDLERS: ", handler)
    tree.make()
    code = '''
from workers import ApiError

@plugin.hook("onActionExecute")
def act(context, params):
    try:
        return {"result": context.api.count_words(params["context"]["words"]), "metadata": {}}
    except ApiError as error:
        return {"result": error.code, "metadata": {}}
'''
    write_plugin(tmp_path / "plugins", "may", code, permissions=("data:read",))
    write_plugin(tmp_path / "plugins", "may-not", code)
    found = tree.run("-m", "apex_exec", "plugin", "validate", str(tmp_path / "plugins" / "may"), "--json")
    assert "unused-permission" not in found, "the scan knows the method and its permission"
    with Daemon(plugins=tmp_path / "plugins", tree=tree.root) as daemon, Host(daemon.endpoint) as host:

        def count(plugin: str, words: list[str]) -> object:
            return host.ask({"type": "invoke", "plugin": plugin, "action": "onActionExecute", "userId": USER,
                             "payload": {"action": "x", "context": {"words": words}}})["result"]["result"]

        assert count("may", ["one", "three"]) == 8
        assert count("may", ["a"] * 4) == "invalid_params"
        assert count("may-not", ["one"]) == "permission_denied"
        daemon.wait_metric('api_calls_total{method="countWords",outcome="ok",plugin="may"}', 1)


def shown(daemon: Daemon) -> object:
    """The new limit as `plugin show` has it; None while the registry is being opened."""
    try:
        return daemon.operate("plugin.show", id="modest")["limits"]["payloadBytes"]
    except AssertionError:
        return None


@pytest.mark.slow
def test_a_fifth_limit_is_one_field_of_the_catalogue_and_the_place_that_holds_it(tree: Tree, tmp_path: Path) -> None:
    tree.edit("apex_exec/catalogue/limits.py", "\n\n\nclass PlatformLimits", '''
    payload_bytes: Annotated[int, Limit(16, 1_000_000, "bytes of a payload", "host.max_message_bytes")] = 1000


class PlatformLimits''')
    tree.edit("apex_exec/daemon/hosts/requests.py", "        if self.draining:\n            refusal = (Code", '''
        if len(request.payload) > spec.limits.payload_bytes:
            raise WireError(Code.PAYLOAD_TOO_LARGE, f"the payload has over {spec.limits.payload_bytes} bytes")
        if self.draining:
            refusal = (Code''')
    tree.make()
    write_plugin(tmp_path / "plugins", "usual", ECHO)
    write_plugin(tmp_path / "plugins", "modest", ECHO, limits={"payloadBytes": 100})
    write_plugin(tmp_path / "plugins", "greedy", ECHO, limits={"payloadBytes": 10_000})
    config = {"limits.payload_bytes": 500}
    with Daemon(plugins=tmp_path / "plugins", tree=tree.root, config=config) as daemon, Host(daemon.endpoint) as host:

        def fits(plugin: str, size: int) -> bool:
            reply = host.ask({"type": "invoke", "plugin": plugin, "action": "onActionExecute", "userId": USER,
                              "payload": {"action": "x", "context": {"text": "x" * size}}})
            assert reply["type"] == "result" or reply["code"] == "PAYLOAD_TOO_LARGE", reply
            return bool(reply["type"] == "result")

        def told() -> object:
            return host.ask({"type": "hello", "protocol": [1]})["limits"]["payloadBytes"]

        assert told() == 500 and fits("usual", 400) and not fits("usual", 600)
        assert fits("modest", 40) and not fits("modest", 200), "its manifest lowers it"
        assert fits("greedy", 400) and not fits("greedy", 600), "no manifest raises it"
        wait_for(lambda: shown(daemon) == 100, 60, "an answer of the registrar, which this is the first to need")
        daemon.write_config({"limits.payload_bytes": 800})
        assert daemon.operate("daemon.reload")["applied"] == ["limits.payload_bytes"]
        assert told() == 800 and fits("usual", 600) and not fits("usual", 900)
    assert "payload_bytes" in tree.run("-m", "apex_exec", "config", "check")
    assert "| `limits.payload_bytes` | 1000 |" in (tree.root / "apex_exec/README.md").read_text()
