"""Compiles the seccomp policy (data) to the BPF program that the kernel runs for each system call.

System call numbers form ranges with equal answers, which are found by binary search: about eight comparisons for a
call. At installation the kernel runs the filter once for every number, to learn which calls need no check of the
arguments. The x32 half of x86_64's numbers and every foreign architecture are killed before a number is checked.
"""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Mapping
from importlib import resources
from typing import Any

RET_KILL = 0x8000_0000
RET_ALLOW = 0x7FFF_0000
RET_ERRNO = 0x0005_0000
X32_BIT = 0x4000_0000
AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
INSTRUCTIONS_MAX = 4096
"""The kernel's BPF_MAXINSNS."""

_LD, _JEQ, _JGE, _JA, _AND, _RET = 0x20, 0x15, 0x35, 0x05, 0x54, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_LOW32 = 0xFFFF_FFFF

Instruction = tuple[int, int, int, int]


class Program:
    """A filter: ``code`` in the kernel's form, and the instructions whose constant is the worker's own pid."""

    def __init__(self, code: list[Instruction], own_pid: list[int]) -> None:
        self.code = code
        self.own_pid = own_pid

    def packed(self) -> bytes:
        """``struct sock_filter[]``."""
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in self.code)


def policy() -> dict[str, Any]:
    """The policy as written in ``seccomp.json``."""
    loaded: dict[str, Any] = json.loads(resources.files(__package__).joinpath("seccomp.json").read_text("utf-8"))
    return loaded


def numbers(machine: str) -> dict[str, int]:
    """Maps names to numbers for the calls in the policy and its tests. Raises KeyError for an unknown machine."""
    text = resources.files(__package__).joinpath("syscalls.json").read_text("utf-8")
    table: dict[str, int] = json.loads(text)[machine]
    return table


def with_files(rules: Mapping[str, Any]) -> dict[str, Any]:
    """``rules`` plus what its ``scratch`` adds: calls on files, for a process that has one folder and no more."""
    more = rules["scratch"]
    return {**rules, "allow": {**rules["allow"], **more["allow"]}, "rules": _merged(rules["rules"], more["rules"]),
            "answers": {**rules["answers"], **more["answers"]}}


def until_loaded(rules: Mapping[str, Any]) -> dict[str, Any]:
    """``rules`` plus what a worker does before it has its plugin; ``compile_closing`` makes the program that ends that.
    """
    return {**rules, "rules": _merged(rules["rules"], rules["until_loaded"]["rules"])}


def _merged(rules: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(rules)
    for name, rule in more.items():
        merged[name] = {**rule, "any": [*merged.get(name, {"any": []})["any"], *rule["any"]]}
    return merged


def allowed(rules: Mapping[str, Any], machine: str) -> dict[str, list[dict[str, Any]]]:
    """Each call that ``rules`` allow on ``machine``, with its alternatives ``{takes, when}``, one of which must hold.
    """
    table = numbers(machine)
    named = {name: takes for group in rules["allow"].values() for name, takes in group.items()}
    named |= {name: one["takes"] for name, one in rules["instead"]["of"].items() if one["of"] not in table}
    return {**{name: [{"takes": takes, "when": []}] for name, takes in named.items() if name in table},
            **{name: rule["any"] for name, rule in rules["rules"].items() if name in table}}


def compile_policy(rules: Mapping[str, Any], machine: str) -> Program:
    """The program for ``machine`` (``x86_64``, ``aarch64``). Raises KeyError if a name or the machine is unknown."""
    table = numbers(machine)
    known = table.keys() | numbers("x86_64").keys()
    default = _errno(rules["default"])
    answers: dict[int, list[_Step]] = {}

    def put(name: str, answer: list[_Step]) -> None:
        if name not in known:
            raise KeyError(f"{name} is not in the table of system calls")
        if name in table:
            if table[name] in answers:
                raise ValueError(f"{name} is named twice")
            answers[table[name]] = answer

    for group in rules["allow"].values():
        for name in group:
            put(name, [(_RET, 0, 0, RET_ALLOW)])
    for group in rules["kill"].values():
        for name in group:
            put(name, [(_RET, 0, 0, RET_KILL)])
    for name, one in rules["instead"]["of"].items():
        if one["of"] not in table:
            put(name, [(_RET, 0, 0, RET_ALLOW)])
    for name, answer in rules["answers"].items():
        put(name, [(_RET, 0, 0, _errno(answer))])
    for name, rule in rules["rules"].items():
        put(name, _alternatives(rule["any"], default))
    return _program(answers, default, machine)


def compile_closing(rules: Mapping[str, Any], machine: str) -> Program:
    """The program that a worker installs on top of that of ``until_loaded``: it returns those calls to ``rules``.

    Of two filters the kernel takes the stricter answer, so this program allows every call that it is not about.
    """
    table, default = numbers(machine), _errno(rules["default"])
    return _program({table[name]: _alternatives(rules["rules"].get(name, {"any": []})["any"], default)
                     for name in rules["until_loaded"]["rules"]}, RET_ALLOW, machine)


def _program(answers: Mapping[int, list[_Step]], otherwise: int, machine: str) -> Program:
    refuse: list[_Step] = [(_RET, 0, 0, otherwise)]
    starts: list[tuple[int, list[_Step]]] = [(0, refuse)]
    for number, steps in sorted(answers.items()):
        if starts[-1][0] == number:
            starts[-1] = (number, steps)
        elif starts[-1][1] != steps:
            starts.append((number, steps))
        if number + 1 not in answers:
            starts.append((number + 1, refuse))
    code: list[_Step] = [
        (_LD, 0, 0, _ARCH), (_JEQ, 1, 0, AUDIT_ARCH[machine]), (_RET, 0, 0, RET_KILL), (_LD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, X32_BIT), (_RET, 0, 0, RET_KILL)]
    code += _search(starts)
    if len(code) > INSTRUCTIONS_MAX:
        raise ValueError(f"{len(code)} instructions are more than the kernel accepts")
    own_pid = [index for index, step in enumerate(code) if step[3] == "self"]
    return Program([(a, b, c, 0 if k == "self" else int(k)) for a, b, c, k in code], own_pid)


_Step = tuple[int, int, int, "int | str"]


def _errno(name: str) -> int:
    return RET_ERRNO | int(getattr(errno, name))


def _search(starts: list[tuple[int, list[_Step]]]) -> list[_Step]:
    if len(starts) == 1:
        return starts[0][1]
    middle = len(starts) // 2
    below, above = _search(starts[:middle]), _search(starts[middle:])
    pivot = starts[middle][0]
    if len(below) <= 255:  # a conditional jump's offset has eight bits
        return [(_JGE, len(below), 0, pivot), *below, *above]
    return [(_JGE, 0, 1, pivot), (_JA, 0, 0, len(below)), *below, *above]


def _alternatives(alternatives: list[dict[str, Any]], refuse: int) -> list[_Step]:
    code: list[_Step] = [(_RET, 0, 0, refuse)]
    for one in reversed(alternatives):
        steps = [step for condition in one["when"] for step in _condition(condition)]
        steps.append((_RET, 0, 0, RET_ALLOW))
        size = len(steps)

        def resolved(jump: int, index: int, size: int = size) -> int:
            return size - index - 1 if jump == _NEXT else jump

        code = [(op, resolved(jt, index), resolved(jf, index), k)
                for index, (op, jt, jf, k) in enumerate(steps)] + code
    return code


_NEXT = -1
"""Stands for a jump to the next alternative until its distance is known."""


def _condition(condition: dict[str, Any]) -> list[_Step]:
    """Loads, masks and compares one argument. Falls through if the condition holds, otherwise jumps to ``_NEXT``."""
    offset = _ARGS + 8 * int(condition["arg"])
    if condition.get("given"):
        return [(_LD, 0, 0, offset), (_JEQ, 0, 2, 0), (_LD, 0, 0, offset + 4), (_JEQ, _NEXT, 0, 0)]
    if "from" in condition:
        return [(_LD, 0, 0, offset), (_JGE, 0, _NEXT, int(condition["from"]))]
    if condition.get("is") == "self":
        return [(_LD, 0, 0, offset), (_JEQ, 0, _NEXT, "self")]
    value = _number(condition["is"] if "is" in condition else condition["are"])
    bits = _number(condition.get("bits", 0xFFFF_FFFF_FFFF_FFFF))
    steps: list[_Step] = []
    if condition.get("long"):
        steps += _half(offset + 4, bits >> 32, value >> 32)
    return steps + _half(offset, bits & _LOW32, value & _LOW32)


def _half(offset: int, bits: int, value: int) -> list[_Step]:
    load: list[_Step] = [(_LD, 0, 0, offset)]
    mask: list[_Step] = [(_AND, 0, 0, bits)] if bits != _LOW32 else []
    return [*load, *mask, (_JEQ, 0, _NEXT, value)]


def _number(value: int | str) -> int:
    return value if isinstance(value, int) else int(value, 0)
