"""A published index is believed only where it is signed, newer than the last, fresh, its bundles as named."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.cli.market.fetch import fetch_plugin, read_index
from apex_exec.errors import Refusal
from apex_exec.market.shop import download
from apex_exec.market.shop.download import fetch
from apex_exec.market.shop.index import INDEX_BYTES_MAX, LIFETIME_NS, NAME
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import raw_public
from tests.market.shops import Market, write_bundle


class Client:
    """The admin client as the command line has it, straight to one marketplace's handlers."""

    def __init__(self, market: Market) -> None:
        self.market = market

    def request(self, op: str, args: dict[str, Any]) -> Any:
        """One operation."""
        return self.market(op, **args)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path, f"sqlite:///{tmp_path}/market.db")
    made.store.transact(lambda db: keyring.register(
        db, name="market", role="market", owner="us", public_key=raw_public(made.shop.key()).hex(), days=365, uid=0,
        now_ns=made.now_ns))
    made.publish(write_bundle(tmp_path / "sums"))
    yield made
    made.close()


def look(market: Market, data: bytes, place: str = "here", **args: str) -> Any:
    return market("market.index", place=place, index=data, plugin="sums", **args)


def refused(market: Market, expected: str, data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        look(market, data)
    assert caught.value.reason == expected


def current(market: Market) -> bytes:
    return (market.shop.public / NAME).read_bytes()


def test_an_index_older_than_the_last_one_seen_is_refused(market: Market) -> None:
    old = current(market)
    market("market.publish")
    new = current(market)
    assert look(market, old)["version"] == "1.0.0"
    assert look(market, new)["version"] == "1.0.0"
    refused(market, "index_rolled_back", old)
    assert look(market, old, place="a place not seen before")["version"] == "1.0.0"


def test_an_index_that_is_no_longer_refreshed_stops_counting(market: Market) -> None:
    data = current(market)
    market.now_ns += LIFETIME_NS - 1
    look(market, data)
    market.now_ns += 1
    refused(market, "index_expired", data)
    market("market.publish")
    look(market, current(market))


def test_two_indexes_of_one_version_are_noticed(market: Market) -> None:
    from apex_exec.market.shop.index import open_index, seal

    data = current(market)
    keys = {row["key_id"]: row["public_key"] for row in [msgspec.to_builtins(row) for row in market.store.transact(
        lambda db: keyring.find(db, "market"))]}
    index, _ = open_index(data, keys, market.now_ns, None)
    look(market, data)
    refused(market, "index_forked", seal(msgspec.structs.replace(index, plugins=[]), market.shop.key()))


def test_an_index_that_was_edited_or_signed_by_somebody_else_is_refused(market: Market, tmp_path: Path) -> None:
    data = current(market)
    refused(market, "index_untrusted", data.replace(b"1.0.0", b"9.0.0"))
    refused(market, "index_invalid", b"{}")
    refused(market, "index_invalid", b"[" * 100_000)
    other = Market(tmp_path / "other", f"sqlite:///{tmp_path}/other.db")
    other.publish(write_bundle(tmp_path / "sums"))
    refused(market, "index_untrusted", current(other))
    other.close()


def test_a_key_that_was_revoked_signs_no_index(market: Market) -> None:
    market.store.transact(lambda db: keyring.revoke(db, keyring.find(db, "market")[0], "lost", market.now_ns))
    refused(market, "index_untrusted", current(market))


@pytest.fixture
def server(market: Market) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(market.shop.public))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join(5)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if self.path == "/away/index.json":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        super().do_GET()


def test_a_plugin_is_fetched_from_a_folder_a_file_url_and_over_http(market: Market, server: str,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = Client(market)
    for place in (str(market.shop.public), market.shop.public.as_uri(), server):
        entry, data = fetch_plugin(client, place, "sums")
        assert entry["version"] == "1.0.0" and len(data) == entry["size"]
        assert read_index(client, place, words="sums")[0]["id"] == "sums"
    assert f"{entry['size']} of {entry['size']} bytes (100 %)" in capsys.readouterr().err


def test_a_mirror_that_swaps_a_bundle_is_noticed(market: Market, tmp_path: Path) -> None:
    bundle = next((market.shop.public / "bundles").iterdir())
    body = bytearray(bundle.read_bytes())
    body[-40] ^= 1
    bundle.write_bytes(body)
    client: Any = Client(market)
    with pytest.raises(Refusal) as caught:
        fetch_plugin(client, str(market.shop.public), "sums")
    assert caught.value.reason == "bundle_swapped"


@pytest.mark.parametrize(("place", "reason"), [("", "place_invalid"), ("ftp://x.example", "place_invalid"),
                                               ("/nowhere/at/all", "not_fetched"),
                                               ("http://127.0.0.1:1", "not_fetched"),
                                               ("javascript:alert(1)", "place_invalid")])
def test_a_place_that_is_none_is_one_clear_error(place: str, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        fetch(place, NAME, INDEX_BYTES_MAX)
    assert caught.value.reason == reason and len(caught.value.message) < 400


def test_a_redirect_cannot_name_a_file_of_this_machine(server: str) -> None:
    with pytest.raises(Refusal, match="(?i)redirect"):
        fetch(f"{server}/away", NAME, INDEX_BYTES_MAX)


def test_a_file_over_the_limit_is_not_read_to_its_end(market: Market) -> None:
    with pytest.raises(Refusal) as caught:
        fetch(str(market.shop.public), NAME, 10)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("words", [
    b"this is not HTTP\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"])
def test_a_server_that_does_not_speak_http_is_refused(words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=_answer, args=(listening, [words], threading.Event()))
        answering.start()
        with pytest.raises(Refusal) as caught:
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}", NAME, 1000)
        answering.join()
    assert caught.value.reason == "not_fetched"


def test_a_server_that_sends_a_byte_at_a_time_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SECONDS_MAX", 0.25)
    over = threading.Event()
    words = [b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n", *[b"x"] * 200]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=_answer, args=(listening, words, over))
        answering.start()
        with pytest.raises(Refusal) as caught:
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}", NAME, 1000)
        assert answering.is_alive(), "the server had more to send"
        over.set()
        answering.join()
    assert caught.value.reason == "not_fetched"


def _answer(listening: socket.socket, words: list[bytes], over: threading.Event) -> None:
    """Answers one connection with ``words``, with a tenth of a second between any two of them."""
    connection, _ = listening.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(65536)
        for index, word in enumerate(words):
            if index and over.wait(0.1):
                return
            connection.sendall(word)
