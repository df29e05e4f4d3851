"""What every verb promises: exit codes, errors of one line, help that teaches, JSON for every table."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.cli.connect import endpoint
from apex_exec.cli.output import cell
from apex_exec.cli.tree import FILES, command_tree
from apex_exec.cli.verbs import Exit
from apex_exec.common.words import clean
from apex_exec.config import load_settings
from tests.support import PYTHONS, need, other_user
from tests.support.daemon import ROOT

COMMAND = [sys.executable, "-m", "apex_exec"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **environment})


def verbs() -> Iterator[tuple[str, Any]]:
    """Every verb as ("plugin list", its command)."""
    def below(prefix: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, child in getattr(command, "commands", {}).items():
            if hasattr(child, "commands"):
                if child.invoke_without_command:
                    yield f"{prefix}{name}", child
                yield from below(f"{prefix}{name} ", child)
            else:
                yield f"{prefix}{name}", child

    yield from below("", command_tree())


VERBS = dict(verbs())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does_and_shows_an_example(verb: str) -> None:
    command = VERBS[verb]
    assert command.help, f"{verb} has no help"
    assert f"apex-exec {verb}" in (command.epilog or ""), f"{verb}: `epilog=examples(...)` shows no use of it"
    undescribed = [p.name for p in command.params
                   if not (p.told if p.param_type_name == "argument" else p.help) and p.name != "help"]
    assert not undescribed, f"{verb}: without help text: {undescribed}"


@pytest.mark.parametrize(("arguments", "status", "says"), [
    (["frob"], 2, "frob"),
    (["invoke"], 2, "Missing argument"),
    (["invoke", "a", "b", "--user", "u", "--payload", "["], 2, "write a JSON map"),
    (["invoke", "a", "b", "--user", "u", "--payload", "@/nonexistent"], 2, "/nonexistent"),
    (["completion", "tcsh"], 2, "'bash', 'zsh', 'fish'"),
    (["stop", "--runtime-dir", "/nonexistent"], 3, "/nonexistent"),
    (["invoke", "a", "b", "--user", "u", "--payload", "[]"], 2, "JSON map"),
    (["serve", "--set", "nonsense"], 2, "KEY=VALUE"),
    (["serve", "--set", "limits.cpu=1"], 2, "limits.cpu_percent"),
    (["serve", "--config", "/nonexistent.toml"], 2, "/nonexistent.toml"),
    (["config", "check", "/nonexistent.toml"], 1, "/nonexistent.toml"),
    (["plugin", "validate", "/nonexistent"], 1, "the file /nonexistent does not exist"),
    (["invoke", "a", "b", "--user", "u", "--runtime-dir", "/nonexistent"], 3, "apex-exec serve"),
    (["plugin", "list", "--runtime-dir", "/nonexistent"], 3, "/nonexistent"),
])
@pytest.mark.slow_after(4)
def test_errors_are_one_line_with_the_status_that_the_help_names(arguments: list[str], status: int, says: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("apex-exec: ") and says in done.stderr


def test_a_socket_without_a_daemon_is_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").touch()
    done = run("plugin", "list", "--runtime-dir", str(tmp_path))
    assert done.returncode == 3 and "is `apex-exec serve` running?" in done.stderr


def test_no_arguments_is_the_help_and_version_is_told() -> None:
    assert run().returncode == 2 and "apex-exec demo" in run().stdout
    assert run("--version").stdout.startswith("apex-exec ")


def test_help_needs_none_of_the_heavy_libraries() -> None:
    code = ("import sys, apex_exec.cli.tree as t; t.command_tree(); print([m for m in ('zmq', 'pydantic', "
            "'sqlalchemy', 'cryptography', 'aiohttp', 'sqlglot', 'psutil', 'asyncio') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_verb_imports_its_own_file_and_no_other_verbs() -> None:
    code = ("import sys, apex_exec.cli.tree as t; t.command_tree(['serve', '--background']); "
            "print(sorted(m for m in sys.modules if m.startswith('apex_exec.cli.')))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == [f"apex_exec.cli.{name}" for name in (
        "cells", "daemon", "daemon.serve", "output", "root", "run", "tree", "verbs")]


def test_the_help_shows_every_verb_under_a_heading() -> None:
    shown = run("--help").stdout
    assert "First steps:" in shown and "More:" not in shown
    assert [verb.split()[0] for verb in VERBS] and all(f"  {verb.split()[0]} " in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_file_that_a_verb_is_looked_for_in_is_the_one_that_holds_it(verb: str) -> None:
    words = verb.split()
    name = FILES.get(" ".join(words[:2])) or FILES[words[0]]
    assert VERBS[verb].callback.__wrapped__.__module__ == f"apex_exec.cli.{name}"


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m apex_exec config check | head -1"], capture_output=True,
                          text=True, timeout=60)
    assert done.stderr == "" and done.stdout.startswith("key")
    for verb in ("schema", "config check"):  # more than a pipe holds, and less
        done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{sys.executable} -m apex_exec {verb} | head -c 1"],
                              capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), verb


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_does_not_have_is_an_escape_and_json_stays_json(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "Bücher π 😀"
    env = {**os.environ, "PYTHONIOENCODING": encoding, "APEX_EXEC_STATE_DIR": str(folder)}
    for options in ([], ["--json"]):
        done = subprocess.run([sys.executable, "-m", "apex_exec", "config", "check", *options], capture_output=True,
                              env=env, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        said = done.stdout.decode(encoding)
        assert str(folder) in (json.dumps(json.loads(said), ensure_ascii=False) if options else
                               said.encode("ascii", "backslashreplace").decode("unicode_escape"))


def test_ctrl_c_ends_quietly_with_130(tmp_path: Path) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:  # takes the request and never answers
        silent.linger = 0
        silent.bind(f"ipc://{tmp_path}/admin.sock")
        command = [*COMMAND, "plugin", "list", "--runtime-dir", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert silent.poll(60_000), "the command did not ask"  # a start under load, not a promise
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_config_check_names_the_nearest_key_the_source_of_each_value_and_no_password(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[limits]\ncpu_percnt = 5\n")
    wrong = run("config", "check", str(file))
    assert wrong.returncode == 1 and "limits.cpu_percent" in wrong.stderr
    file.write_text('[limits]\ncpu_percent = 5\n[data]\nurl = "postgresql://me:secret@db/x"\n')
    done = run("config", "check", str(file), "--json", APEX_EXEC_POOL__PREFETCH="4")
    assert "me:secret" not in done.stdout and ":secret@" not in done.stdout
    shown = {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert shown["limits.cpu_percent"] == (5, str(file))
    assert shown["pool.prefetch"] == (4, "environment APEX_EXEC_POOL__PREFETCH")
    assert shown["limits.timeout_ms"] == (5000, "default")
    assert "<state_dir>" not in done.stdout and shown["audit.url"][0] == f"sqlite:///{shown['state_dir'][0]}/audit.db"
    assert shown["data.url"][0] == "postgresql://me:***@db/x" and shown["host.endpoint"][0].startswith("ipc://")


def test_a_list_in_the_environment_is_json_and_an_address_in_brackets_stays_text(tmp_path: Path) -> None:
    done = run("config", "check", "--json", APEX_EXEC_FETCH__ALLOW='["a.example", "b.example"]',
               APEX_EXEC_SANDBOX__UID_RANGE="[200000, 200100]", APEX_EXEC_HTTP__ADDRESS="[::1]:9464")
    shown = {row["key"]: row["value"] for row in json.loads(done.stdout)}
    assert shown["fetch.allow"] == ["a.example", "b.example"] and shown["sandbox.uid_range"] == [200000, 200100]
    assert shown["http.address"] == "[::1]:9464"


def test_the_interpreters_of_the_tests_are_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings(None)
    monkeypatch.setenv(PYTHONS, "/usr/bin/python3.11:/usr/bin/python3.13")
    assert load_settings(None) == before


def test_logs_can_be_followed_before_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with subprocess.Popen([*COMMAND, "plugin", "logs", "early", "--follow", "--state-dir", str(tmp_path)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "waiting for" in process.stderr.readline()
        (tmp_path / "logs" / "early.log").write_text("the first line\n")
        assert process.stdout.readline() == "the first line\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130


@pytest.mark.slow
def test_logs_followed_show_whole_lines_only_across_a_rotation_too(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "slow.log"
    path.parent.mkdir()
    path.write_text("whole\nhal")
    with subprocess.Popen([*COMMAND, "plugin", "logs", "slow", "--follow", "--state-dir", str(tmp_path)],
                          stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None

        def quiet() -> bool:
            return not select.select([process.stdout], [], [], 0.6)[0]

        try:
            assert process.stdout.readline() == b"whole\n" and quiet(), "the beginning of a line was shown"
            with path.open("a") as log:
                for piece, shown in (("f\nsec", b"half\n"), ("ond\nthi", b"second\n")):
                    log.write(piece)
                    log.flush()
                    assert process.stdout.readline() == shown and quiet(), "the beginning of a line was shown"
                path.rename(path.with_suffix(".log.1"))
                log.write("rd\nlast")
                log.flush()
                path.write_text("anew\n")
                assert [process.stdout.readline() for _ in range(3)] == [b"third\n", b"last\n", b"anew\n"]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 130
    done = run("plugin", "logs", "slow", "--state-dir", str(tmp_path))
    assert done.stdout.splitlines()[-1] == "anew" and "last" in done.stdout


def test_a_folder_that_somebody_else_made_where_ours_would_be_is_not_trusted(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    need(os.geteuid() == 0, "root, to give a folder to another user")
    (tmp_path / "host.sock").touch()
    monkeypatch.setattr("apex_exec.config.runtime_candidates", lambda: [tmp_path])
    assert endpoint("host", None, None) == f"ipc://{tmp_path}/host.sock"
    os.chown(tmp_path, 65532, 65532)
    with pytest.raises(Exit) as ended:
        endpoint("host", None, None)
    assert ended.value.exit_code == 3 and "made by uid 65532" in capsys.readouterr().err


def test_a_daemon_of_another_user_is_said_to_be_that(tmp_path: Path) -> None:
    other_user.need_root()
    with tempfile.TemporaryDirectory() as folder:  # 0700, and reachable, unlike tmp_path
        done = subprocess.run(
            [other_user.python(), "-m", "apex_exec", "status", "--runtime-dir", folder],
            capture_output=True, text=True, timeout=30, env=other_user.environment(), **other_user.become())
    assert done.returncode == 3 and f"{folder} is another user's" in done.stderr, done.stderr


def test_a_plugins_words_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in clean("\x1b[2J\x9bHello\r\x07") and cell({"a": "\x1b"}).isprintable()


def test_no_hint_names_a_package_that_is_not_ours_to_publish() -> None:
    """If somebody else registered the name, everybody who follows the hint would install that person's package."""
    hint = re.compile(r"pip install '?\"?apex-exec|install apex-exec\[")
    found = [f"{path}: {line}" for folder in ("apex_exec", "workers") for path in (ROOT / folder).rglob("*.py")
             for line in path.read_text().splitlines() if hint.search(line)]
    assert found == []
