"""``market report``: for each plugin what it earned, where it runs, and how well it is tested, supported and reviewed.
It only reads."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.market import support
from apex_exec.market.money import sales
from apex_exec.market.review import submissions as subs
from apex_exec.market.store import moves, submissions

MONEY = ("revenue", "fee", "author")
COLUMNS = ("plugin", "version", "state", "currency", *MONEY, "sold", "refunded", "activeInstalls", "everybody",
           "coverage", "tickets", "slaBreached", "slaWaiting", "slowestResponseSeconds", "reviews", "meanReviewSeconds",
           "slowestReviewSeconds")


def market_report(db: sa.Connection, now_ns: int, enabled: dict[str, set[str]]) -> list[dict[str, Any]]:
    """One row per plugin and currency (free plugins have no currency). ``enabled`` maps each plugin to the users it is
    enabled for now, "" for everybody. Money is in minor units; ``revenue`` is gross minus refunds; times are in
    seconds."""
    money: dict[str, dict[str, dict[str, int]]] = {}
    for one in sales.everything(db):
        sums = money.setdefault(one.plugin, {}).setdefault(one.currency, {"revenue": 0, "fee": 0, "author": 0,
                                                                          "sold": 0, "refunded": 0})
        sums["sold"] += 1
        if one.refunded_ns is None:
            sums["revenue"] += one.gross
            sums["fee"] += one.fee
            sums["author"] += one.author_share
        else:
            sums["refunded"] += 1
    answered = {row["plugin"]: row for row in support.report(db, now_ns)}
    reviewed = _review_seconds(db)
    rows = []
    for plugin in db.execute(sa.select(submissions.c.plugin).distinct().order_by(submissions.c.plugin)).scalars():
        offer = subs.listing(db, plugin)
        users = enabled.get(plugin, set())
        found = msgspec.json.decode(offer.result) if offer is not None and offer.result else {}
        help_ = answered.get(plugin, {"tickets": 0, "breached": 0, "waiting": 0, "slowestSeconds": 0})
        seconds = reviewed.get(plugin, [])
        common = {"plugin": plugin, "version": offer.version if offer else "", "state": offer.state if offer else "",
                  "everybody": "" in users, "activeInstalls": len(users - {""}), "coverage": found.get("coverage", ""),
                  "tickets": help_["tickets"], "slaBreached": help_["breached"], "slaWaiting": help_["waiting"],
                  "slowestResponseSeconds": help_["slowestSeconds"], "reviews": len(seconds),
                  "slowestReviewSeconds": max(seconds, default=0),
                  "meanReviewSeconds": sum(seconds) // len(seconds) if seconds else 0}
        none = {"revenue": 0, "fee": 0, "author": 0, "sold": 0, "refunded": 0}
        for currency, sums in sorted(money.get(plugin, {"": none}).items()):
            rows.append({**common, "currency": currency, **sums})
    return rows


def _review_seconds(db: sa.Connection) -> dict[str, list[int]]:
    """plugin → seconds from submission to a person's decision, for each round that was decided."""
    joined = sa.select(submissions.c.plugin, moves.c.submission, moves.c.to_state, moves.c.from_state, moves.c.at_ns
                       ).join(submissions, submissions.c.id == moves.c.submission).order_by(moves.c.id)
    begun: dict[int, int] = {}
    out: dict[str, list[int]] = {}
    for row in db.execute(joined):
        if row.to_state == "submitted":
            begun[row.submission] = row.at_ns
        elif row.from_state == "in_review" and row.submission in begun:
            out.setdefault(row.plugin, []).append((row.at_ns - begun[row.submission]) // 10**9)
    return out
