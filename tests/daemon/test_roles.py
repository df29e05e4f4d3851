"""Administration from another uid: the kernel says who asks, ``admin.roles`` what for, and all of it is on record."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import ROLES
from apex_exec.daemon.administration import registrar_table
from apex_exec.daemon.administration.operations import OPERATIONS
from apex_exec.daemon.administration.role_table import OPERATIONS_OF
from apex_exec.daemon.administration.roles import Access, Forbidden
from apex_exec.errors import ConfigError, WireError
from apex_exec.ledger.reading import Event, Filter, read_events
from apex_exec.wire import messages as msg
from tests.support import other_user
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.host import Host

VIEWER, OPERATOR, CONSOLE, CHIEF, STRANGER, MEMBER = 65501, 65502, 65503, 65504, 65505, 65506
ADMINS, APP = 65511, 65512
ASK = """
import json, sys
from apex_exec.client import AdminClient, CallError, ConnectionLost
endpoint, asked = sys.argv[1], json.loads(sys.argv[2])
for op, args, actor in asked:
    try:
        with AdminClient(endpoint) as client:
            result = client.request(op, args, actor=actor)
        print(json.dumps({"code": "", "result": result}, default=str))
    except CallError as error:
        print(json.dumps({"code": error.code, "message": error.message, "details": error.details}))
    except ConnectionLost as error:
        print(json.dumps({"code": "LOST", "message": str(error)}))
"""
ASK_AGAIN = """
import sys
from apex_exec.client import AdminClient, CallError
with AdminClient(sys.argv[1]) as client:
    for _ in sys.stdin:
        try:
            client.request("plugin.list")
            print("served", flush=True)
        except CallError as error:
            print(error.code, flush=True)
"""


def ask_as(uid: int, daemon: Daemon, *asked: tuple[Any, ...], gid: int = ADMINS,
           groups: tuple[int, ...] = ()) -> list[Any]:
    """What a process of that user and group is answered: one map an operation."""
    who = {**other_user.become(uid, gid), "extra_groups": list(groups)}
    full = [(*one, *({}, None)[len(one) - 1:]) for one in asked]
    done = subprocess.run([other_user.python(), "-c", ASK, daemon.admin, json.dumps(full)], capture_output=True,
                          text=True, timeout=60, env=other_user.environment(), **who)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def cli_as(uid: int, daemon: Daemon, *arguments: str, gid: int = ADMINS) -> subprocess.CompletedProcess[str]:
    return subprocess.run([other_user.python(), "-m", "apex_exec", *arguments, "--runtime-dir", str(daemon.runtime)],
                          capture_output=True, text=True, timeout=60, env=other_user.environment(),
                          **other_user.become(uid, gid))


def events(daemon: Daemon, action: str, count: int) -> list[Event]:
    found: list[Event] = []

    def there() -> bool:
        found[:] = [event for event in read_events(daemon.state / "audit.db", Filter(
            event_types=frozenset(("admin.action",)))) if event.action == action]
        return len(found) >= count

    wait_for(there, 10, f"{count} records of {action}")
    return found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    other_user.need_root()
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "echo", ECHO)
    roles = {f"uid:{VIEWER}": ["viewer"], f"uid:{OPERATOR}": ["operator"], f"uid:{CONSOLE}": ["delegate"],
             f"uid:{CHIEF}": ["delegate", "delegate:admin"], f"gid:{APP}": ["author"]}
    with Daemon(plugins=plugins, config={"admin.socket_group": str(ADMINS), "admin.roles": roles}) as running:
        running.folder.chmod(0o711)
        yield running


def test_every_operation_is_in_exactly_one_row_and_every_role_has_one() -> None:
    registrar_table.register_all()
    rows = [operation for row in OPERATIONS_OF.values() for operation in row]
    assert sorted(rows) == sorted(OPERATIONS), set(rows) ^ set(OPERATIONS)
    assert tuple(OPERATIONS_OF) == ROLES


def test_the_wire_page_tells_each_operations_role() -> None:
    text = (Path(__file__).parents[2] / "apex_exec" / "wire" / "README.md").read_text()
    for role, row in OPERATIONS_OF.items():
        (line,) = (line for line in text.partition("### Roles")[2].splitlines()
                   if line.startswith(f"| `{role}` | "))
        assert sorted(line.split(" | ")[1].strip(" |").replace("`", "").split()) == sorted(row)


def test_the_socket_group_opens_the_socket_and_gives_no_role(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.runtime.stat().st_mode) == 0o750
    assert stat.S_IMODE((daemon.runtime / "admin.sock").stat().st_mode) == 0o660
    assert stat.S_IMODE((daemon.runtime / "host.sock").stat().st_mode) == 0o600
    (refused,) = ask_as(STRANGER, daemon, ("plugin.list",))
    assert refused["code"] == "FORBIDDEN"
    assert refused["details"] == {"reason": "role_missing", "operation": "plugin.list", "needed": "viewer", "roles": []}
    assert f"uid {STRANGER} (gid {ADMINS}) has no role" in refused["message"]


def test_each_role_may_what_its_row_says_and_the_refusal_names_what_is_missing(daemon: Daemon) -> None:
    listed, refused = ask_as(VIEWER, daemon, ("plugin.list",), ("plugin.quarantine", {"id": "echo"}))
    assert listed["code"] == "" and "plugins" in listed["result"]
    assert refused["details"] == {"reason": "role_missing", "operation": "plugin.quarantine", "needed": "operator",
                                  "roles": ["viewer"]}
    assert "plugin.quarantine needs the role operator" in refused["message"]
    assert ask_as(OPERATOR, daemon, ("plugin.list",), ("daemon.reload",), ("keys.revoke", {"name": "x", "reason": "y"}),
                  ("market.approve",)) == [{"code": "", "result": daemon.operate("plugin.list")},
                                           {"code": "", "result": {"applied": [], "restart": []}},
                                           *ask_as(OPERATOR, daemon, ("keys.revoke", {}), ("market.approve",))]
    record = events(daemon, "plugin.quarantine", 1)[-1]
    assert (record.result, record.user_id, record.resource) == ("denied", f"uid:{VIEWER}", "echo")
    assert record.metadata["code"] == "FORBIDDEN" and record.metadata["gid"] == ADMINS
    assert record.metadata["reason"] == "role_missing"


def test_a_supplementary_group_gives_its_role_too(daemon: Daemon) -> None:
    refused, listed = ask_as(MEMBER, daemon, ("plugin.install", {"path": "/etc"}), ("plugin.list",), groups=(APP,))
    assert refused["details"]["roles"] == ["author"] and listed["code"] == ""
    assert ask_as(MEMBER, daemon, ("plugin.list",))[0]["code"] == "FORBIDDEN"


def test_a_path_is_read_with_the_daemons_rights_and_so_is_for_administrators(daemon: Daemon, tmp_path: Path) -> None:
    private = write_plugin(tmp_path, "private", ECHO)
    answers = ask_as(MEMBER, daemon, ("plugin.register", {"path": str(private)}),
                               ("market.submit", {"path": str(private), "submitter": "ann"}), groups=(APP,))
    for refused in answers:
        assert (refused["code"], refused["details"]["reason"]) == ("FORBIDDEN", "path_needs_admin")
    folder = other_user.new_folder(OPERATOR)
    write_plugin(folder, "by-bytes", ECHO)
    done = cli_as(OPERATOR, daemon, "plugin", "install", str(folder / "by-bytes"))
    assert done.returncode == 0, done.stderr  # the command packs it and sends the bytes


def test_a_delegate_asks_for_people_whose_roles_decide(daemon: Daemon) -> None:
    ann = {"name": "Ann", "roles": ["viewer"]}
    ops = {"name": "Otto", "roles": ["operator", "admin"]}
    alone, listed, refused, reloaded, not_his = ask_as(
        CONSOLE, daemon, ("plugin.list",), ("plugin.list", {}, ann), ("daemon.reload", {}, ann),
        ("daemon.reload", {}, ops), ("keys.revoke", {"name": "k", "reason": "r"}, ops))
    assert alone["code"] == "FORBIDDEN" and alone["details"]["roles"] == [], "delegate alone is no role"
    assert listed["code"] == "" and reloaded["code"] == ""
    assert (refused["code"], refused["details"]["needed"], refused["details"]["roles"]) == (
        "FORBIDDEN", "operator", ["viewer"])
    assert "Ann, for whom uid" in refused["message"]
    assert (not_his["code"], not_his["details"]["reason"]) == ("FORBIDDEN", "not_delegable")
    (allowed,) = ask_as(CHIEF, daemon, ("keys.revoke", {"name": "nobody", "reason": "r"}, ops))
    assert allowed["code"] == "NOT_FOUND", "it got as far as the registry"
    record = next(event for event in events(daemon, "daemon.reload", 2) if event.metadata.get("actor") == ops)
    assert (record.user_id, record.result, record.metadata["uid"]) == (f"uid:{CONSOLE}", "success", CONSOLE)


def test_who_is_no_delegate_cannot_ask_for_another_and_no_actor_can_be_made_up(daemon: Daemon) -> None:
    admin = {"name": "root", "roles": ["admin"]}
    (refused,) = ask_as(VIEWER, daemon, ("plugin.list", {}, admin))
    assert (refused["code"], refused["details"]["reason"]) == ("FORBIDDEN", "no_delegate")
    # the record follows its answer, and other tests here ask for the list too
    wait_for(lambda: any(event.metadata.get("actor") == admin for event in events(daemon, "plugin.list", 1)), 10,
             "the record of the refusal")
    odd = [{"name": "", "roles": ["viewer"]}, {"name": "a\nb", "roles": ["viewer"]}, {"name": "a" * 201, "roles": []},
           {"name": "a", "roles": ["delegate"]}, {"name": "a", "roles": ["root"]}]
    assert [answer["code"] for answer in ask_as(CONSOLE, daemon, *(("plugin.list", {}, one) for one in odd))] == [
        "INVALID_INPUT"] * len(odd)
    with Host(daemon.admin) as host:
        for actor in (7, "ann", ["ann"], {"name": "ann"}, {"roles": []}, {"name": 1, "roles": []},
                      {"name": "a", "roles": [1]}, {"name": "a", "roles": ["viewer"] * 17}):
            answer = host.ask({"type": "admin", "op": "plugin.list", "actor": actor})
            assert answer["code"] == "INVALID_INPUT", actor


def test_a_person_submits_and_reviews_under_his_own_name(daemon: Daemon) -> None:
    both = {"name": "Ann", "roles": ["author", "reviewer"]}
    refused, taken = ask_as(CONSOLE, daemon, ("market.review", {"submission": 7, "reviewer": "Rita"}, both),
                            ("market.review", {"submission": 7}, both))
    assert (refused["code"], refused["details"]["reason"]) == ("FORBIDDEN", "another_name")
    assert taken["code"] == "NOT_FOUND", taken
    wait_for(lambda: events(daemon, "market.review", 2), 5)
    assert [event.metadata["args"].get("reviewer") for event in events(daemon, "market.review", 2)] == ["Rita", "Ann"]


def test_an_administrator_may_ask_for_less_and_root_stays_one(daemon: Daemon) -> None:
    with Host(daemon.admin) as host:
        asked = {"type": "admin", "op": "daemon.reload", "actor": {"name": "Ann", "roles": ["viewer"]}}
        assert host.ask(asked)["code"] == "FORBIDDEN"
        assert host.ask({**asked, "actor": {"name": "Ann", "roles": ["admin"]}})["type"] == "adminResult"


def test_a_stranger_is_told_at_once_what_closes_the_socket_and_what_opens_it(daemon: Daemon) -> None:
    done = cli_as(STRANGER, daemon, "plugin", "list", gid=STRANGER)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    for part in (f"uid {STRANGER}", str(daemon.runtime), "admin.sock", "admin.socket_group", "admin.roles"):
        assert part in done.stderr
    (lost,) = ask_as(STRANGER, daemon, ("plugin.list",), gid=STRANGER)
    assert lost["code"] == "LOST" and f"uid {STRANGER}" in lost["message"] and "admin.sock" in lost["message"]
    done = cli_as(VIEWER, daemon, "plugin", "quarantine", "echo", "--reason", "odd")
    assert done.returncode == 1 and done.stderr.startswith("apex-exec: FORBIDDEN: plugin.quarantine needs the role")


@pytest.mark.slow
def test_a_reload_takes_a_role_away_from_an_open_connection(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    other_user.need_root()
    config = {"admin.socket_group": str(ADMINS), "host.socket_group": str(APP),
              "admin.roles": {f"uid:{VIEWER}": ["viewer"]}}
    with Daemon(plugins=tmp_path / "plugins", config=config) as daemon:
        daemon.folder.chmod(0o711)
        assert stat.S_IMODE(daemon.runtime.stat().st_mode) == 0o711, "two groups, and a folder has one"
        with subprocess.Popen([other_user.python(), "-c", ASK_AGAIN, daemon.admin], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env=other_user.environment(),
                              **other_user.become(VIEWER, ADMINS)) as asking:
            assert asking.stdin is not None and asking.stdout is not None
            for roles, told in ((None, "served"), ({}, "FORBIDDEN"),
                                ({f"uid:{VIEWER}": ["auditor"]}, "FORBIDDEN")):  # refused, and nothing changed
                if roles is not None:
                    daemon.write_config({"admin.roles": roles})
                    with Host(daemon.admin) as host:
                        answer = host.ask({"type": "admin", "op": "daemon.reload"})
                        assert answer["type"] == ("adminResult" if not roles else "error"), answer
                asking.stdin.write("again\n")
                asking.stdin.flush()
                assert asking.stdout.readline().strip() == told
            asking.stdin.close()


@pytest.mark.parametrize(("roles", "says"), [
    ('"uid:1" = ["oprator"]', "admin.roles: uid:1: 'oprator' is not a role; did you mean operator?"),
    ('"uid:1" = ["delegate:boss"]', "'delegate:boss' is not a role"),
    ('"root" = ["viewer"]', "'root' is not a peer; write uid:1001"),
    ('"uid:-1" = ["viewer"]', "'uid:-1' is not a peer"),
    ('"uid:4294967295" = ["viewer"]', "is not a peer"),
    ('"gid:no-such-group-here" = ["viewer"]', "admin.roles: this machine has no group 'no-such-group-here'"),
    ('"uid:no-such-user-here" = ["viewer"]', "admin.roles: this machine has no user 'no-such-user-here'"),
    ('"uid:1" = "viewer"', "admin.roles.uid:1"),
])
@pytest.mark.slow_after(3)
def test_a_bad_role_or_group_is_one_line_of_config_check(tmp_path: Path, roles: str, says: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[admin.roles]\n{roles}\n")
    done = subprocess.run([sys.executable, "-m", "apex_exec", "config", "check", str(file)], capture_output=True,
                          text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    assert says in done.stderr


def test_a_socket_group_that_is_not_there_is_told_by_config_check(tmp_path: Path) -> None:
    for key in ("admin", "host"):
        (tmp_path / "c.toml").write_text(f'[{key}]\nsocket_group = "no-such-group-here"\n')
        done = subprocess.run([sys.executable, "-m", "apex_exec", "config", "check", str(tmp_path / "c.toml")],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and f"{key}.socket_group: this machine has no group" in done.stderr


def test_what_the_kernel_does_not_say_is_nobody() -> None:
    access = Access({"uid:7": ["operator"], "gid:9": ["delegate:viewer"]}, os.geteuid())
    nobody = access.caller(-1, -1, (), None)
    assert not nobody.roles
    with pytest.raises(Forbidden):
        access.check(nobody, "ops", {})
    assert access.caller(7, 9, (), None).roles == {"operator"}
    assert access.caller(7, 9, (), msg.Actor("ann", ["operator", "viewer"])).roles == {"viewer"}
    with pytest.raises(Forbidden):
        access.check(access.caller(7, 7, (), None), "an.operation.without.a.row", {})
    access.check(access.caller(0, 0, (), None), "an.operation.without.a.row", {})
    with pytest.raises(WireError, match="may not act for somebody else"):
        access.caller(7, 7, (), msg.Actor("ann", ["viewer"]))
    with pytest.raises(ConfigError):
        Access({"gid:no-such-group-here": ["viewer"]}, 0)


def test_enabled_in_a_registration_object_needs_who_may_enable() -> None:
    access = Access({"uid:7": ["author"], "uid:8": ["author", "operator"]}, os.geteuid())
    given = {"bundle": b"", "manifest": {"enabled": True}}
    with pytest.raises(Forbidden) as caught:
        access.check(access.caller(7, 7, (), None), "plugin.register", given)
    assert (caught.value.details["reason"], caught.value.details["needed"]) == ("enabling_needs_operator", "operator")
    access.check(access.caller(7, 7, (), None), "plugin.register", {**given, "manifest": {"enabled": False}})
    access.check(access.caller(8, 8, (), None), "plugin.register", given)
