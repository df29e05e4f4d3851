"""Plans are kept by text, dialect and visible tables, bounded, and forgotten when the database's tables change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql import compiler
from apex_exec.gateway.sql.compiler import Compiler
from apex_exec.gateway.sql.tables import read_tables
from tests.gateway.conftest import TABLES

SEEN = read_tables(TABLES)
TEXT = "SELECT id FROM orders WHERE id = $1"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The visible tables of each text that was compiled."""
    done: list[tuple[str, ...]] = []
    compile_anew = Compiler.compile_anew

    def counting(self: Compiler, text: str, named: tuple[str, ...], shapes: Any) -> Any:
        done.append(tuple(named))
        return compile_anew(self, text, named, shapes)

    monkeypatch.setattr(Compiler, "compile_anew", counting)
    return done


def test_plugins_that_see_the_same_tables_share_a_plan_and_others_do_not(counted: list[tuple[str, ...]]) -> None:
    made = Compiler("postgres", SEEN)
    first = made.compile(TEXT, ("users", "orders"))
    assert made.compile(TEXT, ("orders", "users", "orders", "no such table")) is first and len(counted) == 1
    with pytest.raises(ApiFailure, match="visible: notes"):
        made.compile(TEXT, ("notes",))
    assert made.compile(TEXT, ("orders",)) is not first and len(counted) == 3


def test_refusals_are_kept_as_well(counted: list[tuple[str, ...]]) -> None:
    made = Compiler("sqlite", SEEN)
    for _ in range(3):
        with pytest.raises(ApiFailure) as caught:
            made.compile("SELECT pg_sleep(1)", ("orders",))
        assert caught.value.code == "sql_forbidden"
    assert len(counted) == 1


def test_what_is_kept_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "CACHE_ENTRIES_MAX", 20)
    monkeypatch.setattr(compiler, "CACHE_BYTES_MAX", 60_000)
    made = Compiler("postgres", SEEN)
    for number in range(60):
        made.compile(f"SELECT {number}", ())
    assert len(made._cache) == 20
    for number in range(20):
        made.compile(f"SELECT {number} AS n, '{'x' * 2000}' AS t", ())
    assert 5 < len(made._cache) < 20 and made._cache_bytes <= 60_000
    assert made._cache_bytes == sum(compiler._size(*entry) for entry in made._cache.items())
    newest = next(reversed(made._cache))
    made.compile("SELECT 1", ())
    assert newest in made._cache


def test_plans_are_forgotten_when_the_tables_change(counted: list[tuple[str, ...]]) -> None:
    made = Compiler("postgres", SEEN)
    assert not made.compile(TEXT, ("orders",)).guarded
    assert made.show(1, {"orders": {"id": "values"}}) and not made.show(1, {})
    assert made.compile(TEXT, ("orders",)).guarded
    assert made.show(2, {}) and made._cache_bytes == 0
    assert not made.compile(TEXT, ("orders",)).guarded and len(counted) == 3


def test_a_plan_whose_tables_changed_while_it_was_made_is_not_kept() -> None:
    made = Compiler("postgres", SEEN)

    class Slow:
        async def compile(self, plugin: str, share: float, text: str, named: tuple[str, ...], shapes: Any) -> list[Any]:
            made.show(7, {})
            found = made.compile_anew(text, named, shapes)
            assert not isinstance(found, ApiFailure)
            return ["", *(getattr(found, name) for name in found.__struct_fields__)]

    asyncio.run(made.compile_by(Slow(), "p", 0.1, TEXT, ("orders",)))  # type: ignore[arg-type]  # a parser that waits
    assert not made._cache
