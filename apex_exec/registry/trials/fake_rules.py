"""What the platform refuses, for ``workers.fake.FakePlatform``: the daemon's own code, not a copy of it.

The processes that run an author's tests import this module before any line of a bundle: the zygote of `plugin test`,
and pytest by its plugin. A worker that serves never has it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apex_exec.catalogue import methods
from apex_exec.catalogue.hooks import HOOKS
from apex_exec.core.effects import EffectRefused, Effects
from apex_exec.errors import WireError
from apex_exec.wire import hooks
from workers import fake

_encode = msgspec.msgpack.Encoder().encode


class Platform:
    """The rules of this release. See ``workers.fake.Rules``."""

    def payload(self, hook: str, params: dict[str, Any], user_id: str) -> None:
        """Refuses a payload that the daemon would answer INVALID_INPUT."""
        if hook in HOOKS:  # an operator's own hooks are known where the configuration was read
            try:
                hooks.check_payload(hook, msgspec.Raw(_encode(params)), user_id)
            except WireError as error:
                raise fake.Refused(str(error.code), error.message) from None

    def result(self, hook: str, encoded: bytes) -> None:
        """Refuses a result that the daemon would answer INVALID_OUTPUT."""
        if hook in HOOKS:
            try:
                hooks.check_result(hook, encoded)
            except WireError as error:
                raise fake.Refused(str(error.code), error.message) from None

    def collector(self, plugin: str) -> Effects:
        """What collects the effects of one call."""
        return Effects()

    def request(self, plugin: str, method: str, encoded: bytes, effects: Any) -> tuple[str, str]:
        """The code and the words with which the daemon would refuse an API call for its parameters; "" if it takes
        it."""
        try:
            request: Any = methods.decode(method, encoded)
            if methods.METHODS[method].route == "effect":
                effects.add(plugin, request, frozenset())
        except EffectRefused as refused:
            return refused.code, str(refused)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            return "invalid_params", str(error)[:200]
        return "", ""


fake.Installed.rules = Platform()
