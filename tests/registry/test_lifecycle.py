"""The life of a plugin by its rows, on SQLite and on PostgreSQL: every step, every refusal, every repetition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apex_exec.catalogue.limits import Limits
from apex_exec.errors import Refusal
from apex_exec.registry import lifecycle, specs, tables
from apex_exec.registry import store as db_
from apex_exec.registry.bundles.bundle import pack
from apex_exec.registry.scan.findings import Report, finding
from tests.registry.conftest import Stage
from tests.support.bundles import bundle, manifest, write_folder

USER, OTHER = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"


def test_from_registered_to_enabled_to_removed_and_what_the_supervisor_is_told_at_each_step(stage: Stage) -> None:
    made = bundle()
    assert stage.run("plugin.register", bundle=pack(made))["state"] == "registered"
    assert stage.served["sample"].state == "registered" and "plugin install" in stage.served["sample"].reason
    assert stage.run("plugin.validate", id="sample")["ok"]
    assert stage.served["sample"].state == "validated"
    assert stage.run("plugin.install", id="sample")["state"] == "installed"
    assert stage.served["sample"].state == "installed"
    assert stage.run("plugin.enable", id="sample")["changed"]
    spec = stage.served["sample"]
    assert (spec.state, spec.users, spec.digest, spec.limits) == ("enabled", None, made.digest, Limits())
    assert stage.run("plugin.disable", id="sample")["state"] == "disabled"
    assert stage.served["sample"].state == "disabled"
    assert stage.run("plugin.remove", id="sample")["state"] == "removed"
    assert "sample" not in stage.served and stage.context.blobs.digests() == set()
    assert stage.refused("plugin.show", id="sample").reason == "plugin_not_found"
    assert stage.install(made)["state"] == "installed"  # and from the beginning again
    assert [row["operation"] for row in stage.run("plugin.show", id="sample")["history"]] == [
        "install", "enable", "disable", "remove", "install"]


@pytest.mark.parametrize(("operation", "arguments"), [
    ("plugin.install", {"bundle": pack(bundle())}), ("plugin.enable", {"id": "sample"}),
    ("plugin.enable", {"id": "sample", "user": USER}), ("plugin.disable", {"id": "sample"}),
    ("plugin.register", {"bundle": pack(bundle())}), ("plugin.quarantine", {"id": "sample", "reason": "x"}),
    ("plugin.release", {"id": "sample"}), ("plugin.remove", {"id": "sample"}),
])
def test_every_operation_done_twice_is_as_done_once(stage: Stage, operation: str, arguments: dict[str, Any]) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    stage.run(operation, **arguments)
    before, rows = dict(stage.served), stage.context.store.transact(db_.list_installs)
    again = stage.run(operation, **arguments)
    assert stage.served == before and stage.context.store.transact(db_.list_installs) == rows
    assert not again.get("changed")


def test_enabling_for_users_names_them_and_the_last_one_out_disables(stage: Stage) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample", user=USER.upper())
    stage.run("plugin.enable", id="sample", user=OTHER)
    assert stage.served["sample"].users == {USER, OTHER}
    stage.run("plugin.disable", id="sample", user=OTHER)
    assert stage.served["sample"].users == {USER} and stage.served["sample"].state == "enabled"
    stage.run("plugin.disable", id="sample", user=USER)
    assert stage.served["sample"].state == "disabled"
    stage.run("plugin.enable", id="sample")
    assert stage.served["sample"].users is None
    assert stage.refused("plugin.disable", id="sample", user=USER).reason == "enabled_for_everybody"
    assert stage.refused("plugin.enable", id="sample", user="bob").reason == "bad_user"


def test_enablement_is_kept_as_intervals_that_never_overlap_for_a_user(stage: Stage) -> None:
    stage.install(bundle())
    for seconds, operation in ((1, "enable"), (2, "enable"), (3, "disable"), (4, "enable"), (5, "disable")):
        stage.later(seconds)
        stage.run(f"plugin.{operation}", id="sample", user=USER)
    rows = stage.context.store.transact(lambda db: db_.list_enablement(db, plugin="sample", user_id=USER))
    begin = rows[0].from_ns
    second = 1_000_000_000
    assert [(r.from_ns - begin, (r.to_ns or 0) - begin) for r in rows] == [(0, 5 * second), (9 * second, 14 * second)]
    stage.run("plugin.enable", id="sample", user=USER)
    stage.now_ns -= 3600 * second  # the clock is set back: an interval never ends before it began
    stage.run("plugin.disable", id="sample", user=USER)
    last = stage.context.store.transact(lambda db: db_.list_enablement(db, plugin="sample", from_ns=0))[-1]
    assert last.to_ns is not None and last.to_ns >= last.from_ns


def test_what_fails_a_check_is_not_installed_and_says_why(stage: Stage) -> None:
    stage.declares = {"hooks": ["onDataFetch"], "permissions": ["data:read"], "version": "2.0.0"}
    refusal = stage.refused("plugin.install", bundle=pack(bundle()))
    assert refusal.reason == "declaration_differs"
    assert {p["code"] for p in refusal.problems} == {
        "hook_not_in_code", "hook_not_in_manifest", "permission_not_in_code", "permission_not_in_manifest",
        "version_differs"}
    stage.declares = {}
    stage.fails["probe"] = Refusal("boot_failed", "ImportError: no module named socket")
    assert stage.refused("plugin.install", id="sample").reason == "load_failed"
    del stage.fails["probe"]
    stage.report = Report((finding("process-start", "plugin.py", 3, "os.system"),))
    refusal = stage.refused("plugin.install", id="sample")
    assert refusal.reason == "scan_failed" and refusal.problems[0]["path"] == "plugin.py:3"
    assert stage.served["sample"].state == "registered"
    assert stage.refused("plugin.enable", id="sample").reason == "not_installed"


def test_scan_warn_installs_what_enforce_does_not(tmp_path: Path, url: str) -> None:
    stage = Stage(tmp_path / "state", url, security={"scan": "warn"})
    stage.report = Report((finding("process-start", "plugin.py", 3, "os.system"),))
    assert stage.install(bundle())["scan"]["errors"] == 1


def test_the_operators_policy_bounds_what_may_be_asked_for(tmp_path: Path, url: str) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('allow = ["ui:render"]\n[plugin.sample]\nallow = ["data:read"]\n')
    stage = Stage(tmp_path / "state", url, security={"policy_file": str(policy)})
    refusal = stage.refused("plugin.install", bundle=pack(bundle(permissions=["ui:render", "data:read"])))
    assert refusal.reason == "policy_denied" and [p["path"] for p in refusal.problems] == ["$.permissions[0]"]
    assert stage.install(bundle(permissions=["data:read"], version="1.0.1"))["state"] == "installed"
    stage.run("plugin.enable", id="sample")
    policy.write_text("allow = []\n")
    specs.reconcile(stage.context)  # as at the next start
    assert stage.run("plugin.show", id="sample")["reason"].startswith("policy_denied")
    policy.write_text("allow = [nonsense")
    assert stage.refused("plugin.enable", id="sample").reason == "policy_unusable"  # fail closed


def test_a_version_is_one_content_and_an_installed_plugin_is_upgraded_not_installed_over(stage: Stage) -> None:
    stage.install(bundle())
    assert stage.refused("plugin.install", bundle=pack(bundle("other"))).reason == "version_exists"
    refusal = stage.refused("plugin.install", bundle=pack(bundle(version="1.1.0")))
    assert refusal.reason == "already_installed" and "upgrade" in refusal.hint


def test_the_registration_object_goes_with_its_bundle_or_is_refused_by_its_own_problems(stage: Stage) -> None:
    made = bundle()
    assert stage.run("plugin.register", bundle=pack(made), manifest=manifest())["version"] == "1.0.0"
    refusal = stage.refused("plugin.register", bundle=pack(made), manifest=manifest(name="Another"))
    assert refusal.reason == "registration_differs" and "name" in refusal.message
    document = manifest(manifest={"entrypoint": "/plugins/sample/index.ts", "hooks": ["onDashboardLoad"]})
    assert stage.refused("plugin.register", manifest=document).reason == "unsupported_runtime"
    assert stage.refused("plugin.register", manifest=manifest()).reason == "path_or_bundle"


def test_enabled_in_a_registration_object_does_what_it_says(stage: Stage) -> None:
    sample = pack(bundle())
    given = {**manifest(), "enabled": False}
    assert stage.run("plugin.register", bundle=sample, manifest=given)["state"] == "registered"
    for wrong in (None, 0, "true"):
        refused = stage.refused("plugin.register", bundle=sample, manifest={**manifest(), "enabled": wrong})
        assert [(p["path"], p["code"]) for p in refused.problems] == [("$.enabled", "wrong_type")]
    assert stage.run("plugin.register", bundle=sample, manifest={**manifest(), "enabled": True})["state"] == "enabled"
    assert stage.served["sample"].state == "enabled" and stage.served["sample"].users is None
    stage.run("plugin.disable", id="sample")
    stage.run("plugin.install", bundle=sample, manifest={**manifest(), "enabled": True})
    assert stage.served["sample"].state == "disabled", "a host's next start undoes no operator's word"


def test_enabled_in_a_bundle_is_its_authors_word_and_enables_nothing(stage: Stage) -> None:
    stage.run("plugin.install", bundle=pack(bundle(enabled=True)))
    assert stage.served["sample"].state == "installed"


def test_an_empty_array_stands_for_an_empty_map_in_a_registration_object(stage: Stage) -> None:
    sections = {key: [] for key in ("limits", "network", "data", "pricing")}
    assert stage.run("plugin.register", bundle=pack(bundle()), manifest={**manifest(), **sections})["id"] == "sample"
    refused = stage.refused("plugin.register", bundle=pack(bundle()), manifest={**manifest(), "limits": [1], "a.b": 1})
    assert {problem["path"] for problem in refused.problems} == {"$.limits", '$["a.b"]'}


def test_a_folder_on_the_daemons_machine_can_be_installed_by_its_path(stage: Stage, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sample", dict(bundle().files))
    assert stage.run("plugin.install", path=str(folder))["digest"] == bundle().digest
    assert stage.refused("plugin.install", path=str(tmp_path / "no")).reason == "not_found"


def test_quarantine_stops_a_plugin_until_it_is_released(stage: Stage) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    stage.run("plugin.quarantine", id="sample", reason="it phones home")
    assert stage.served["sample"].state == "quarantined" and stage.served["sample"].reason == "it phones home"
    assert stage.refused("plugin.enable", id="sample").reason == "quarantined"
    stage.run("plugin.release", id="sample")
    assert stage.served["sample"].state == "disabled"
    stage.run("plugin.revokeVersion", digest=bundle().digest, reason="malware")
    assert stage.served["sample"].state == "quarantined" and "malware" in stage.served["sample"].reason
    assert stage.refused("plugin.release", id="sample").reason == "version_revoked"


def test_a_gate_of_the_market_can_keep_a_plugin_from_being_enabled(stage: Stage) -> None:
    import dataclasses

    def gate(_context: Any, made: Any, user: str) -> None:
        if not user:
            raise Refusal("not_bought", f"{made.id} is paid for by the user")

    stage.install(bundle())
    stage.context = dataclasses.replace(stage.context, gates=(gate,))
    assert stage.refused("plugin.enable", id="sample").reason == "not_bought"
    assert stage.run("plugin.enable", id="sample", user=USER)["changed"]


def test_every_move_that_the_table_does_not_have_is_refused_and_changes_nothing(stage: Stage) -> None:
    stage.install(bundle())
    for state in lifecycle.TRANSITIONS:
        for wanted in lifecycle.TRANSITIONS:
            stage.context.store.transact(lambda db, s=state: db_.change_plugin(db, "sample", 1, state=s))  # type: ignore[misc]  # binds the loop's value

            def attempt(to: str = wanted) -> None:
                stage.context.store.transact(lambda db: lifecycle.move(
                    db, db_.get_plugin(db, "sample"), to, 2))  # type: ignore[arg-type]  # it is there

            if wanted == state or wanted in lifecycle.TRANSITIONS[state]:
                attempt()
            else:
                with pytest.raises(Refusal) as caught:
                    attempt()
                row = stage.context.store.transact(lambda db: db_.get_plugin(db, "sample"))
                assert caught.value.reason == "invalid_transition" and row is not None and row.state == state


def test_a_daemon_of_another_api_disables_what_no_longer_fits_and_says_why(
        stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.install(bundle(apiVersion=">=1.0,<2"))
    stage.install(bundle(id="modern", apiVersion=">=1.0,<9"))
    for plugin in ("sample", "modern"):
        stage.run("plugin.enable", id=plugin)
    monkeypatch.setattr("apex_exec.registry.bundles.manifest.API_VERSION", "2.0.0")
    told = {spec.id: spec for spec in specs.reconcile(stage.context)}
    assert told["modern"].state == "enabled"
    assert "sample" not in told or told["sample"].state == "disabled"
    row = stage.context.store.transact(lambda db: db_.get_plugin(db, "sample"))
    assert row is not None
    if stage.context.store.is_shared:  # others may be of a release that it does fit
        assert row.state == "enabled"
        (listed,) = [one for one in stage.run("plugin.list")["plugins"] if one["id"] == "sample"]
        assert (listed["state"], listed["reason"].split(":")[0]) == ("disabled", "incompatible_api_version")
    else:
        assert row.state == "disabled" and row.reason.startswith("incompatible_api_version")


def test_a_daemon_without_a_bundle_does_not_serve_it_and_changes_nothing_for_others_on_the_same_registry(
        stage: Stage, url: str, tmp_path: Path) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    other = Stage(tmp_path / "other", url)  # another daemon, or this one after a restart without its state folder
    if stage.context.store.is_shared:  # on a server the bundle is there for all
        (told,) = specs.reconcile(other.context, sweep=True)
        assert told.state == "enabled"
        return
    for sweep in (True, False, True):
        (told,) = specs.reconcile(other.context, sweep=sweep)
        assert (told.state, told.reason.split(":")[0]) == ("disabled", "blob_missing")
    (row,) = other.run("plugin.list")["plugins"]
    assert (row["state"], row["reason"].split(":")[0]) == ("disabled", "blob_missing"), "it says what it does"
    other.run("plugin.enable", id="sample")
    (told,) = other.context.store.transact(lambda db: specs.served_now(other.context, db))
    assert told.state == "disabled", "no operation has it serve what it has not"
    (here,) = specs.reconcile(stage.context, sweep=True)
    assert here.state == "enabled" and stage.run("plugin.list")["plugins"][0]["state"] == "enabled"
    other.install(bundle())  # the same bytes again
    assert other.served["sample"].state == "enabled"
    assert other.run("plugin.show", id="sample")["state"] == "enabled"
    other.context.store.close()


def test_a_bundle_lost_from_the_store_is_disabled_at_the_next_start_and_the_others_go_on(stage: Stage) -> None:
    stage.install(bundle())
    stage.install(bundle(id="fine"))
    for plugin in ("sample", "fine"):
        stage.run("plugin.enable", id=plugin)
    stage.context.blobs.remove(bundle().digest)
    stage.context.store.transact(lambda db: db.execute(sa.delete(tables.bundles)))
    told = {spec.id: (spec.state, spec.reason) for spec in specs.reconcile(stage.context)}
    assert told["fine"] == ("enabled", "") and told["sample"][1].startswith("blob_missing")


def test_list_and_show_say_what_there_is(stage: Stage) -> None:
    stage.install(bundle(permissions=["ui:render"]))
    stage.run("plugin.enable", id="sample", user=USER)
    (row,) = stage.run("plugin.list")["plugins"]
    assert (row["id"], row["state"], row["users"], row["source"]) == ("sample", "enabled", [USER], "registry")
    shown = stage.run("plugin.show", id="sample")
    assert shown["permissions"] == ["ui:render"] and shown["versions"][0]["digest"] == shown["digest"]


def test_verify_names_each_check_and_the_one_that_fails(stage: Stage) -> None:
    stage.install(bundle())
    assert [(c["check"], c["ok"]) for c in stage.run("plugin.verify", id="sample")["checks"]] == [
        ("files", True), ("signature", True), ("permissions", True), ("live call", False)]
    stage.run("plugin.enable", id="sample")
    assert stage.run("plugin.verify", id="sample")["ok"]
    assert stage.asked[-1] == ("smoke", {"plugin": "sample", "hook": "onDashboardLoad",
                                         "payload": {"dashboardId": "trial"},
                                         "userId": "00000000-0000-4000-8000-000000000000"})
    path = stage.context.blobs.path(bundle().digest)
    path.chmod(0o600)
    path.write_bytes(pack(bundle("changed")))
    failed = [c for c in stage.run("plugin.verify", id="sample")["checks"] if not c["ok"]]
    assert [c["check"] for c in failed] == ["files"] and "not what was installed" in failed[0]["message"]


def test_a_refused_installation_burns_no_version_and_a_revoked_one_keeps_its_number(stage: Stage) -> None:
    bad, revoked = bundle(text="bad"), bundle(text="bad", id="malware")
    stage.fails["probe"] = Refusal("load_failed", "ImportError: pickle")
    for refused in (bad, revoked):
        with pytest.raises(Refusal):
            stage.install(refused)
    stage.fails.clear()
    good = bundle(text="good")
    assert stage.install(good)["state"] == "installed"
    assert stage.context.blobs.digests() - {revoked.digest} == {good.digest}, "nothing is left of what was refused"
    assert [v["digest"] for v in stage.run("plugin.show", id="sample")["versions"]] == [good.digest]
    stage.run("plugin.revokeVersion", digest=revoked.digest, reason="malware")
    with pytest.raises(Refusal) as caught:
        stage.install(bundle(text="mended", id="malware"))
    assert caught.value.reason == "version_exists"


def test_an_upgrade_that_failed_its_check_or_its_trial_burns_no_version(stage: Stage) -> None:
    stage.install(bundle())
    stage.run("plugin.enable", id="sample")
    for kind, text in (("probe", "one"), ("canary", "two")):
        stage.fails[kind] = Refusal("failed", "it failed")
        with pytest.raises(Refusal):
            stage.run("plugin.upgrade", bundle=pack(bundle(text, version="1.1.0")))
        stage.fails.clear()
    good = bundle("good", version="1.1.0")
    assert stage.run("plugin.upgrade", bundle=pack(good))["version"] == "1.1.0"
    assert stage.served["sample"].digest == good.digest
    stage.run("plugin.rollback", id="sample")
    with pytest.raises(Refusal) as caught:
        stage.run("plugin.upgrade", bundle=pack(bundle("other", version="1.1.0")))
    assert caught.value.reason == "version_exists", "it was served once"
