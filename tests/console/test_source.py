"""Source on a page: colours that cost no more than the text is long, and two versions side by side, whatever they are.
"""

from __future__ import annotations

import random
import time

import pytest

from apex_exec.console.highlight import COLOURED_CHARS_MAX, LINE_CHARS_MAX, coloured, numbers
from apex_exec.console.money_pages import bars
from apex_exec.console.rendering import first_letter, money, price
from apex_exec.console.side_by_side import CONTEXT_LINES, blocks, rows
from apex_exec.console.support_pages import clock

HOSTILE = ('"""' * 60_000, "'" * 200_000, "\\" * 200_000, '"\\' * 100_000, "/*" * 100_000, "`${" * 60_000,
           "@a." * 60_000, "x" * 250_000, "\n" * 200_000, "'''\\", '"\\\n' * 60_000, "rb" * 100_000)


def kinds(path: str, text: str) -> list[tuple[str, str]]:
    return [(span.kind, span.text) for line in coloured(path, text) for span in line.spans if span.kind]


def test_what_the_words_are_is_seen_and_no_character_is_lost() -> None:
    assert kinds("a.py", 'def f(x):  # why\n    return f"a{x}" + 1.5\n@wraps\n') == [
        ("keyword", "def"), ("comment", "# why"), ("keyword", "return"), ("string", 'f"a{x}"'), ("number", "1.5"),
        ("name", "@wraps")]
    assert kinds("a.ts", "const a = `x\n${b}` // c\n/* d\ne */") == [
        ("keyword", "const"), ("string", "`x"), ("string", "${b}`"), ("comment", "// c"), ("comment", "/* d"),
        ("comment", "e */")]
    assert kinds("a.md", "def f") == [] == kinds("a", "import x")
    for path in ("a.py", "a.js", "a.md"):
        for text in ("", "\n", "a", "a\n", "a\n\nb", "\n\n", 'x = """\nopen', "'never closed\nnext"):
            lines = ["".join(span.text for span in line.spans) for line in coloured(path, text)]
            assert "\n".join(lines) == text.removesuffix("\n") or text == "", (path, text, lines)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_source_takes_no_longer_than_other_source(number: int) -> None:
    text = HOSTILE[number][:COLOURED_CHARS_MAX]
    begun = time.process_time()
    for path in ("a.py", "a.js"):
        assert sum(line.more + sum(len(span.text) for span in line.spans) for line in coloured(path, text)) <= len(text)
    assert time.process_time() - begun < 5, "it is not linear"


def test_a_long_line_is_cut_and_says_so() -> None:
    (line,) = coloured("a.py", "x = '" + "y" * 5000 + "'")
    assert sum(len(span.text) for span in line.spans) == LINE_CHARS_MAX and line.more == 5006 - LINE_CHARS_MAX
    (plain,) = coloured("a.txt", "z" * 3000)
    assert plain.more == 3000 - LINE_CHARS_MAX


def test_two_versions_have_the_fewest_differences_and_nothing_is_left_out() -> None:
    chance = random.Random(5)
    for _ in range(1500):
        old, new = ([chance.choice("abc") for _ in range(chance.randrange(9))] for _ in range(2))
        x = y = edits = 0
        for block in blocks(old, new):
            assert (block.old, block.new) == (x, y)
            x, y = block.old_end, block.new_end
            if block.same:
                assert old[block.old:x] == new[block.new:y] and block.old < x
            else:
                edits += x - block.old + y - block.new
        assert (x, y) == (len(old), len(new)) and edits == len(old) + len(new) - 2 * _common(old, new), (old, new)


def _common(old: list[str], new: list[str]) -> int:
    table = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, left in enumerate(old):
        for j, right in enumerate(new):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_files_that_differ_everywhere_are_shown_as_replaced_and_soon() -> None:
    chance = random.Random(5)
    old, new = ([str(chance.randrange(10)) for _ in range(30_000)] for _ in range(2))
    begun = time.process_time()
    found = list(rows(["first", *old], ["first", *new]))
    assert time.process_time() - begun < 5 and len(found) == 30_001 and not found[-1].same


def test_what_is_the_same_is_folded_but_never_what_somebody_spoke_of() -> None:
    old = [str(number) for number in range(100)]
    new = [*old[:50], "new", *old[50:]]
    found = list(rows(old, new))
    assert [row.folded for row in found if row.folded] == [50 - CONTEXT_LINES] * 2
    assert len([row for row in found if not row.folded]) == 2 * CONTEXT_LINES + 1
    noted = list(rows(old, new, {10}))
    assert [row.folded for row in noted if row.folded] == [50 - CONTEXT_LINES] and noted[10].new == 10


def test_numbers_money_prices_and_clocks_read_as_people_say_them() -> None:
    assert numbers("3-5,9") == {3, 4, 5, 9} and numbers("") == frozenset()
    assert [money(123456, 2), money(-5, 2), money(1500, 0), money(1, 3)] == ["1,234.56", "−0.05", "1,500", "0.001"]
    assert price({"model": "free"}) == "free" and price({}) == "free"
    assert price({"model": "subscription", "amount": 500, "currency": "JPY", "interval": "month"}) == "500 JPY a month"
    assert [first_letter("éa"), first_letter("<b>"), first_letter("...")] == ["É", "B", "▪"]
    hour = 3600 * 10**9
    ticket = {"responded_ns": None, "dueNs": 24 * hour, "opened_ns": 0, "breached": False}
    assert clock(ticket, 23 * hour) == ("watch", "due in 1 h 00 min") and clock(ticket, hour)[0] == ""
    assert clock({**ticket, "breached": True}, 26 * hour) == ("bad", "breached 2 h 00 min ago")
    assert clock({**ticket, "breached": True, "responded_ns": 25 * hour}, 99 * hour)[1] == "answered 1 h 00 min late"
    assert clock({**ticket, "responded_ns": hour}, 99 * hour) == ("well", "answered after 1 h 00 min")
    assert clock({**ticket, "dueNs": None}, 99 * hour)[0] == ""


def test_a_months_bar_is_its_share_of_the_highest() -> None:
    months = [{"month": f"2026-0{n}", "totals": {"USD": {"customers": n * 100, "platform": n * 30}}} for n in (3, 2, 1)]
    (made,) = bars({"months": months}).values()
    assert [(bar["month"], bar["height"], bar["kept"]) for bar in made] == [
        ("2026-01", 33.3, 10.0), ("2026-02", 66.7, 20.0), ("2026-03", 100.0, 30.0)]
    assert bars({"months": []}) == {} and bars({"months": [{"month": "2026-01", "totals": {}}]}) == {}
