"""Which addresses a plugin's request may reach: public unicast addresses, and internal ones that the operator admitted
for the host. Pure.

The ranges are data, each with its reason, after IANA's special-purpose registries
(https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry). We made them narrower on
purpose: every form in which an IPv6 address embeds an IPv4 address is refused, because a translator on the way decides
what such an address reaches.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from apex_exec.common.networks import Network, read_networks
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http.urls import is_named

_REFUSED = {
    "0.0.0.0/8": "this network", "10.0.0.0/8": "private", "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback", "169.254.0.0/16": "link-local, cloud metadata", "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments", "192.0.2.0/24": "documentation", "192.31.196.0/24": "AS112",
    "192.52.193.0/24": "AMT", "192.88.99.0/24": "6to4 relays", "192.168.0.0/16": "private", "192.175.48.0/24": "AS112",
    "198.18.0.0/15": "benchmarks", "198.51.100.0/24": "documentation", "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast", "240.0.0.0/4": "reserved, broadcast",
    "::/96": "unspecified, loopback, IPv4-compatible", "::ffff:0:0/96": "IPv4-mapped",
    "::ffff:0:0:0/96": "IPv4-translated",
    "64:ff9b::/96": "NAT64", "64:ff9b:1::/48": "NAT64, local", "100::/64": "discard", "2001::/23": "Teredo, protocols",
    "2001:db8::/32": "documentation", "2002::/16": "6to4", "2620:4f:8000::/48": "AS112", "3fff::/20": "documentation",
    "5f00::/16": "segment routing", "fc00::/7": "private", "fe80::/10": "link-local", "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
_NETWORKS = [(ipaddress.ip_network(network), reason) for network, reason in _REFUSED.items()]
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The part of IPv6 that is assigned to unicast on the internet; the rest is reserved or not assigned yet."""
_NEVER = {"100.100.100.200/32": "cloud metadata", "168.63.129.16/32": "a cloud's own service",
          "fd00:ec2::/32": "cloud metadata", "fd20:ce::/32": "cloud metadata"}
"""Addresses at which clouds serve a machine's credentials and settings, in networks that may be admitted or are public
(link-local 169.254.169.254 is neither). No configuration admits them."""
_NEVER_NETWORKS = [(ipaddress.ip_network(network), reason) for network, reason in _NEVER.items()]
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def refusal(text: str, *, allow_loopback: bool = False, internal: Sequence[Network] = ()) -> str:
    """Why we may not connect to the address ``text``; "" if we may. ``allow_loopback`` is for tests only; ``internal``
    are the networks that the operator admitted for the host."""
    if "%" in text:
        return "an address with a zone"
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "not an IP address"
    if allow_loopback and any(address in network for network in _LOOPBACK if network.version == address.version):
        return ""
    for network, reason in _NEVER_NETWORKS:
        if network.version == address.version and address in network:
            return reason
    if any(address in network for network in internal if network.version == address.version):
        return ""
    for network, reason in _NETWORKS:
        if network.version == address.version and address in network:
            return reason
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return "not global unicast"
    return ""


class Reach:
    """Which addresses each host may have. ``internal`` maps hosts, as ``fetch.allow`` writes them, to networks.

    Raises ValueError for what is not a network that can be admitted."""

    def __init__(self, allow_loopback: bool, internal: Mapping[str, list[str]]) -> None:
        self._allow_loopback = allow_loopback
        self._internal = [(pattern, read_networks(networks)) for pattern, networks in internal.items()]

    def is_internal(self, host: str, port: int) -> bool:
        """Whether ``host`` is the operator's own, on whose networks plain http may carry a secret."""
        return self._allow_loopback or any(is_named(host, port, pattern) for pattern, _ in self._internal)

    def check(self, host: str, port: int, address: str) -> None:
        """Raises ApiFailure if ``host`` may not be reached at ``address``."""
        admitted = [network for pattern, networks in self._internal if is_named(host, port, pattern)
                    for network in networks]
        reason = refusal(address, allow_loopback=self._allow_loopback, internal=admitted)
        if reason:
            hint = "; the operator can admit it by fetch.internal" if reason in ("private", "carrier-grade NAT") else ""
            raise ApiFailure("address_not_allowed", f"the host's address is not public: {reason}{hint}")
