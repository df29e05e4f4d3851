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

from tests.support.daemon import ROOT, USER, Daemon, write_plugin
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


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield Tree(tmp_path / "tree")


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
