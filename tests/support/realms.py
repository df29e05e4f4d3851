"""Plugin code in a real engine, prepared as a zygote prepares it, without a worker around it."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from typing import Any

from workers.javascript import runtime, values

Answer = Callable[[str, dict[str, Any]], Any]
"""Answers an API call: ``(method, params)`` → the value; it raises Refused for an error."""


class Refused(Exception):
    """The platform's answer to an API call is an error with this code."""


class Thrown(Exception):
    """The hook threw: ``name``, and the text as the error's message."""

    def __init__(self, name: str, text: str, trace: str) -> None:
        super().__init__(text)
        self.name = name
        self.trace = trace


@functools.cache
def _prepare() -> None:
    runtime.prepare({})


def run(body: str, given: Any = None, *, before: str = "", answer: Answer | None = None) -> Any:
    """Runs ``body`` as an async hook in a new engine, with ``context.given``; ``before`` stands at the module's top.

    Returns what the hook returns. Raises Thrown.
    """
    _prepare()
    source = (f"{before}\nexport default {{ id: 't', version: '1.0.0', permissions: [], hooks: {{"
              f"async onDataFetch(context) {{ const {{ given }} = context;\n{body}\n}} }} }};")
    realm = runtime.Realm()
    realm.engine.load_modules(lambda _name: source.encode("utf-8", "surrogatepass"))
    try:
        realm.load("t/index.js")
        _until_answered(realm, answer)
        realm.call("onDataFetch", json.dumps({"given": given}), False, "user", (time.monotonic() + 60) * 1e3)
        return _until_answered(realm, answer)
    finally:
        realm.engine.unload()


def _until_answered(realm: runtime.Realm, answer: Answer | None) -> Any:
    while True:
        realm.engine.run_jobs()
        text = realm.step()
        message, is_odd = values.read(text)
        if message["k"] == "r":
            return values.from_json(message.get("v"), text, is_odd)
        if message["k"] == "a":
            _answer(realm, answer, message, values.from_json(message.get("params"), text, is_odd))
        elif message["k"] == "c":
            continue  # the answer has been given
        elif message["k"] == "w" and message["ms"] >= 0:
            time.sleep(message["ms"] / 1e3)
            realm.fire()
        elif message["k"] == "x":
            raise Thrown(message["name"], message["text"], message["trace"])
        else:
            raise AssertionError(f"the hook has no value: {message}")


def _answer(realm: runtime.Realm, answer: Answer | None, message: dict[str, Any], params: Any) -> None:
    assert answer is not None, f"nobody answers {message}"
    try:
        value = answer(message["method"], params)
    except Refused as error:
        told = {"code": str(error), "message": str(error), "retry": 0}
        realm.settle(float(message["number"]), False, json.dumps(told), False)
        return
    realm.settle(float(message["number"]), True, *values.params_to_json(value, False))
