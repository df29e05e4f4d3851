"""Small ways to break the core, each of which the simulator must find; the score is how many it does.

A mutant replaces one piece of one module's source while it is imported, so the core itself stays as it is. One whose
piece no longer stands exactly once in the source is an error here: it is to be brought up to date, not dropped.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CORE = ROOT / "apex_exec" / "core"
SEEDS_MAX = 4000
"""Histories after which a mutant counts as not found."""
SECONDS_MAX = 240


class Mutant(NamedTuple):
    """In ``module`` of the core or of its scheduler, ``old`` becomes ``new``."""

    name: str
    module: str
    old: str
    new: str

    @property
    def file(self) -> Path:
        """The module's source."""
        here = CORE / f"{self.module}.py"
        return here if here.exists() else CORE / "scheduler" / f"{self.module}.py"

    @property
    def fullname(self) -> str:
        """What the module is imported as."""
        return ".".join(self.file.relative_to(ROOT).with_suffix("").parts)


MUTANTS = (
    Mutant("a second verdict", "verdicts",
           '        call.state = "done"\n        request = call.request\n        del self.open[request.call]\n'
           "        begun",
           "        request = call.request\n        del self.open[request.call]\n        begun"),
    Mutant("a verdict that is not counted off", "verdicts",
           "        del self.open[request.call]\n        step.actions.append(_never_ran",
           "        step.actions.append(_never_ran"),
    Mutant("last in, first out", "queue", "        self._calls.append(call)\n        self._enter(call)",
           "        self._calls.appendleft(call)\n        self._enter(call)"),
    Mutant("retried calls go to the end", "lifecycle", "slot.queue.push_front(call)", "slot.queue.push(call)"),
    Mutant("a begun call is retried", "lifecycle", "            if seq < event.started:\n",
           "            if seq < event.started - 1:\n"),
    Mutant("the count of what was started is not believed", "lifecycle",
           "            if seq < event.started:\n",
           "            if seq < event.started and seq == worker.oldest_seq():\n"),
    Mutant("a call is retried for ever", "lifecycle", "call.links >= LINKS_MAX", "call.links >= 99"),
    Mutant("expired behind another although it has started", "feeding", "            if seq >= worker.started:\n",
           "            if True:\n"),
    Mutant("expired behind another without a count after its deadline", "feeding", "                if counted:\n",
           "                if True:\n"),
    Mutant("given up as soon as it waits", "plugin_slot", "if now_ns - call.arrived_ns <= left_ns:", "if False:"),
    Mutant("one call more than prefetch", "calls", "len(worker.link) < self._bounds.limits.prefetch",
           "len(worker.link) <= self._bounds.limits.prefetch"),
    Mutant("a queue without its bound", "admission",
           "is_full = queued >= limits.queue_max", "is_full = queued > limits.queue_max"),
    Mutant("nobody makes room in a full queue", "calls", "                self._push_out(slot, step)\n",
           "                pass\n"),
    Mutant("an early call is pushed out before a late one", "calls", "for call in reversed(queue.waiting())",
           "for call in queue.waiting()"),
    Mutant("one user takes the queue", "admission", "limits.queue_max // 4)", "limits.queue_max // 2)"),
    Mutant("in flight without its bound", "admission", "len(self._open) >= limits.in_flight_max",
           "len(self._open) > limits.in_flight_max"),
    Mutant("no grace for a skip", "workers", "            due_ns = now_ns + SKIP_GRACE_NS\n",
           "            due_ns = now_ns + 1\n"),
    Mutant("no grace after a cancel", "workers", "min(due_ns, now_ns + CANCEL_GRACE_NS)", "min(due_ns, now_ns + 1000)"),
    Mutant("a cancelled call keeps its worker", "calls",
           "elif worker.oldest() is call:\n", "elif False:\n"),
    Mutant("host cancels are charged", "breaker", '"drained", "cancelled", "zygote_lost"', '"drained", "zygote_lost"'),
    Mutant("the zygote's loss is charged", "breaker", '"cancelled", "zygote_lost"', '"cancelled"'),
    Mutant("code that went on is charged", "breaker", '"faulted", "overrun"', '"faulted"'),
    Mutant("a worker with a call is killed for going on", "watch",
           "worker.state in AT_WORK and not worker.link:\n            self._workers.kill(worker, End(\"overrun\"",
           "worker.state in AT_WORK:\n            self._workers.kill(worker, End(\"overrun\""),
    Mutant("a worker is killed for hesitating over a call that it has begun", "calls",
           "if worker.started <= worker.doubted_seq == oldest_seq", "if worker.doubted_seq == oldest_seq"),
    Mutant("a worker is killed for a call that it hesitated over and has answered", "calls",
           "worker.doubted_seq == oldest_seq and", "oldest_seq and"),
    Mutant("a fault does not pause the plugin", "plugins", "        slot.breaker.trip(step.now_ns)\n", ""),
    Mutant("a faulted plugin's workers go on", "plugins",
           '            self._workers.kill(worker, End("faulted", "INTERNAL", event.message), step)\n',
           "            pass\n"),
    Mutant("the breaker opens one end late", "breaker", "self._ends: deque[int] = deque(maxlen=policy.ends_max)",
           "self._ends: deque[int] = deque(maxlen=policy.ends_max + 1)"),
    Mutant("ends outside the window count", "breaker", "now_ns - self._ends[0] <= policy.window_ns", "True"),
    Mutant("one user's ends open the breaker", "breaker", ">= min(USERS_MIN, policy.ends_max)", ">= 0"),
    Mutant("users take turns without a backoff", "breaker", "culprits[-1] == culprit", "True"),
    Mutant("one user's probes keep the breaker open", "breaker", "(many or not culprit)", "True"),
    Mutant("a user whose probe fails is not paused", "user_breakers", "full or probed or", "full or"),
    Mutant("a paused user is let in", "admission", "if not wait_ns or request.own:", "if True:"),
    Mutant("what a paused user has waiting stays", "lifecycle", "for call in slot.queue.waiting():", "for call in ():"),
    Mutant("a user is paused one end early", "user_breakers", "len(pair.ends) == policy.ends_max and",
           "len(pair.ends) == policy.ends_max - 1 and"),
    Mutant("no backoff", "breaker", "if self.consecutive >= 2:", "if self.consecutive >= 200:"),
    Mutant("a lost probe blocks the plugin", "verdicts", "            slot.breaker.probe = NO_CALL  #",
           "            pass  #"),
    Mutant("half-open lets everybody in", "breaker", "return SECOND_NS if self.probe != NO_CALL else 0", "return 0"),
    Mutant("a violation does not open the breaker", "lifecycle", 'trip=reason == "violation"', "trip=False"),
    Mutant("a worker that does not leave stays", "workers",
           "worker.due_ns = step.now_ns + self._bounds.limits.stop_grace_ns", "worker.due_ns = step.now_ns + 10**15"),
    Mutant("a worker that does not boot stays", "workers", "spec, now_ns, now_ns + self._bounds.limits.boot_ns)",
           "spec, now_ns, now_ns + 10**15)"),
    Mutant("a silent worker is not missed", "watch",
           "            worker.ping_due_ns = now_ns + limits.ping_grace_ns\n            step.actions",
           "            step.actions"),
    Mutant("recycled during a call", "feeding",
           'worker.state == "leaving" and not worker.link:', 'worker.state == "leaving":'),
    Mutant("recycling without a bound", "feeding",
           "if len(self._workers.recycling) >= self._bounds.recycle.at_once_max:", "if False:"),
    Mutant("a stall of the supervisor kills its workers", "watch",
           "elif now_ns - worker.due_ns > STALL_NS and not worker.had_grace:", "elif False:"),
    Mutant("a held worker is killed for its silence", "watch", "if worker.throttled or (now_ns", "if (now_ns"),
    Mutant("a failed boot leaves its calls waiting", "lifecycle",
           "elif booting and charged and slot.worker is None:", "elif False:"),
    Mutant("two generations run at once", "feeding", "        if worker is not None:\n            return  # it boots",
           "        if worker is not None and not slot.successor:\n            return  # it boots"),
    Mutant("the old version goes on", "generations",
           '                worker.leaves_for = "drained"\n                worker.move("leaving")\n',
           "                pass\n"),
    Mutant("a candidate serves before it is decided for", "generations", '        worker.role = "candidate"\n', ""),
    Mutant("a judgement is not given", "generations",
           '        slot.successor = None\n        self.judge(slot, worker, "CANCELLED", message, step)\n',
           "        slot.successor = None\n"),
    Mutant("the most recently used is evicted", "places", "key=lambda w: w.used_ns)", "key=lambda w: -w.used_ns)"),
    Mutant("more workers than places", "places", "len(self._workers.by_id) < self._bounds.limits.workers_max",
           "len(self._workers.by_id) <= self._bounds.limits.workers_max"),
    Mutant("waiting plugins are forgotten", "lifecycle",
           "        self._feeding.serve_waiting(step)\n\n    def _charge", "\n    def _charge"),
    Mutant("forks while there is no zygote", "places", "return (self._zygote_up and now_ns", "return (now_ns"),
    Mutant("forks right after a refused one", "places", "self._zygote_up and now_ns >= self._fork_after_ns\n",
           "self._zygote_up\n"),
    Mutant("an armed timer is not told to the loop", "deadline", "        if due_ns < self.wake_ns:\n",
           "        if False:\n"),
    Mutant("room that nobody found is believed", "admission", "None if request.has_room else", "None if True else"),
    Mutant("timers are never swept", "deadline", "if self._stale <= STALE_MAX + len(self._heap) // 2:", "if True:"),
    Mutant("a later deadline hides an earlier one", "deadline", "        if due_ns >= owner.armed_ns:\n",
           "        if owner.armed_ns != NEVER_NS:\n"),
    Mutant("tombstones are never swept", "queue", "        if len(self._by_deadline) <= most and",
           "        if True or"),
    Mutant("an answer is taken for the next call", "calls", "        call = link.get(event.seq)\n",
           "        call = link.get(event.seq) and worker.oldest()\n"),
    Mutant("an answer out of turn is taken", "calls", "(event.seq != worker.next_seq - len(link) and not shared)",
           "False"),
    Mutant("a timeout that was answered in time", "calls", "(late_ns < 0 or late_ns > STALL_NS):",
           "(late_ns > STALL_NS):"),
    Mutant("a late result is given", "calls", "(late_ns < 0 or late_ns > STALL_NS):", "True:"),
    Mutant("drained calls are forgotten", "calls", "        self._timers.arm(self._admission.drain, max",
           "        (lambda *_: 0)(self._admission.drain, max"),
    Mutant("a disabled plugin keeps its queue", "plugins",
           '        self._verdicts.flush(slot, ("PLUGIN_DISABLED", message, {}), step)\n', ""),
    Mutant("what was sent is not recalled", "feeding", "        if recalled:\n", "        if False:\n"),
    Mutant("who skips what was recalled is a liar", "calls", " and call.recalled is None and", " and"),
    Mutant("what comes back from a dead worker begins in any case", "lifecycle",
           "refusal = (self._admission.may_not_begin(call.request, slot.spec)\n",
           "refusal = (None\n"),
    Mutant("a user who lost the plugin is served", "admission", "and not request.own and (",
           "and not request.own and False and ("),
    Mutant("a call that ended a worker is nobody's", "lifecycle",
           "return begun[0] if begun and (", "return None if True or ("),
    Mutant("more calls at once than the plugin may run", "feeding",
           "while len(link) < places and", "while len(link) <= places and"),
    Mutant("two calls of one user at once", "user_queue",
           "return 1 if self._one_each else", "return places if self._one_each else"),
    Mutant("a user takes half of the places", "user_queue", "max(1, places // 4)", "max(1, places // 2)"),
    Mutant("a user's calls overtake each other", "user_queue", "        lane.calls.append(call)\n",
           "        lane.calls.appendleft(call)\n"),
    Mutant("what comes back from a dead worker goes behind", "user_queue", "        lane.calls.appendleft(call)\n",
           "        lane.calls.append(call)\n"),
    Mutant("a user who was passed over is forgotten", "user_queue", "        if user_id in self._passed_over:\n",
           "        if False:\n"),
    Mutant("a dead worker keeps its users' turns", "lifecycle", "        slot.queue.released_all()\n", ""),
    Mutant("a place is not given back", "shared", "        count = worker.users.get(user_id, 0) - 1\n",
           "        count = worker.users.get(user_id, 0)\n"),
    Mutant("a call at its deadline is not cancelled", "shared",
           "PAST_DEADLINE, step, call.sent_ns)\n                self._cancel(worker, call, step, now_ns + PROBE_NS)\n",
           "PAST_DEADLINE, step, call.sent_ns)\n                call.ends_ns = NEVER_NS\n"),
    Mutant("a call that has not begun timed out", "shared", 'if call.state == "linked" and has_begun:',
           'if call.state == "linked":'),
    Mutant("a loop that stands still is left alone", "shared",
           "if probe_due_ns and now_ns >= probe_due_ns and", "if False and"),
    Mutant("a probe is judged early", "shared",
           "self._verdicts.ran(call, \"TIMEOUT\", PAST_DEADLINE, step, call.sent_ns)\n"
           "                self._cancel(worker, call, step, now_ns + PROBE_NS)",
           "self._verdicts.ran(call, \"TIMEOUT\", PAST_DEADLINE, step, call.sent_ns)\n"
           "                self._cancel(worker, call, step, now_ns + 1000)"),
    Mutant("a held worker is killed for a probe", "shared",
           "return worker.throttled and now_ns", "return False and now_ns"),
    Mutant("time while it is held counts", "shared", "call.ends_ns += held_ns\n", "pass\n"),
    Mutant("a hook that swallows its cancellation goes on", "shared",
           "if worker.probed_ns >= call.cancelled_ns or is_alone:",
           "if False:"),
    Mutant("a caller who gives up costs the others their worker", "shared",
           "if worker.probed_ns >= call.cancelled_ns or is_alone:", "if True:"),
    Mutant("a hook has no time to end", "shared",
           "call.ends_ns = now_ns + CANCEL_GRACE_NS\n        worker", "call.ends_ns = now_ns + 1000\n        worker"),
    Mutant("answers to probes are not counted", "shared", "PROBES_FROM + worker.probes - len(worker.probing) + 1:",
           "nonce:"),
    Mutant("bystanders are not told", "lifecycle", "{\"bystander\": True} if is_others else {}", "{}"),
    Mutant("the blamed call is a bystander", "lifecycle", "call is not culprit and (", "True and ("),
    Mutant("a bystander is blamed", "lifecycle", "        return worker.blamed\n", "        pass\n"),
    Mutant("a worker may end what nobody cancelled", "calls",
           'if code == "ended" and shared and not call.cancelled_ns:', "if False:"),
    Mutant("work is admitted without a ledger", "admission", "        if self.refused is not None:\n",
           "        if False:\n"),
)


class _Patched(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType | None:
        text = Path(self.path).read_text()
        if text.count(self._mutant.old) != 1:
            raise SystemExit(f"mutant {self._mutant.name!r}: its piece stands {text.count(self._mutant.old)} times")
        return compile(text.replace(self._mutant.old, self._mutant.new), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._mutant.fullname:
            return None
        file = str(self._mutant.file)
        return importlib.machinery.ModuleSpec(fullname, _Patched(fullname, file, self._mutant), origin=file)


def install(name: str) -> None:
    """Breaks the core in this process, which must not have imported it yet."""
    mutant = next((mutant for mutant in MUTANTS if mutant.name == name), None)
    if mutant is None:
        raise SystemExit(f"no such mutant; there are: {', '.join(repr(m.name) for m in MUTANTS)}")
    if "apex_exec.core.scheduler.pool" in sys.modules:
        raise SystemExit("the core is imported already")
    sys.meta_path.insert(0, _Finder(mutant))


def misplaced() -> list[str]:
    """Mutants whose piece does not stand exactly once in the source of their module: these break nothing."""
    texts = {mutant.module: mutant.file.read_text() for mutant in MUTANTS}
    return [mutant.name for mutant in MUTANTS if texts[mutant.module].count(mutant.old) != 1]


def found(mutant: Mutant) -> str:
    """How the simulator found ``mutant``: its last line; "" where it did not."""
    command = [sys.executable, "-m", "tests.sim", "--count", str(SEEDS_MAX), "--mutant", mutant.name]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    told = (run.stdout + run.stderr).strip().splitlines()
    if run.returncode == 0:
        return ""
    if run.returncode != 1 or not told or not told[-1].startswith("seed "):
        raise RuntimeError(f"mutant {mutant.name!r}: {told[-1] if told else 'no answer'}")
    return told[-1]


def score(tell: Callable[[str], None]) -> int:
    """Tries every mutant, two at a time; 0 where all were found."""
    caught = 0
    with ThreadPoolExecutor(2) as threads:
        for mutant, how in zip(MUTANTS, threads.map(found, MUTANTS), strict=True):
            caught += bool(how)
            tell(f"{'found' if how else 'NOT FOUND':10} {mutant.name:50} {how[:110]}")
    tell(f"{caught} of {len(MUTANTS)} mutants found ({100 * caught // len(MUTANTS)} %)")
    return 0 if caught == len(MUTANTS) else 1
