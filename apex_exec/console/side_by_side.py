"""Two versions of a file beside each other. Pure, and bounded however the two differ.

The algorithm is Myers' ("An O(ND) Difference Algorithm", 1986), given up beyond ``EDITS_MAX`` edits: what is left is
then shown as replaced, which is never wrong. ``difflib`` has no such bound, and two hostile files make it quadratic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

EDITS_MAX = 250
"""Insertions and deletions that are looked for; their square is the memory that it takes."""
CONTEXT_LINES = 3
"""Lines that are the same around a change; further ones are folded."""


class Row(NamedTuple):
    """Line ``old`` beside line ``new``, both counted from 0; None where one side has none. ``folded``: how many lines
    that are the same are left out here."""

    old: int | None
    new: int | None
    same: bool
    folded: int = 0


class Block(NamedTuple):
    """Lines ``old`` to ``old_end`` became ``new`` to ``new_end``; ``same`` if nothing has changed there."""

    old: int
    old_end: int
    new: int
    new_end: int
    same: bool


def rows(old: Sequence[str], new: Sequence[str], noted: Collection[int] = ()) -> Iterator[Row]:
    """The lines of both, in order; long parts that are the same are folded, unless one of the new lines ``noted``, of
    which somebody has said something, is among them."""
    found = blocks(old, new)
    for index, block in enumerate(found):
        if block.same:
            is_open = any(block.new <= line < block.new_end for line in noted)
            yield from _context(block, first=index == 0, last=index == len(found) - 1, is_open=is_open)
            continue
        for offset in range(max(block.old_end - block.old, block.new_end - block.new)):
            left, right = block.old + offset, block.new + offset
            yield Row(left if left < block.old_end else None, right if right < block.new_end else None, False)


def _context(block: Block, first: bool, last: bool, is_open: bool) -> Iterator[Row]:
    length = block.old_end - block.old
    before, after = (0 if first else CONTEXT_LINES), (0 if last else CONTEXT_LINES)
    fold = length - before - after
    for offset in range(length):
        if fold > 1 and not is_open and before <= offset < before + fold:
            if offset == before:
                yield Row(None, None, True, fold)
            continue
        yield Row(block.old + offset, block.new + offset, True)


def blocks(old: Sequence[str], new: Sequence[str]) -> list[Block]:
    """What is the same and what is not, in order, without gaps."""
    begin, end = 0, 0
    most = min(len(old), len(new))
    while begin < most and old[begin] == new[begin]:
        begin += 1
    while end < most - begin and old[len(old) - 1 - end] == new[len(new) - 1 - end]:
        end += 1
    kept = [(n, n) for n in range(begin)]
    kept += [(begin + x, begin + y) for x, y in _matches(old[begin:len(old) - end], new[begin:len(new) - end])]
    kept += [(len(old) - end + n, len(new) - end + n) for n in range(end)]
    return _blocks(kept, len(old), len(new))


def _blocks(kept: list[tuple[int, int]], olds: int, news: int) -> list[Block]:
    found: list[Block] = []
    x = y = 0
    for left, right in [*kept, (olds, news)]:
        if left > x or right > y:
            found.append(Block(x, left, y, right, False))
        if (left, right) == (olds, news):
            break
        if found and found[-1].same and (found[-1].old_end, found[-1].new_end) == (left, right):
            found[-1] = found[-1]._replace(old_end=left + 1, new_end=right + 1)
        else:
            found.append(Block(left, left + 1, right, right + 1, True))
        x, y = left + 1, right + 1
    return found


def _matches(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of equal lines along a shortest way from one to the other; none if that takes too many edits."""
    furthest = {1: 0}
    trail: list[dict[int, int]] = []
    for edits in range(min(len(old) + len(new), EDITS_MAX) + 1):
        trail.append(dict(furthest))
        for diagonal in range(-edits, edits + 1, 2):
            down = diagonal == -edits or (
                diagonal != edits and furthest[diagonal - 1] < furthest[diagonal + 1])
            x = furthest[diagonal + 1] if down else furthest[diagonal - 1] + 1
            y = x - diagonal
            while x < len(old) and y < len(new) and old[x] == new[y]:
                x, y = x + 1, y + 1
            furthest[diagonal] = x
            if x >= len(old) and y >= len(new):
                return _walked_back(trail, len(old), len(new))
    return []


def _walked_back(trail: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for edits in range(len(trail) - 1, -1, -1):
        furthest, diagonal = trail[edits], x - y
        down = diagonal == -edits or (diagonal != edits and furthest[diagonal - 1] < furthest[diagonal + 1])
        before = diagonal + 1 if down else diagonal - 1
        from_x = furthest[before]
        from_y = from_x - before
        while x > max(from_x, 0) and y > max(from_y, 0) and x > 0 and y > 0:
            if edits and (x, y) == (from_x + (not down), from_y + down):
                break
            x, y = x - 1, y - 1
            found.append((x, y))
        x, y = from_x, from_y
    return found[::-1]
