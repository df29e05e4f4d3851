"""Versions are ordered as numbers, ids of users are UUIDs in lower case, and a spreadsheet runs no cell of ours."""

from __future__ import annotations

import csv
import io

import pytest

from apex_exec.common.names import UUID, version_key
from apex_exec.common.spreadsheet import safe_cell

pytestmark = pytest.mark.fast


def test_versions_are_ordered_as_numbers() -> None:
    assert sorted(["1.10.0", "1.9.9", "0.99.0", "1.9.10"], key=version_key) == ["0.99.0", "1.9.9", "1.9.10", "1.10.0"]
    with pytest.raises(ValueError):
        version_key("1.x.0")


@pytest.mark.parametrize(("text", "is_one"), [
    ("11111111-1111-4111-8111-111111111111", True), ("AAAAAAAA-1111-4111-8111-111111111111", False),
    ("11111111-1111-4111-8111-11111111111", False), ("11111111-1111-4111-8111-111111111111\n", False),
    ("١1111111-1111-4111-8111-111111111111", False)])
def test_a_users_id_is_a_uuid_in_lower_case(text: str, is_one: bool) -> None:
    assert (UUID.fullmatch(text) is not None) == is_one


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_begins_with_what_a_spreadsheet_runs(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([safe_cell(text), safe_cell("plain = text")])
    first, second = next(csv.reader(io.StringIO(out.getvalue(), newline="")))
    assert first == "'" + text and second == "plain = text"
