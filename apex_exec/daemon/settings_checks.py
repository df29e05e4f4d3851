"""What ``serve`` refuses before it starts anything, and ``config check`` too: settings that contradict each other."""

from __future__ import annotations

import re
from pathlib import Path

from apex_exec import extras
from apex_exec.common.networks import read_networks
from apex_exec.config import NODE, POSTGRES, Settings
from apex_exec.daemon.administration.roles import check_peers
from apex_exec.daemon.runtime_folder import check_length, socket_path
from apex_exec.errors import ConfigError, Refusal
from apex_exec.gateway.sql.tables import Table, read_tables
from apex_exec.registry.trust.policy_file import Policy
from apex_exec.sandbox.modules import check_modules


def check_settings(settings: Settings) -> None:
    """Raises ConfigError for the first thing that could not be served, or should not."""
    check_modules(settings.sandbox.extra_modules)
    check_peers(settings)
    check_endpoints(settings)
    check_extras(settings)
    check_fetch(settings)
    check_fleet(settings)
    if settings.traces.endpoint:
        from apex_exec.observe.traces.target import check_target  # the modules that read URLs are for those who need it

        check_target(settings.traces)
    tables_of(settings)
    others = {"audit.url": settings.audit.url, "registry.url": settings.registry.url, "market.url": settings.market.url}
    for key, url in others.items():
        if settings.database_url(url) == settings.database_url(settings.data.url):
            raise ConfigError(f"data.url and {key} name the same database; give the data that plugins reach a "
                              "database of its own")
    try:
        Policy.read(settings.security.policy_file)
    except Refusal as error:
        raise ConfigError(error.message) from None
    if settings.plugins_dir and not Path(settings.plugins_dir).is_dir():
        raise ConfigError(f"plugins_dir: the folder {settings.plugins_dir} does not exist; create it, or name another")


def tables_of(settings: Settings) -> dict[str, Table]:
    """The tables that plugins may see. Raises ConfigError."""
    backend = "postgres" if POSTGRES.match(settings.data.url) else "sqlite"
    return read_tables({name: entry.model_dump() for name, entry in settings.data.tables.items()}, backend)


def check_extras(settings: Settings) -> None:
    """Raises ConfigError for the first key that needs an extra which is not installed."""
    if settings.data.tables:
        extras.need("data", "data.tables")
        if POSTGRES.match(settings.data.url):
            extras.need("postgres", "data.url")
    if settings.fetch.allow:
        extras.need("fetch", "fetch.allow")
    if needed := needs_registry(settings):
        extras.need("registry", needed)
    if settings.fleet.engine != "none":
        extras.need("registry", "fleet.engine")
    if settings.traces.endpoint:
        extras.need("otel", "traces.endpoint")
    for key, url in (("registry.url", settings.registry.url), ("market.url", settings.market.url)):
        if POSTGRES.match(url):
            extras.need("postgres", key)


def check_fetch(settings: Settings) -> None:
    """Raises ConfigError for an internal host or network that cannot be admitted, and for authorities that cannot be
    read."""
    fetch = settings.fetch
    allowed = [_without_port(entry) for entry in fetch.allow]
    for pattern, networks in fetch.internal.items():
        name = _without_port(pattern)
        if not any(name == entry or (entry.startswith("*.") and name.endswith(entry[1:])) for entry in allowed):
            raise ConfigError(f"fetch.internal names {pattern}, which fetch.allow does not; add it to fetch.allow too")
        try:
            read_networks(networks)
        except ValueError as error:
            raise ConfigError(f"fetch.internal, {pattern}: {error}") from None
    if fetch.ca_file:
        import ssl  # OpenSSL's library is for those who need it

        try:
            ssl.create_default_context().load_verify_locations(cafile=fetch.ca_file)
        except OSError as error:  # an SSLError is one, too
            raise ConfigError(f"fetch.ca_file: no certificate can be read from {fetch.ca_file}: {error}; name a file "
                              "in PEM") from None


def _without_port(pattern: str) -> str:
    return re.sub(r":\d+$", "", pattern.lower()).strip("[]")


def needs_registry(settings: Settings) -> str:
    """What says that the registrar may have something to tell before it is asked: a database of its own, one that an
    earlier daemon has filled, a marketplace's index or entitlements. "" if nothing does."""
    for key, url, name in (("registry.url", settings.registry.url, "registry.db"),
                           ("market.url", settings.market.url, "market.db")):
        path = settings.state_path / name
        if settings.database_url(url) != f"sqlite:///{path}":
            return key
        if path.exists():
            return str(path)
    if settings.market.index:
        return "market.index"
    return "market.entitlements" if settings.market.entitlements else ""


def check_fleet(settings: Settings) -> None:
    """Raises ConfigError for a fleet that this node could not be a member of."""
    fleet = settings.fleet
    if fleet.engine == "none":
        return
    from apex_exec.daemon.fleet.node_socket import load_pair  # libzmq is for those who need it

    if NODE.fullmatch(settings.node_name) is None:
        raise ConfigError(f"fleet.node: this machine's name, {settings.node_name[:80]!a}, is not a valid node name; "
                          "set fleet.node to a name of up to 63 of a-z, 0-9, dots and hyphens")
    if fleet.engine == "static" and settings.node_name not in fleet.members:
        raise ConfigError(f"fleet.members does not list this node, {settings.node_name}; add it, or change fleet.node")
    load_pair(settings)


def check_endpoints(settings: Settings) -> None:
    """Raises ConfigError for what would let others in, before anything is started."""
    if not settings.admin_endpoint.startswith("ipc://"):
        raise ConfigError("admin.endpoint: administration is served on a local socket only; write ipc:///path")
    host = settings.host_endpoint
    if host.startswith("tcp://"):
        from apex_exec.daemon.hosts.tcp_hosts import Curve  # libzmq is for those who need it

        Curve(settings.host.curve_keys_dir)
    elif not host.startswith("ipc://"):
        raise ConfigError(f"host.endpoint: {host} is not supported; write ipc:///path, or tcp://address:port (with "
                          "CURVE)")
    if host == settings.admin_endpoint:
        raise ConfigError("host.endpoint and admin.endpoint are the same; give each a socket of its own")
    for endpoint in (host, settings.admin_endpoint):
        path = socket_path(endpoint)
        if path is not None and (not path.is_absolute() or str(path).startswith("@")):
            raise ConfigError(f"{endpoint}: this is not an absolute path; write one (abstract sockets are refused, as "
                              "they have no owner)")
        check_length(endpoint)
