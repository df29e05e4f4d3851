"""The process that compiles SQL texts: ``parser.Parser`` starts it and writes to its link."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

import msgspec

from apex_exec.common.process_name import name_process
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.compiler import Compiled, Compiler
from apex_exec.gateway.sql.pieces import OWNER
from apex_exec.gateway.sql.tables import read_tables
from apex_exec.wire.frames import FrameBuffer, pack_frame

RECEIVE_BYTES = 262_144

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def main(fd: int) -> None:
    """Answers each ``[text, named, shapes]`` with ``[cpu_ns, code, message]`` or ``[cpu_ns, "", fields of Compiled]``.

    The first frame is ``[backend, tables, path]``. Returns when the link ends.
    """
    name_process("apex-sql")
    link = socket.socket(fileno=fd)
    buffer = FrameBuffer()
    compiler: Compiler | None = None
    while data := link.recv(RECEIVE_BYTES):
        for body in buffer.feed(data):
            if compiler is None:
                backend, tables, path = _decode(body)
                compiler = Compiler(backend, read_tables(tables, backend), path)
                continue
            text, named, shapes = _decode(body)
            begun_ns = time.thread_time_ns()
            found: Compiled | ApiFailure = compiler.compile_anew(text, tuple(named), shapes)
            cpu_ns = time.thread_time_ns() - begun_ns
            if isinstance(found, ApiFailure):
                answer: list[Any] = [cpu_ns, found.code, found.message]
            else:  # the caller's id has no value yet
                found.extra = [None if value is OWNER else value for value in found.extra]
                answer = [cpu_ns, "", *(getattr(found, name) for name in Compiled.__struct_fields__)]
            link.sendall(pack_frame(_encode(answer)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
