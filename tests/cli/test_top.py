"""`top`: what its keys do, what fits on a terminal of 80 x 24, and one plugin in full. Pure but for the last."""

from __future__ import annotations

from typing import Any

import pytest

from apex_exec.cli.cells import cell_len
from apex_exec.cli.daemon.top_view import HELP, View, keys_of

LIMITS = {"timeout_ms": 500, "memory_mb": 50, "cpu_percent": 10, "network_per_minute": 100}


def plugin(id_: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "version": "1.0.0", "state": "enabled", "reason": "", "worker": "ready", "breaker": "closed",
            "calls": 10, "failed": 0, "failedRecently": 0, "lastFailure": "", "p50Ms": 1.5, "p99Ms": 20.25,
            "queued": 0, "inFlight": 0, "concurrency": 1, "cpuSeconds": 1.0, "throttledSeconds": 0.0, "restarts": 0,
            "memoryMb": 4.6, "pids": [1234], "pausedUsers": 0, **more}


def status(*plugins: dict[str, Any], at: float = 100.0) -> dict[str, Any]:
    return {"server": "apex-exec/0.1.0", "isolation": "L4", "uptimeSeconds": at, "connections": 1, "pending": 0,
            "health": {}, "draining": False, "plugins": list(plugins)}


MANY = status(*(plugin(f"widget-{n:02d}", calls=n) for n in range(40)),
              plugin("spinner", failedRecently=3, lastFailure="TIMEOUT", breaker="open", calls=99))


def texts(view: View, now: dict[str, Any] = MANY, one: dict[str, Any] | None = None, width: int = 80,
          height: int = 24) -> list[str]:
    frame = view.frame(now, None, one, width, height)
    assert len(frame) == height and all(cell_len(text) <= width for style, text in frame if style == "heading")
    return [text for _, text in frame]


def test_eighty_columns_hold_every_id_and_number_and_the_last_line_has_the_keys() -> None:
    lines = texts(View("calls"))
    assert lines[-1].strip() == HELP and len(lines) == 24
    head, first = lines[1].split(), lines[2].split()
    assert head[:2] == ["plugin", "state"] and "*calls/s" in head and "fail" in head and first[0] == "spinner"
    assert all(cell_len(line) <= 80 for line in lines[1:])
    assert "20.25" in lines[2] and "4.6" in lines[2] and "3" in first
    wide = texts(View("calls"), width=140)
    assert "last failure" in wide[1] and "TIMEOUT" in wide[2] and "breaker" in wide[1]


@pytest.mark.parametrize("size", [(40, 6), (1, 1), (79, 10), (200, 60)])
def test_a_terminal_of_any_size_gets_a_frame(size: tuple[int, int]) -> None:
    view = View("calls")
    frame = view.frame(MANY, None, None, *size)
    assert len(frame) == max(6, size[1])
    view.opened = "spinner"
    assert len(view.frame(MANY, None, {"live": {**plugin("spinner"), "limits": LIMITS, "ages": [], "network": 0},
                                       "lines": []}, *size)) == max(6, size[1])


def test_arrows_choose_a_row_that_stays_in_sight_and_enter_opens_it() -> None:
    view = View("id")
    texts(view)
    assert view.chosen == "spinner"
    for _ in range(30):
        assert view.press("down")
    assert any(style == "chosen" and "widget-29" in text for style, text in view.frame(MANY, None, None, 80, 24))
    assert view.press("enter") and view.opened == "widget-29"
    assert view.press("up") and view.opened == "widget-28", "its neighbour, without going back"
    assert view.press("m") and view.sort == "id", "the keys of the list do nothing here"
    assert view.press("back") and not view.opened
    for _ in range(99):
        view.press("page down")
    assert view.chosen == "widget-39"
    assert view.press("m") and view.sort == "memory"
    assert not view.press("q")


def test_failing_plugins_can_be_seen_alone_and_a_choice_that_is_gone_is_no_choice() -> None:
    view = View("calls")
    view.press("x")
    shown = "\n".join(texts(view))
    assert "spinner" in shown and "widget" not in shown and view.chosen == "spinner"
    assert "no plugin fails; x shows all of them" in "\n".join(texts(view, status(plugin("calm"))))
    assert not view.chosen and view.press("enter") and not view.opened


def test_one_plugin_has_its_limits_its_failures_and_its_log() -> None:
    view = View("calls")
    view.opened = "spinner"
    log = [{"at": f"2026-11-30T12:00:{n:02d}.000Z", "level": "error" if n == 5 else "info", "text": f"line {n}"}
           for n in range(40)]
    live = {**plugin("spinner", p99Ms=496.0, failedRecently=3, lastFailure="TIMEOUT", state="quarantined",
                     reason="spins", pids=[1, 2]), "limits": LIMITS, "ages": [3.0], "network": 2.0,
            "trial": {"version": "1.1.0", "worker": "starting"}}
    frame = view.frame(MANY, None, {"live": live, "lines": log}, 80, 24)
    shown = "\n".join(text for _, text in frame)
    assert "quarantined: spins" in shown and "pid 1 (3 s old), pid 2;" in shown and "3 in five minutes" in shown
    assert ("warning", "time      [####################] 496 of 500 ms; p99; p50 1.5 ms") in frame
    assert "memory    [##..................] 4.6 of 50 MB" in shown and "version 1.1.0: its worker is starting" in shown
    assert ("warning", "12:00:05 line 5") in frame and "12:00:39 info line 39" in shown
    assert "needs the role" in "\n".join(texts(view, one={"live": live, "unread": "it needs the role operator"}))
    late = view.frame(MANY, None, {"live": live, "lines": log}, 80, 24, "no reply within 5000 ms; this is 9 s old")
    assert len(late) == 24 and late[0] == ("warning", "NO ANSWER  no reply within 5000 ms; this is 9 s old")
    assert "is not served any more" in "\n".join(texts(view, one=None))


@pytest.mark.parametrize(("data", "keys"), [
    (b"q", ["q"]), (b"\x1b[A\x1b[Bm", ["up", "down", "m"]), (b"\r\n", ["enter", "enter"]), (b"\x1b", ["back"]),
    (b"\x1b[15~", []), (b"\x7fjk", ["back", "down", "up"]), (b"\xc3\xa9", ["\xc3", "\xa9"]), (b"\x04", ["q"])])
def test_keys_are_known_by_what_terminals_send(data: bytes, keys: list[str]) -> None:
    assert keys_of(data) == keys
