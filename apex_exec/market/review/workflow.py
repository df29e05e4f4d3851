"""The path of a submission: accepted, checked by the machine, reviewed by a person, counter-signed and published.
Blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature

from apex_exec.errors import Code, Refusal
from apex_exec.market.releases import stages
from apex_exec.market.review import checks, comments, reviewers
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.states import CHECKLIST
from apex_exec.market.review.submissions import MACHINE, Submission
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry.bundles.bundle import Bundle, pack, read_path, unpack
from apex_exec.registry.context import Context
from apex_exec.registry.trials.testing import Proof, Run
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import read_signatures
from apex_exec.registry.vendored.lock import facts, read_lock

Scan = Callable[[Context, Bundle], checks.Scanned]
RunTests = Callable[[Context, Bundle], Run]
Prove = Callable[[Context, Bundle, checks.Lines], Proof]
Scaffold = Callable[[Bundle], str]
Stop = Callable[[Context, str, str], None]
"""``stop(context, digest, reason)`` stops a revoked version wherever it runs here."""


class Machine(msgspec.Struct, frozen=True):
    """What a review needs from other parts: scan, jailed tests, their proof, the scaffold's README, stopping a plugin.
    """

    scan: Scan
    run_tests: RunTests
    prove: Prove
    scaffold: Scaffold
    stop: Stop


class Reviewing:
    """The review's operations for one shop."""

    def __init__(self, shop: Shop, machine: Machine) -> None:
        self.shop = shop
        self.machine = machine

    def submit(self, context: Context, path: Path | None, data: bytes, submitter: str, contact: str,
               response_hours: int) -> Any:
        """Accepts a bundle and checks it: ``in_review`` or ``changes_requested``, with every finding."""
        if not submitter.strip():
            raise Refusal("submitter_missing", "a submission needs the submitter's name", code=Code.INVALID_INPUT,
                          hint="name yourself with --as")
        if (path is None) == (not data):
            raise Refusal("bundle_missing",
                          "a submission needs the path or the bytes of a bundle", code=Code.INVALID_INPUT)
        bundle, signatures = read_path(path) if path is not None else unpack(data, "submission")
        price, manifest = checks.price_of(bundle), bundle.manifest
        contact, hours = checks.support_of(bundle, contact, response_hours)
        signed = context.store.transact(lambda db: keyring.evaluate(
            db, bundle.digest, read_signatures(signatures), self.shop.now_ns()))
        self.shop.keep(bundle, signatures)

        def take(db: sa.Connection, now_ns: int) -> Submission:
            one = subs.submit(db, now_ns, plugin=manifest.id, version=manifest.version, digest=bundle.digest,
                              author=manifest.author, submitter=submitter, uid=context.uid, price=price,
                              contact=contact, sla_hours=hours, author_key=signed.author_key)
            if one.state == "scanning":  # an earlier run was interrupted; this one replaces it
                return one
            return subs.move(db, now_ns, one.id, "scanning", actor=MACHINE, uid=0, reason="checks begin")

        taken = self.shop.change(take)
        found = checks.check(
            bundle, now_ns=self.shop.now_ns(), scan=lambda one: self.machine.scan(context, one),
            run_tests=lambda one: self.machine.run_tests(context, one),
            prove=lambda one, lines: self.machine.prove(context, one, lines), contact=contact, response_hours=hours,
            scaffold=self.machine.scaffold(bundle))
        text = found.text()
        signature = self.shop.key().sign(checks.SIGNED_PREFIX + text.encode()).hex()
        self.shop.change(lambda db, now_ns: subs.record_checks(db, now_ns, taken.id, text, signature, found.passed))
        return self.status(taken.id, "")

    def status(self, submission: int, plugin: str) -> Any:
        """One submission in full, or the queue."""
        now_ns = self.shop.now_ns()

        def work(db: sa.Connection) -> Any:
            queue = subs.queue(db, now_ns)
            if not submission and not plugin:
                return queue
            one = subs.get(db, submission) if submission else subs.latest(db, plugin)
            shown: dict[str, Any] = msgspec.to_builtins(one)
            shown["price"] = msgspec.json.decode(one.price)
            shown["result"] = msgspec.json.decode(one.result) if one.result else None
            shown["moves"] = subs.history(db, one.id)
            shown["comments"] = comments.every(db, one.id)
            shown["decisions"] = subs.signed_decisions(db, one.id)
            shown["queue"] = next(({"position": row["position"], "waitingSeconds": row["waitingSeconds"]}
                                   for row in queue if row["id"] == one.id), None)
            return shown

        return self.shop.read(work)

    def claim(self, submission: int, reviewer: str) -> Any:
        """A reviewer takes a submission: the machine's findings, the files, the checklist. Without a submission: the
        queue."""
        if not submission:
            return self.status(0, "")
        taken = self.shop.change(lambda db, _now_ns: subs.claim(db, submission, reviewer))
        bundle, _ = self.shop.kept(taken)
        self._check_result(taken)
        return {**self.status(taken.id, ""), "checklist": CHECKLIST, "permissions": list(bundle.manifest.permissions),
                "vendored": facts(read_lock(bundle.files), bundle.files),
                "files": [{"path": path, "size": len(body)} for path, body in bundle.files.items()
                          if path not in bundle.vendored]}

    def read(self, submission: int) -> Any:
        """The bytes of a submission, and of the version that was published before it (none: b"")."""
        def work(db: sa.Connection) -> tuple[Submission, Submission | None]:
            one = subs.get(db, submission)
            earlier = [other for other in subs.offered(db, one.plugin) if other.id < one.id]
            return one, earlier[-1] if earlier else None

        one, before = self.shop.read(work)
        bundle, signatures = self.shop.kept(one)
        return {"id": one.id, "plugin": one.plugin, "version": one.version, "digest": one.digest,
                "bundle": pack(bundle, signatures), "beforeVersion": before.version if before else "",
                "before": pack(self.shop.kept(before)[0]) if before else b""}

    def decide(self, context: Context, target: str, submission: int, reviewer: str, reason: str, digest: str,
               checklist: list[str], statement: str = "", signature: str = "") -> Any:
        """A reviewer's decision about bytes that are hashed again now."""
        one = self.shop.read(lambda db: subs.get(db, submission))
        now_ns, uid = self.shop.now_ns(), context.uid
        asked = reviewers.Statement(submission, digest, target, reason, uid, "", 0)
        signed = context.store.transact(lambda db: reviewers.identify(
            db, one, reviewer, asked, statement, signature, now_ns))
        if one.state == "in_review":
            self.shop.kept(one)
            self._check_result(one)
        self.shop.change(lambda db, now_ns: subs.decide(
            db, now_ns, submission, target, reviewer=reviewer, uid=uid, reason=reason, digest=digest,
            checklist=checklist, signed=(signed.key_id, signed.statement, signed.signature)))
        return self.status(submission, "")

    def publish(self, submission: int, publisher: str, uid: int, percent: int = 0) -> Any:
        """Counter-signs, and writes the bundle before the index: an index never names a bundle that is missing.

        With ``percent``, a stage of a release: the first one of an approved submission, or the next one. A price of a
        plugin that is on offer already changes when its release has reached everybody.
        """
        if not submission:
            index = self.shop.change(self.shop.write_index)
            return {"index": index.version, "expiresNs": index.expires_ns}
        if not publisher.strip():
            raise Refusal("publisher_missing", "a publication needs the publisher's name", code=Code.INVALID_INPUT,
                          hint="name yourself with --by")
        if percent:
            stages.check_percent(percent)
        one = self.shop.read(lambda db: subs.get(db, submission))
        entry = None
        if one.state == "approved":
            self._check_result(one)
            entry = self.shop.put_public(one)

        def work(db: sa.Connection, now_ns: int) -> Any:
            current = subs.get(db, submission)
            subs.check_digest(db, current, one.digest)
            share = percent or 100
            release = stages.find(db, current.digest)
            if current.state == "halted":
                raise Refusal("release_halted", f"the release of {current.plugin} {current.version} was halted, so it "
                              "does not go on to another stage", code=Code.CONFLICT,
                              hint=f"`apex-exec market resume {current.plugin}` lets it go on")
            if release is not None:
                stages.widen(db, now_ns, release, share)
            target = "published" if share == 100 else "staged"
            moved = current
            if release is None or current.state != target:
                reason = target if share == 100 else f"offered to {share} % of the customers"
                moved = subs.move(db, now_ns, submission, target, actor=publisher, uid=uid, reason=reason)
            if current.state == "approved":
                assert entry is not None  # it was approved above, too: the digest is the same
                self.shop.record(db, moved, entry)
                if percent:
                    stages.begin(db, now_ns, moved, share)
            if share == 100 or not subs.price_history(db, moved.plugin):
                subs.set_price(db, now_ns, moved.plugin, subs.decode_price(moved.price))
            index = self.shop.write_index(db, now_ns)
            return {"plugin": moved.plugin, "version": moved.version, "digest": moved.digest, "state": moved.state,
                    "percent": share, "index": index.version, "expiresNs": index.expires_ns,
                    "place": str(self.shop.public)}

        return self.shop.change(work)

    def revoke(self, context: Context, plugin: str, version: str, actor: str, reason: str, deprecate: bool) -> Any:
        """Takes a version off the market; a revoked version is also stopped if it is installed here."""
        if not reason.strip() or not actor.strip():
            raise Refusal("reason_missing", "a revocation needs a reason and the actor's name", code=Code.INVALID_INPUT)
        target = "deprecated" if deprecate else "revoked"

        def work(db: sa.Connection, now_ns: int) -> list[Submission]:
            found = [one for one in subs.offered(db, plugin) if version in ("", one.version)]
            if not found:
                raise Refusal("plugin_unknown", f"the marketplace has no {plugin[:60]!r} {version[:20]}".rstrip(),
                              code=Code.NOT_FOUND)
            left = ("revoked", "staged", "halted") if deprecate else ("revoked",)
            moving = [one for one in found if one.state != target and (version or one.state not in left)]
            for one in moving:
                subs.move(db, now_ns, one.id, target, actor=actor, uid=context.uid, reason=reason)
            self.shop.write_index(db, now_ns)
            return moving

        moved = self.shop.change(work)
        if not deprecate:
            for one in moved:
                self.machine.stop(context, one.digest, f"by the marketplace: {reason}")
        return {"plugin": plugin, "state": target, "versions": [one.version for one in moved]}

    def _check_result(self, one: Submission) -> None:
        """Raises Refusal("result_forged") if the stored findings are not those that were signed for these bytes, or did
        not pass."""
        try:
            self.shop.public_key().verify(bytes.fromhex(one.result_signature),
                                                checks.SIGNED_PREFIX + one.result.encode())
            found = msgspec.json.decode(one.result, type=checks.Findings)
        except (ValueError, msgspec.DecodeError, InvalidSignature):
            found = None
        if found is None or found.digest != one.digest or not found.passed:
            raise Refusal("result_forged", f"the stored findings of submission {one.id} differ from those that were "
                          "signed for these bytes", hint="submit it again")
