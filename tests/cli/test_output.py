"""Tables lose nothing wherever they go, and what people read is money and time, not cents and nanoseconds."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest

from apex_exec.cli import output
from apex_exec.cli.facts import facts, for_people
from apex_exec.cli.output import print_table, show

IDS = [f"a-plugin-with-quite-a-long-name-{number:02d}" for number in range(3)]
ROWS = [{"id": id_, "version": "1.0.0", "state": "quarantined", "users": ["everybody"],
         "hooks": ["onDashboardLoad"] * 4,
         "reason": "it sends what it reads to somewhere else, and nobody knows why " * 12} for id_ in IDS]
COLUMNS = ["id", "version", "state", "users", "hooks", "reason"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], columns: Any, width: int) -> str:
    """The table as a terminal of ``width`` gets it; 0: a pipe."""
    file = Terminal() if width else io.StringIO()
    monkeypatch.setattr(output.sys, "stdout", file)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((width, 24)))
    print_table(rows, columns, as_json=False)
    return file.getvalue()


def test_what_a_verb_has_done_is_all_of_it_for_a_program_and_a_line_for_people(
        capsys: pytest.CaptureFixture[str]) -> None:
    show({"pids": [1, 2]}, True, "two processes")
    assert json.loads(capsys.readouterr().out) == {"pids": [1, 2]}
    show({"pids": [1, 2]}, False, "two processes\nof \x1b[31mone")
    assert capsys.readouterr().out == "two processes\nof \\u001b[31mone\n"


def test_a_pipe_gets_every_column_whole_and_one_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, ROWS, COLUMNS, 0).splitlines()
    assert len(lines) == 4 and lines[0].split() == COLUMNS
    for line, row in zip(lines[1:], ROWS, strict=True):
        assert line.startswith(row["id"] + "  1.0.0  ") and row["reason"].strip() in line


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200, 300])
def test_a_terminal_of_any_width_gets_every_id_and_state_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    told = shown(monkeypatch, ROWS, COLUMNS, width)
    lines = told.splitlines()
    for row in ROWS:
        assert any(row["id"] in line for line in lines) and told.count("quarantined") == len(ROWS)
    assert "…" not in told and told.count("somewhere") >= len(ROWS) * 12 - told.count("some\n")
    if width >= 100:
        assert max(map(len, lines)) <= width
        assert "onDashboardLoad" in told and "onDashboardLoa\n" not in told


def test_a_table_of_many_numbers_is_one_block_a_row_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [f"column{number}" for number in range(18)]
    rows = [{name: 12345.5 for name in columns}, {name: 7 for name in columns}]
    told = shown(monkeypatch, rows, columns, 80)
    assert told.count("12345.5") == 18 and all(told.count(f"{name} ") == 2 for name in columns)


def test_wide_characters_are_two_cells_and_line_ends_in_cells_do_not_break_a_pipes_row(
        monkeypatch: pytest.MonkeyPatch) -> None:
    told = shown(monkeypatch, [{"name": "日本", "n": 1}, {"name": "ab\ncd", "n": 22}], ["name", "n"], 0).splitlines()
    assert told == ["name    n", "日本    1", "ab cd  22"]


def test_moments_amounts_and_lengths_of_time_are_written_for_people_and_exact_for_programs() -> None:
    row = {"user_id": "u", "opened_ns": 1_795_963_093_804_874_473, "responded_ns": None, "dueNs": 0,
           "validUntilNs": 1_795_963_093_000_000_000, "gross": 500, "author_share": -1995, "author": "ACME",
           "currency": "USD", "waitingSeconds": 11_100, "at_ns": 10**21, "versions": [{"served_ns": 1}]}
    told = facts(row)
    assert told == {"userId": "u", "openedAt": "2026-11-29T14:38:13.804Z", "respondedAt": None, "dueAt": None,
                    "validUntil": "2026-11-29T14:38:13.000Z", "gross": 500, "authorShare": -1995, "author": "ACME",
                    "currency": "USD", "waitingSeconds": 11_100, "at": "1" + "0" * 21,
                    "versions": [{"servedAt": "1970-01-01T00:00:00.000Z"}]}
    people = for_people(told)
    assert (people["gross"], people["authorShare"], people["author"]) == ("5.00 USD", "-19.95 USD", "ACME")
    assert (people["openedAt"], people["waitingSeconds"]) == ("2026-11-29 14:38:13 UTC", "3 h 05 min")
    assert for_people({"fee": 7, "currency": "JPY"})["fee"] == "7 JPY"
