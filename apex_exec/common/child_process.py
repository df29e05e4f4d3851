"""A Python module run as a child process with bounds: for work on input that may break, or break out of, what reads it.

The child starts with an empty environment but for a path and a language, in ``/``, and sets its own limits before it
imports anything. We do not set them with ``preexec_fn``: that runs Python between fork and exec, which may hang in a
process with threads, and the registrar has some.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

OUTPUT_BYTES_MAX = 64 * 1024 * 1024
"""What is read of a child's output unless its caller allows less; a child that writes more is killed."""
ERRORS_BYTES_KEPT = 8192
_CHUNK_BYTES = 65_536
_BOOT = """\
import resource, runpy, sys
memory, cpu, module, *arguments = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if int(memory):
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
if int(cpu):
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu) + 1))
del memory, cpu
sys.argv[:] = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


class Ended(NamedTuple):
    """A child that has ended by itself, or was killed for writing too much. ``status`` is negative for a signal."""

    status: int
    output: bytes
    last_words: str
    """The last line of its standard error, 300 characters at most; "" if it wrote none."""


def clean_environment() -> dict[str, str]:
    """The environment of a child that works on others' input: the module path and a language. No setting, no secret.

    Where this interpreter finds its own shared library by LD_LIBRARY_PATH, the child's finds it so, too.
    """
    made = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {**made, "LD_LIBRARY_PATH": libraries} if libraries else made


def run_module(module: str, arguments: Sequence[str] = (), *, data: bytes = b"", seconds: float,
               memory_bytes_max: int = 0, cpu_seconds_max: int = 0,
               output_bytes_max: int = OUTPUT_BYTES_MAX) -> Ended:
    """Runs ``python -m module`` with ``data`` on its standard input, and blocks until it ends, ``seconds`` at most.

    ``memory_bytes_max`` bounds its address space and ``cpu_seconds_max`` its CPU time; 0 means no bound. A child that
    runs into a bound ends, and its status says so; one that still runs after ``seconds`` is killed, and
    subprocess.TimeoutExpired is raised. Raises OSError if the process cannot be started.
    """
    command = [sys.executable, "-P", "-c", _BOOT, str(memory_bytes_max), str(cpu_seconds_max), module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
                          env=clean_environment()) as child:
        try:
            output, errors = _converse(child, data, time.monotonic() + seconds, output_bytes_max)
        except TimeoutError:
            child.kill()
            raise subprocess.TimeoutExpired(module, seconds) from None
        except BaseException:
            child.kill()
            raise
    words = bytes(errors).decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
    return Ended(child.returncode, bytes(output), words)


def _converse(child: subprocess.Popen[bytes], data: bytes, due: float, output_bytes_max: int) -> tuple[bytes, bytes]:
    """Feeds and reads the child until it ends; its output and the end of its standard error. Raises TimeoutError."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    output, errors = bytearray(), bytearray()
    left = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for stream, event in ((child.stdin, selectors.EVENT_WRITE), (child.stdout, selectors.EVENT_READ),
                              (child.stderr, selectors.EVENT_READ)):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, event)
        while selector.get_map():
            ready = selector.select(_left(due))
            for key, _ in ready:
                if key.fileobj is child.stdin:
                    with contextlib.suppress(BlockingIOError):
                        try:
                            left = left[os.write(key.fd, left[:_CHUNK_BYTES]):] if left else left
                        except BrokenPipeError:  # it has ended, or does not want all of it: its status says which
                            left = left[:0]
                    if not left:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                    continue
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    output += chunk
                    if len(output) > output_bytes_max:
                        child.kill()
                        del output[output_bytes_max:]
                        selector.unregister(key.fileobj)
                else:
                    errors += chunk
                    del errors[:-ERRORS_BYTES_KEPT]
    try:
        child.wait(_left(due))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return bytes(output), bytes(errors)


def _left(due: float) -> float:
    left = due - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
