"""Which internal networks an operator may admit for plugins' requests, and to which hosts. Pure."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE = tuple(map(ipaddress.ip_network, (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))
"""What organisations number their own hosts from. Everything else that is not public (loopback, link-local, multicast)
means something else on every machine, and no configuration admits it."""


def read_networks(texts: list[str]) -> list[Network]:
    """The networks that ``texts`` write, as in ``10.20.0.0/16``. Raises ValueError with what to write instead."""
    networks: list[Network] = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not a network such as 10.20.0.0/16: {error}") from None
        if not any(network.version == one.version and network.subnet_of(one)  # type: ignore[arg-type]  # one version
                   for one in PRIVATE):
            raise ValueError(f"{text} is not a private network; only networks within {', '.join(map(str, PRIVATE))} "
                             "can be listed here")
        networks.append(network)
    return networks
