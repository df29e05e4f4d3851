"""The property that matters: no row of another user ever comes back, nothing ever changes.

Shown as noninterference: two databases differ in user B's rows alone, and whatever text user A's plugin sends, the
answers of both are the same: rows, and errors too, because an error that depends on B's rows tells of them. Texts are
made from a grammar of ordinary and hostile pieces, so that many get past the compiler.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from apex_exec.gateway.failure import ApiFailure
from tests.gateway.conftest import NAMED, B, Data
from tests.gateway.owned import owned, tables_of
from tests.gateway.sql_grammar import Maker, moved, with_schemas

EXAMPLES = int(os.environ.get("APEX_TEST_SQL_EXAMPLES", "500"))


def answer(data: Data, text: str, params: list[Any], named: tuple[str, ...]) -> Any:
    try:
        rows = data.query(text, params, seconds=5, named=named)
        return "rows", sorted(repr(sorted(row.items(), key=repr)) for row in rows)
    except ApiFailure as failure:
        return "failed", failure.code


def check(both: Data, alone: Data, seed: int, named: tuple[str, ...] = NAMED) -> None:
    """One text, asked of two databases that differ in B's rows alone."""
    maker = Maker(seed)
    text = maker.text()
    if seed % 3 == 0:
        text = moved(maker.random, text)
    if "app.orders" in named:
        text = with_schemas(maker.random, text)
    kind, got = answer(both, text, maker.params, named)
    event(f"{both.backend.backend}: {kind if kind == 'rows' else got}")
    assert (kind, got) == answer(alone, text, maker.params, named), text
    plain = repr(got)
    for literal in ("SECRET 1", "secret 1", B):
        plain = plain.replace(literal, "")
    assert ("SECRET" not in plain or seed % 3 == 0) and "HIDDEN" not in plain, text  # moved pieces tear literals apart


@given(seed=st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@pytest.mark.slow
def test_what_one_user_can_learn_does_not_depend_on_the_others_rows(twins: tuple[Data, Data], seed: int) -> None:
    check(*twins, seed)


@pytest.fixture(scope="module", params=["sqlite membership", "sqlite schemas", "sqlite views", "postgres membership",
                                        "postgres rls", "postgres schemas", "postgres views"])
def owned_twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
                ) -> Iterator[tuple[str, Data, Data]]:
    """As ``twins``, with owners of another kind, which comes first."""
    backend, kind = request.param.split()
    where = tmp_path_factory.mktemp("owned") if backend == "sqlite" else request.getfixturevalue("postgres")
    both, alone = owned(kind, where, "owned_both"), owned(kind, where, "owned_alone", "A")
    before = both.contents(), alone.contents()
    yield kind, both, alone
    assert (both.contents(), alone.contents()) == before
    both.close()
    alone.close()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=max(1, EXAMPLES // 3), deadline=None, derandomize=True)
@pytest.mark.slow
def test_the_same_holds_for_every_kind_of_owner(owned_twins: tuple[str, Data, Data], seed: int) -> None:
    kind, both, alone = owned_twins
    check(both, alone, seed, tuple(tables_of(kind)))


def test_nothing_has_changed(twins: tuple[Data, Data]) -> None:
    """Runs after the property: every byte of both databases is as it was made."""
    for data, users in zip(twins, ("AB", "A"), strict=True):
        text = str(data.contents())
        assert text.count("HIDDEN pw") == 1 and text.count("SECRET pw") == ("B" in users)
        assert "stolen" not in text and text.count("item note") == 4
