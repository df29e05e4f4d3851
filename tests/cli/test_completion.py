"""The Tab key knows what the parser knows: the bash script is run by bash, for every verb and option."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from apex_exec.cli.completion import Node, walk
from apex_exec.cli.tree import command_tree
from tests.cli.test_framework import COMMAND
from tests.support import need

NODES: list[Node] = list(walk(command_tree(), ()))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("bash"), "bash is not installed")
    path = tmp_path_factory.mktemp("completion") / "apex-exec"
    path.write_text(subprocess.run([*COMMAND, "completion", "bash"], capture_output=True, text=True, check=True).stdout)
    return path


def complete(script: Path, lines: list[list[str]]) -> list[set[str]]:
    """What bash would offer for each list of words, whose last one is being typed."""
    asks = "\n".join(f"COMP_WORDS=({shlex.join(['apex-exec', *words])}); COMP_CWORD={len(words)}; _apex_exec; "
                     "echo \"${COMPREPLY[*]}\"" for words in lines)
    done = subprocess.run(["bash", "-c", f"set -u; source {script}\n{asks}"], capture_output=True, text=True,
                          timeout=60)
    assert not done.stderr, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_bash_offers_every_verb_and_every_option_of_each(script: Path) -> None:
    offered = complete(script, [[*node.path, start] for node in NODES for start in ("", "-")])
    assert len(offered) == 2 * len(NODES) > 100
    for node, verbs, options in zip(NODES, offered[::2], offered[1::2], strict=True):
        assert verbs == {*node.children, *node.words}, node.path
        assert options == {name for one in node.options for name in one.names}, node.path
        assert {"--help", "-h"} <= options


def test_bash_offers_values_beginnings_and_verbs_behind_other_words(script: Path) -> None:
    lines = [["pl"], ["plugin", "inst"], ["status", "--sort", ""], ["status", "--json", "--so"], ["completion", "z"],
             ["--version", "plugin", "li"], ["plugin", "pack", "-o", ""], ["plugin", "install", "list", "--js"]]
    first, second, sorts, option, shell, behind, file, leaf = complete(script, lines)
    assert (first, second, option, shell, behind, file) == (
        {"plugin"}, {"install"}, {"--sort"}, {"zsh"}, {"list"}, set())
    assert {"id", "cpu", "memory"} <= sorts and leaf == {"--json"}


def test_bash_completes_in_a_real_shell_at_the_press_of_tab(script: Path, tmp_path: Path) -> None:
    import os
    import pty
    import select
    import time

    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PS1="$ ", HOME=str(tmp_path), TERM="dumb")
        os.execlp("bash", "bash", "--norc", "--noprofile", "-i")
    try:
        os.write(terminal, f"bind 'set bell-style none'; source {script}\napex-exec plugin inst\t#\n".encode())
        told, due = b"", time.monotonic() + 30
        while b"plugin install #" not in told and time.monotonic() < due:
            if select.select([terminal], [], [], 0.2)[0]:
                told += os.read(terminal, 65536)
        assert b"plugin install #" in told, told
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_scripts_hold_every_verb_and_are_taken_by_their_shell(shell: str, tmp_path: Path) -> None:
    told = subprocess.run([*COMMAND, "completion", shell], capture_output=True, text=True, check=True).stdout
    for node in NODES:
        for name in (*node.children, *(name for one in node.options for name in one.names)):
            assert (name if shell == "zsh" else name.lstrip("-")) in told
    if shutil.which(shell):
        (tmp_path / "script").write_text(told)
        flag = "-n" if shell == "zsh" else "--no-execute"
        subprocess.run([shell, flag, str(tmp_path / "script")], check=True)


def test_an_unknown_shell_is_one_line_that_names_those_there_are() -> None:
    done = subprocess.run([*COMMAND, "completion", "tcsh"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "bash" in done.stderr and not done.stdout
