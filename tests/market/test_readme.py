"""A README must have set-up, an example and words of its own."""

from __future__ import annotations

import time

import pytest

from apex_exec.market.review.readme import readme_problems

SCAFFOLD = "# sums\n\nA plugin.\n\n## Set-up\n\nInstall it.\n\n## Example\n\nCall it.\n"
GOOD = """# Sums

Adds up the orders of a user and shows the total on the dashboard.

## Installation

    apex-exec plugin install sums

It needs `data:read` on the table `orders`.

Usage examples
--------------

```python
# onDataFetch with {"query": "sum"}
{"transformedData": {"total": 12}}
```
"""


def test_set_up_example_and_own_words_will_do() -> None:
    assert readme_problems(GOOD.encode(), SCAFFOLD) == []
    assert readme_problems(GOOD.replace("\n", "\r\n").encode(), SCAFFOLD) == []


@pytest.mark.parametrize(("text", "missing"), [
    (None, "no README"), (GOOD.replace("## Installation", "## About"), "set-up"),
    (GOOD.replace("Usage examples", "Thanks").replace("--------------", "------"), "example"),
    (SCAFFOLD, "scaffold"), (SCAFFOLD + "\nmore\n", "scaffold"), (GOOD + "\nTODO: write\n", "placeholder"),
    ("## Set-up\n## Example\n", "set-up"), ("```\n## Set-up\nx\n## Example\ny\n```\n", "set-up"),
    ("x" * 300_000, "larger than")])
def test_what_is_missing_is_named(text: str | None, missing: str) -> None:
    problems = readme_problems(None if text is None else text.encode(), SCAFFOLD)
    assert any(missing in problem for problem in problems), problems


@pytest.mark.parametrize("text", [
    "# a" + " " * 250_000 + "b", "# " + " #" * 120_000 + "x", "<your" * 50_000, "a\n" * 60_000 + "=" * 100_000 + "x",
    "```\n" * 60_000, "~~~\n```\n" * 30_000, "TODO" * 60_000, "set" * 80_000, "\n" * 250_000 + "x"])
def test_no_readme_keeps_the_registrar_busy(text: str) -> None:
    begun = time.thread_time()
    assert readme_problems(text.encode(), SCAFFOLD)
    assert time.thread_time() - begun < 3
