"""The process behind ``registry.trials.testing``: one test zygote, a jailed worker a run. Request in, Answer out."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import msgspec

from apex_exec.catalogue.limits import Limits
from apex_exec.core.limits import SECOND_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.blocking import BlockingExecutor
from apex_exec.executor.links.jobs import Job
from apex_exec.executor.links.worker_kinds import Home
from apex_exec.executor.links.worker_link import ProvenEnd, WorkerLink
from apex_exec.executor.processes.runtimes import boot as boot_of
from apex_exec.registry.trials import javascript
from apex_exec.registry.trials.line_proofs import Watching, prove
from apex_exec.registry.trials.testing import Answer, Request, Run
from apex_exec.sandbox.probe import probe
from workers import wire

TEST_MODULES = ("pytest", "tempfile", "shutil", "workers.fake", "builtins", "_pytest.assertion.rewrite")
"""What test files may import besides the plugin's modules; the last two are what rewritten assertions need."""
RULES = "apex_exec.registry.trials.fake_rules"
"""What FakePlatform refuses: loaded by name, since no worker that serves has any of it."""
OUTPUT_LINES_MAX = 200
NAME_CHARACTERS_MAX = 300
FAILURES_MAX, FAILURE_CHARACTERS_MAX = 20, 2000
"""What a report of ours has at most. The tested code can bend it, since it runs in the same process."""
ENDED = "the tests ended their own process before their report"


class Zygote:
    """The test zygote: the executor's, with pytest and coverage loaded as well. Runs one worker at a time."""

    def __init__(self, request: Request) -> None:
        findings = probe(request.waive, scratch=True)
        self.level = findings.level or "L0"
        if findings.accepted_level < request.min_level:
            raise OSError(f"sandbox.min_level = {request.min_level}, and this machine reaches "
                          f"{findings.accepted_level or 'none'}")
        self._request = request
        boot = boot_of(findings.plan, request.extra_modules)
        boot["preload"] += TEST_MODULES
        boot["hidden"] += ("workers.testing", "workers.async_tests", RULES)
        try:
            self._executor = BlockingExecutor(boot, _Jails(request.uid))
        except OSError as error:
            raise OSError(f"the test zygote died ({error}): can pytest and coverage be imported here?") from None
        self.pid = self._executor.zygote_pid

    def run(self, files: dict[str, bytes], watching: Watching | None = None) -> tuple[Run, str]:
        """Runs all tests over ``files`` in a worker of their own. Returns the run, and how its process ended.

        Raises OSError if ``watching`` is wanted and this machine does not let a process be watched.
        """
        begun = time.monotonic()
        tests = _Tests(self._request, files, Run(level=self.level), self._executor, watching)
        try:
            self._executor.run(tests)
        finally:
            tests.unwatch()
        if tests.failure is not None:
            raise tests.failure
        tests.run.seconds = time.monotonic() - begun
        return tests.run, tests.how

    def close(self) -> None:
        """Ends the zygote, and with it every worker."""
        self._executor.close()


class _Jails:
    """One uid for all runs, since there is one at a time; no control group, since a run is short."""

    def __init__(self, uid: int) -> None:
        self._jail: dict[str, Any] = {"cgroup": []}
        if uid:
            self._jail |= {"uid": uid, "gid": uid}

    def jail_for(self, worker: int, spec: PluginSpec | None) -> dict[str, Any]:
        """Every run's jail is the same."""
        return self._jail

    def adopt(self, spare: int, worker: int, spec: PluginSpec) -> None:
        """There are no spares."""

    def killed(self, worker: int) -> None:
        """Nothing holds it back."""

    def worker_gone(self, worker: int) -> None:
        """Its uid is the next run's."""


class _Tests(Job):
    """One run: Booted, Placed, then output and the names of tests, then exactly one Tested, then the link's end.

    After the report, after the link's end, or once the worker has broken a rule, we ignore what it says and kill it.
    """

    mode = "test"
    decode = staticmethod(msgspec.msgpack.Decoder(wire.FromTests).decode)

    def __init__(self, request: Request, files: dict[str, bytes], run: Run, executor: BlockingExecutor,
                 watching: Watching | None) -> None:
        spec = PluginSpec(request.plugin, request.version, "", request.entrypoint, (),
                          limits=Limits(memory_mb=request.memory_bytes_max >> 20))
        super().__init__(spec, files, time.monotonic_ns() + int(request.run_seconds * SECOND_NS))
        self.run = run
        self.run.ended = ENDED
        self.how = ""
        """How the process ended, as its status says."""
        self.failure: OSError | None = None
        """Why there was no run: the machine did not let us start the process, or watch it."""
        self._too_long = f"the tests ran longer than {request.run_seconds:g} s and were stopped"
        self._executor = executor
        self._watching = watching
        self._placed = False
        self._tested: wire.Tested | None = None
        self._heard_out = False  # nothing is looked at any more

    def begin(self, home: Home) -> None:
        """Says which messages a run may send."""
        super().begin(home)
        self.handlers.update({
            wire.Booted: home.protocol.of_others[wire.Booted], wire.Placed: self._take_placed, wire.Testing: self._take,
            wire.Tested: self._take, wire.Log: self._take, wire.Failed: self._take})

    # ------------------------------------------------------------------ what it says
    def _take_placed(self, link: WorkerLink, message: wire.Placed, now_ns: int) -> None:
        """Sets the watch, while no code of the bundle has run yet, and then lets the tests begin."""
        if self._tested is not None:
            self._stop(link, "something was reported after the report")
        elif self._placed:
            self._stop(link, "places were reported twice")
        if self._heard_out:
            return
        self._placed = True
        if self._watching is not None:
            try:
                self._watching.begin(link.pid, message)
            except OSError as error:
                self.failure = error
                self._stop(link, "it cannot be watched")
                return
            self._executor.loop.add(self._watching.wake_fd, lambda _: self._look(link))
            self._watching.go()
        self._home.reply(link, wire.Ping(0))

    def _look(self, link: WorkerLink) -> None:
        if self._watching is not None and self._watching.look():
            self._hear_out(link)

    def _take(self, link: WorkerLink, message: Any, now_ns: int) -> None:
        if self._heard_out:
            return
        run = self.run
        if self._tested is not None:
            self._stop(link, "something was reported after the report")
        elif isinstance(message, wire.Tested):
            self._tested, run.ended, run.test = message, "", ""
        elif isinstance(message, wire.Testing):
            run.test = message.name[:NAME_CHARACTERS_MAX]
            run.passed, run.failed = message.passed, message.failed
        elif isinstance(message, wire.Log):
            run.output = [*run.output, message.text][:OUTPUT_LINES_MAX]
        elif isinstance(message, wire.Failed):
            self._stop(link, f"{message.stage}: {message.exception}: {message.message}")

    # ------------------------------------------------------------------ how it ends
    def violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        """Ends the run, because a message of the worker cannot be read."""
        self._stop(link, f"the report cannot be read: {why}"[:300])

    def overdue(self, link: WorkerLink) -> None:
        """The run took too long."""
        self._stop(link, self._too_long)

    def hung_up(self, link: WorkerLink) -> None:
        """Kills the process if it has not ended, and takes the watch back: before that, the zygote cannot reap it."""
        self._hear_out(link)

    def _stop(self, link: WorkerLink, why: str) -> None:
        if not self._heard_out:
            self.run.ended = why[:500]
            self._hear_out(link)

    def _hear_out(self, link: WorkerLink) -> None:
        self._heard_out = True
        self._home.kill_link(link)
        self.unwatch()

    def unwatch(self) -> None:
        """Takes the watch back, if there is one; its process must have been killed."""
        watching, self._watching = self._watching, None
        if watching is not None:
            self._executor.loop.remove(watching.wake_fd)
            watching.end()

    def ended(self, link: WorkerLink, end: ProvenEnd, begun: int, now_ns: int) -> None:
        """Takes the report, if it arrived complete and nothing followed it."""
        if "signal" in end.details:
            self.how = signal.Signals(end.details["signal"]).name
        elif "exitCode" in end.details:
            self.how = f"status {end.details['exitCode']}"
        else:
            self.failure = OSError("the test zygote died during a run")
        tested, run = self._tested, self.run
        if tested is not None and not run.ended:
            if tested.tampered:
                run.ended = "a test took the tracer away"
            else:
                failures = [text[:FAILURE_CHARACTERS_MAX] for text in tested.failures[:FAILURES_MAX]]
                run.passed, run.failed, run.failures, run.arcs = tested.passed, tested.failed, failures, tested.arcs
        super().ended(link, end, begun, now_ns)

    def over(self, code: str, message: str) -> None:
        """Records that there was no run, because there was no process."""
        if code == "OVERLOADED":
            self.failure = OSError(f"the test zygote could not fork: {message}")


def main() -> None:
    """Reads the request from stdin, answers on stdout; whatever the tests print goes into the answer."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    answer = Answer()
    try:
        zygote = Zygote(request)
        try:
            if request.points:
                answer.proof = javascript.prove(zygote, request) if request.sources else prove(zygote, request)
            else:
                files = request.files
                if request.sources:
                    files = javascript.counted(files, request.sources, request.left_out)
                answer.run, how = zygote.run(files)
                if answer.run.ended == ENDED:
                    answer.run.ended += f" ({how})"
        finally:
            zygote.close()
    except (OSError, RuntimeError) as error:
        answer.refused = str(error)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main()
