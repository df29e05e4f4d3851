"""Text from a plugin, a host, a file or an argument cannot control the terminal of the person who runs a verb."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apex_exec.cli
from apex_exec.cli.run import run
from apex_exec.common.words import clean
from tests.cli.test_framework import COMMAND, VERBS
from tests.support.daemon import USER, Daemon, write_plugin

CLI = Path(apex_exec.cli.__file__).parent
STEERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Written down again here, without the carriage return, which a terminal's driver adds itself."""
HOSTILE = "a\x9b31mb\u202ec\x1b[2Jd\x07e\u2066f\x85g"
NASTY = f'''
@plugin.hook("onActionExecute")
def act(context, params):
    print({HOSTILE!r})
    context.log.warning({HOSTILE!r})
    if params["action"] == "raise":
        raise type({HOSTILE!r}.replace("\\x00", ""), (Exception,), {{}})({HOSTILE!r})
    return {{"result": {{{HOSTILE!r}: [{HOSTILE!r}]}}, "metadata": {{}}}}
'''


def test_nothing_but_the_output_module_prints() -> None:
    """So that what it does to a text is done to every text."""
    for path in sorted(CLI.glob("*.py")):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write",
                                    "sys.stdout.buffer.write", "Console"), f"{path.name}:{node.lineno}: {name}"


WRITERS = ("config init", "deploy systemd", "deploy alerts", "deploy grafana")
"""Verbs that write a file whose name they are given."""


def hostile_arguments(command: Any) -> list[str]:
    """Each text that ``command`` takes, as hostile as can be; no flag."""
    made: list[str] = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            made.append(HOSTILE)
        elif not parameter.is_flag and parameter.name != "help":
            made += [parameter.opts[0], HOSTILE]
    return made


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "demo"] + [pytest.param("demo", marks=pytest.mark.slow)])
@pytest.mark.slow_after(6)
def test_no_argument_of_any_verb_comes_out_as_it_went_in(verb: str, capsys: pytest.CaptureFixture[str],
                                                         tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = VERBS[verb]
    for arguments in (hostile_arguments(command), [HOSTILE for p in command.params if p.param_type_name == "argument"]
                      + ["--config", HOSTILE], [HOSTILE, HOSTILE, f"--{HOSTILE}"]):
        status = run([*verb.split(), *arguments])
        told = "".join(capsys.readouterr())
        assert told and not STEERS.search(told), (arguments, told)
        # a verb that takes none does its work, and a file may have any name
        assert status or not arguments or verb in WRITERS, (arguments, told)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "nasty", NASTY)
    with Daemon(plugins=plugins) as running:
        yield running


def on_a_terminal(*arguments: str) -> str:
    """What a verb writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
                          env={**os.environ, "TERM": "dumb"}) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the last who had it open has left
                break
            told += part
        process.wait()
    os.close(ours)
    return told.decode()


CALL = ("nasty", "onActionExecute", "--user", USER)
SHOWING: dict[str, tuple[str, ...]] = {
    "invoke": ("invoke", *CALL, "--payload", '{"action": "a", "context": {}}'),
    "invoke, an error": ("invoke", *CALL, "--payload", '{"action": "raise", "context": {}}'),
    "dispatch": ("dispatch", *CALL[1:], "--payload", '{"action": "raise", "context": {}}'),
    "status": ("status",), "status --json": ("status", "--json"), "list": ("plugin", "list"),
    "logs": ("plugin", "logs", "nasty"), "audit tail": ("audit", "tail"),
    "audit tail --json": ("audit", "tail", "--json"), "audit export": ("audit", "export"),
}


@pytest.mark.parametrize("verb", SHOWING)
@pytest.mark.slow_after(1)
def test_what_a_plugin_says_is_escaped_in_every_verb_that_shows_it(daemon: Daemon, verb: str) -> None:
    stored = verb.startswith(("audit", "logs"))
    arguments = (*SHOWING[verb], *(("--state-dir", str(daemon.state)) if stored else (
        "--runtime-dir", str(daemon.runtime))))
    told = on_a_terminal(*arguments)
    assert not STEERS.search(told), told
    if verb in ("invoke", "invoke, an error", "dispatch", "logs"):
        assert "31mb" in told, "it was shown"
    if verb == "invoke":
        assert json.loads(told)["result"]["result"] == {HOSTILE: [HOSTILE]}, "the same text to whoever reads the JSON"
        piped = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
        assert not STEERS.search(piped.stdout + piped.stderr) and "31mb" in piped.stdout, piped


def test_clean_leaves_what_is_legible_and_json_the_same() -> None:
    assert clean("größer 漢字 👩 a\tb\nc") == "größer 漢字 👩 a\tb\nc"
    assert clean("\x9b\u202e\x1b\r\ud800") == "\\u009b\\u202e\\u001b\\u000d\\ud800"
    assert json.loads(clean(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code <= 0xDFFF and (len(clean(chr(code))) > 1):
            assert not chr(code).isprintable() and chr(code) not in "\t\n"


def test_an_error_is_one_line_with_the_name_that_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "a\x85b\u2028c\n d"]) == 1
    said = capsys.readouterr().err
    assert "a\\u0085b\\u2028c d" in said and said.count("\n") == 1
