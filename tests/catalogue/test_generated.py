"""Files that are made from the catalogue are what the catalogue makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_exec.catalogue.generated import files
from apex_exec.catalogue.methods import METHODS
from apex_exec.catalogue.permissions import PERMISSIONS
from apex_exec.gateway.router import HANDLERS


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_what_is_made_from_the_catalogue_is_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == files()[path], "run `python -m apex_exec.catalogue` and commit what it writes"


def test_the_gateway_has_a_handler_for_each_of_its_methods_and_no_other() -> None:
    assert set(HANDLERS) == {method.name for method in METHODS.values() if method.route == "gateway"}


def test_every_method_takes_a_permission_that_there_is() -> None:
    assert {method.permission for method in METHODS.values()} <= {"", *PERMISSIONS}
