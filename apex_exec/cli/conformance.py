"""``conformance``: holds a daemon, or a host in any language, to the host protocol case by case."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from apex_exec.cli.output import print_json, say
from apex_exec.cli.root import EXIT_NO, EXIT_NO_DAEMON, EXIT_USAGE, AsJson, conformance_app, examples, fail, need_linux
from apex_exec.cli.verbs import Argument, Exit, Option
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from apex_exec.conformance.cases import Case, Result

CONNECT_SECONDS = 5.0
Only = Annotated[list[str] | None, Option(
    "--only", metavar="WORD", help="Only cases whose names hold this word; may be repeated.")]


@conformance_app.verb(epilog=examples(
    "apex-exec conformance", "apex-exec conformance --only errors/ --json",
    "apex-exec conformance --endpoint ipc:///run/apex-exec/host.sock",
    "apex-exec conformance --endpoint tcp://127.0.0.1:9000 --curve-key web.key_secret --curve-server server.key",
    "apex-exec conformance host -- node dist/conformance.js"))
def conformance(
    endpoint: Annotated[str | None, Option(
        metavar="ENDPOINT", help="A daemon's endpoint; default: a new daemon in a temporary folder.")] = None,
    curve_key: Annotated[Path | None, Option(
        "--curve-key", metavar="FILE", help="For tcp://: the key_secret file of a host that the daemon knows.")] = None,
    curve_server: Annotated[Path | None, Option(
        "--curve-server", metavar="FILE", help="For tcp://: the key file of the daemon.")] = None,
    only: Only = None, as_json: AsJson = False,
) -> None:
    """Plays a host to a daemon: every message, error code and bound of the protocol as a named case.

    Cases that call a plugin need those that `apex-exec conformance plugins` names; without them they are not tried.
    """
    need_linux()
    from apex_exec.conformance import daemon_errors, daemon_messages, daemon_transport
    from apex_exec.conformance.own_daemon import own_daemon
    from apex_exec.conformance.peers import RawHost

    if endpoint is not None and endpoint.startswith("tcp://"):
        _over_tcp(endpoint, curve_key, curve_server, only, as_json)
    if endpoint is not None and not endpoint.startswith("ipc://"):
        fail(f"--endpoint: {endpoint} is neither ipc://… nor tcp://…", EXIT_USAGE)
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(own_daemon()) if endpoint is None else endpoint
        path = Path(where.removeprefix("ipc://"))
        try:
            RawHost(path, greets=False).__exit__()
        except OSError as error:
            fail(f"no daemon answers at {path}: {error.strerror}", EXIT_NO_DAEMON)
        _try([*daemon_transport.CASES, *daemon_messages.CASES, *daemon_errors.CASES], lambda: RawHost(path), only,
             as_json, {code.value: why for code, why in daemon_errors.UNTRIED.items()})


@conformance_app.command(epilog=examples(
    "apex-exec conformance host -- python -m apex_exec.conformance.driver async",
    "apex-exec conformance host --only connection/ -- ./my-driver"))
def host(
    command: Annotated[list[str], Argument(metavar="COMMAND…", help="The driver of the host, and its arguments; "
                                           "the endpoint is added as the last one.")],
    only: Only = None, as_json: AsJson = False,
) -> None:
    """Plays a daemon to a host, which a driver drives: see apex_exec/conformance/README.md."""
    need_linux()
    import shutil

    from apex_exec.conformance import host_cases
    from apex_exec.conformance.host_under_test import HostUnderTest

    if shutil.which(command[0]) is None:
        fail(f"the program {command[0]} was not found; write the command that starts the host", EXIT_USAGE)
    with HostUnderTest(command) as tried:
        _try(host_cases.CASES, tried.case, only, as_json, {})


@conformance_app.command(epilog=examples("apex-exec conformance vectors > vectors.json"))
def vectors() -> None:
    """Prints bytes of the protocol and what they mean, as JSON."""
    from apex_exec.conformance.vectors import vectors as made

    print_json(made())


@conformance_app.command(epilog=examples(
    "apex-exec serve --plugins-dir \"$(apex-exec conformance plugins)\""))
def plugins() -> None:
    """Prints the folder of the plugins that the cases call."""
    from apex_exec.conformance.own_daemon import PLUGINS

    say(str(PLUGINS))


def _over_tcp(endpoint: str, key: Path | None, server: Path | None, only: list[str] | None, as_json: bool) -> NoReturn:
    """The cases that are about messages, and those about CURVE; the bytes of this transport are libzmq's."""
    from apex_exec.client import CurveKeys
    from apex_exec.conformance import daemon_curve, daemon_errors, daemon_messages
    from apex_exec.conformance.curve_host import CurveHost

    if key is None or server is None:
        fail("tcp:// needs --curve-key and --curve-server, which `apex-exec keys curve` writes", EXIT_USAGE)
    try:
        keys = CurveKeys.load(key, server)
    except (OSError, ValueError) as error:
        fail(f"--curve-key, --curve-server: {error}", EXIT_USAGE)
    with CurveHost(endpoint, keys) as host:
        if not host.is_served_within(CONNECT_SECONDS):
            fail(f"no daemon at {endpoint} answers a host with these keys", EXIT_NO_DAEMON)
    _try([*daemon_curve.CASES, *daemon_messages.CASES, *daemon_errors.CASES], lambda: CurveHost(endpoint, keys), only,
         as_json, {code.value: why for code, why in daemon_errors.UNTRIED.items()})


def _try(cases: list[Case[Any]], side: Callable[[], Any], only: list[str] | None, as_json: bool,
         untried: dict[str, str]) -> NoReturn:
    from apex_exec.conformance.cases import chosen, run

    wanted = chosen(cases, only or [])
    if not wanted:
        fail(f"no case has {' or '.join(only or [])} in its name", EXIT_USAGE)
    results: list[Result] = []
    for result in run(wanted, side):
        results.append(result)
        if not as_json and result.outcome != "kept":
            say(f"{result.outcome}: {result.name}: {result.promise}\n    {clean(result.detail)}")
    counts = {outcome: sum(result.outcome == outcome for result in results)
              for outcome in ("kept", "broken", "not tried")}
    if as_json:
        print_json({
            "counts": {"kept": counts["kept"], "broken": counts["broken"], "notTried": counts["not tried"]},
            "cases": [result._asdict() for result in results],
            "codesNotTried": [{"code": code, "why": why} for code, why in untried.items()]})
    else:
        say(f"{counts['kept']} kept, {counts['broken']} broken, {counts['not tried']} not tried")
    raise Exit(EXIT_NO if counts["broken"] else 0)
