"""What a client raises: one class per family of error codes, so that a host catches what it can act on.

``CallError`` is the root of every answer that is an error; ``ConnectionLost`` means that there will be no answer.
"""

from __future__ import annotations

from typing import Any

from apex_exec.errors import ApexError, Code, is_retryable

CONNECTION_LOST = "CONNECTION_LOST"
"""No code of the wire: a client's own word for a request whose reply will never come."""


class ConnectionLost(ApexError):
    """No reply will come. ``executed`` is False where the request never left, None where that is unknown."""

    code = CONNECTION_LOST

    def __init__(self, message: str, executed: bool | None = None) -> None:
        super().__init__(message)
        self.executed = executed
        self.retryable = executed is False


class CallError(ApexError):
    """The daemon answered with an error. ``reply`` is the whole error message.

    ``started`` says whether plugin code may have run, ``retryable`` whether sending again cannot run it twice.
    """

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(f"{reply['code']}: {reply['message']}")
        self.reply = reply
        self.code: str = reply["code"]
        self.message: str = reply["message"]
        self.started: bool = reply.get("started", False)
        self.retryable: bool = reply.get("retryable", False)
        self.details: dict[str, Any] = reply.get("details") or {}
        self.usage: dict[str, Any] = reply.get("usage") or {}


class InvalidRequest(CallError):
    """The request itself is wrong; ``details["path"]`` names the place where it is known."""


class NotServed(CallError):
    """There is no such plugin or hook, or it is not enabled for this user."""


class Busy(CallError):
    """Nothing was run; try again, after ``details["retryAfterMs"]`` where it is given."""


class LimitExceeded(CallError):
    """The hook was ended for its time, its memory or its CPU."""


class PluginFailed(CallError):
    """The plugin's fault: it raised, crashed, did not load or returned an invalid result."""


class ApiRefused(CallError):
    """The plugin asked for what it may not have and did not handle the refusal; ``details["method"]``."""


class AdminRefused(CallError):
    """An administrative operation was refused; ``details["reason"]`` is the machine's word for it."""


class Cancelled(CallError):
    """The request was cancelled by this connection."""


class DaemonFault(CallError):
    """The daemon's own fault."""


FAMILIES: dict[Code, type[CallError]] = {
    Code.PROTOCOL_ERROR: InvalidRequest,
    Code.DUPLICATE_ID: InvalidRequest,
    Code.PAYLOAD_TOO_LARGE: InvalidRequest,
    Code.INVALID_INPUT: InvalidRequest,
    Code.UNSUPPORTED_PROTOCOL: InvalidRequest,
    Code.PLUGIN_NOT_FOUND: NotServed,
    Code.HOOK_NOT_DECLARED: NotServed,
    Code.PLUGIN_DISABLED: NotServed,
    Code.OVERLOADED: Busy,
    Code.DEADLINE_EXCEEDED: Busy,
    Code.QUARANTINED: Busy,
    Code.AUDIT_UNAVAILABLE: Busy,
    Code.SHUTTING_DOWN: Busy,
    Code.TIMEOUT: LimitExceeded,
    Code.MEMORY_LIMIT: LimitExceeded,
    Code.CPU_LIMIT: LimitExceeded,
    Code.WORKER_CRASHED: PluginFailed,
    Code.BOOT_FAILED: PluginFailed,
    Code.PLUGIN_ERROR: PluginFailed,
    Code.WORKER_VIOLATION: PluginFailed,
    Code.INVALID_OUTPUT: PluginFailed,
    Code.PERMISSION_DENIED: ApiRefused,
    Code.RATE_LIMITED: ApiRefused,
    Code.NOT_PROVIDED: ApiRefused,
    Code.NOT_FOUND: AdminRefused,
    Code.CONFLICT: AdminRefused,
    Code.REFUSED: AdminRefused,
    Code.FORBIDDEN: AdminRefused,
    Code.CANCELLED: Cancelled,
    Code.INTERNAL: DaemonFault,
    Code.NODE_LOST: DaemonFault,
}


def error_of(reply: dict[str, Any]) -> CallError:
    """The typed error of an ``error`` message; a code that a newer daemon sends is a plain CallError."""
    try:
        return FAMILIES[Code(reply["code"])](reply)
    except ValueError:
        return CallError(reply)


def local_error(code: Code, message: str, details: dict[str, Any] | None = None) -> CallError:
    """An error that the client found before it sent anything: shaped as the daemon would have answered."""
    return error_of({"type": "error", "id": None, "code": str(code), "message": message, "started": False,
                     "retryable": is_retryable(code, False), "details": details or {}})
