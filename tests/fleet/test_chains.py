"""A month's bill over several daemons' ledgers is the sum of all events, each once, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.ledger.chain import own_chain, read_chain
from apex_exec.market.money import chains, shipping
from apex_exec.market.money.shipping import Shipper
from apex_exec.market.store import open_market
from tests.fleet.chains import USERS, Ledger, kill
from tests.market.shops import Market, at
from tests.support.daemon import wait_for
from tests.support.postgres import Postgres

NOW = at("2026-10-06")
LATE = "99999999-1111-4111-8111-111111111111"


def shipper(engine: sa.Engine, ledger: Ledger, now_ns: int = NOW) -> Shipper:
    return Shipper(engine, ledger.state, ledger.database, ledger.name, lambda: now_ns)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.url("chains")


def test_what_is_shipped_is_there_once_by_users_names_and_can_be_verified_by_anybody(
        url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "SEGMENT_EVENTS_MAX", 7)
    engine = open_market(url)
    ledgers = [Ledger(tmp_path, name) for name in ("one", "two", "three")]
    for ledger in ledgers:
        ledger.write(40)
        assert shipper(engine, ledger).ship() == 40
        assert shipper(engine, ledger).ship() == 0, "another process goes on where this one was"
    ledgers[0].write(5, seed=1)
    assert shipper(engine, ledgers[0]).ship() == 5
    with engine.connect() as db:
        usage = chains.usage_of(db, "2026-10")
        known = chains.every(db)
    wanted = sum((ledger.calls for ledger in ledgers), Counter())
    assert {(user, month): one.calls for (_, user, month), one in usage.items()} == wanted
    assert sum(one.cpu_us for one in usage.values()) == sum(ledger.cpu_us for ledger in ledgers)
    assert [(one.node, one.from_seq, one.to_seq) for one in known] == [("one", 1, 45), ("three", 1, 40), ("two", 1, 40)]
    found = chains.verify_chains(engine)
    assert [one.problem for one in found] == ["", "", ""] and sum(one.last for one in found) == 125
    for damage, says in (
            ("UPDATE chain_usage SET calls = calls + 1 WHERE user_id = :user", "sums of sums in 2026-10"),
            ("UPDATE chains SET covered_ns = covered_ns + 1", "not signed"),
            ("UPDATE chain_segments SET hash = prev_hash WHERE from_seq = 8", "not what was shipped"),
            ("DELETE FROM chain_segments WHERE from_seq = 8", "from event 8 is missing")):
        with engine.connect() as db, db.begin() as whole:
            db.execute(sa.text(damage), {"user": USERS[0]} if ":user" in damage else {})
            whole.commit()
        assert says in chains.verify_chains(engine)[0].problem, damage
    engine.dispose()


def test_a_ledger_that_does_not_continue_its_chain_is_not_shipped_until_somebody_accepts_it(
        url: str, tmp_path: Path) -> None:
    engine = open_market(url)
    ledger = Ledger(tmp_path, "one")
    ledger.write(10)
    shutil.copytree(ledger.state, tmp_path / "older")
    ledger.write(10, seed=1)
    first = shipper(engine, ledger)
    first.ship()
    name = own_chain(ledger.state).name
    for path in [*ledger.state.glob("audit.*"), ledger.state / "ledger.anchor"]:
        path.unlink()
    for path in [*(tmp_path / "older").glob("audit.*"), tmp_path / "older" / "ledger.anchor"]:
        shutil.copy(path, ledger.state / path.name)
    with pytest.raises(Refusal) as caught:
        first.ship()
    assert caught.value.reason == "chain_forked" and "audit accept" in caught.value.hint
    ledger.write(15, seed=2)  # it is longer now, with other events
    with pytest.raises(Refusal) as caught:
        first.ship()
    assert caught.value.reason == "chain_forked"
    assert first.begin_anew() == f"{name}.1" and first.ship() == 25
    assert read_chain(ledger.state).id == own_chain(ledger.state).id  # type: ignore[union-attr]  # it is there
    assert [one.problem for one in chains.verify_chains(engine)] == ["", ""]
    engine.dispose()


def test_two_daemons_with_one_chain_id_are_told_apart_and_only_one_ships(url: str, tmp_path: Path) -> None:
    engine = open_market(url)
    ledger, copy = Ledger(tmp_path, "one"), Ledger(tmp_path, "copy")
    ledger.write(10)
    first = shipper(engine, ledger)
    first.ship()
    shutil.copytree(ledger.state, copy.state)
    ledger.write(3, seed=1)
    copy.write(4, seed=2)
    second = shipper(engine, copy)
    assert second.ship() == 4, "it cannot be known that it is the copy"
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            first.ship()
        assert caught.value.reason == "chain_shared" and "state folder" in caught.value.message
    with pytest.raises(Refusal) as caught:
        shipper(engine, ledger).ship()  # and after a restart
    assert caught.value.reason == "chain_shared"
    assert second.ship() == 0
    with engine.connect() as db:
        assert [one.to_seq for one in chains.every(db)] == [14]
    engine.dispose()


def test_restarts_while_the_database_is_away_do_not_make_a_daemon_a_stranger_to_its_own_chain(
        url: str, tmp_path: Path) -> None:
    """Each life notes its mark before it ships, and those that never could must not push out the one that did."""
    engine, away = open_market(url), sa.create_engine("postgresql+psycopg://nobody@/away?host=/nowhere")
    ledger = Ledger(tmp_path, "one")
    ledger.write(10)
    assert shipper(engine, ledger).ship() == 10
    ledger.write(5, seed=1)
    for _ in range(3):
        with pytest.raises(Refusal) as caught:
            shipper(away, ledger).ship()
        assert caught.value.reason == "store_unusable"
    assert shipper(engine, ledger).ship() == 5
    engine.dispose()


def test_a_database_that_was_restored_gets_the_missing_events_again_and_counts_them_once(
        postgres: Postgres, url: str, tmp_path: Path) -> None:
    engine = open_market(url)
    ledger = Ledger(tmp_path, "one")
    ledger.write(10)
    one = shipper(engine, ledger)
    one.ship()
    engine.dispose()
    postgres.execute('DROP DATABASE IF EXISTS "backup"', 'CREATE DATABASE "backup" TEMPLATE "chains"')
    ledger.write(10, seed=1)
    one.ship()
    engine.dispose()
    postgres.execute('DROP DATABASE "chains" WITH (FORCE)', 'ALTER DATABASE "backup" RENAME TO "chains"')
    assert one.ship() == 10
    with engine.connect() as db:
        assert sum(usage.calls for usage in chains.usage_of(db).values()) == ledger.calls.total()
    assert chains.verify_chains(engine)[0].problem == ""
    engine.dispose()


def test_a_month_is_closed_once_every_chain_of_it_has_arrived_and_whoever_is_missing_is_named(
        postgres: Postgres, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_exec.market.shop.storefront.CHAINS_SECONDS", 0.2)
    monkeypatch.setattr("apex_exec.market.long_operations.ANSWER_SECONDS", 60)  # the outcome, and not an id
    market = Market(tmp_path / "own", url)
    market.enable("sums", "")
    own = Ledger(tmp_path / "own", "state")
    other, lost = Ledger(tmp_path, "other"), Ledger(tmp_path, "lost")
    for ledger in (own, other, lost):
        ledger.write(30)
    after = at("2026-11-02")
    for ledger in (other, lost):
        shipper(market.shop.engine, ledger).ship()
    market.now_ns = after
    with pytest.raises(Refusal) as caught:
        market("billing.close", month="2026-10")
    assert caught.value.reason == "chains_behind"
    assert all(name in caught.value.message for name in ("other", "lost", own_chain(lost.state).name))
    shipper(market.shop.engine, other, after).ship()
    lost_chain = own_chain(lost.state).name
    with pytest.raises(Refusal) as caught:
        market("billing.close", month="2026-10", without=[lost_chain])
    assert caught.value.reason == "reason_missing"
    done = market("billing.close", month="2026-10", without=[lost_chain], reason="its disk burnt")
    assert market.audited[-1][2]["without"] == [f"lost ({lost_chain})"]
    billed = Counter({row["userId"]: row["calls"] for row in done["usage"]})
    wanted: Counter[str] = Counter()
    for ledger in (own, other, lost):  # what it had shipped before it was lost counts
        for (user, _), count in ledger.calls.items():
            wanted[user] += count
    assert billed == wanted
    # and what arrives late becomes a correction of a later month
    late = Ledger(tmp_path, "late")
    late.write(20, day="2026-10-20", users=[LATE])
    market.now_ns = at("2026-12-02")
    for ledger in (other, late):
        shipper(market.shop.engine, ledger, market.now_ns).ship()
    (line,) = [one for one in market("billing.close", month="2026-11")["lines"] if one["kind"] == "correction"]
    assert (line["customer"], line["for_month"], line["month"]) == (LATE, "2026-10", "2026-11")
    assert line["customer_minor"] > 0
    market.close()


def shipped(server: Postgres, name: str) -> int:
    """How far the ledger of that name has been shipped; -1 while the server is down, or knows nothing of it."""
    import psycopg

    with contextlib.suppress(psycopg.Error), psycopg.connect(
            f"host={server.folder} dbname=chains user=postgres") as db:
        row = db.execute("SELECT to_seq FROM chains WHERE node = %s", (name,)).fetchone()
        return -1 if row is None else int(row[0])
    return -1


@pytest.mark.parametrize(("events", "kills"), [(400, 5), (4000, 100)])
@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_bill_over_three_chains_is_the_sum_of_all_events_though_shippers_and_the_server_are_killed(
        own_postgres: Postgres, tmp_path: Path, events: int, kills: int) -> None:
    url = own_postgres.url("chains")
    open_market(url).dispose()
    ledgers = [Ledger(tmp_path, name) for name in ("one", "two", "three")]
    for ledger in ledgers:
        ledger.write(events)
    chance = random.Random(4711)
    running = {ledger.name: ledger.ships(url) for ledger in ledgers}
    server_kills = in_the_middle = 0
    for number in range(kills):
        ledger = chance.choice(ledgers)
        before = shipped(own_postgres, ledger.name)  # it may have everything before we look again
        ledger.write(70, seed=number + 1)
        wait_for(lambda name=ledger.name, at=before: shipped(own_postgres, name) > at, 100, "a segment")
        time.sleep(chance.uniform(0, 0.02))
        if number % 5 == 4:
            own_postgres.kill()
            own_postgres.start()
            server_kills += 1
        else:
            kill(running[ledger.name])
            in_the_middle += 0 < shipped(own_postgres, ledger.name) < ledger.length
            running[ledger.name] = ledger.ships(url)
    for process in running.values():
        kill(process)
    engine = open_market(url)
    for ledger in ledgers:
        shipper(engine, ledger).ship()
    with engine.connect() as db:
        usage = chains.usage_of(db, "2026-10")
    assert {(user, month): one.calls for (_, user, month), one in usage.items()} == sum(
        (ledger.calls for ledger in ledgers), Counter())
    assert sum(one.cpu_us for one in usage.values()) == sum(ledger.cpu_us for ledger in ledgers)
    found = chains.verify_chains(engine)
    assert [one.problem for one in found] == ["", "", ""] and server_kills == kills // 5
    assert in_the_middle, "some were killed between two segments"
    engine.dispose()
