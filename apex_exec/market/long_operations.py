"""Operations that may outlast their request: each has an id, a state and a row in the market's store.

``ask`` returns the result if it is ready within ``ANSWER_SECONDS``, and otherwise the id, with which ``status`` shows
the progress and the outcome. The work runs in a thread of its own, one operation after another. Its row is written
before the work begins, and says ``done`` in the transaction that does what cannot be undone. So a row that says
``running``, although no thread of this process runs it, belongs to work that was cut off and changed nothing.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market.arguments import Month
from apex_exec.market.progress import Progress
from apex_exec.market.shop.storefront import Shop
from apex_exec.market.store import lasting
from apex_exec.registry.context import Context

ANSWER_SECONDS = 1.0
"""How long we wait for an operation before we answer with its id."""
OPEN_MAX = 16
"""How many operations may run or wait."""
RESULTS_MAX = 4
"""How many results are kept in memory: a platform's statement may have ten megabytes. The store has those of closed
months."""
ROWS_MAX = 100
"""For how many of the latest operations the store keeps the outcome."""
RUNNING, DONE, FAILED = "running", "done", "failed"
log = logging.getLogger(__name__)


class Running:
    """One operation of this process. ``done`` is set when its outcome is known: ``result`` or ``refusal``."""

    def __init__(self, number: str, op: str, context: Context, args: Month, asked_ns: int) -> None:
        self.id = number
        self.op = op
        self.context = context
        self.args = args
        self.asked_ns = asked_ns
        self.progress = Progress()
        self.asked = time.monotonic()
        self.done = threading.Event()
        self.ended = 0.0
        """When it ended, by the monotonic clock."""
        self.outlasted = False
        """True once its id was returned as the answer instead of the outcome."""
        self.result: Any = None
        self.refusal: Refusal | None = None

    def commit(self, db: sa.Connection, now_ns: int) -> None:
        """Marks the operation as done in the open transaction: it is done if and only if that transaction is committed.
        """
        db.execute(sa.update(lasting).where(lasting.c.id == self.id).values(
            state=DONE, ended_ns=now_ns))


Work = Callable[[Running], Any]
_here: set[str] = set()
"""The ids of the operations that this process runs, for all shops."""


class Lasting:
    """The operations of one shop. ``works`` maps names to the work; ``again`` maps names to a function that reads the
    result of a finished operation from the store (names without one have no result there)."""

    def __init__(self, shop: Shop, works: dict[str, Work], again: dict[str, Callable[[Month], Any]]) -> None:
        self._shop = shop
        self._works = works
        self._again = again
        self._lock = threading.Lock()
        self._open: dict[tuple[str, bytes], Running] = {}
        self._ended: OrderedDict[str, Running] = OrderedDict()
        self._queue: deque[Running] = deque()
        self._thread: threading.Thread | None = None

    def ask(self, context: Context, op: str, args: Month, check: Callable[[], Any] = lambda: None) -> Any:
        """The result, or what ``status`` shows if it takes longer. A request for an operation that already runs joins
        it.

        ``check`` is called before an operation begins, and may raise. Raises Refusal: billing_busy, and the operation's
        own.
        """
        key = op, msgspec.json.encode(args)
        with self._lock:
            running = self._open.get(key)
            if running is None:
                check()
                running = self._begin(context, op, args)
                self._open[key] = running
                self._queue.append(running)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="market-lasting", daemon=True)
                    self._thread.start()
        if not running.done.wait(max(0.0, running.asked + ANSWER_SECONDS - time.monotonic())):
            running.outlasted = True
            return _state_of(running)
        if running.refusal is not None:
            raise running.refusal
        return self._result(running)

    def kept(self, op: str, args: Month, seconds_max: float) -> Any:
        """The result of an operation with these arguments that ended at most ``seconds_max`` ago; None if there is
        none. Who asks for one page after the other would otherwise have each of them computed anew."""
        with self._lock:
            return next((one.result for one in reversed(self._ended.values()) if one.op == op and one.args == args and
                         one.result is not None and time.monotonic() - one.ended <= seconds_max), None)

    def status(self, number: str) -> Any:
        """One operation, or without a number the latest ones, without results. Raises Refusal("operation_unknown")."""
        alive = frozenset(_here)  # read before the rows, because an operation may end meanwhile
        if not number:
            return [_row(row, alive) for row in self._shop.read(lambda db: db.execute(
                sa.select(lasting).order_by(lasting.c.asked_ns.desc(), lasting.c.id)).all())]
        with self._lock:
            running = self._ended.get(number) or next((one for one in self._open.values() if one.id == number), None)
        if running is not None:
            found = _state_of(running)
            if found["state"] == DONE:
                found["result"] = self._result(running)
            return found
        row = self._shop.read(lambda db: db.execute(sa.select(lasting).where(lasting.c.id == number)).first())
        if row is None:
            raise Refusal("operation_unknown",
                          f"the operation {number[:80]!a} is unknown; only the latest {ROWS_MAX} are kept",
                          code=Code.NOT_FOUND, hint="apex-exec billing status lists them")
        found = _row(row, alive)
        if found["state"] == DONE and row.op in self._again:
            found["result"] = self._again[row.op](msgspec.json.decode(row.args, type=Month))
        return found

    # ------------------------------------------------------------------ the thread
    def _begin(self, context: Context, op: str, args: Month) -> Running:
        if len(self._open) >= OPEN_MAX:
            raise Refusal("billing_busy",
                          f"{OPEN_MAX} reports and closings are already running or waiting", code=Code.OVERLOADED,
                          hint="wait until one has ended: apex-exec billing status lists them")
        running = Running(f"{op.rpartition('.')[2]}-{args.month}-{secrets.token_hex(4)}", op, context, args,
                          self._shop.now_ns())

        def work(db: sa.Connection) -> None:
            kept = sa.select(lasting.c.id).order_by(lasting.c.asked_ns.desc(), lasting.c.id).limit(ROWS_MAX - 1)
            ids = set(db.execute(kept).scalars())
            db.execute(sa.delete(lasting).where(lasting.c.id.not_in(ids | _here)))
            db.execute(sa.insert(lasting).values(
                id=running.id, op=op, args=_encoded(args), asked_ns=running.asked_ns,
                state=RUNNING, refusal=""))

        _here.add(running.id)
        try:
            self._shop.read(work)
        except BaseException:
            _here.discard(running.id)
            raise
        return running

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._thread = None
                    return
                running = self._queue.popleft()
            try:
                running.result = self._works[running.op](running)
            except Refusal as error:
                running.refusal = error
            except Exception as error:  # noqa: BLE001 - it ends one operation, not the thread
                log.exception("%s failed", running.op)
                running.refusal = Refusal("internal", f"{running.op} failed: {type(error).__name__}: {error}"[:500],
                                          code=Code.INTERNAL)
            self._end(running)

    def _end(self, running: Running) -> None:
        """Records how it ended. A committed operation is done, whatever failed afterwards."""
        def work(db: sa.Connection) -> bool:
            refusal = running.refusal
            state = DONE if refusal is None else FAILED
            text = msgspec.json.encode(_refused(refusal)).decode() if refusal is not None else ""
            return bool(db.execute(sa.update(lasting).where(
                lasting.c.id == running.id, lasting.c.state == RUNNING).values(
                    state=state, refusal=text, ended_ns=self._shop.now_ns())).rowcount)

        try:
            if not self._shop.read(work) and running.refusal is not None:
                running.refusal = None
        except Refusal as error:
            log.error("the outcome of %s could not be stored: %s", running.id, error.message)
        if running.refusal is not None and running.outlasted:
            running.context.audit("daemon", f"{running.op}.failed", {
                "operation": running.id, "month": running.args.month, "askedBy": running.context.uid,
                "reason": running.refusal.reason})
        with self._lock:
            self._open = {key: one for key, one in self._open.items() if one is not running}
            self._ended[running.id] = running
            while len(self._ended) > RESULTS_MAX:
                self._ended.popitem(last=False)
            _here.discard(running.id)
        running.ended = time.monotonic()
        running.done.set()

    def _result(self, running: Running) -> Any:
        if running.result is None and running.op in self._again:
            return self._again[running.op](running.args)
        return running.result


def _encoded(args: Month) -> str:
    """What the row says of them, which every release can read."""
    return msgspec.json.encode(Month(args.month, args.author, args.customer)).decode()


def _row(row: sa.Row[Any], alive: frozenset[str]) -> dict[str, Any]:
    refusal = msgspec.json.decode(row.refusal) if row.refusal else None
    cut_off = row.state == RUNNING and row.id not in alive and row.id not in _here
    if cut_off:
        refusal = {"code": str(Code.INTERNAL), "reason": "cut_off", "message": "the registrar ended in the middle of "
                   "it; nothing was changed", "hint": "request it again"}
    return _shown(row.id, row.op, msgspec.json.decode(row.args, type=Month), row.asked_ns,
                  FAILED if cut_off else row.state, None, refusal)


def _state_of(running: Running) -> dict[str, Any]:
    if not running.done.is_set():
        state, refusal = RUNNING, None
    else:
        refusal = _refused(running.refusal) if running.refusal is not None else None
        state = FAILED if refusal else DONE
    return _shown(running.id, running.op, running.args, running.asked_ns, state, running.progress.shown(), refusal)


def _shown(number: str, op: str, args: Month, asked_ns: int, state: str, progress: Any, refusal: Any
           ) -> dict[str, Any]:
    return {"operation": number, "op": op, "month": args.month, "author": args.author, "customer": args.customer,
            "askedNs": asked_ns, "state": state, "progress": progress, "result": None, "refusal": refusal}


def _refused(error: Refusal) -> dict[str, Any]:
    return {"code": str(error.code), "message": error.message, **error.wire_details()}
