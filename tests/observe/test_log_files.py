"""The end of a plugin's log is read in lines, whichever format they are in, and no more of it than a bound."""

from __future__ import annotations

import json
from pathlib import Path

from apex_exec.observe.log_files import TAIL_BYTES_MAX, tail

AT = "2026-11-30T13:25:22.851Z"


def test_both_formats_are_read_and_what_is_in_neither_is_text(tmp_path: Path) -> None:
    (tmp_path / "p.log").write_text("\n".join((
        f"{AT} ERROR onActionExecute failed: ValueError\\nTraceback", json.dumps(
            {"time": AT, "level": "warning", "message": "two\nlines"}), '{"half": ', "nothing of ours", "unfinish")))
    assert tail(tmp_path, "p", 10) == [
        {"at": AT, "level": "error", "text": "onActionExecute failed: ValueError\\nTraceback"},
        {"at": AT, "level": "warning", "text": "two\nlines"}, {"at": "", "level": "info", "text": '{"half": '},
        {"at": "", "level": "info", "text": "nothing of ours"}]
    assert [line["text"] for line in tail(tmp_path, "p", 1)] == ["nothing of ours"]
    assert tail(tmp_path, "other", 5) == tail(tmp_path, "p", 0) == []


def test_a_short_file_is_continued_by_the_older_one_and_a_long_one_is_read_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "p.log.1").write_text("old 1\nold 2\n")
    (tmp_path / "p.log").write_text("new 1\n")
    assert [line["text"] for line in tail(tmp_path, "p", 2)] == ["old 2", "new 1"]
    (tmp_path / "p.log").write_text("x" * TAIL_BYTES_MAX + "\n" + "short\n" * 3)
    assert [line["text"] for line in tail(tmp_path, "p", 500)] == ["short"] * 3


def test_bytes_that_are_no_text_harm_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.log").write_bytes(b"\xff\xfe{\n{\xff}\n\x00\n")
    assert len(tail(tmp_path, "p", 10)) == 3
