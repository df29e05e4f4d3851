"""The registrar: the process beside the loop in which administrative operations touch disk and database.

One thread reads the link, five run operations: a *quick* lane for what reads and writes rows, a *slow* lane for what
scans, copies or has plugin code run in the jail (through the supervisor: ``ask``), one for *billing*, which may read a
month of the ledger (``market.lasting``), one for who reads the *ledger* and logs, and one for the market's
*submissions*, whose tests run for minutes. So
revoking never waits for an installation, and neither for a submission or a month that is closed.
Submissions run one at a time, at the lowest priority, in fair order: a submitter whose tests have used more than their
share of CPU waits longer, and nobody else does. The registrar lives until the link ends; killed at any point it leaves
the old or the new state, and the supervisor starts another one, which sends every spec again, in place of those before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from apex_exec.catalogue.declared import declare_all
from apex_exec.common.operations import NoArgs, Operation
from apex_exec.common.sqlite import path_of
from apex_exec.config import Settings
from apex_exec.core.fair import FairQueue
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration import backup, ledger_pages
from apex_exec.daemon.administration import registrar_messages as messages
from apex_exec.daemon.administration.erasure import Erasure
from apex_exec.daemon.administration.ledger_heads import LedgerHeads, stores
from apex_exec.daemon.administration.operations import BACKUP, BackupArgs
from apex_exec.daemon.administration.registrar_table import REGISTRARS
from apex_exec.daemon.administration.sharing import Sharing
from apex_exec.daemon.administration.shipping import Shipping
from apex_exec.daemon.administration.telling import Telling
from apex_exec.errors import Code, Refusal
from apex_exec.ledger.records import AuditRecord
from apex_exec.market import service as market
from apex_exec.registry.bundles.blobs import BlobStore
from apex_exec.registry.bundles.bounds import Bounds
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.bundles.manifest import Manifest
from apex_exec.registry.context import Context
from apex_exec.registry.operations import HANDLERS, Handler
from apex_exec.registry.plugin_settings import publishing
from apex_exec.registry.plugin_settings import rows as setting_rows
from apex_exec.registry.plugin_settings.operations import HANDLERS as SETTINGS_HANDLERS
from apex_exec.registry.scan.findings import Report
from apex_exec.registry.scan.scanner import scan
from apex_exec.registry.settled_clock import SettledClock
from apex_exec.registry.specs import commit, reconcile
from apex_exec.registry.store import Store
from apex_exec.registry.trust import approvals
from apex_exec.storage.operations import KeptByPlugins
from apex_exec.wire.side_link import BlockingEnd, Handlers

REOPEN_SECONDS = 5.0
"""How often a store that cannot be opened is tried again."""
REOPEN_SERVER_SECONDS = 1.0
"""The same for one on a server, where each try has time-outs of its own."""
EXPIRY_CHECK_SECONDS = 1.0
OPENING_SECONDS = 0.2
"""Between two looks whether the store is open, before the marketplace's index is read for the first time."""
OPENING_WAIT_SECONDS = 10.0
"""An operation that arrives while the store is opened for the first time waits for it, for this time at most."""
SUBMISSIONS_NICE = 19
SUBMITTER_SHARE, SUBMITTER_BURST_NS = 0.1, 120_000_000_000
"""CPU seconds a second that the tests of one submitter's submissions may use, and at once: a submission of ordinary
tests takes some twenty, the longest that is let through three hundred."""
SUBMITTER_WAITING_MAX, SUBMISSIONS_WAITING_MAX = 4, 100
CRASH_VARIABLE = "APEXEXEC_TEST_CRASH_AT"
"""Names a point at which the process kills itself: so the tests show that any point of an operation may be the last."""

log = logging.getLogger("apex_exec.registrar")


def _back_up(context: Context, args: BackupArgs) -> dict[str, Any]:
    made = backup.make(context.settings, Path(args.path))
    context.measure("backup_last_success_seconds", (), time.time())
    return made


SETTINGS = Operation("settings", NoArgs, "Takes over settings that were reloaded; no caller can ask for it.")


def _only_reads(_context: Context, _args: Any) -> NoReturn:
    """Stands where an operation of the ledger's lane would have a handler that works with the registry."""
    raise AssertionError("the ledger's lane has a table of its own")


def crash_at(point: str) -> None:
    """Ends the process at the point that a test has named."""
    if os.environ.get(CRASH_VARIABLE) == point:
        os.kill(os.getpid(), signal.SIGKILL)


class AskFailed(Refusal):
    """The supervisor tried, and it did not work."""


class _Link:
    """The registrar's end of its link: messages out from any thread, in by one, and what is asked of the supervisor."""

    def __init__(self, connection: Any) -> None:
        end = BlockingEnd(os.dup(connection.fileno()), (messages.Op, messages.NewSettings, messages.Answered))
        connection.close()
        self.send = end.send
        self.receive = end.receive
        self._asking = threading.Lock()
        self._answers: dict[int, queue.SimpleQueue[messages.Answered]] = {}
        self._next = 1

    def ask(self, kind: str, params: dict[str, Any], seconds: float) -> Any:
        """Has the supervisor do something and waits for its answer. Raises AskFailed."""
        with self._asking:
            number, self._next = self._next, self._next + 1
            answers: queue.SimpleQueue[messages.Answered] = queue.SimpleQueue()
            self._answers[number] = answers
        try:
            self.send(messages.Ask(number, kind, params))
            answer = answers.get(timeout=seconds)
        except queue.Empty:
            raise AskFailed("no_answer", f"the supervisor gave no answer within {seconds:g} s") from None
        finally:
            self._answers.pop(number, None)
        if answer.ok:
            return answer.value
        value = answer.value if isinstance(answer.value, dict) else {}
        raise AskFailed(str(value.get("code", "failed")).lower(), str(value.get("message", "it failed")),
                        details=value.get("details") or {})

    def answered(self, answer: messages.Answered) -> None:
        """Hands an answer to the thread that waits for it."""
        waiting = self._answers.get(answer.number)
        if waiting is not None:
            waiting.put(answer)


Work = tuple[int, Operation, Handler, Any, int]
"""(number, operation, its handler, its arguments, the caller's uid)"""


class Submissions:
    """Submissions that wait, in fair order between submitters. One thread puts, another gets."""

    def __init__(self) -> None:
        self._queue: FairQueue[Work] = FairQueue(SUBMITTER_BURST_NS, SUBMITTER_SHARE)
        self._waiting: Counter[str] = Counter()
        self._changed = threading.Condition()

    def put(self, submitter: str, work: Work) -> bool:
        """Queues one submission. False if too many wait."""
        with self._changed:
            if self._waiting[submitter] >= SUBMITTER_WAITING_MAX or self._queue.size >= SUBMISSIONS_WAITING_MAX:
                return False
            self._waiting[submitter] += 1
            self._queue.push(submitter, work, time.monotonic_ns())
            self._changed.notify()
            return True

    def get(self) -> tuple[str, Work]:
        """The next; waits for it."""
        with self._changed:
            while (found := self._queue.pop(now_ns := time.monotonic_ns())) is None:
                due_ns = self._queue.next_due_ns(now_ns)
                self._changed.wait(None if due_ns is None else max(0.001, (due_ns - now_ns) / 1e9))
            self._waiting -= Counter((found[0],))
            return found

    def spend(self, submitter: str, seconds: float) -> None:
        """What one submission has used."""
        with self._changed:
            self._queue.spend(submitter, int(seconds * 1e9), time.monotonic_ns())


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Registrar:
    """Opens the store, serves operations, and tells the supervisor what is to be served."""

    def __init__(self, link: _Link, settings: Settings) -> None:
        self._link = link
        self._settings = settings
        self._telling = Telling(link.send)
        self._sharing: Sharing | None = None
        self._heads = LedgerHeads(lambda trouble: self._link.send(messages.LedgerHealth(trouble)))
        self._kept = KeptByPlugins()
        handlers: dict[str, Handler] = {
            **HANDLERS, **SETTINGS_HANDLERS, **market.HANDLERS, **self._kept.handlers, BACKUP.name: _back_up,
            "audit.accept": self._heads.accept, "audit.erase": Erasure(self._kept).erase,
            "plugin.remove": self._kept.with_removal(HANDLERS["plugin.remove"])}
        self._reading: dict[str, Callable[[Settings, Any], Any]] = {
            "audit.events": ledger_pages.events, "audit.read": ledger_pages.read, "plugin.logs": ledger_pages.logs,
            "audit.verify": ledger_pages.Verification(lambda: stores(self._opened())).ask}
        """What the ledger's lane does: it waits for no registry."""
        self._operations = {operation.name: (operation, handlers.get(operation.name, _only_reads))
                            for operation in REGISTRARS}
        self._context: Context | None = None
        self._store: Store | None = None
        self._lock = threading.RLock()
        self._look_again = threading.Event()
        self._settled = SettledClock(time.time_ns(), time.monotonic_ns())
        self._lasting: dict[int, tuple[str, bool]] = {}
        """Approvals that have not ended for good, at the last look: plugin, and whether it counted."""
        self._doubt = threading.Event()
        """Set while what the supervisor serves may differ from what the rows say."""
        self._looked = threading.Event()
        """Set once the store has been opened, or could not be: what is asked before waits for it."""
        self._trouble = Refusal("store_unusable", "the registry is still being opened; try again in a few seconds")
        self._lanes: dict[str, queue.SimpleQueue[Work]] = {
            name: queue.SimpleQueue() for name in ("quick", "slow", "billing", "ledger")}
        self._submissions = Submissions()
        self._settings_state = (0, 0)

    def run(self) -> None:
        """Until the link ends."""
        for name, work in self._lanes.items():
            threading.Thread(target=self._lane, args=(work.get,), name=f"registrar-{name}", daemon=True).start()
        threading.Thread(target=self._submission_lane, name="registrar-submissions", daemon=True).start()
        threading.Thread(target=self._keep, name="registrar-keep", daemon=True).start()
        threading.Thread(target=self._follow, name="registrar-index", daemon=True).start()
        threading.Thread(target=self._watch, name="registrar-releases", daemon=True).start()
        handlers: Handlers = {messages.Op: self._take, messages.NewSettings: self._change_settings,
                              messages.Answered: self._link.answered}
        while (found := self._link.receive()) is not None:
            for message in found:
                handlers[type(message)](message)

    def _change_settings(self, message: messages.NewSettings) -> None:
        self._settings = Settings.model_validate(message.settings)  # for a store that is still being opened, too
        self._lanes["quick"].put((0, SETTINGS, self._reload, {}, os.geteuid()))

    def _take(self, op: messages.Op) -> None:
        found = self._operations.get(op.name)
        if found is None:
            self._refuse(op.number, Refusal("unknown_operation", f"there is no operation {op.name[:64]!a}",
                                            code=Code.NOT_FOUND))
            return
        work = (op.number, *found, op.args, op.uid)
        if found[0].lane != "submissions":
            self._lanes[found[0].lane].put(work)
        elif not self._submissions.put(str(op.args.get("submitter", ""))[:100], work):
            self._refuse(op.number, Refusal(
                "submissions_full", "too many submissions are waiting, of this submitter or altogether",
                code=Code.OVERLOADED, hint="try again when some of them have been checked"))

    def _refuse(self, number: int, error: Refusal) -> None:
        self._link.send(messages.Refused(number, str(error.code), error.message, error.wire_details()))

    def _lane(self, get: Callable[[], Work]) -> None:
        while True:
            self._do(*get())

    def _submission_lane(self) -> None:
        """As ``_lane``, at the lowest priority: what this thread starts, the tests' processes, inherits that."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), SUBMISSIONS_NICE)
        while True:
            submitter, work = self._submissions.get()
            begun, before = time.monotonic(), _children_cpu_seconds()
            self._do(*work)
            passed = time.monotonic() - begun
            # Scans of the other lane may have ended meanwhile: then time that passed is the better bound.
            self._submissions.spend(submitter, min(passed, _children_cpu_seconds() - before))

    def _do(self, number: int, operation: Operation, handler: Handler, args: Any, uid: int) -> None:
        begun_ns = time.thread_time_ns()
        result: Any = None
        try:
            given = msgspec.convert(args, operation.args)
            if operation.lane == "ledger":
                result = self._reading[operation.name](self._settings, given)
            else:
                result = handler(self._opened().caller(uid), given)
            self._link.send(messages.Done(number, result))
        except Refusal as error:
            self._refuse(number, error)
        except msgspec.ValidationError as error:
            self._refuse(number, Refusal("invalid_arguments", str(error), code=Code.INVALID_INPUT))
        except Exception as error:  # noqa: BLE001 - it ends one operation, not the process
            log.exception("%s failed", operation.name)
            self._refuse(number, Refusal("internal", f"{operation.name} failed: {type(error).__name__}: {error}"[:500],
                                         code=Code.INTERNAL))
        plugin = result.get("plugin") or result.get("id") if isinstance(result, dict) else None
        if operation.lane in ("slow", "submissions") and isinstance(plugin, str):
            self._link.send(messages.Spent(plugin, time.thread_time_ns() - begun_ns))

    # ------------------------------------------------------------------ the store
    def _opened(self) -> Context:
        """What operations work with; waits while the store is opened for the first time. Raises Refusal."""
        self._looked.wait(OPENING_WAIT_SECONDS)
        if self._context is None:
            raise self._trouble
        return self._context

    def _keep(self) -> None:
        """Opens the store, trying again until it can; then lets approvals and entitlements end in time."""
        url = self._settings.database_url(self._settings.registry.url)
        if path_of(url) is None:  # on a server: other daemons may share it, and it may be away
            self._sharing = Sharing(self._settings, self._telling, self._lock, self._link.send)
            threading.Thread(target=self._sharing.stand_in, name="registrar-stand-in", daemon=True).start()
        while self._context is None:
            try:
                context = self._open()
                self._store = context.store
                if trouble := market.begin(context):  # tried again every minute; what costs nothing is served
                    log.error("paid plugins are served to nobody until the market's store can be read: %s", trouble)
                with self._lock:
                    self._tell_settings(context)  # first: no plugin is served without its settings
                if self._sharing is not None:
                    count = self._sharing.begin(context, market.ends)
                else:
                    with self._lock:
                        count = self._telling.everything(reconcile(context, sweep=True))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self._cannot_open(error)
                time.sleep(REOPEN_SECONDS if self._sharing is None else REOPEN_SERVER_SECONDS)
                continue
            self._context = context
            self._link.send(messages.Ready(count))
            self._link.send(messages.Health(""))
            self._looked.set()
        if self._sharing is not None:
            self._sharing.follow(lambda: self._context, self._audit)
        shipping = Shipping(lambda: self._context, self._link.send, self._audit)
        threading.Thread(target=shipping.run, name="registrar-ships", daemon=True).start()
        settled = False
        while True:
            settled = settled or self._settle(self._context)
            time.sleep(EXPIRY_CHECK_SECONDS)
            if self._sharing is not None and self._sharing.away:
                continue  # what ends by itself meanwhile, ``Sharing`` ends
            if self._doubt.is_set():
                self._tell_anew()
            self._expire(self._context)
            market.keep(self._context)
            self._note_head(self._context)
            self._look_at_settings(self._context)

    def _look_at_settings(self, context: Context) -> None:
        """Tells everything anew if another daemon on the same store has changed a setting."""
        if path_of(str(context.store.engine.url)) is not None:
            return  # SQLite is this daemon's alone
        with contextlib.suppress(Refusal):  # looked at again in a second
            with self._lock:
                if context.store.transact(setting_rows.state) != self._settings_state:
                    self._tell_settings(context)

    def _cannot_open(self, error: Exception) -> None:
        message = error.message if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        self._trouble = error if isinstance(error, Refusal) else Refusal("store_unusable", message[:300])
        self._looked.set()
        if self._sharing is not None and self._sharing.stands_in(message):
            return
        self._link.send(messages.Health(f"the registry cannot be opened: {message}"[:300]))

    def _settle(self, context: Context) -> bool:
        """Ends what plugins kept whose removal was cut short; whether that could be done."""
        try:
            self._kept.settle(context)
        except Refusal as error:  # until it can, no plugin is enabled: see its gate
            log.warning("the stored data of removed plugins cannot be read; this is tried again: %s", error.message)
            return False
        return True

    def _note_head(self, context: Context, *, end: bool = False) -> None:
        try:
            (self._heads.end if end else self._heads.keep)(context)
        except Refusal as error:
            log.error("the ledger's head could not be recorded in the registry: %s", error.message)

    def note_at_end(self) -> None:
        """Notes how far the ledger is, once more, if the store could be opened."""
        if self._context is not None:
            self._note_head(self._context, end=True)

    def _reload(self, _: Context, _args: NoArgs) -> None:
        """Goes on with other settings; every spec is made anew and sent, the supervisor knows what differs."""
        self._tell_anew()
        self._look_again.set()

    def _follow(self) -> None:
        """Reads the marketplace's index again and again, at once after a reload: it may wait for a network."""
        while True:
            context = self._context
            wait = market.follow(context) if context is not None else OPENING_SECONDS
            self._look_again.wait(wait)
            self._look_again.clear()

    def _watch(self) -> None:
        """Looks at the releases that go out in stages, again and again."""
        while True:
            context = self._context
            time.sleep(market.watch(context) if context is not None else OPENING_SECONDS)

    def _tell_anew(self) -> None:
        """Makes every spec of the rows and the settings as they are now and sends them all; tried again every second
        for as long as the rows cannot be read."""
        self._doubt.clear()
        try:
            with self._lock:
                context = self._open()
                self._tell_settings(context)
                if self._sharing is not None:
                    self._sharing.compare(context, anew=True)
                else:
                    self._telling.everything(reconcile(context))
                self._context = context
        except Exception as error:  # noqa: BLE001 - whatever it is, what is served is compared again
            self._doubt.set()
            if self._sharing is None:
                self._link.send(messages.Health(
                    f"what is served could not be compared with the registry: {error}"[:300]))
            else:  # what is served was read from it, and goes on; its age is a metric
                log.error("the plugins that are served could not be compared with the registry: %s", error)
        else:
            self._link.send(messages.Health(""))

    def _open(self) -> Context:
        settings = self._settings
        return Context(
            settings=settings, store=self._store or Store(settings.database_url(settings.registry.url)),
            blobs=BlobStore(settings.state_path / "bundles", at_point=crash_at), now_ns=self._now_ns,
            ledger_ns=time.time_ns,
            ask=self._link.ask, publish=self._tell, withdraw=self._telling.removed,
            in_doubt=self._doubt.set, entitled=market.entitled, revoked=market.revoked, withheld=market.withheld,
            halted=market.halted,
            tell_settings=lambda plugin, sets, whole, locked: self._link.send(
                messages.SettingsOf(plugin, sets, whole, locked)),
            settled_ns=lambda: self._settled.sample(self._now_ns(), time.monotonic_ns()), market_check=market.check,
            measure=lambda name, labels, value: self._link.send(messages.Metric(name, labels, value)),
            scan=self._scan, at_point=crash_at, folder_plugins=_folder_ids(settings.plugins_dir), uid=os.geteuid(),
            gates=(self._kept.gate, market.gate), audit=self._audit, lock=self._lock)

    def _tell_settings(self, context: Context) -> None:
        """All that is set for plugins, in place of all that was sent before. Under the lock."""
        self._settings_state = context.store.transact(setting_rows.state)
        if self._sharing is not None:
            self._sharing.note_settings(context.store.transact(setting_rows.everything))
        self._link.send(messages.SettingsTold(publishing.tell_all(context)))

    def _audit(self, plugin: str, action: str, metadata: dict[str, Any]) -> None:
        uid = os.geteuid()
        self._link.send(messages.Audit(AuditRecord(
            time.time_ns(), "admin.action", f"uid:{uid}", plugin, action, "success", {"uid": uid, **metadata})))

    def _scan(self, files: dict[str, bytes], manifest: Manifest) -> Report:
        return scan(files, manifest, extra_modules=tuple(self._settings.sandbox.extra_modules))

    def _tell(self, specs: list[PluginSpec]) -> None:
        """What an operation has made of some plugins; the others stay."""
        self._telling.release(spec.id for spec in specs)
        self._telling.some(specs)

    def _now_ns(self) -> int:
        """The wall clock; if others share the registry, the server's, which is the same for all of them."""
        return time.time_ns() - (self._sharing.ahead_ns if self._sharing is not None else 0)

    def _expire(self, context: Context) -> None:
        try:
            over_ns = context.over_ns()
            lasting = context.store.transact(lambda db: approvals.lasting(db, context.now_ns()))
            before, self._lasting = self._lasting, lasting
            changed = [(plugin, counts) for number, (plugin, counts) in lasting.items()
                       if before.get(number, (plugin, not counts))[1] != counts]
            if changed:
                commit(context, lambda db: approvals.expire(db, over_ns), {plugin for plugin, _ in changed},
                       point="approvals-expired")
            elif over_ns and not all(counts for _, counts in lasting.values()):
                context.store.transact(lambda db: approvals.expire(db, over_ns))
            for number, (plugin, counts) in lasting.items():
                # A clock that was wrong may be right again. An approval that is new to us and over began and ended
                # between two looks, or ended while no daemon ran; until it is ended for good, each start records that.
                if before[number][1] != counts if number in before else not counts:
                    self._audit(plugin, "approval.resumed" if counts else "approval.expired", {})
        except Refusal as error:
            log.error("the approvals could not be checked for their expiry; this is tried again: %s", error.message)


def _folder_ids(folder: str) -> frozenset[str]:
    """Ids in ``plugins_dir``. A folder that cannot be read is the loop's to report."""
    found: set[str] = set()
    if folder:
        for path in sorted(p.parent for p in Path(folder).glob("*/manifest.json")):
            try:
                found.add(read_folder(path).manifest.id)
            except Refusal:
                continue
    return frozenset(found)


def main(connection: Any, settings: dict[str, Any]) -> None:
    """Target of the side process; returns at the link's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C on the terminal is the supervisor's to answer
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    given = Settings.model_validate(settings)
    declare_all(given.declared_hooks())
    Bounds.use(given)
    registrar = Registrar(_Link(connection), given)
    registrar.run()
    registrar.note_at_end()
    os._exit(0)  # the lanes may be in the middle of something; every point of it may be the last
