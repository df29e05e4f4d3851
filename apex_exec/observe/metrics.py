"""The table of all metrics, and the counters that the loop updates. Plain dictionaries: an update costs less than 1 µs.

Nothing is rendered here. Changes are sent to the exporter process, which has the same table and serves ``/metrics``.
The counters live here, in the supervisor, so they survive worker generations and restarts of the exporter.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, structs

from apex_exec.observe import messages

if TYPE_CHECKING:
    from apex_exec.core.actions import Verdict

PREFIX = "apex_exec_"
LATENCY_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Buckets for what a caller waits for: from half a millisecond to the default timeout."""
DELAY_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
"""Buckets for the supervisor's own delays."""

Labels = tuple[str, ...]
_Key = tuple[str, Labels]


class Metric(Struct, frozen=True):
    """One metric. ``kind``: counter, gauge or histogram. ``name`` has no prefix; names of counters end in ``_total``.
    """

    name: str
    kind: str
    help: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS = _table(
    Metric("invocations_total", "counter", "Invocations by outcome: ok or the error code.",
           ("plugin", "hook", "outcome")),
    Metric("invocation_duration_seconds", "histogram", "From a hook's start to its end, as measured by the supervisor.",
           ("hook",), LATENCY_SECONDS),
    Metric("queue_duration_seconds", "histogram", "From arrival to a hook's start, including a cold start.",
           ("hook",), LATENCY_SECONDS),
    Metric("cold_start_seconds", "histogram", "From the fork request to a worker that has loaded its plugin.", (),
           LATENCY_SECONDS),
    Metric("in_flight", "gauge", "Calls that a plugin's worker has and has not answered.", ("plugin",)),
    Metric("bystanders_total", "counter", "Calls that were lost as their worker was killed for another user's call.",
           ("plugin",)),
    Metric("queued", "gauge", "Calls that wait for room on the link or for a worker.", ("plugin",)),
    Metric("workers", "gauge", "Workers by state.", ("state",)),
    Metric("worker_exits_total", "counter", "Worker exits by reason.", ("plugin", "reason")),
    Metric("worker_memory_bytes", "gauge", "Memory of a plugin's worker in the latest sample.", ("plugin",)),
    Metric("worker_cpu_seconds_total", "counter", "CPU time of a plugin's workers.", ("plugin",)),
    Metric("worker_throttled_seconds_total", "counter", "Time for which a plugin's workers were throttled.",
           ("plugin",)),
    Metric("plugin_overhead_seconds_total", "counter",
           "CPU time of the daemon's own processes for a plugin, by process: supervisor, checks, places, gateway, "
           "registrar, ledger, log.", ("plugin", "where")),
    Metric("kill_delay_seconds", "histogram",
           "From the moment at which a kill was due (a deadline, a pong that did not come) to the sending of SIGKILL.",
           (), DELAY_SECONDS),
    Metric("rate_limited_total", "counter", "Refusals by a rate limit.", ("plugin", "limit")),
    Metric("user_limited_total", "counter", "Refusals and pauses of one user of a plugin, by what the user used up: "
           "network (a share of the requests a minute), queue (a share of the plugin's queue) or breaker (calls "
           "that ended the worker).", ("plugin", "limit")),
    Metric("api_calls_total", "counter", "API calls of plugins by outcome.", ("plugin", "method", "outcome")),
    Metric("api_call_duration_seconds", "histogram", "From an API call's arrival to its answer.", ("method",),
           LATENCY_SECONDS),
    Metric("recent_failures", "gauge", "Failures of a plugin by its own fault in the last five minutes.",
           ("plugin",)),
    Metric("breaker_state", "gauge", "1 for the state that a plugin's breaker is in.", ("plugin", "state")),
    Metric("build_info", "gauge", "The daemon's version; the value is 1.", ("version", "python")),
    Metric("isolation_level", "gauge", "The isolation level in force, 0 to 4."),
    Metric("isolation_level_min", "gauge", "The lowest isolation level that the configuration accepts."),
    Metric("sandbox_layer_active", "gauge", "1 if a sandbox layer is applied to workers.", ("layer",)),
    Metric("audit_writable", "gauge", "1 while the ledger accepts records."),
    Metric("audit_database_bytes", "gauge", "Size of the ledger's database."),
    Metric("audit_events_total", "counter", "Audit records by event type.", ("event_type",)),
    Metric("audit_lag_seconds", "gauge", "Age of the oldest record that is not committed."),
    Metric("host_connections", "gauge", "Open connections of hosts."),
    Metric("ready", "gauge", "1 while /readyz answers 200."),
    Metric("draining", "gauge", "1 while no new calls are accepted: an operator drained the daemon, or it ends."),
    Metric("backup_last_success_seconds", "gauge", "When the last backup was made and verified, in Unix time."),
    Metric("config_last_reload_successful", "gauge", "1 if the last reload of the configuration was applied."),
    Metric("dropped_replies_total", "counter", "Replies whose receiver was gone."),
    Metric("loop_lag_seconds", "histogram", "How late the loop woke up, sampled.", (), DELAY_SECONDS),
    Metric("duty_failures_total", "counter", "Duties of the supervisor's loop that failed, by a fault of the daemon.",
           ("duty",)),
    Metric("side_process_restarts_total", "counter",
           "Deaths of the processes beside the loop, each followed by a restart: ledger, checks, places, registrar, "
           "gateway, exporter, traces.", ("process",)),
    Metric("market_index_refreshes_total", "counter",
           "Checks of the marketplace's index by outcome: ok, not_fetched, rolled_back, expired, refused.",
           ("outcome",)),
    Metric("market_index_stale", "gauge", "1 while the marketplace's index has expired or was never fetched."),
    Metric("market_index_expires_timestamp_seconds", "gauge",
           "When the latest accepted index expires."),
    Metric("market_tickets", "gauge", "Open tickets of paid plugins without a first answer: near the end of their "
           "24 hours (four hours or less), or late.", ("state",)),
    Metric("market_halts_total", "counter", "Releases in stages that were halted by their failures."),
    Metric("market_halted_served", "gauge", "Plugins that are served in a version whose release is halted."),
    Metric("market_revoked_total", "counter", "Installed versions that the marketplace's index revoked."),
    Metric("fleet_nodes", "gauge", "Nodes of the fleet, this one included, by state.", ("state",)),
    Metric("fleet_owned_plugins", "gauge", "Plugins that this node owns."),
    Metric("fleet_forwarded_total", "counter", "Calls that were forwarded to the node that owns their plugin.",
           ("node",)),
    Metric("fleet_node_lost_total", "counter", "Links to other nodes that ended unannounced.", ("node",)),
    Metric("registry_age_seconds", "gauge",
           "How old what is served of a registry on a server may be: the time since it was last known to be current."),
    Metric("chain_unshipped_events", "gauge",
           "Events of this daemon's ledger that the marketplace's server does not have yet."),
    Metric("trace_spans_total", "counter", "Spans of traced calls by outcome: exported, undelivered (the endpoint was "
           "away or refused them), dropped (there was no room to wait).", ("outcome",)),
    Metric("protocol_anomalies_total", "counter", "Messages that a correct peer never sends.", ("kind",)),
)

PER_PLUGIN = ("invocation_duration_seconds", "queue_duration_seconds")
"""Histograms that get a ``plugin`` label if ``metrics.per_plugin_histograms`` is on."""


def table(per_plugin_histograms: bool) -> dict[str, Metric]:
    """METRICS as configured, for the supervisor, which counts, and the exporter, which renders."""
    if not per_plugin_histograms:
        return METRICS
    wider = {name: structs.replace(METRICS[name], labels=("plugin", "hook")) for name in PER_PLUGIN}
    return METRICS | wider


class _Histogram:
    """A count for each bucket, with the last one for everything above them, and the sum."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.sum = 0.0


FAILED_MINUTES = 5
"""How many minutes of a plugin's failures ``recent_failures`` and ``daemon.status`` count."""
MINUTE_NS = 60_000_000_000
RECENT = 128
"""From how many run times of a plugin ``daemon.status`` computes quantiles; the loop sorts them in 10 µs."""
UNWANTED_EXITS = ("deadline", "cancelled", "memory", "cpu", "crashed", "violation", "boot_failed", "zygote_lost",
                  "faulted", "overrun")
"""Worker exits that the supervisor did not choose to save resources: each makes a restart necessary."""


class Tally:
    """What ``apex-exec top`` shows of one plugin, in addition to Prometheus's counters."""

    __slots__ = ("calls", "failed", "failures", "last_failure", "recent_ns")

    def __init__(self) -> None:
        self.calls = 0
        self.failed = 0
        self.failures: deque[list[int]] = deque(maxlen=FAILED_MINUTES)
        """[minute, number of failures by the plugin's fault in it]"""
        self.last_failure = ""
        self.recent_ns: deque[int] = deque(maxlen=RECENT)

    def failed_recently(self, now_ns: int) -> int:
        """The failures of the last FAILED_MINUTES."""
        oldest = now_ns // MINUTE_NS - FAILED_MINUTES
        return sum(count for minute, count in self.failures if minute > oldest)

    def quantiles_ms(self) -> tuple[float | None, float | None]:
        """The 50th and 99th percentile of the recent run times; None if there are none."""
        ordered = sorted(self.recent_ns)
        if not ordered:
            return None, None
        return ordered[len(ordered) // 2] / 1e6, ordered[len(ordered) * 99 // 100] / 1e6


class _Outcome:
    """The series of one plugin, hook and outcome, which a verdict finds by one look-up. ``pending`` verdicts are not in
    the counter yet. A histogram is None until something was observed: a call that is refused neither waits nor runs."""

    __slots__ = ("keys", "pending", "queued", "ran", "tally")

    def __init__(self, keys: tuple[_Key, _Key, _Key], tally: Tally) -> None:
        self.keys = keys
        self.tally = tally
        self.pending = 0
        self.queued: _Histogram | None = None
        self.ran: _Histogram | None = None


class Metrics:
    """All values. ``health`` maps each condition of readiness to what is wrong, or to "" if nothing is."""

    def __init__(self, *, per_plugin_histograms: bool = False) -> None:
        self.health: dict[str, str] = {}
        self.per_plugin_histograms = per_plugin_histograms
        self._values: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], _Histogram] = {}
        self._changed: dict[tuple[str, Labels], None] = {}
        self._forgotten: list[str] = []
        self._health_sent: dict[str, str] | None = None
        self._outcomes: dict[tuple[str, str, str], _Outcome] = {}
        """By plugin, hook and code."""
        self._unsettled: list[_Outcome] = []
        """Those with pending verdicts. Every reader calls ``_settle`` first."""
        self._table = table(per_plugin_histograms)
        self._tallies: dict[str, Tally] = {}
        self._failing: dict[str, None] = {}  # plugins with a failure in the last minutes

    # ------------------------------------------------------------------ updates
    def inc(self, name: str, labels: Labels = (), amount: float = 1.0) -> None:
        """Adds to a counter."""
        key = (name, labels)
        values = self._values
        values[key] = values.get(key, 0.0) + amount
        self._changed[key] = None

    def set(self, name: str, labels: Labels, value: float) -> None:
        """Sets a gauge."""
        key = (name, labels)
        if self._values.get(key) != value:
            self._values[key] = value
            self._changed[key] = None

    def get(self, name: str, labels: Labels = ()) -> float:
        """The value of a counter or gauge; 0 if it has none."""
        self._settle()
        return self._values.get((name, labels), 0.0)

    def observe(self, name: str, labels: Labels, value: float, count: int = 1) -> None:
        """Adds ``count`` observations of ``value`` seconds to a histogram."""
        self._observe((name, labels), METRICS[name].buckets, value, count)

    def _histogram(self, key: _Key, buckets: tuple[float, ...]) -> _Histogram:
        histogram = self._histograms.get(key)
        if histogram is None:
            histogram = self._histograms[key] = _Histogram(len(buckets))
        return histogram

    def _observe(self, key: tuple[str, Labels], buckets: tuple[float, ...], value: float, count: int = 1) -> None:
        histogram = self._histogram(key, buckets)
        histogram.counts[bisect_left(buckets, value)] += count
        histogram.sum += value * count
        self._changed[key] = None

    def invocation(self, verdict: Verdict, code: str) -> None:
        """Counts one verdict under its code on the wire ("" is a result)."""
        outcome = self._outcomes.get((verdict.plugin, verdict.hook, code)) or self._outcome(
            verdict.plugin, verdict.hook, code)
        # The same as ``_count`` and ``_observe``, but without their function calls: every verdict passes here.
        if not outcome.pending:
            self._unsettled.append(outcome)
        outcome.pending += 1
        tally = outcome.tally
        tally.calls += 1
        if code:
            tally.failed += 1
        histogram = outcome.queued
        if histogram is None:
            histogram = outcome.queued = self._histogram(outcome.keys[1], LATENCY_SECONDS)
        value = verdict.queue_ns / 1e9
        histogram.counts[bisect_left(LATENCY_SECONDS, value)] += 1
        histogram.sum += value
        if verdict.started:
            tally.recent_ns.append(verdict.run_ns)
            histogram = outcome.ran
            if histogram is None:
                histogram = outcome.ran = self._histogram(outcome.keys[2], LATENCY_SECONDS)
            value = verdict.run_ns / 1e9
            histogram.counts[bisect_left(LATENCY_SECONDS, value)] += 1
            histogram.sum += value

    def refused(self, plugin: str, hook: str, code: str) -> None:
        """Counts one call that was not admitted; it neither waited nor ran."""
        outcome = self._outcomes.get((plugin, hook, code)) or self._outcome(plugin, hook, code)
        if not outcome.pending:
            self._unsettled.append(outcome)
        outcome.pending += 1
        outcome.tally.calls += 1
        outcome.tally.failed += code != ""

    def _outcome(self, plugin: str, hook: str, code: str) -> _Outcome:
        labels = (plugin, hook) if self.per_plugin_histograms else (hook,)
        keys = (("invocations_total", (plugin, hook, code or "ok")),
                ("queue_duration_seconds", labels), ("invocation_duration_seconds", labels))
        outcome = self._outcomes[(plugin, hook, code)] = _Outcome(keys, self._tallies.setdefault(plugin, Tally()))
        return outcome

    def _settle(self) -> None:
        """Adds what is pending to the counters, and notes which series have changed by it."""
        if not self._unsettled:
            return
        values, changed = self._values, self._changed
        for outcome in self._unsettled:
            counter, queued, ran = outcome.keys
            values[counter] = values.get(counter, 0.0) + outcome.pending
            outcome.pending = 0
            changed[counter] = None
            if outcome.queued is not None:
                changed[queued] = None
            if outcome.ran is not None:
                changed[ran] = None
        self._unsettled.clear()

    def failure(self, plugin: str, what: str, now_ns: int) -> None:
        """Counts one failure by the plugin's own fault. ``what`` describes the latest one, on one short line."""
        tally = self._tallies.get(plugin)
        if tally is None:
            tally = self._tallies[plugin] = Tally()
        tally.last_failure = what
        failures, minute = tally.failures, now_ns // MINUTE_NS
        if failures and failures[-1][0] == minute:
            failures[-1][1] += 1
        else:
            failures.append([minute, 1])
        self._failing[plugin] = None

    def upkeep(self, now_ns: int) -> None:
        """Sets the gauge of the plugins that have failed recently. Call it once a second."""
        for plugin in list(self._failing):
            count = self._tallies[plugin].failed_recently(now_ns)
            self.set("recent_failures", (plugin,), float(count))
            if not count:
                del self._failing[plugin]

    @property
    def failing(self) -> Collection[str]:
        """The plugins that have failed by their own fault in the last FAILED_MINUTES."""
        return self._failing.keys()

    def count(self, plugin: str, what: Literal["calls", "failures"]) -> int:
        """The calls of ``plugin`` so far, or those that failed."""
        tally = self._tallies.get(plugin)
        return 0 if tally is None else tally.calls if what == "calls" else tally.failed

    def totals(self) -> dict[str, float]:
        """Calls and failed calls of all plugins that are known, and the seconds for which they were throttled."""
        tallies = self._tallies
        return {"calls": sum(tally.calls for tally in tallies.values()),
                "failed": sum(tally.failed for tally in tallies.values()),
                "throttledSeconds": sum(self.get("worker_throttled_seconds_total", (plugin,)) for plugin in tallies)}

    def durations(self) -> list[int]:
        """How many hooks ran for as long as each bucket of LATENCY_SECONDS says; the last count is for longer ones."""
        counts = [0] * (len(LATENCY_SECONDS) + 1)
        for (name, _), histogram in self._histograms.items():
            if name == "invocation_duration_seconds":
                counts = [mine + more for mine, more in zip(counts, histogram.counts, strict=True)]
        return counts

    def tally(self, plugin: str, now_ns: int) -> dict[str, Any]:
        """Calls, failures, quantiles of the latest run times, unwanted worker exits and CPU time of ``plugin``."""
        tally = self._tallies.get(plugin) or Tally()
        p50_ms, p99_ms = tally.quantiles_ms()
        restarts = sum(self.get("worker_exits_total", (plugin, reason)) for reason in UNWANTED_EXITS)
        return {"calls": tally.calls, "failed": tally.failed, "failedRecently": tally.failed_recently(now_ns),
                "lastFailure": tally.last_failure, "p50Ms": p50_ms, "p99Ms": p99_ms,
                "restarts": int(restarts), "cpuSeconds": self.get("worker_cpu_seconds_total", (plugin,)),
                "throttledSeconds": self.get("worker_throttled_seconds_total", (plugin,))}

    def forget_plugin(self, plugin: str) -> None:
        """Deletes every series of ``plugin``, which was removed."""
        self._settle()
        self._tallies.pop(plugin, None)
        self._failing.pop(plugin, None)
        for values in (self._values, self._histograms):
            for key in [key for key in values if self._plugin_of(key) == plugin]:
                del values[key]
                self._changed.pop(key, None)
        for known in [known for known in self._outcomes if known[0] == plugin]:
            del self._outcomes[known]
        self._forgotten.append(plugin)

    # ------------------------------------------------------------------ to the exporter
    def resend(self) -> None:
        """Marks everything as changed, because a new exporter has started."""
        self._settle()
        self._changed = dict.fromkeys((*self._values, *self._histograms))
        self._health_sent = None

    @property
    def changed(self) -> bool:
        """Whether a series has changed since the last report."""
        return bool(self._changed or self._unsettled)

    def changes(self, limit: int) -> list[messages.Forget | messages.Series | messages.Health]:
        """Up to ``limit`` changed series as messages for the exporter, followed by the health if that changed."""
        found: list[messages.Forget | messages.Series | messages.Health] = [
            messages.Forget(plugin) for plugin in self._forgotten]
        self._forgotten.clear()
        self._settle()
        series: list[Any] = []
        changed = self._changed
        while changed and len(series) < limit:
            key, _ = changed.popitem()
            histogram = self._histograms.get(key)
            value = [histogram.sum, *histogram.counts] if histogram is not None else self._values[key]
            series.append((key[0], key[1], value))
        if series:
            found.append(messages.Series(series))
        if self.health != self._health_sent:
            self._health_sent = dict(self.health)
            found.append(messages.Health(self._health_sent))
        return found

    def _plugin_of(self, key: tuple[str, Labels]) -> str:
        names = self._table[key[0]].labels
        return key[1][0] if names and names[0] == "plugin" else ""
