"""Event, EventTarget, AbortController and AbortSignal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.realms import Thrown, run


def test_listeners_are_called_in_order_and_once_where_they_say_so() -> None:
    assert run("""
        const target = new EventTarget(), said = [];
        const f = event => said.push("f" + (event.target === target) + event.type + (event.currentTarget === target));
        target.addEventListener("go", f);
        target.addEventListener("go", f);
        target.addEventListener("go", { handleEvent(event) { said.push("object" + event.detail) } }, { once: true });
        target.addEventListener("go", function () { said.push(this === target) });
        target.addEventListener("go", null);
        target.dispatchEvent(new CustomEvent("go", { detail: 7 }));
        target.removeEventListener("go", f);
        const event = new Event("go");
        target.dispatchEvent(event);
        return [said, event.currentTarget, event.eventPhase]""") == [["ftruegotrue", "object7", True, True], None, 0]


def test_a_listener_stops_the_others_or_the_default() -> None:
    assert run("""
        const target = new EventTarget(), said = [];
        target.addEventListener("a", event => { event.preventDefault(); event.stopPropagation() });
        target.addEventListener("a", event => { said.push("second"); event.stopImmediatePropagation() });
        target.addEventListener("a", () => said.push("third"));
        const can = new Event("a", { cancelable: true });
        target.addEventListener("p", event => event.preventDefault(), { passive: true });
        return [target.dispatchEvent(can), can.defaultPrevented, target.dispatchEvent(new Event("a")), said,
                target.dispatchEvent(new Event("p", { cancelable: true }))]""") == [False, True, True, ["second", "second"], True]


def test_a_listener_that_is_removed_or_added_during_the_dispatch() -> None:
    assert run("""
        const target = new EventTarget(), said = [], late = () => said.push("late"), removed = () => said.push("removed");
        target.addEventListener("a", () => {
          target.removeEventListener("a", removed);
          target.addEventListener("a", late);
        });
        target.addEventListener("a", removed);
        target.dispatchEvent(new Event("a"));
        const first = said.join();
        target.dispatchEvent(new Event("a"));
        return [first, said.join()]""") == ["", "late"]


def test_an_exception_of_a_listener_stops_no_other_and_fails_the_call() -> None:
    with pytest.raises(Thrown, match="of the listener") as caught:
        run("""
            const target = new EventTarget();
            target.addEventListener("a", () => { throw new RangeError("of the listener") });
            target.addEventListener("a", () => { globalThis.second = true });
            if (!target.dispatchEvent(new Event("a")) || !globalThis.second) return "stopped";
            await new Promise(resolve => setTimeout(resolve, 20));
            return "nobody heard of it" """)
    assert caught.value.name == "RangeError"


@pytest.mark.parametrize(("body", "name"), [
    ("new EventTarget().dispatchEvent({ type: 'a' })", "TypeError"), ("new Event()", "TypeError"), ("new AbortSignal()", "TypeError"),
    ("AbortSignal.any([{}])", "TypeError"), ("AbortSignal.timeout(-1)", "TypeError"), ("new EventTarget().addEventListener('a', 1)", "TypeError"),
    ("const t = new EventTarget(), e = new Event('a'); let name; t.addEventListener('a', () => {"
     "try { t.dispatchEvent(e) } catch (error) { name = error.name } }); t.dispatchEvent(e); throw { name }", "InvalidStateError")])
def test_what_is_no_event_or_signal_is_refused(body: str, name: str) -> None:
    assert run(f"try {{ {body}; return 'taken' }} catch (error) {{ return error.name }}") == name


def test_a_controller_aborts_its_signal_once_with_its_reason() -> None:
    assert run("""
        const controller = new AbortController(), { signal } = controller, said = [];
        signal.addEventListener("abort", () => said.push("listener"));
        signal.onabort = function (event) { said.push([this === signal, event.type, signal.aborted]) };
        signal.throwIfAborted();
        controller.abort();
        controller.abort("second");
        try { signal.throwIfAborted() } catch (error) { said.push(error === signal.reason) }
        return [said, signal.reason.name, signal.reason.code, AbortSignal.abort("why").reason, controller.signal === signal]""") == [
            ["listener", [True, "abort", True], True], "AbortError", 20, "why", True]


def test_any_follows_its_signals_and_a_signal_removes_listeners() -> None:
    assert run("""
        const a = new AbortController(), b = new AbortController(), both = AbortSignal.any([a.signal, AbortSignal.any([b.signal])]);
        const target = new EventTarget();
        let heard = 0;
        target.addEventListener("x", () => heard++, { signal: both });
        target.dispatchEvent(new Event("x"));
        b.abort("b");
        a.abort("a");
        target.dispatchEvent(new Event("x"));
        target.addEventListener("x", () => heard++, { signal: both });
        target.dispatchEvent(new Event("x"));
        return [both.reason, heard, AbortSignal.any([AbortSignal.abort(1), AbortSignal.abort(2)]).reason, AbortSignal.any([]).aborted]
        """) == ["b", 1, 1, False]


def test_a_timeout_aborts_after_its_time() -> None:
    reason: Any = run("""
        const signal = AbortSignal.timeout(15), begun = performance.now();
        const before = signal.aborted;
        await new Promise(resolve => { signal.onabort = resolve });
        return [before, signal.aborted, signal.reason.name, performance.now() - begun >= 14]""")
    assert reason == [False, True, "TimeoutError", True]
