"""No allowed call can name a process, descriptor, path, address or clock that is not the worker's own.

Derived from the policy's data: it says of each allowed call what its arguments take, the kernel's own prototypes say
whether that can be true, and the compiled filter is asked with whatever a taking of that kind could name outside.
``prototypes.json`` is what Linux 6.18 says in ``events/syscalls/*/format`` of its tracefs.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from apex_exec.sandbox import bpf
from tests.sandbox.test_seccomp_policy import FIRST, MACHINES, NUMBERS, PID, PROGRAMS, WITH_FILES, run

PROTOTYPES: dict[str, list[str]] = json.loads((Path(__file__).parent / "prototypes.json").read_text())
POLICY = bpf.policy()
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, bpf.Program]]] = {
    "plugin": (POLICY, PROGRAMS), "until loaded": (bpf.until_loaded(POLICY), FIRST),
    "tests": (bpf.with_files(POLICY), WITH_FILES)}
WHERE = [pytest.param(variant, machine, id=f"{variant}-{machine}") for variant in VARIANTS for machine in MACHINES]
HIGH = 1 << 32
FOREIGN: dict[str, list[int]] = {
    "pid": [1, 2, PID - 1, PID + 1, 2**31, 2**32 - 1, HIGH | 1],
    "clock": [8, 9, 10, 12, *((~pid << 3 | kind) & (HIGH - 1) for pid in (0, 1, PID, PID + 1) for kind in (2, 3, 6)),
              HIGH | 8, 2**31],
    "address": [1, 2**40, HIGH, 2**63],
    "limits": [1, 2**40, HIGH, 2**63],
    "changed descriptor": [0, 1, 2, 3, 4, HIGH | 3],
}
"""What a value of that kind names that is not the worker's own. Each must be refused, whatever the rest is."""
COMMANDS = [*range(64), *range(1024, 1040), *range(0x5400, 0x5460), 0x8901, 0x8902, 0x8903, 0x8904, 2**31]
HARMLESS = {"descriptor", "memory", "size", "flags", "time", "signal", "number", "nothing"}
FILES = {"path", "folder"}


def kind_by_the_kernel(argument: str) -> set[str]:
    """The kinds that an argument may be said to be of, by its type and name in the kernel."""
    kind, _, name = argument.rpartition(" ")
    if "clockid_t" in kind:
        return {"clock"}
    if "pid_t" in kind or name in ("pid", "tgid", "tid", "who", "pidfd", "upid"):
        return {"pid"}
    if "sockaddr" in kind:
        return {"address"}
    if name in ("dfd", "olddfd", "newdfd"):
        return {"folder"}
    if "char *" in kind and re.search("name$|path$|^oldname$|^newname$", name):
        return {"path"}
    if name in ("fd", "epfd", "fildes", "fdin", "fdout") and "int" in kind:
        return {"descriptor", "changed descriptor"}
    if name in ("cmd", "option", "op", "behavior"):
        return {"command"}
    if "rlimit" in kind and kind.startswith("const"):
        return {"limits", "memory"}
    if "*" in kind:
        return {"memory", "time", "signal", "nothing"}
    return {"number", "size", "flags", "time", "signal", "memory", "nothing"}


def satisfying(conditions: list[dict[str, Any]], arity: int) -> list[int]:
    """Arguments by which every condition holds."""
    values = [0] * max(arity, 6)
    for condition in conditions:
        if condition.get("given"):
            values[condition["arg"]] = 2**40
        elif "from" in condition:
            values[condition["arg"]] = condition["from"]
        else:
            value = condition["is"] if "is" in condition else condition["are"]
            values[condition["arg"]] = PID if value == "self" else int(value, 0) if isinstance(value, str) else value
    return values


def complaints(rules: dict[str, Any], programs: dict[str, bpf.Program], machine: str, variant: str) -> list[str]:
    """What is wrong with the policy's word on the arguments of each allowed call."""
    found = []
    for name, alternatives in bpf.allowed(rules, machine).items():
        prototype = PROTOTYPES.get(name)
        if prototype is None:
            found.append(f"{name}: its prototype is not known here")
            continue
        for one in alternatives:
            found += [f"{name}: {problem}" for problem in
                      _of_alternative(name, one, alternatives, prototype, programs, machine, variant)]
    return found


def _of_alternative(name: str, one: dict[str, Any], alternatives: list[dict[str, Any]], prototype: list[str],
                    programs: dict[str, bpf.Program], machine: str, variant: str) -> list[str]:
    takes: list[str] = list(one["takes"])
    if len(takes) != len(prototype):
        return [f"it takes {len(prototype)} arguments, {len(takes)} are declared"]
    found = []
    right = satisfying(one["when"], len(takes))
    if run(machine, NUMBERS[machine][name], tuple(right), programs=programs) != bpf.RET_ALLOW:
        found.append(f"the alternative {one['when']} never holds")
    for index, (kind, argument) in enumerate(zip(takes, prototype, strict=True)):
        if kind not in kind_by_the_kernel(argument):
            if kind != "nothing" or not _unread(name, one, index):
                found.append(f"the kernel's `{argument}` is no {kind}")
        if kind in FILES:
            if variant != "tests":
                found.append(f"`{argument}` is allowed outside of tests")
        elif kind == "command":
            mine = {condition["arg"]: condition for condition in one["when"]}
            if index not in mine or mine[index].get("bits", "0xfffffe7f") != "0xfffffe7f":
                found.append(f"`{argument}` is not held to one command")
            known = {satisfying(other["when"], len(takes))[index] for other in alternatives}
            for value in (*COMMANDS, *(HIGH | command for command in COMMANDS)):
                asked = [*right[:index], value, *right[index + 1:]]
                if value % HIGH & ~(0x180 if name == "futex" else 0) not in known and run(
                        machine, NUMBERS[machine][name], tuple(asked), programs=programs) == bpf.RET_ALLOW:
                    found.append(f"`{argument}` may be {value:#x}")
        elif kind in FOREIGN:
            for value in FOREIGN[kind]:
                asked = [*right[:index], value, *right[index + 1:]]
                if run(machine, NUMBERS[machine][name], tuple(asked), programs=programs) == bpf.RET_ALLOW:
                    found.append(f"`{argument}` may be {value:#x}")
        elif kind not in HARMLESS:
            found.append(f"{kind} is no kind of argument")
    return found


def _unread(name: str, one: dict[str, Any], index: int) -> bool:
    """mmap of anonymous memory looks at no descriptor."""
    anonymous = any(condition["arg"] == 3 and int(condition.get("are", "0"), 0) & 0x20 for condition in one["when"])
    return name == "mmap" and index == 4 and anonymous


@pytest.mark.parametrize(("variant", "machine"), WHERE)
def test_no_allowed_call_can_name_what_is_not_the_workers_own(variant: str, machine: str) -> None:
    rules, programs = VARIANTS[variant]
    assert not complaints(rules, programs, machine, variant)
    kinds = {kind for alternatives in bpf.allowed(rules, machine).values() for one in alternatives
             for kind in one["takes"]}
    assert kinds <= set(rules["arguments"]), "kinds that the policy does not explain"


@pytest.mark.parametrize(("call", "takes"), [
    ("kill", []), ("kill", ["pid", "signal"]), ("kill", ["number", "signal"]), ("pidfd_open", ["number", "flags"]),
    ("openat", ["folder", "path", "flags", "flags"]), ("openat", ["descriptor", "memory", "flags", "flags"]),
    ("connect", ["descriptor", "address", "size"]), ("connect", ["descriptor", "memory", "size"]),
    ("timer_create", ["clock", "memory", "memory"]), ("sched_setaffinity", ["number", "size", "memory"]),
    ("dup", []), ("fcntl", ["descriptor", "command", "number"]), ("ioctl", ["descriptor", "flags", "memory"]),
    ("setpriority", ["number", "number", "number"])])
@pytest.mark.slow_after(4)
def test_a_call_that_is_allowed_without_a_word_or_with_a_wrong_one_is_found(call: str, takes: list[str]) -> None:
    rules: dict[str, Any] = copy.deepcopy(POLICY)
    rules["rules"].pop(call, None)
    rules["allow"]["more"] = {call: takes}
    programs = {machine: bpf.compile_policy(rules, machine) for machine in MACHINES}
    assert complaints(rules, programs, "x86_64", "plugin")


@pytest.mark.parametrize(("call", "condition"), [
    ("clock_gettime", 0), ("clock_nanosleep", 0), ("ioctl", 0), ("ioctl", 1), ("prlimit64", 0), ("prlimit64", 1),
    ("sched_getaffinity", 0), ("tgkill", 0), ("tgkill", 1), ("sendto", 1), ("recvfrom", 1), ("fcntl", 0),
    ("madvise", 0), ("futex", 0)])
@pytest.mark.slow_after(4)
def test_a_rule_that_loses_a_condition_is_found(call: str, condition: int) -> None:
    rules: dict[str, Any] = copy.deepcopy(POLICY)
    del rules["rules"][call]["any"][0]["when"][condition]
    programs = {machine: bpf.compile_policy(rules, machine) for machine in MACHINES}
    assert complaints(rules, programs, "x86_64", "plugin")


def test_the_readme_tells_how_many_calls_are_left() -> None:
    counts = [len(bpf.allowed(POLICY, machine)) for machine in MACHINES]
    text = (Path(bpf.__file__).parents[2] / "workers" / "README.md").read_text()
    assert counts[0] == counts[1]
    assert f"the {counts[0]} system calls that are allowed" in re.sub(r"\s+", " ", text)
