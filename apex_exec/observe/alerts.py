"""The alerts for Prometheus, one row each: when it fires, what it means, and what to do first.

``rules`` makes a rule file of them. A condition names metrics of ``metrics.METRICS`` only, which a test holds. What to
do first stands in the README of this folder as well.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from apex_exec.observe.metrics import PREFIX

RUNBOOK = "apex_exec/observe/README.md"
OURS = "OVERLOADED|AUDIT_UNAVAILABLE|INTERNAL|SHUTTING_DOWN|NODE_LOST"
"""Outcomes that are the daemon's fault and not a plugin's: they spend the error budget."""
UNWANTED = "deadline|memory|cpu|crashed|violation|boot_failed"
BUDGET = 0.001
"""The share of invocations that may fail by the daemon's fault: 99.9 % are served."""


def _share(outcomes: str, window: str) -> str:
    """The share of the calls in ``window`` that ended in one of ``outcomes``."""
    return ('sum(rate({P}invocations_total{J,outcome=~"' + outcomes + '"}[' + window + "])) / "
            "sum(rate({P}invocations_total{J}[" + window + "]))")


def _burns(times: float, short: str, long: str) -> str:
    """The error budget burns that many times too fast, now and for a while."""
    return f"{_share(OURS, short)} > {times * BUDGET:g} and {_share(OURS, long)} > {times * BUDGET:g}"


class Alert(NamedTuple):
    """``condition`` is PromQL in which ``{P}`` stands for the metrics' prefix and ``{J}`` for the selector of the job.
    ``minutes`` is for how long it must hold, ``summary`` one line with the alert's labels, ``first`` what to do."""

    name: str
    severity: str
    minutes: int
    condition: str
    summary: str
    first: str


ALERTS = (
    Alert("ApexExecDown", "critical", 1, "up{J} == 0 or absent(up{J})", "apex-exec cannot be scraped",
          "Look whether the daemon runs (`apex-exec status`) and whether Prometheus reaches `[http] address`; the log "
          "tells how the daemon ended."),
    Alert("ApexExecNotReady", "critical", 2, "{P}ready{J} == 0", "apex-exec takes no calls",
          "`curl http://ADDRESS/readyz` names each reason."),
    Alert("ApexExecIsolationLow", "critical", 1, "{P}isolation_level{J} < {P}isolation_level_min{J}",
          "workers are isolated less than configured",
          "`apex-exec doctor` says which layer is missing and how to get it."),
    Alert("ApexExecAuditNotWritable", "critical", 1, "{P}audit_writable{J} == 0", "the ledger takes no records",
          "No call is admitted meanwhile. Look at the disk of `state_dir` and at the log of the ledger process."),
    Alert("ApexExecAuditLag", "warning", 5, "{P}audit_lag_seconds{J} > 1",
          "records of the ledger wait {{ $value | humanizeDuration }} for the disk",
          "The disk of `state_dir` is slow or shared; above 300 ms calls are refused for a while."),
    Alert("ApexExecBreakerOpen", "warning", 1, '{P}breaker_state{J,state="open"} == 1',
          "plugin {{ $labels.plugin }} is paused since its workers ended too often",
          "`apex-exec plugin logs PLUGIN` tells why; `apex-exec breaker reset PLUGIN` lets it try again, "
          "`plugin rollback` serves the version before."),
    Alert("ApexExecWorkersEnd", "warning", 10,
          'sum by (plugin) (rate({P}worker_exits_total{J,reason=~"' + UNWANTED + '"}[10m])) * 60 > 1',
          "workers of plugin {{ $labels.plugin }} end more than once a minute",
          "`apex-exec top` shows what it uses, `plugin logs` what it says; consider `plugin quarantine`."),
    Alert("ApexExecUserPaused", "info", 1, 'increase({P}user_limited_total{J,limit="breaker"}[15m]) > 0',
          "calls of one user of plugin {{ $labels.plugin }} end its worker",
          "The event `security.anomaly` of the ledger names the user and the hook; the author needs the input."),
    Alert("ApexExecThrottled", "info", 15, "rate({P}worker_throttled_seconds_total{J}[10m]) > 0.5",
          "plugin {{ $labels.plugin }} is held back for more than half of the time",
          "It uses its whole share of the CPU. Its hooks have to do less, or its limit has to be raised."),
    Alert("ApexExecBudgetBurnsFast", "critical", 2,
          _burns(14.4, "5m", "1h"),
          "{{ $value | humanizePercentage }} of the calls fail by the daemon's fault: a budget lasts two days",
          "By `outcome`: OVERLOADED is too many calls for this machine, AUDIT_UNAVAILABLE is the ledger, and INTERNAL "
          "is a fault of the daemon, which the log tells."),
    Alert("ApexExecBudgetBurns", "warning", 15,
          _burns(6, "30m", "6h"),
          "{{ $value | humanizePercentage }} of the calls fail by the daemon's fault: a budget lasts five days",
          "As for ApexExecBudgetBurnsFast, with more time."),
    Alert("ApexExecLoopLags", "warning", 10,
          "histogram_quantile(0.99, sum by (le) (rate({P}loop_lag_seconds_bucket{J}[5m]))) > 0.05",
          "the supervisor's loop wakes up late",
          "The machine has too little CPU, or swaps; deadlines are kept late meanwhile."),
    Alert("ApexExecSideProcessDies", "warning", 1,
          "sum by (process) (increase({P}side_process_restarts_total{J}[15m])) > 3",
          "the process {{ $labels.process }} dies again and again", "The log tells how it ended."),
    Alert("ApexExecDutyFails", "warning", 1, "sum by (duty) (increase({P}duty_failures_total{J}[15m])) > 0",
          "a duty of the supervisor failed: {{ $labels.duty }}",
          "A fault of the daemon: the log has its traceback. The plugin concerned was paused."),
    Alert("ApexExecLedgerGrows", "warning", 60, "deriv({P}audit_database_bytes{J}[6h]) * 86400 > 5e9",
          "the ledger grows by {{ $value | humanize1024 }}B a day",
          "`apex-exec audit report` shows which events; `audit.retention_days` bounds what is kept."),
    Alert("ApexExecBackupOld", "warning", 60,
          "time() - {P}backup_last_success_seconds{J} > 2 * 86400 and {P}backup_last_success_seconds{J} > 0",
          "the last backup is {{ $value | humanizeDuration }} old",
          "Run `apex-exec backup FOLDER`, and look at the timer that should have."),
    Alert("ApexExecReloadFailed", "warning", 1, "{P}config_last_reload_successful{J} == 0",
          "the last reload of the configuration was refused",
          "`apex-exec config check FILE` says why; the configuration before it is in force."),
    Alert("ApexExecMarketIndexStale", "warning", 15, "{P}market_index_stale{J} == 1",
          "the marketplace's index is stale: revocations may be missed", "Look whether its address can be reached."),
    Alert("ApexExecMarketIndexExpires", "warning", 60,
          "{P}market_index_expires_timestamp_seconds{J} - time() < 86400 and "
          "{P}market_index_expires_timestamp_seconds{J} > 0",
          "the marketplace's index expires within a day",
          "Its operator publishes a new one: `apex-exec market publish`."),
    Alert("ApexExecTracesLost", "info", 10,
          'sum by (outcome) (increase({P}trace_spans_total{J,outcome!="exported"}[15m])) > 0',
          "spans of traced calls are lost: {{ $labels.outcome }}",
          "`undelivered`: the log says why `traces.endpoint` takes none; `dropped`: it takes fewer than there are, so "
          "lower `traces.sample_ratio`, or have hosts sample fewer calls."),
    Alert("ApexExecHaltedServed", "warning", 15, "{P}market_halted_served{J} > 0",
          "{{ $value }} plugins are served in a version whose release was halted because it fails too often",
          "The log names them: `plugin rollback` goes back, and market.halted = \"go_back\" does so by itself."),
    Alert("ApexExecTicketsNear", "warning", 1, '{P}market_tickets{J,state="near"} > 0',
          "{{ $value }} tickets of paid plugins have to be answered within four hours",
          "The page Support of the console has them first; an author answers with `market ticket respond`."),
    Alert("ApexExecTicketsLate", "critical", 1, '{P}market_tickets{J,state="late"} > 0',
          "{{ $value }} tickets of paid plugins were not answered within 24 hours",
          "Answer them now (`market ticket list` names their plugins), and tell the customers: the promise is broken."),
)


def expression(condition: str, job: str) -> str:
    """``condition`` for the scrape job ``job``."""
    selector = "job=" + json.dumps(job)
    return condition.replace("{P}", PREFIX).replace("{J,", "{" + selector + ",").replace("{J}", "{" + selector + "}")


def rules(job: str = "apex-exec") -> str:
    """Returns a rule file for Prometheus, as YAML, for the scrape job ``job``."""
    lines = ["groups:", "- name: apex-exec", "  rules:"]
    for alert in ALERTS:
        lines += [f"  - alert: {alert.name}", f"    expr: {_quoted(expression(alert.condition, job))}",
                  f"    for: {alert.minutes}m", "    labels:", f"      severity: {alert.severity}", "    annotations:",
                  f"      summary: {_quoted(alert.summary)}", f"      description: {_quoted(alert.first)}",
                  f"      runbook: {_quoted(f'{RUNBOOK}#{alert.name.lower()}')}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A scalar of YAML: its double-quoted form is JSON's."""
    return json.dumps(text, ensure_ascii=False)
