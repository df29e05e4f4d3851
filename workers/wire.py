"""The messages of the inner protocol: of the supervisor with a worker (each is a ZMTP frame) and with the zygote (each
is a packet).

Messages are arrays that begin with their tag, and not maps, so that encoding one takes about a microsecond. Both sides
decode into these types and nothing else; the supervisor trusts no field of a worker's. Bodies (``params``, ``result``)
travel as undecoded MessagePack (``msgspec.Raw``) if the carrier need not look inside.
"""

from __future__ import annotations

import signal
from typing import Annotated, Any

import msgspec

from workers.effect_rules import NAME_CHARACTERS_MAX, TRIES_AT_ONCE

# --- bounds. Each limits what one worker can make the supervisor keep or do.
FRAME_BYTES_MAX = 40 * 1024 * 1024
"""Largest frame that a worker accepts. The largest one is a bundle, on its way to it: ``registry.bundle_bytes`` at its
most, with paths and hashes."""
WORKER_FRAME_BYTES_MAX = 1024 * 1024 + 65536
"""Largest frame that a worker may send: a 1 MiB result and its envelope. A larger one is a WORKER_VIOLATION."""
RESULT_BYTES_MAX = 1024 * 1024
"""Largest encoded result. A larger one is INVALID_OUTPUT; the worker checks first, and the supervisor decides."""
TRACEBACK_BYTES_MAX = 8192
LOG_BYTES_MAX = 8192
"""Largest text of one log line, in characters; the worker cuts longer ones."""
LOG_FRAME_BYTES_MAX = 4 * LOG_BYTES_MAX + 256
"""Largest encoded Log: LOG_BYTES_MAX characters of four bytes, a level and an envelope. A larger one is a
WORKER_VIOLATION."""
API_PARAMS_BYTES_MAX = 256 * 1024
DEPTH_MAX = 64
"""Deepest nesting of a payload or a result."""

PROBE_SIGNAL = signal.SIGUSR1
"""Sent with each probe to a concurrent worker. The handler reports which call's code it has interrupted (Blocked)."""

EXIT_JAIL, EXIT_LOAD = 70, 71
"""A worker's exit status if it could not be jailed, or its plugin could not be loaded."""

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number by which a worker names something. What a worker measures (CPU time, a wait) is cut to a possible value
where it is used."""

API_CODES = {
    "permission_denied": "the plugin has no such permission, or no valid approval for it",
    "rate_limited": "too many requests a minute; the error's retry_after_ms says when the next may pass",
    "deadline_exceeded": "the invocation's time ended before the call did",
    "cancelled": "the invocation that made this call has been answered, or its caller has gone",
    "unknown_method": "the API has no such method",
    "invalid_params": "the call's parameters do not fit its method",
    "too_large": "a request or a response over its size limit",
    "too_many_calls": "more API calls at once, or in one invocation, than allowed",
    "sql_syntax": "the text is not one SELECT of the accepted dialect",
    "sql_forbidden": "a statement, function, cast or clause outside the allow-list",
    "sql_not_on_sqlite": "the text is accepted on PostgreSQL, but SQLite would give another answer",
    "sql_parameters": "the number or the types of the parameters do not fit the text",
    "sql_error": "the database refused the statement while running it",
    "table_not_allowed": "no such table, or the manifest does not name it, or it may not be written",
    "column_not_allowed": "no such column among those that the operator shows",
    "row_limit": "more rows than one call may read or change",
    "constraint": "the database refused the write: a constraint of the table",
    "data_unavailable": "the platform's database, or the plugins' storage, cannot be used now",
    "url_invalid": "not an http or https URL, or a method or header that may not be sent",
    "host_not_allowed": "the host is not on the manifest's list or not on the operator's",
    "address_not_allowed": "the host's address is private, local or otherwise not public",
    "redirect_limit": "too many redirects",
    "fetch_failed": "the peer gave no usable answer",
    "fetch_timeout": "the peer gave no whole answer within the request's timeout_ms",
    "not_provided": "no host provides this method now",
    "host_lost": "the host ended before it answered; whether the method took effect is not known",
    "host_error": "the host's method answered with an error",
    "component_not_allowed": "the platform does not render this component",
    "invalid_output": "an effect, a host call's parameters or a stored value hold what the protocol cannot carry",
    "storage_full": "the value would exceed what the plugin may keep, for this user or in all",
    "effect_limit": "more or larger effects than one invocation may have",
    "gateway_lost": "the gateway died during the call; whether it took effect is not known",
    "secret_in_effect": "an effect has one of the plugin's secret settings in it",
    "audit_unavailable": "the audit ledger cannot take a record, so nothing was done",
    "overloaded": "the gateway is full; nothing was done",
}
"""Every ``code`` of an ApiError, and what it means: the one table."""


# --- supervisor to worker
class Load(msgspec.Struct, array_like=True, tag="load", gc=False):
    """The plugin, from memory: the first message after Booted. ``files`` maps paths in the bundle to their bytes.

    ``mode`` is ``serve``, ``probe`` (load it, report what it declares, leave) or ``test`` (run its tests).
    ``fresh`` gives every call an engine of its own, if the language can do that. ``concurrent`` says that the worker is
    sent several calls at once; it begins each as soon as it can, in the order of the link, and answers in any order.
    ``permissions`` are those in force, and ``components`` those that may be rendered (if there are none, any may); with
    them the worker can refuse an effect itself, as a courtesy.
    """

    plugin: str
    version: str
    entrypoint: str
    files: dict[str, bytes]
    sha256: dict[str, str]
    memory_bytes_max: int
    mode: str = "serve"
    fresh: bool = False
    concurrent: bool = False
    permissions: list[str] = []
    components: list[str] = []


class Call(msgspec.Struct, array_like=True, tag="call", gc=False):
    """One hook to run. ``seq`` counts up by one per link from 0.

    ``deadline_ns`` is an absolute time of CLOCK_MONOTONIC on the worker's machine; the worker compares it with that
    clock. ``left_ns`` is how far away the deadline was when the core sent the call: a carrier that takes the call to
    a worker on another machine sets ``deadline_ns`` anew from its own clock, since no two machines share one.
    ``settings`` are the values of the plugin's settings for this call, a map in MessagePack; empty if it has none.
    """

    seq: int
    hook: str
    user_id: str
    deadline_ns: int
    left_ns: int
    params: msgspec.Raw
    settings: bytes = b""


class ApiReply(msgspec.Struct, array_like=True, tag="api_reply", gc=False):
    """The answer to an ApiCall. If ``ok``, ``value`` is the result; else ``code`` and ``message`` say why there is
    none."""

    api_id: int
    ok: bool
    value: msgspec.Raw
    code: str = ""
    message: str = ""
    retry_after_ms: int = 0


class Grants(msgspec.Struct, array_like=True, tag="grants", gc=False):
    """The plugin has these permissions from now on, in place of those that came with Load."""

    permissions: list[str]


class Ping(msgspec.Struct, array_like=True, tag="ping", gc=False):
    """Is answered with a Pong in its turn, which shows that the worker takes messages as it takes calls."""

    nonce: int


class Recall(msgspec.Struct, array_like=True, tag="recall", gc=False):
    """The calls ``seqs`` of this link must not begin. Each that has not begun is answered with Skipped, whatever its
    deadline. A Recall takes effect as soon as it is read, also for calls that arrived before it and still wait."""

    seqs: list[int]


class Cancel(msgspec.Struct, array_like=True, tag="cancel", gc=False):
    """Call ``seq`` of a concurrent worker is to end now: its deadline has passed, or its caller gave it up. The worker
    still answers the call, usually with Ended; if the call has not begun, with Skipped in its turn. With a ``nonce``
    above 0 this is a probe as well: the event loop answers Pong as soon as it reads the message, whether or not the
    call ends."""

    seq: int
    nonce: int


# --- worker to supervisor
class LayerReport(msgspec.Struct, array_like=True, gc=False):
    """The outcome of one layer of the jail. ``state`` is active, degraded, absent, waived, failed or lied (the kernel
    reported success, and the test of the layer showed otherwise)."""

    layer: str
    state: str
    errno: int = 0
    detail: str = ""


class Booted(msgspec.Struct, array_like=True, tag="booted", gc=False):
    """The jail is applied and has passed its self-test; nothing of the plugin is loaded yet."""

    layers: list[LayerReport]


class Ready(msgspec.Struct, array_like=True, tag="ready", gc=False):
    """The plugin is loaded. Its code declares ``hooks`` and ``permissions``; ``uses_loop`` says whether it has
    asyncio."""

    plugin: str
    version: str
    hooks: list[str]
    permissions: list[str]
    uses_loop: bool = False


class Failed(msgspec.Struct, array_like=True, tag="failed", gc=False):
    """The worker cannot serve and exits next. ``stage`` is jail, selftest or load."""

    stage: str
    layer: str
    exception: str
    message: str
    traceback: str


class Reply(msgspec.Struct, array_like=True, tag="reply", gc=False):
    """The hook returned ``result``. ``cpu_ns`` is the worker's own reading, on which nothing relies."""

    seq: Number
    result: msgspec.Raw
    cpu_ns: int


class Raised(msgspec.Struct, array_like=True, tag="raised", gc=False):
    """The hook raised. ``api_code`` is set if it did not handle an API error, ``memory`` if it raised a MemoryError."""

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
    """The hook returned something that the protocol cannot carry; ``path`` says where in the result it is."""

    seq: Number
    path: str
    message: str
    cpu_ns: int


class BadInput(msgspec.Struct, array_like=True, tag="bad_input", gc=False):
    """The call's payload is not MessagePack. That is the host's fault, and the supervisor checks it for itself. No hook
    ran."""

    seq: Number
    message: str
    cpu_ns: int


class Skipped(msgspec.Struct, array_like=True, tag="skipped", gc=False):
    """The call was not begun: its deadline had passed, or it was recalled or cancelled."""

    seq: Number


class Ended(msgspec.Struct, array_like=True, tag="ended", gc=False):
    """The call, which was cancelled while it ran, has ended. Only a concurrent worker may say so."""

    seq: Number
    cpu_ns: int


class Blocked(msgspec.Struct, array_like=True, tag="blocked", gc=False):
    """The code of call ``seq`` was running when PROBE_SIGNAL came. This is only a hint at which call is to blame if the
    worker does not answer the probe with which the signal came."""

    seq: Number


class ApiCall(msgspec.Struct, array_like=True, tag="api", gc=False):
    """The hook that runs as ``seq`` asks for something outside. ``api_id`` counts up on each link."""

    seq: Number
    api_id: Number
    method: str
    params: msgspec.Raw


class Effect(msgspec.Struct, array_like=True, gc=False):
    """One try of a hook to emit or render something: ``method`` names the effect, ``name`` the event or the component,
    and ``body`` goes to the host as it is. With a ``code`` the worker has refused it in place, ``count`` times."""

    method: str
    name: Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS_MAX)]
    body: msgspec.Raw
    code: str = ""
    count: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 1


class Effects(msgspec.Struct, array_like=True, tag="effects", gc=False):
    """What the hook that runs as ``seq`` has tried since the last such message, in order. It is written together with
    the hook's answer, or with its next API call, and nothing answers it. An effect that the supervisor refuses fails
    the hook."""

    seq: Number
    tries: Annotated[list[Effect], msgspec.Meta(min_length=1, max_length=TRIES_AT_ONCE)]


class ApiCancel(msgspec.Struct, array_like=True, tag="api_cancel", gc=False):
    """The hook that runs as ``seq`` waits for its API call ``api_id`` no longer. Nothing answers this message; the
    call's own answer comes all the same, if it has not come yet."""

    seq: Number
    api_id: Number


class Log(msgspec.Struct, array_like=True, tag="log", gc=False):
    """One line of the plugin's log or output. ``level`` is debug, info, warning, error, stdout or stderr. ``seq`` is
    the call that wrote it, as the worker says; -1 while the plugin loads."""

    level: str
    text: str
    seq: int = -1


class Pong(msgspec.Struct, array_like=True, tag="pong", gc=False):
    """The answer to a Ping, or to a Cancel that is a probe."""

    nonce: Number


class Tested(msgspec.Struct, array_like=True, tag="tested", gc=False):
    """The results of a bundle's tests (mode ``test``). ``arcs`` maps a path to jumps between lines. None of this is
    proof, since the code that was tested could have written it."""

    passed: Number
    failed: Number
    failures: list[str]
    arcs: dict[str, list[tuple[int, int]]]
    tampered: bool


class Testing(msgspec.Struct, array_like=True, tag="testing", gc=False):
    """The test ``name`` begins (mode ``test``), after ``passed`` and ``failed`` tests. It only informs observers."""

    name: str
    passed: Number
    failed: Number


class Placed(msgspec.Struct, array_like=True, tag="placed", gc=False):
    """Sent in mode ``test`` before any line of the bundle runs; the worker then waits for a Ping.

    ``places`` maps a path to pairs: a line that a statement begins in, and an address of bytecode at which the line is
    entered. A line may have several.
    """

    places: dict[str, list[tuple[int, int]]]


ToWorker = Load | Call | ApiReply | Ping | Recall | Cancel | Grants
FromWorker = (Booted | Ready | Failed | Reply | Raised | BadOutput | BadInput | Skipped | Ended | ApiCall | ApiCancel
              | Effects | Log | Pong | Blocked)
FromTests = Booted | Failed | Log | Placed | Testing | Tested
"""What a worker that runs a bundle's tests may send. A worker that serves may not send a ``tested``."""

NIL = msgspec.Raw(b"\xc0")


# --- supervisor to zygote, over a SEQPACKET socket with fds attached (never a pickle)
class Fork(msgspec.Struct, array_like=True, tag="fork", gc=False):
    """Fork one worker. Two descriptors come with the message: the link, and the write end of the marks pipe.

    ``worker`` is the supervisor's number for the generation. ``jail`` holds what differs per worker:
    ``{uid, gid, cgroup: [paths], ...}`` (see workers/jail). The memory's bound comes with Load.
    """

    worker: int
    jail: dict[str, Any]


class Kill(msgspec.Struct, array_like=True, tag="kill", gc=False):
    """Kill a worker whose pidfd the supervisor does not have, or may not use. The zygote may: it is the parent."""

    worker: int


class ZygoteReady(msgspec.Struct, array_like=True, tag="zygote_ready", gc=False):
    """The zygote has loaded its modules and takes requests. ``lacking`` names the languages that it cannot run here,
    and why."""

    pid: int
    modules: int
    lacking: dict[str, str] = {}


class Forked(msgspec.Struct, array_like=True, tag="forked", gc=False):
    """There is a process for the worker; its pidfd comes with the message."""

    worker: int
    pid: int


class ForkFailed(msgspec.Struct, array_like=True, tag="fork_failed", gc=False):
    """The kernel refused fork or pidfd_open (EAGAIN, EMFILE, ...)."""

    worker: int
    errno: int


class Exited(msgspec.Struct, array_like=True, tag="exited", gc=False):
    """A worker was reaped. ``status`` is the raw status of waitpid; the times and ``maxrss_kib`` are from rusage."""

    worker: int
    pid: int
    status: int
    user_ns: int
    system_ns: int
    maxrss_kib: int


ToZygote = Fork | Kill
FromZygote = ZygoteReady | Forked | ForkFailed | Exited
