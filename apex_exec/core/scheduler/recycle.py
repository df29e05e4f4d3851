"""When a healthy worker should be replaced: after a number of calls, at an age, grown, or near its CPU-hour. Pure."""

from __future__ import annotations

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import RecyclePolicy
from apex_exec.core.scheduler.worker import SEQ_NEVER, Worker


def enrol(worker: Worker, policy: RecyclePolicy) -> None:
    """Writes down when ``worker`` is due by calls and by age."""
    worker.last_seq = policy.calls_max or SEQ_NEVER
    worker.age_due_ns = worker.born_ns + policy.age_ns_max if policy.age_ns_max else NEVER_NS


def outgrown(worker: Worker, policy: RecyclePolicy, memory_bytes: int, cpu_ns: int) -> bool:
    """Whether ``worker`` should be replaced by this sample. Memory counts only between calls.

    The baseline is the first sample between calls, so what the plugin loads at its first call is not growth.
    """
    if cpu_ns >= policy.cpu_ns_max > 0:
        return True
    if worker.link:
        return False
    if not worker.baseline_bytes:
        worker.baseline_bytes = memory_bytes
        return False
    return bool(policy.growth_bytes_max) and memory_bytes - worker.baseline_bytes > policy.growth_bytes_max
