"""Attacks on the pages of the marketplace: hostile bundles, comments, customers, tickets; forbidden acts, role by role;
formulas in CSV."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from apex_exec.config import ROLES
from apex_exec.console.pictures import CSP as PICTURES_CSP
from apex_exec.console.review_pages import CHECKLIST
from apex_exec.daemon.administration.role_table import role_needed
from apex_exec.ledger.reading import Filter, read_events
from apex_exec.market import store
from apex_exec.market.review import states
from tests.console.pages_of_ours import text_of
from tests.console.test_attacks import HOSTILE
from tests.market.shops import Market, at
from tests.registry.test_pictures import GOOD, png
from tests.support.console import Browser, Console
from tests.support.daemon import Daemon, wait_for
from tests.support.market import CODE, books, sell, user, write_sums

FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1")
NAME = "".join(HOSTILE[:2])[:90]
BAD_LINES = "\n".join(f"# {text!r} {text}".replace("\x07", "") for text in HOSTILE)
HOSTILE_CODE = (CODE.format(id="evil", version="1.0.0") + f'\n{BAD_LINES}\nX = "{"x" * 100_000}"\n'
                "# \u202eturned \u2066\x1b[31m\n" + '"""' + "<script>zzmark()</script>" * 3 + '"""\n')


def count_failures(with_books: Market) -> None:
    """Figures of ``sums``, and places of failures that nobody held to the bundle."""
    digest = with_books("market.show", plugin="sums")["digest"]

    def work(db: sa.Connection, now_ns: int) -> None:
        db.execute(sa.insert(store.figures).values(
            source="a", digest=digest, plugin="sums", version="1.0.0", installed=True, calls=1200,
            codes='{"":1170,"PLUGIN_ERROR":30}', times='{"20":600,"30":600}'))
        for text in HOSTILE:
            db.execute(sa.insert(store.failure_places).values(
                source="a", digest=digest, code="PLUGIN_ERROR", exception=text[:100].replace("\0", ""),
                place=text[:300].replace("\0", ""), failures=7, first_ns=now_ns, last_ns=now_ns))

    with_books.shop.change(work)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("market")
    with_books = books(folder / "d" / "state")
    with_books.now_ns = at("2026-08-05")
    shown_folder = write_sums(folder / "one", author="=ACME", icon="icon.svg", screenshots=["1.png"],
                              description=HOSTILE[1], changelog="NEWS.md", files={
                                  "icon.svg": GOOD.decode(), "NEWS.md": "\n".join(HOSTILE)})
    (shown_folder / "1.png").write_bytes(png(16, 10))
    with_books.publish(shown_folder)
    with_books.publish(write_sums(folder / "evil-0", "evil", "0.9.0", name=HOSTILE[1][:90], author=HOSTILE[0]))
    sell(with_books, "2026-08", "sums", [(user(n), name) for n, name in enumerate((*FORMULAS[:4], HOSTILE[0]))])
    with_books.now_ns = time.time_ns() - 25 * 3600 * 10**9
    with_books("market.ticket.open", plugin="sums", userId=user(1), subject="nobody has answered for a day")
    with_books.now_ns = time.time_ns()
    with_books.scan_warnings = [f"plugin.py:9: {text.splitlines()[0]}: mend it" for text in HOSTILE]
    shown = with_books("market.submit", submitter="ann", path=str(write_sums(
        folder / "evil", "evil", "1.0.0", {"plugin.py": HOSTILE_CODE, f"{HOSTILE[0].replace('/', '')}.py": "x = 1\n"}
        , name=NAME, author=HOSTILE[0])))
    assert shown["state"] == "in_review", shown["result"]
    with_books("market.submit", submitter="ann", path=str(write_sums(folder / "next", version="1.1.0", author="=ACME")))
    for text in HOSTILE:
        with_books("market.comment", submission=shown["id"], reviewer=f"rita {text[:9]}".replace("\x1b", ""),
                   file="plugin.py", line=9, text=f"see {text}")
        with_books("market.ticket.open", plugin="sums", userId=user(1), subject=f"help {text}")
    with_books("market.ticket.respond", ticket=2, responder=HOSTILE[0], text=" ".join(HOSTILE))
    count_failures(with_books)
    with_books.close()
    with Daemon(folder / "d", None) as running:
        yield running


@pytest.fixture(scope="module")
def rita(console: Console) -> Browser:
    return console.browser("rita", "reviewer", "finance", "author", "operator")


EVIL, NEXT = 3, 4
PAGES = ("/review", f"/review/{EVIL}", f"/review/{EVIL}?base=-1", f"/review/{EVIL}/file?path=plugin.py",
         f"/review/{EVIL}/file?path=plugin.py&view=diff", f"/review/{EVIL}/file?path=plugin.py&line=9",
         f"/review/{EVIL}/file?path=README.md", "/market", "/market/evil", "/market/sums", "/mine", "/money",
         "/money/2026-08", "/money/2026-08/invoice?customer=" + quote(HOSTILE[0]), "/support?state=", "/support/1",
         "/support/2", "/support/10", "/approvals")


@pytest.mark.parametrize("path", PAGES)
def test_no_page_of_the_market_has_anything_of_others_but_text(rita: Browser, path: str) -> None:
    answer = rita.get(path)
    assert answer.status == 200, answer.body[-1500:]
    text = text_of(answer.body)
    if "plugin.py" in path:
        assert "\\u202eturned" in text and "more characters are not shown" in text and "see <script>" in text
    if path == f"/review/{EVIL}":
        assert HOSTILE[0] in text and "changed" in text


@pytest.mark.slow_after(3)
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("field", [
    "/review/{}", "/review/3/file?path={}", "/review/3/file?path=plugin.py&view={}&base={}&line={}&from={}",
    "/market?q={}&page={}", "/market/{}", "/money?month={}", "/money/{}", "/money/2026-08?author={}",
    "/money/2026-08?customer={}&page={}", "/money/2026-08/invoice?author={}", "/support?plugin={}&state={}&page={}",
    "/support/{}", "/review/3?base={}"])
def test_what_an_address_says_is_text(rita: Browser, field: str, hostile: str) -> None:
    answer = rita.get(field.replace("{}", quote(hostile, safe="")))
    assert answer.status in (200, 303, 400, 404) and "Traceback" not in answer.body
    if answer.status != 303:
        text_of(answer.body)


def test_an_author_sees_on_the_own_page_how_each_version_does_and_where_it_fails(console: Console) -> None:
    text = text_of(console.browser("ann", "author").get("/mine").body)
    assert "How sums does" in text and "1,200" in text and "2.50 %" in text and "8.7 ms" in text and "80.8 ms" in text
    assert f"PLUGIN_ERROR: {HOSTILE[0]}"[:40] in text, "as text"
    assert "How sums does" not in text_of(console.browser("paul", "author").get("/mine").body)


def test_a_month_is_a_page_for_each_kind_of_party(rita: Browser) -> None:
    for party in ("author=nobody", "customer=nobody", ""):
        assert rita.get(f"/money/2026-08?{party}").status == 200, party
        assert rita.get(f"/money/2026-08/invoice?{party}").status == (200 if party else 303), party


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_person_writes_is_text(rita: Browser, hostile: str) -> None:
    token = rita.get("/doctor").csrf
    for path, form in ((f"/review/{EVIL}/comment", {"path": "plugin.py", "line": "3", "text": f"no: {hostile}"}),
                       ("/support/2/answer", {"text": f"well: {hostile}"})):
        answer = rita.post(path, csrf=token, **form)
        assert answer.status == 303, answer
        assert hostile[:4].strip("\x1b\u202e") in text_of(rita.get(answer.headers["location"].partition("#")[0]).body)


@pytest.mark.parametrize("path", ["/../../etc/passwd", "../../keys/market.key", "/etc/passwd", "plugin.py\x00", ""])
def test_no_address_leads_to_a_file_outside_the_bundle(rita: Browser, path: str) -> None:
    answer = rita.get(f"/review/{EVIL}/file?path={quote(path, safe='')}")
    assert answer.status in (400, 404, 500) or "root:" not in answer.body
    assert "PRIVATE KEY" not in answer.body and "root:" not in answer.body


def test_pictures_of_a_listing_can_run_nothing_and_there_are_no_others(rita: Browser) -> None:
    page = rita.get("/market/sums")
    assert HOSTILE[1] in text_of(page.body) and HOSTILE[0] in text_of(page.body)
    named = re.findall(r'<img [^>]*src="(/market/sums/pictures/[^"]+)"', page.body)
    assert len(named) == 2 and '<img class="icon" src="/market/sums/pictures/0?v=' in rita.get("/market").body
    icon, screenshot = map(rita.get, named)
    assert (icon.headers["content-type"], screenshot.headers["content-type"]) == ("image/svg+xml", "image/png")
    assert icon.body.encode() == GOOD and "attachment" in icon.headers["content-disposition"]
    for answer in (icon, screenshot):
        assert answer.status == 200 and answer.headers["content-security-policy"] == PICTURES_CSP
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/market/sums/pictures/2", "/market/evil/pictures/0", "/market/nobody/pictures/0",
                 "/market/sums/pictures/../../../etc/passwd"):
        answer = rita.get(path)
        assert answer.status == 404 and "root:" not in answer.body


def test_a_ticket_that_is_late_is_shown_first_and_alerted(rita: Browser, daemon: Daemon) -> None:
    daemon.wait_metric('market_tickets{state="late"}', 1, 60)
    page = text_of(rita.get("/support").body)
    assert "breached 1 h 0" in page and page.index("nobody has answered for a day") < page.index("help ")


def test_csv_runs_no_formula_and_is_a_download(rita: Browser) -> None:
    answer = rita.get("/money/2026-08/csv")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="statement-2026-08.csv"'
    cells = [cell for row in csv.reader(io.StringIO(answer.body)) for cell in row]
    assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-\D", cell)], cells
    assert "'=cmd|' /C calc'!A0" in cells and "'=ACME" in cells
    named = rita.get("/money/2026-08/csv?customer=" + quote('"; filename="x.exe\r\nX: y', safe=""))
    assert "x.exe" not in named.headers.get("content-disposition", "") and "x" not in named.headers


def forms(csrf: str) -> dict[str, tuple[str, dict[str, str]]]:
    """operation -> an order for it, as a page would send it."""
    return {
        "market.review": (f"/review/{NEXT}/take", {}),
        "market.comment": (f"/review/{NEXT}/comment", {"path": "plugin.py", "line": "1", "text": "x"}),
        "market.approve": (f"/review/{NEXT}/decide", {"decision": "approved", "reason": "x", "digest": "0" * 64, **{
            f"check-{item}": "yes" for item in CHECKLIST}}),
        "market.reject": (f"/review/{NEXT}/decide", {"decision": "rejected", "reason": "x", "digest": "0" * 64}),
        "market.publish": (f"/review/{NEXT}/publish", {}),
        "market.revoke": ("/market/sums/revoke", {"reason": "x"}),
        "billing.close": ("/money/2026-08/close", {"sure": "2026-08"}),
        "market.ticket.respond": ("/support/3/answer", {"text": "x"}),
        "market.ticket.close": ("/support/3/close", {}),
        "plugin.approve": ("/approvals/sums/1/approve", {"statement": "{}", "signature": "00"}),
        "plugin.deny": ("/approvals/sums/1/deny", {"statement": "{}", "signature": "00"}),
        "plugin.revoke": ("/approvals/sums/1/revoke", {"statement": "{}", "signature": "00"}),
    }


READ = {"market.source": f"/review/{NEXT}/file?path=plugin.py", "market.mine": "/mine", "market.figures": "/mine",
        "billing.months": "/money", "billing.page": "/money/2026-08", "billing.csv": "/money/2026-08/csv"}


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("role", [role for role in ROLES if role != "admin"])
def test_each_role_is_refused_what_is_not_its_own_by_the_daemon(console: Console, daemon: Daemon, role: str) -> None:
    browser = console.browser(f"p-{role}", role)
    token = browser.get("/doctor").csrf
    before = daemon.operate("market.status", submission=NEXT)
    for operation, path in READ.items():
        if role_needed(operation) != role:
            answer = browser.get(path)
            assert answer.status == 403 and f"--role {role_needed(operation)}" in text_of(answer.body), operation
    for operation, (path, form) in forms(token).items():
        if role_needed(operation) == role:
            continue
        answer = browser.post(path, csrf=token, **form)
        assert answer.status == 303, (operation, answer)
        shown = text_of(browser.get(answer.headers["location"]).body)
        needed = role_needed(operation)
        assert f"needs the role {needed}; p-{role}" in shown or (f"--role {needed}" in shown), (operation, shown)
    after = daemon.operate("market.status", submission=NEXT)
    assert (after["state"], after["reviewer"], after["comments"]) == (
        before["state"], before["reviewer"], before["comments"])
    assert daemon.operate("market.show", plugin="sums")["state"] == "published"
    assert daemon.operate("market.ticket.show", ticket=3)["closed_ns"] is None


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("operation", sorted(forms("")))
def test_a_form_of_another_site_or_session_does_nothing(console: Console, rita: Browser, operation: str) -> None:
    path, form = forms("")[operation]
    token = rita.get("/doctor").csrf
    assert rita.post(path, {"Origin": "https://evil.example"}, csrf=token, **form).status == 403
    other = console.browser("ben", "viewer").get("/doctor").csrf
    for wrong in ("", "x", other):
        answer = rita.post(path, csrf=wrong, **form)
        assert answer.status == 403 and "belongs to an earlier session" in answer.body
    assert console.browser().post(path, csrf=token, **form).status in (401, 429)
    assert rita.get(path).status in (404, 405)


def test_an_author_cannot_review_under_any_name(console: Console, daemon: Daemon) -> None:
    ann = console.browser("Ann", "reviewer", "author")
    assert "somebody else has to decide" in text_of(ann.get(f"/review/{NEXT}").body)
    digest = daemon.operate("market.status", submission=NEXT)["digest"]
    form = {"decision": "approved", "reason": "mine", "digest": digest, "reviewer": "rita",
            **{f"check-{item}": "yes" for item in CHECKLIST}}
    answer = ann.post(f"/review/{NEXT}/decide", csrf=ann.get("/doctor").csrf, **form)
    assert "somebody else must review it" in text_of(ann.get(answer.headers["location"]).body)
    assert daemon.operate("market.status", submission=NEXT)["state"] == "in_review"
    mine = text_of(console.browser("paul", "author").get("/mine").body)
    assert "You have not submitted a plugin yet" in mine, "others' submissions are not shown"


@pytest.mark.parametrize("percent", ["", "0", "-5", "abc", "101", "5.5"])
def test_a_share_that_is_none_publishes_to_nobody(rita: Browser, daemon: Daemon, percent: str) -> None:
    token = rita.get("/doctor").csrf
    answer = rita.post(f"/review/{NEXT}/publish", csrf=token, percent=percent)
    assert answer.status == 303
    assert "1 to 100 percent" in text_of(rita.get(answer.headers["location"]).body)
    assert daemon.operate("market.status", submission=NEXT)["state"] == "in_review"


def test_a_decision_counts_for_the_bytes_that_were_read(rita: Browser, daemon: Daemon) -> None:
    token = rita.get("/doctor").csrf
    checked = {f"check-{item}": "yes" for item in CHECKLIST}
    for form, says in (({"decision": "approved", "digest": "0" * 64, **checked}, "these bytes are 0000000000000000"),
                       ({"decision": "approved", "digest": "0" * 64}, "not confirmed"),
                       ({"decision": "sold", "digest": "0" * 64}, "Choose a decision")):
        answer = rita.post(f"/review/{NEXT}/decide", csrf=token, reason="read it", **form)
        shown = rita.get(answer.headers["location"])
        assert says in text_of(shown.body)
        assert "read it</textarea>" in shown.body, "what was written is not lost"
    assert daemon.operate("market.status", submission=NEXT)["state"] == "in_review"


def test_the_checklist_of_the_page_is_the_daemons() -> None:
    assert list(CHECKLIST) == list(states.CHECKLIST)


def test_what_a_reviewer_did_is_recorded_under_the_name(rita: Browser, daemon: Daemon) -> None:
    token = rita.get("/doctor").csrf
    assert rita.post(f"/review/{EVIL}/take", csrf=token).status == 303

    def recorded() -> bool:
        return any(event.action == "market.review" and event.metadata.get("actor", {}).get("name") == "rita" and
                   event.result == "success" for event in read_events(
                       daemon.state / "audit.db", Filter(event_types=("admin.action",))))

    wait_for(recorded, 10, "the record")


def test_the_console_says_nothing_of_a_fault_in_all_of_this(console: Console) -> None:
    """The last of this file: no page of those above has failed."""
    assert console.stop() == 0
    assert console.process.stderr is not None
    said = console.process.stderr.read()
    assert "Traceback" not in said and "ERROR" not in said, said[-3000:]
