"""A console that others could reach unprotected is refused, in one line that says what to set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import load_settings
from apex_exec.console.place import folder_of, is_loopback, place_of
from apex_exec.errors import ConfigError


def place(**section: Any) -> Any:
    return place_of(load_settings(None, {f"console.{key}": value for key, value in section.items()}))


def test_by_default_only_this_machine_reaches_it_by_its_own_names() -> None:
    found = place()
    assert (found.host, found.port, found.scheme, found.tls) == ("127.0.0.1", 9465, "http", None)
    assert found.names == {"127.0.0.1:9465", "localhost:9465"} and found.origin() == "http://127.0.0.1:9465"
    assert place(address="127.0.0.1:0").at(4711).names == {"127.0.0.1:4711", "localhost:4711"}
    assert place(address="[::1]:80").names == {"[::1]:80", "localhost:80"}


@pytest.mark.parametrize(("section", "says"), [
    ({"address": "0.0.0.0:9465"}, "console.tls_certificate"),
    ({"address": "[::]:9465", "hosts": ["a.example"]}, "console.trusted_proxy"),
    ({"address": "10.0.0.1:9465"}, "use 127.0.0.1"),
    ({"address": "console.example:9465"}, "can be reached from other machines"),
    ({"trusted_proxy": "127.0.0.1"}, "console.hosts"),
    ({"trusted_proxy": "proxy", "hosts": ["a.example"]}, "not an IP address"),
    ({"tls_certificate": "/x"}, "only useful together"),
    ({"tls_certificate": "/nonexistent", "tls_key": "/nonexistent"}, "cannot be used"),
    ({"address": "127.0.0.1"}, "write HOST:PORT"),
    ({"address": "127.0.0.1:99999"}, "write HOST:PORT"),
    ({"session_hours": 0}, "console.session_hours"),
])
def test_what_would_be_open_is_refused_in_one_line(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        place(**section)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_behind_a_proxy_it_has_the_proxys_names_alone() -> None:
    found = place(trusted_proxy="127.0.0.1", hosts=["Console.Example"])
    assert found.scheme == "https" and found.names == {"console.example"} and found.is_secure
    assert found.origin() == "https://console.example"


def test_its_folder_is_beside_the_daemons() -> None:
    assert folder_of(load_settings(None, {"runtime_dir": "/run/x"})) == Path("/run/x-console")
    assert folder_of(load_settings(None, {"console.runtime_dir": "/srv/c"})) == Path("/srv/c")
    assert is_loopback("127.8.8.8") and is_loopback("::1") and not is_loopback("0.0.0.0") and not is_loopback("x")
