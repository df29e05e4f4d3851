"""The guide's "first plugin in five minutes": every line as it stands, in a folder in which there is nothing."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from apex_exec.guide.pages import page
from tests.registry.test_cli import Shell
from tests.support import need

BLOCKS = dict(zip(("python", "javascript", "typescript"),
                  re.findall(r"^```sh\n(.*?)^```", page("plugins"), re.M | re.S), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("language", [
    "python", "javascript", pytest.param("typescript", marks=[pytest.mark.system, pytest.mark.timeout(600)])])
def test_the_first_plugin_of_the_guide_works_as_it_is_printed(tmp_path: Path, language: str) -> None:
    shell = Shell(tmp_path)
    said = ""
    for line in BLOCKS[language].splitlines():
        words = shlex.split(line)
        if words[0] == "apex-exec":
            said += shell(*words[1:])
            continue
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=500)
        need("ENOTFOUND" not in done.stderr, "a registry of npm")
        assert done.returncode == 0, done.stderr
    assert '"customWidgets"' in said and "1 passed, 0 failed" in said and "coverage 100.00 %" in said


def test_the_first_command_of_each_language_is_the_scaffold() -> None:
    assert [block.splitlines()[0].rpartition(" ")[2] for block in BLOCKS.values()] == ["py", "js", "ts"]
