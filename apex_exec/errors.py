"""The exceptions, and the wire's error codes in one table: whose fault each is, and whether a retry is safe.

A code's ``retryable`` follows the protocol: ``YES`` if plugin code never ran, ``NO`` if it may have run, and
``IF_NOT_STARTED`` if that depends on the single request.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any


class Retry(Enum):
    """Whether a request that ended with a code may be sent again without running a hook twice."""

    NO = "no"
    YES = "yes"
    IF_NOT_STARTED = "if not started"


class Fault(StrEnum):
    """Who can fix the cause."""

    HOST = "host"
    PLUGIN = "plugin"
    OPERATOR = "operator"
    SUPERVISOR = "supervisor"


class Code(StrEnum):
    """Every error code of the host protocol."""

    PROTOCOL_ERROR = "PROTOCOL_ERROR"
    DUPLICATE_ID = "DUPLICATE_ID"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    INVALID_INPUT = "INVALID_INPUT"
    PLUGIN_NOT_FOUND = "PLUGIN_NOT_FOUND"
    HOOK_NOT_DECLARED = "HOOK_NOT_DECLARED"
    UNSUPPORTED_PROTOCOL = "UNSUPPORTED_PROTOCOL"
    PLUGIN_DISABLED = "PLUGIN_DISABLED"
    OVERLOADED = "OVERLOADED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    TIMEOUT = "TIMEOUT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    CPU_LIMIT = "CPU_LIMIT"
    WORKER_CRASHED = "WORKER_CRASHED"
    BOOT_FAILED = "BOOT_FAILED"
    QUARANTINED = "QUARANTINED"
    PLUGIN_ERROR = "PLUGIN_ERROR"
    WORKER_VIOLATION = "WORKER_VIOLATION"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RATE_LIMITED = "RATE_LIMITED"
    NOT_PROVIDED = "NOT_PROVIDED"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    REFUSED = "REFUSED"
    FORBIDDEN = "FORBIDDEN"
    CANCELLED = "CANCELLED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    NODE_LOST = "NODE_LOST"
    INTERNAL = "INTERNAL"


CODES: dict[Code, tuple[Fault, Retry]] = {
    Code.PROTOCOL_ERROR: (Fault.HOST, Retry.NO),
    Code.DUPLICATE_ID: (Fault.HOST, Retry.NO),
    Code.PAYLOAD_TOO_LARGE: (Fault.HOST, Retry.NO),
    Code.INVALID_INPUT: (Fault.HOST, Retry.NO),
    Code.PLUGIN_NOT_FOUND: (Fault.HOST, Retry.NO),
    Code.HOOK_NOT_DECLARED: (Fault.HOST, Retry.NO),
    Code.UNSUPPORTED_PROTOCOL: (Fault.HOST, Retry.NO),
    Code.PLUGIN_DISABLED: (Fault.OPERATOR, Retry.NO),
    Code.OVERLOADED: (Fault.HOST, Retry.YES),
    Code.DEADLINE_EXCEEDED: (Fault.HOST, Retry.YES),
    Code.TIMEOUT: (Fault.PLUGIN, Retry.NO),
    Code.MEMORY_LIMIT: (Fault.PLUGIN, Retry.NO),
    Code.CPU_LIMIT: (Fault.PLUGIN, Retry.NO),
    Code.WORKER_CRASHED: (Fault.PLUGIN, Retry.IF_NOT_STARTED),
    Code.BOOT_FAILED: (Fault.PLUGIN, Retry.NO),
    Code.QUARANTINED: (Fault.PLUGIN, Retry.YES),
    Code.PLUGIN_ERROR: (Fault.PLUGIN, Retry.NO),
    Code.WORKER_VIOLATION: (Fault.PLUGIN, Retry.NO),
    Code.INVALID_OUTPUT: (Fault.PLUGIN, Retry.NO),
    Code.PERMISSION_DENIED: (Fault.PLUGIN, Retry.NO),
    Code.RATE_LIMITED: (Fault.PLUGIN, Retry.NO),
    Code.NOT_PROVIDED: (Fault.HOST, Retry.NO),
    Code.AUDIT_UNAVAILABLE: (Fault.OPERATOR, Retry.YES),
    Code.NOT_FOUND: (Fault.HOST, Retry.NO),
    Code.CONFLICT: (Fault.HOST, Retry.NO),
    Code.REFUSED: (Fault.HOST, Retry.NO),
    Code.FORBIDDEN: (Fault.OPERATOR, Retry.NO),
    Code.CANCELLED: (Fault.HOST, Retry.NO),
    Code.SHUTTING_DOWN: (Fault.OPERATOR, Retry.IF_NOT_STARTED),
    Code.NODE_LOST: (Fault.OPERATOR, Retry.IF_NOT_STARTED),
    Code.INTERNAL: (Fault.SUPERVISOR, Retry.IF_NOT_STARTED),
}


FAILURES = frozenset(code.value for code, (fault, _) in CODES.items()
                     if fault is Fault.PLUGIN and code is not Code.QUARANTINED)
"""The codes that are the plugin's fault, without QUARANTINED, which only follows from earlier failures."""

_RETRY: dict[str, Retry] = {code.value: retry for code, (_, retry) in CODES.items()}


def is_retryable(code: str, started: bool) -> bool:
    """Whether a request that ended with ``code`` may be sent again without running a hook twice."""
    retry = _RETRY[code]
    return retry is Retry.YES or (retry is Retry.IF_NOT_STARTED and not started)


class ApexError(Exception):
    """The base of all our exceptions; ``str()`` is one line that a person can act on."""


class ConfigError(ApexError):
    """The configuration cannot be used; the message names the key and what to write instead."""


class WireError(ApexError):
    """A message from outside that cannot be accepted, with its wire code and, if it is known, the path in it."""

    def __init__(self, code: Code, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details or {}


class Refusal(ApexError):
    """An administrative operation that was refused; nothing was changed.

    ``reason`` is for programs (``snake_case``, stable), ``message`` is one line for a person, and ``hint`` says what to
    do. ``code`` is NOT_FOUND, CONFLICT, REFUSED or INVALID_INPUT on the wire. If there are several findings,
    ``problems`` lists them, each as ``{code, path, message, hint}``.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        hint: str = "",
        code: Code = Code.REFUSED,
        problems: list[dict[str, Any]] | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.code = code
        self.problems = problems or []
        self.details = details or {}

    def wire_details(self) -> dict[str, Any]:
        """The content of the reply's ``details``."""
        out: dict[str, Any] = {"reason": self.reason, **self.details}
        if self.hint:
            out["hint"] = self.hint
        if self.problems:
            out["problems"] = self.problems
        return out


class SupervisorBug(ApexError):
    """A state that should be impossible, with the history of the object that reached it; never a user's fault."""
