"""``fetch.internal``: hosts of the operator's own, each in the networks that were admitted for it and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_exec.common.networks import PRIVATE, read_networks
from apex_exec.config import load_settings
from apex_exec.daemon.settings_checks import check_fetch
from apex_exec.errors import ConfigError
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http.addresses import Reach
from tests.gateway.http_world import World, response

CORP = {"*.corp.test": ["10.20.0.0/16", "fd00:20::/32"], "one.test:8443": ["192.168.7.7/32"]}


def why(host: str, address: str, port: int = 443, internal: dict[str, list[str]] | None = None) -> str:
    """Why ``host`` may not be reached at ``address``; "" if it may."""
    try:
        Reach(False, CORP if internal is None else internal).check(host, port, address)
    except ApiFailure as failure:
        assert failure.code == "address_not_allowed"
        return failure.message
    return ""


@pytest.mark.parametrize(("host", "address", "port"), [
    ("a.corp.test", "10.20.0.1", 443), ("a.b.corp.test", "10.20.255.255", 80), ("a.corp.test", "fd00:20::1", 443),
    ("one.test", "192.168.7.7", 8443), ("a.corp.test", "8.8.8.8", 443), ("a.corp.test", "2606:4700::1111", 443)])
def test_a_host_is_reached_in_the_networks_that_were_admitted_for_it(host: str, address: str, port: int) -> None:
    assert why(host, address, port) == ""


@pytest.mark.parametrize(("host", "address", "port"), [
    ("corp.test", "10.20.0.1", 443), ("acorp.test", "10.20.0.1", 443), ("a.corp.test.evil.test", "10.20.0.1", 443),
    ("other.test", "10.20.0.1", 443), ("a.corp.test", "10.21.0.1", 443), ("a.corp.test", "10.19.255.255", 443),
    ("a.corp.test", "192.168.7.7", 443), ("one.test", "192.168.7.7", 443), ("one.test", "192.168.7.8", 8443),
    ("a.corp.test", "127.0.0.1", 443), ("a.corp.test", "169.254.169.254", 443), ("a.corp.test", "0.0.0.0", 443),
    ("a.corp.test", "::ffff:10.20.0.1", 443), ("a.corp.test", "::10.20.0.1", 443), ("a.corp.test", "::1", 443),
    ("a.corp.test", "64:ff9b::a14:1", 443), ("a.corp.test", "2002:a14:1::", 443), ("a.corp.test", "fe80::1", 443),
    ("a.corp.test", "fd00:21::1", 443), ("a.corp.test", "fd00:20::1%eth0", 443), ("a.corp.test", "10.20.1", 443),
    ("a.corp.test", "012.024.0.1", 443), ("a.corp.test", "224.0.0.1", 443), ("10.20.0.1", "10.20.0.1", 443)])
def test_no_other_host_no_other_address_and_no_other_spelling_is(host: str, address: str, port: int) -> None:
    assert why(host, address, port)


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254",
                                     "168.63.129.16", "127.0.0.1", "::1", "fe80::1"])
def test_what_serves_a_machines_credentials_is_reached_whatever_is_admitted_by_nobody(address: str) -> None:
    everything = {"all.test": [str(network) for network in PRIVATE]}
    assert why("all.test", address, internal=everything)
    assert why("all.test", "10.0.0.1", internal=everything) == ""


@pytest.mark.parametrize("text", ["127.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.0/7", "169.254.0.0/16", "8.8.8.0/24",
                                  "fe80::/10", "::ffff:10.0.0.0/104", "10.0.0.1/8", "10.0.0.0/33", "corp", "",
                                  "64:ff9b::/96", "224.0.0.0/4", "fc00::/6", "192.0.0.0/4"])
def test_what_is_no_private_network_cannot_be_admitted(text: str) -> None:
    with pytest.raises(ValueError, match="network"):
        read_networks([text])


def test_the_configuration_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "daemon.toml"

    def loaded(text: str) -> str:
        file.write_text(f"[fetch]\n{text}")
        try:
            check_fetch(load_settings(file))
        except ConfigError as error:
            return str(error)
        return ""

    allow = 'allow = ["billing.corp", "*.intra:8443"]\n'
    assert loaded(allow + '[fetch.internal]\n"billing.corp" = ["10.20.0.0/16"]\n"a.intra" = ["fd00::/8"]') == ""
    assert "fetch.allow does not" in loaded(allow + '[fetch.internal]\n"biling.corp" = ["10.20.0.0/16"]')
    assert "127.0.0.0/8 is not a private network" in loaded(allow + '[fetch.internal]\n"a.intra" = ["127.0.0.0/8"]')
    assert "internal" in loaded(allow + 'internal = ["10.0.0.0/8"]')  # networks without a name admit nobody
    assert "no certificate can be read" in loaded(f'ca_file = "{tmp_path / "none.pem"}"')
    file.with_suffix(".pem").write_text("nothing")
    assert "no certificate can be read" in loaded(f'ca_file = "{file.with_suffix(".pem")}"')


def test_names_and_redirects_lead_to_no_other_internal_address(world: World) -> None:
    """One internal host that answers, played by the loopback, sends on to others."""
    port = world.server.port
    names = ("a.corp.test", "b.other.test", "10.20.0.9", "good.test")
    allow = [f"{name}:{port}" for name in names]
    more = {"allow": allow, "named": names, "internal": {f"a.corp.test:{port}": ["10.20.0.0/16"]}, "private": False}
    for host, addresses in (("a.corp.test", ["10.21.0.1"]), ("a.corp.test", ["10.20.0.1", "10.21.0.1"]),
                            ("b.other.test", ["10.20.0.1"]), ("a.corp.test", ["169.254.169.254"])):
        world.names[host] = addresses
        assert world.code(f"http://{host}:{port}/", **more) == "address_not_allowed"
    assert world.code(f"http://10.20.0.9:{port}/", **more) == "address_not_allowed"
    world.names |= {"good.test": ["127.0.0.1"], "b.other.test": ["10.20.0.1"]}
    for target in (f"http://b.other.test:{port}/", f"http://10.20.0.9:{port}/", f"//10.20.0.9:{port}/"):
        world.server.routes["/away"] = response(b"", f"Location: {target}", status="302 Found")
        assert world.code(world.url("/away"), **{**more, "private": True}) == "address_not_allowed"
    world.server.routes["/away"] = response(b"", "Location: http://c.corp.test/", status="302 Found")
    assert world.code(world.url("/away"), **{**more, "private": True}) == "host_not_allowed"
