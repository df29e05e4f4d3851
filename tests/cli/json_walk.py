"""Runs verbs with --json, and finds what is not in the one style of ``apex_exec.cli.facts`` in what they say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.cli.facts import AMOUNTS, WRITTEN_BY_OTHERS
from apex_exec.cli.run import run
from tests.cli.test_framework import COMMAND, VERBS

WITH_JSON = {verb for verb, command in VERBS.items() if any("--json" in one.opts for one in command.params)}
FORKS = ("conformance", "conformance host", "plugin add", "plugin validate", "plugin test", "doctor", "demo", "stop")
"""Verbs that fork or end the daemon: in a process of their own."""
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def problems(value: Any, place: str = "$") -> Iterator[str]:
    """What is not in the style that all verbs have."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{place}.{key}"
            if re.fullmatch(r"[A-Za-z0-9]*[_ ][A-Za-z0-9_ ]*", key):
                yield f"{here}: not camelCase"
            if key.endswith("Ns") or (isinstance(inner, int) and inner > 10**15):
                yield f"{here}: nanoseconds"
            if key in ("at", "from", "until") or key.endswith("At"):
                moments = inner if isinstance(inner, list) else [] if inner is None else [inner]
                yield from (f"{here}: {one!r} is no moment" for one in moments
                            if not (isinstance(one, str) and MOMENT.fullmatch(one)))
            if key in AMOUNTS and isinstance(inner, int) and "currency" not in value:
                yield f"{here}: an amount without its currency"
            if key not in WRITTEN_BY_OTHERS:
                yield from problems(inner, here)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from problems(inner, f"{place}[{number}]")


class Walk:
    """Runs verbs with --json and looks at what they say."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.walked: set[str] = set()
        self.wrong: list[str] = []

    def __call__(self, *arguments: object, status: int = 0) -> Any:
        words = [*map(str, arguments)]
        words.insert(words.index("--") if "--" in words else len(words), "--json")
        verb = next(" ".join(words[:end]) for end in (3, 2, 1) if " ".join(words[:end]) in VERBS)
        if verb in FORKS:
            done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120)
            code, out, err = done.returncode, done.stdout, done.stderr
        else:
            self._capsys.readouterr()
            code = run(words)
            out, err = self._capsys.readouterr()
        assert code == status, (words, code, out, err)
        told = [json.loads(line) for line in out.splitlines()]
        assert told or verb == "audit tail", (words, err)
        self.walked.add(verb)
        if verb != "audit tail":  # what was hashed, byte for byte
            self.wrong += [f"{verb}: {problem}" for value in told for problem in problems(value)]
        return told[0] if told else None
