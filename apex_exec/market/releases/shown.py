"""What authors see of how their plugins do: by version installs, calls, failures, times, and where it fails. It only
reads, and nothing of it is about a user."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from apex_exec.common.names import version_key
from apex_exec.errors import FAILURES
from apex_exec.market.releases import stages
from apex_exec.market.releases.figures import Version, by_version, counted_ns, percentile_ms
from apex_exec.market.releases.signatures import signatures
from apex_exec.market.review.authors import own_submissions
from apex_exec.market.review.states import OFFERED

PLUGINS_MAX, VERSIONS_MAX, SIGNATURES_MAX = 100, 20, 20
"""What one answer has at most: the latest versions, and of each the most frequent failures."""


def author_figures(db: sa.Connection, name: str, plugin: str = "") -> dict[str, Any]:
    """The versions of ``name``'s plugins that were put on offer, newest first, or those of one plugin. Only bytes that
    the author submitted count: whatever else an operator runs under the same id is not the author's to see. Raises
    Refusal("submitter_missing")."""
    own = {one.digest: one for one in own_submissions(db, name) if one.state in OFFERED and plugin in ("", one.plugin)}
    counted = {one.digest: one for one in by_version(db, {one.plugin for one in own.values()})}
    percents = {one.digest: one.percent for one in stages.every(db)}
    found: dict[str, list[dict[str, Any]]] = {}
    for digest, one in sorted(own.items(), key=lambda item: version_key(item[1].version), reverse=True):
        known = counted.get(digest, Version(one.plugin, one.version, digest))
        versions = found.setdefault(one.plugin, [])
        if len(versions) < VERSIONS_MAX:
            versions.append({**_row(known), "state": one.state, "percent": percents.get(digest, 100),
                             "signatures": signatures(db, digest, SIGNATURES_MAX)})
    return {"name": name, "countedNs": counted_ns(db), "pluginsInAll": len(found),
            "plugins": [{"plugin": id_, "versions": found[id_]} for id_ in sorted(found)[:PLUGINS_MAX]]}


def _row(one: Version) -> dict[str, Any]:
    tally = one.figures.tally
    return {"version": one.version, "installs": one.installs, "calls": tally.calls, "failures": tally.failures,
            "failureRate": tally.rate, "codes": {code: count for code, count in sorted(one.figures.codes.items())
                                                 if code in FAILURES},
            "p50Ms": percentile_ms(one.figures.times, 0.5), "p95Ms": percentile_ms(one.figures.times, 0.95)}
