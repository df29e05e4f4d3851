"""The folder's README names every code, function, type and bound that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import apex_exec.gateway
from apex_exec.daemon import api_calls
from apex_exec.gateway import sql, sqlite
from apex_exec.gateway.http import fetch
from apex_exec.gateway.sql import allowed, bounds, compiler, dialect, function_costs, pieces, sources, values
from workers import contract, sdk
from workers.wire import API_CODES

README = (Path(apex_exec.gateway.__file__).parent / "README.md").read_text()
PLAIN = README.replace("\n", " ")


def test_every_code_is_named_and_every_named_code_exists() -> None:
    section = README.partition("## Errors")[2].partition("\n## ")[0]
    named = {word for word in re.findall(r"`([a-z_]+)`", section) if "_" in word or word in API_CODES}
    assert named - {"retry_after_ms", "workers"} == set(API_CODES)


def test_every_function_and_type_is_listed_from_the_one_table() -> None:
    """The README's tables are what ``python -m apex_exec.gateway.sql.allowed`` prints."""
    readme = (Path(sql.__file__).parent / "README.md").read_text()
    assert allowed.listed() in readme
    assert allowed.CLAUSES in readme and allowed.OPERATORS in readme
    for name in allowed.FORMS:
        assert f"`{name}(" in readme, name
    assert f"{allowed.COUNT_MAX:,}" in readme and f"{sources.SERIES_ROWS_MAX:,} rows" in readme
    assert f"{sources.DEPTH_MAX} steps" in readme and f"{bounds.HELD_BYTES_MAX // 2**20} MiB" in readme
    assert f"{values.LIST_ELEMENTS_MAX:,} elements" in readme and f"{pieces.SORTS_MAX} of" in readme


def test_every_function_has_a_bound_and_is_known_to_sqlite_if_it_says_so() -> None:
    assert {form.cost for form in allowed.FORMS.values()} == function_costs.COSTS.keys()
    assert sqlite.FUNCTIONS == {form.sqlite for form in allowed.FORMS.values() if form.sqlite} | set(
        "like pg_int pg_float pg_number pg_date pg_div pg_sum pg_avg pg_fit_int2 pg_fit_int4 pg_fit_int8 pg_fit_float "
        "pg_fit_num pg_moving_sum pg_moving_avg".split())


def test_the_bounds_are_those_of_the_code() -> None:
    for text in (f"{values.ROWS_MAX:,} rows and {values.RESULT_BYTES_MAX // 1024} KiB",
                 f"A text has at most {compiler.TEXT_BYTES_MAX // 1024} KiB, {dialect.TOKENS_MAX:,} tokens, and "
                 f"brackets {dialect.NESTING_MAX} deep",
                 f"{fetch.HEADER_BYTES_MAX // 1024} KiB and {fetch.HEADERS_MAX} fields",
                 f"at most {api_calls.CALLS_MAX:,} calls, eight at once, with {api_calls.BYTES_MAX // 2**20} MiB",
                 f"{api_calls.MARGIN_NS // 10**6} ms before"):
        assert re.sub(r"\s+", " ", text) in re.sub(r"\s+", " ", README), text
    assert contract.API_AT_ONCE == 8 and fetch.REDIRECTS_MAX == 5


def test_the_sdks_own_errors_carry_codes_of_the_table() -> None:
    assert {"permission_denied", "rate_limited", "deadline_exceeded"} <= set(API_CODES)
    assert issubclass(sdk.RateLimited, sdk.ApiError) and all(API_CODES.values())
