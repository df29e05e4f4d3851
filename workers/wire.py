"""The inner link's messages: what supervisor and worker say to each other, one ZMTP frame a message.

Arrays, not maps, each opened by its tag, so that coding stays near a microsecond. Both sides decode into
these types and nothing else; the supervisor trusts none of a worker's fields. Bodies (``params``,
``result``) travel as undecoded MessagePack (``msgspec.Raw``) where the carrier does not need to look inside.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

# --- bounds. Each is what one worker may make the supervisor hold or do.
FRAME_BYTES_MAX = 4 * 1024 * 1024
"""Largest frame accepted on the link, either way. A bundle is the largest honest one (supervisor to worker)."""
WORKER_FRAME_BYTES_MAX = 1024 * 1024 + 65536
"""Largest frame a worker may send: a 1 MiB result and its envelope. Above: WORKER_VIOLATION."""
RESULT_BYTES_MAX = 1024 * 1024
"""Largest encoded result. Above: INVALID_OUTPUT (the worker checks first; the supervisor decides)."""
TRACEBACK_BYTES_MAX = 8192
LOG_BYTES_MAX = 8192
"""Largest text of one log line; longer ones are cut by the worker, in characters."""
LOG_FRAME_BYTES_MAX = 4 * LOG_BYTES_MAX + 256
"""Largest encoded Log: LOG_BYTES_MAX characters of four bytes, its level and its envelope. Above: WORKER_VIOLATION."""
API_PARAMS_BYTES_MAX = 256 * 1024
DEPTH_MAX = 64
"""Deepest nesting of a payload or a result."""

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A worker's number for something. What else it counts (CPU time, a wait) is cut where it is used, to what can be."""

API_CODES = {
    "permission_denied": "the plugin has no such permission, or no valid approval for it",
    "rate_limited": "too many requests a minute; the error's retry_after_ms says when the next may pass",
    "deadline_exceeded": "the invocation's time ended before the call did",
    "cancelled": "the invocation that made this call has been answered, or its caller has gone",
    "unknown_method": "there is no such API method",
    "invalid_params": "the call's parameters do not fit its method",
    "too_large": "a request or a response over its size limit",
    "too_many_calls": "more API calls at once, or in one invocation, than allowed",
    "sql_syntax": "the text is not one SELECT of the accepted dialect",
    "sql_forbidden": "a statement, function, cast or clause outside the allow-list",
    "sql_parameters": "the number or the types of the parameters do not fit the text",
    "sql_error": "the database refused the statement while running it",
    "table_not_allowed": "no such table, or the manifest does not name it, or it may not be written",
    "column_not_allowed": "no such column among those that the operator shows",
    "row_limit": "more rows than one call may read or change",
    "constraint": "the database refused the write: a constraint of the table",
    "data_unavailable": "the platform's database cannot be used now",
    "url_invalid": "not an http or https URL, or a method or header that may not be sent",
    "host_not_allowed": "the host is not on the manifest's list or not on the operator's",
    "address_not_allowed": "the host's address is private, local or otherwise not public",
    "redirect_limit": "too many redirects",
    "fetch_failed": "no answer could be had from the peer",
    "not_provided": "no host provides this method now",
    "host_lost": "the host ended before it answered; whether the method took effect is not known",
    "host_error": "the host's method answered with an error",
    "component_not_allowed": "the platform does not render this component",
    "invalid_output": "an effect or a host call's parameters hold a value that the protocol cannot carry",
    "effect_limit": "more or larger effects than one invocation may have",
    "gateway_lost": "the gateway died during the call; whether it took effect is not known",
    "audit_unavailable": "the audit ledger cannot take a record, so nothing was done",
    "overloaded": "the gateway is full; nothing was done",
}
"""Every ``code`` of an ApiError, and what it means: the one table."""


# --- supervisor to worker
class Load(msgspec.Struct, array_like=True, tag="load", gc=False):
    """First message after Booted: the plugin, from memory. ``files`` maps bundle paths to their bytes.

    ``mode``: ``serve``, ``probe`` (load, say what it declares, leave) or ``test`` (run its tests).
    """

    plugin: str
    version: str
    entrypoint: str
    files: dict[str, bytes]
    sha256: dict[str, str]
    memory_bytes_max: int
    mode: str = "serve"


class Call(msgspec.Struct, array_like=True, tag="call", gc=False):
    """One hook to run. ``seq`` counts up by one per link from 0; ``deadline_ns`` is absolute CLOCK_MONOTONIC."""

    seq: int
    hook: str
    user_id: str
    deadline_ns: int
    params: msgspec.Raw


class ApiReply(msgspec.Struct, array_like=True, tag="api_reply", gc=False):
    """Answer to an ApiCall. On ``ok`` ``value`` is the result; else ``code``/``message`` say why."""

    api_id: int
    ok: bool
    value: msgspec.Raw
    code: str = ""
    message: str = ""
    retry_after_ms: int = 0


class Ping(msgspec.Struct, array_like=True, tag="ping", gc=False):
    """Answered with a Pong in order, so it proves the real path."""

    nonce: int


class Recall(msgspec.Struct, array_like=True, tag="recall", gc=False):
    """The calls ``seqs`` of this link are not to begin; each that has not is answered with Skipped, whatever its
    deadline. It counts as soon as it is read, before the calls that arrived ahead of it have had their turn."""

    seqs: list[int]


# --- worker to supervisor
class LayerReport(msgspec.Struct, array_like=True, gc=False):
    """What came of one jail layer. ``state``: active, degraded, absent, waived, failed, lied."""

    layer: str
    state: str
    errno: int = 0
    detail: str = ""


class Booted(msgspec.Struct, array_like=True, tag="booted", gc=False):
    """The jail was applied and self-tested; nothing of the plugin is loaded yet."""

    layers: list[LayerReport]


class Ready(msgspec.Struct, array_like=True, tag="ready", gc=False):
    """The plugin is loaded. ``hooks`` and ``permissions`` are what its code declares, ``uses_loop`` whether asyncio."""

    plugin: str
    version: str
    hooks: list[str]
    permissions: list[str]
    uses_loop: bool = False


class Failed(msgspec.Struct, array_like=True, tag="failed", gc=False):
    """The worker cannot serve; it exits next. ``stage``: jail, selftest, load."""

    stage: str
    layer: str
    exception: str
    message: str
    traceback: str


class Reply(msgspec.Struct, array_like=True, tag="reply", gc=False):
    """The hook returned ``result``. ``cpu_ns`` is the worker's own reading and only indicative."""

    seq: Number
    result: msgspec.Raw
    cpu_ns: int


class Raised(msgspec.Struct, array_like=True, tag="raised", gc=False):
    """The hook raised. ``api_code`` where an API error went unhandled; ``memory`` where it was a MemoryError."""

    seq: Number
    exception: str
    message: str
    traceback: str
    cpu_ns: int
    api_code: str = ""
    api_method: str = ""
    retry_after_ms: int = 0
    memory: bool = False


class BadOutput(msgspec.Struct, array_like=True, tag="bad_output", gc=False):
    """The hook returned what no MessagePack value of the protocol can hold; ``path`` says where."""

    seq: Number
    path: str
    message: str
    cpu_ns: int


class BadInput(msgspec.Struct, array_like=True, tag="bad_input", gc=False):
    """The call's payload is no MessagePack: the host's fault, which the supervisor sees for itself. No hook ran."""

    seq: Number
    message: str
    cpu_ns: int


class Skipped(msgspec.Struct, array_like=True, tag="skipped", gc=False):
    """The call was not begun: its deadline had passed, or it was recalled."""

    seq: Number


class ApiCall(msgspec.Struct, array_like=True, tag="api", gc=False):
    """The hook running as ``seq`` asks for something outside. ``api_id`` counts up per link."""

    seq: Number
    api_id: Number
    method: str
    params: msgspec.Raw


class Log(msgspec.Struct, array_like=True, tag="log", gc=False):
    """One line of the plugin's log or stdout. ``level``: debug, info, warning, error, stdout, stderr."""

    level: str
    text: str


class Pong(msgspec.Struct, array_like=True, tag="pong", gc=False):
    """Answer to Ping."""

    nonce: Number


class Tested(msgspec.Struct, array_like=True, tag="tested", gc=False):
    """What came of a bundle's tests (mode ``test``). ``arcs``: path → jumps between lines; none of it is proof."""

    passed: Number
    failed: Number
    failures: list[str]
    arcs: dict[str, list[tuple[int, int]]]
    tampered: bool


class Testing(msgspec.Struct, array_like=True, tag="testing", gc=False):
    """The test ``name`` begins (mode ``test``); so many have passed and failed before it. Only for whoever looks on."""

    name: str
    passed: Number
    failed: Number


class Placed(msgspec.Struct, array_like=True, tag="placed", gc=False):
    """Mode ``test``: sent before any line of the bundle runs; then a Ping is waited for.

    ``places``: path → (line that a statement begins in, address of bytecode where it is entered), maybe several a line.
    """

    places: dict[str, list[tuple[int, int]]]


ToWorker = Load | Call | ApiReply | Ping | Recall
FromWorker = Booted | Ready | Failed | Reply | Raised | BadOutput | BadInput | Skipped | ApiCall | Log | Pong
FromTests = Booted | Failed | Log | Placed | Testing | Tested
"""What a worker with a bundle's tests may send; no serving worker may send a ``tested``."""

NIL = msgspec.Raw(b"\xc0")


# --- supervisor to zygote, over a SEQPACKET socket with fds attached (never a pickle)
class Fork(msgspec.Struct, array_like=True, tag="fork", gc=False):
    """Fork one worker. Two fds ride along, in this order: link, marks write end.

    ``worker`` is the supervisor's number for the generation. ``jail`` holds what differs per worker:
    ``{uid, gid, cgroup: [paths], memory_bytes_max, ...}`` (see workers/jail).
    """

    worker: int
    jail: dict[str, Any]


class Kill(msgspec.Struct, array_like=True, tag="kill", gc=False):
    """SIGKILL for a worker whose pidfd the supervisor has not, or may not use: the zygote is its parent."""

    worker: int


class ZygoteReady(msgspec.Struct, array_like=True, tag="zygote_ready", gc=False):
    """The zygote has preloaded and answers."""

    pid: int
    modules: int


class Forked(msgspec.Struct, array_like=True, tag="forked", gc=False):
    """A worker exists; its pidfd rides along (one fd)."""

    worker: int
    pid: int


class ForkFailed(msgspec.Struct, array_like=True, tag="fork_failed", gc=False):
    """fork or pidfd_open was refused (EAGAIN, EMFILE, ...)."""

    worker: int
    errno: int


class Exited(msgspec.Struct, array_like=True, tag="exited", gc=False):
    """A worker was reaped. ``status`` is waitpid's raw status; times in ns, ``maxrss_kib`` from rusage."""

    worker: int
    pid: int
    status: int
    user_ns: int
    system_ns: int
    maxrss_kib: int


ToZygote = Fork | Kill
FromZygote = ZygoteReady | Forked | ForkFailed | Exited
