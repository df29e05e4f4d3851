"""The static scan of a bundle, run in a child process with limits, because hostile source can break a parser.

``scan(files, manifest)`` starts ``python -m apex_exec.registry.scan.child``, sends it the sources over a pipe and reads
its findings. If anything ends the child early (a crash of the parser, its limits on memory and CPU, the timeout), that
is itself a finding: ``scan-unfinished``, an error. The scan informs; the jail is the boundary.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.common.child_process import Ended, run_module
from apex_exec.executor.processes.runtimes import PYTHON, RUNTIMES, Runtime
from apex_exec.registry.scan.findings import FINDINGS_MAX, SEVERITIES, Finding, Report, finding
from apex_exec.registry.vendored.lock import locked_files
from apex_exec.sandbox.modules import ALLOWED

if TYPE_CHECKING:  # the child imports this module, and importing pydantic would take half of its time
    from apex_exec.registry.bundles.manifest import Manifest

SECONDS_MAX = 30.0
MEMORY_BYTES_MAX = 1024 * 1024 * 1024
"""The child's address space: Python's own parser needs about 100 bytes for each byte of source."""
OUTPUT_BYTES_MAX = 4 * 1024 * 1024


class Request(msgspec.Struct, frozen=True):
    """A request to the child. If ``permissions`` is None the files are not a plugin, and neither the platform's API nor
    the declaration in the code is checked."""

    files: dict[str, bytes]
    allowed: list[str]
    permissions: list[str] | None = None
    network: list[str] = []
    tables: list[str] = []
    id: str = ""
    version: str = ""
    hooks: list[str] = []
    entrypoint: str = ""
    """The entry point's path in ``files``; "" if there is none."""
    vendored: dict[str, str] = {}
    """Files of vendored packages, each with its package: they are scanned last, and their findings weigh less."""


def scan(files: dict[str, bytes], manifest: Manifest | None, *, extra_modules: tuple[str, ...] = (),
         with_bandit: bool = True, seconds: float = SECONDS_MAX) -> Report:
    """The findings of ``files``. Blocks for at most twice ``seconds``; never raises because of what the source does."""
    request = Request(
        files, sorted({*ALLOWED, *extra_modules}), list(manifest.permissions) if manifest else None,
        list(manifest.network.allow) if manifest else [], list(manifest.data.tables) if manifest else [])
    is_python = manifest is not None and manifest.runtime == PYTHON.name
    vendored = {path: f"{one.name} {one.version}" for path, one in locked_files(files).items()} if is_python else {}
    if manifest is not None:
        request = msgspec.structs.replace(
            request, id=manifest.id, version=manifest.version, hooks=list(manifest.manifest.hooks),
            entrypoint=manifest.entrypoint, vendored=vendored)
    found = _run_child(RUNTIMES[manifest.runtime if manifest else PYTHON.name], request, seconds)
    missing: tuple[str, ...] = ()
    if with_bandit:
        if find_spec("bandit") is None:
            missing = ("bandit",)
        else:
            found += _run_bandit({path: body for path, body in files.items() if path not in vendored}, seconds)
    order = {severity: index for index, severity in enumerate(SEVERITIES)}
    found.sort(key=lambda item: (order[item.severity], item.path, item.line, item.rule))
    return Report(tuple(found[:FINDINGS_MAX]), missing)


def _unfinished(message: str) -> list[Finding]:
    return [finding("scan-unfinished", "$", 0, message)]


def _run(module: str, arguments: Sequence[str], data: bytes, seconds: float) -> Ended:
    return run_module(module, arguments, data=data, seconds=seconds, memory_bytes_max=MEMORY_BYTES_MAX,
                      cpu_seconds_max=int(SECONDS_MAX), output_bytes_max=OUTPUT_BYTES_MAX)


def _run_child(runtime: Runtime, request: Request, seconds: float) -> list[Finding]:
    try:
        status, output, _ = _run(runtime.scan, (), msgspec.msgpack.encode(request), seconds)
    except subprocess.TimeoutExpired:
        return _unfinished(f"the scan did not finish within {seconds:g} s")
    except OSError as error:
        return _unfinished(f"the scan could not be started: {error}")
    try:
        found = msgspec.msgpack.decode(output, type=list[Finding])
    except msgspec.DecodeError:
        return _unfinished(f"the scan ended with status {status} before it had an answer: the source broke a parser")
    return found if status == 0 else found + _unfinished(f"the scan ended with status {status}")


def _run_bandit(files: dict[str, bytes], seconds: float) -> list[Finding]:
    """Bandit's findings, none above ``warning``: its rules are for trusted programs, and a plugin is jailed."""
    sources = {path: body for path, body in files.items() if path.endswith(".py") and not path.startswith("tests/")}
    if not sources:
        return []
    with tempfile.TemporaryDirectory(prefix="apex-scan-") as folder:
        names: dict[str, str] = {}
        # numbered, so that no name from the bundle becomes a path
        for number, (path, body) in enumerate(sources.items()):
            file = Path(folder) / f"{number}.py"
            file.write_bytes(body)
            names[str(file)] = path
        try:
            done = _run("bandit", ("-q", "-f", "json", "--exit-zero", "-r", folder), b"", seconds)
            results = json.loads(done.output)["results"]
        except (subprocess.TimeoutExpired, OSError, ValueError, KeyError):
            return [Finding("bandit", "note", "$", 0, "bandit gave no answer within its bounds", "", "")]
    return [_bandit_finding(item, names) for item in results[:FINDINGS_MAX]]


def _bandit_finding(item: dict[str, Any], names: dict[str, str]) -> Finding:
    severe = item.get("issue_severity") == "HIGH" and item.get("issue_confidence") in ("HIGH", "MEDIUM")
    message = f"{item.get('test_name')}: {item.get('issue_text')}"[:300]
    return Finding(f"bandit-{item.get('test_id')}", "warning" if severe else "note",
                   names.get(str(item.get("filename")), "$"), int(item.get("line_number") or 0), message,
                   "bandit's rule", str(item.get("more_info")))
