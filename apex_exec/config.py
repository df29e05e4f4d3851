"""Settings: a TOML file, then ``APEX_EXEC_*`` environment variables, then flags. Unknown keys are errors."""

from __future__ import annotations

import difflib
import json
import os
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from apex_exec.catalogue.declared import check_names, hook_of
from apex_exec.catalogue.limits import LIMITS, MEMORY_MB_MAX, PLATFORM_LIMITS, Limits, default_of, type_of
from apex_exec.errors import ConfigError

ENV_PREFIX = "APEX_EXEC_"
NOT_A_SETTING = "APEX_EXEC_PYTHONS"
"""Names interpreters for this project's own tests; a daemon that is started from such a shell ignores it."""
SOCKET_PATH_BYTES_MAX = 107
"""The longest path of a unix socket on Linux (sun_path minus its NUL)."""


PORT_MAX = 65_535
COUNT_MAX = 1_000_000
"""The maximum of every count: far above what a machine can have, far below where a product of two overflows."""

Seconds = Annotated[float, Field(ge=0.001, le=31_536_000)]
"""A duration: at least the loop's resolution, and at most a year, so that it fits into 64 bits as nanoseconds."""
SecondsOrNone = Annotated[float, Field(ge=0, le=31_536_000)]
"""The same, but 0 is allowed and has a special meaning."""


POSTGRES = re.compile(r"postgres(ql)?(\+psycopg)?://")
"""Database providers print ``postgres://``; the driver is psycopg in any case."""


def _database(url: str) -> str:
    if not (re.match("sqlite:///.", url) or POSTGRES.match(url)):
        raise ValueError("this is not a supported database URL; write sqlite:///path or "
                         "postgresql://role@host/database")
    return url


DatabaseUrl = Annotated[str, AfterValidator(_database)]


class _Section(BaseModel):
    """Every number below has a minimum and a maximum, so that computing with it can neither overflow nor divide by 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HostSection(_Section):
    """The endpoint that hosts call. ``curve_keys_dir`` contains pyzmq certificates: ours and each client's."""

    endpoint: str = ""
    socket_group: str = ""
    max_message_bytes: int = Field(default=1_048_576, ge=1024, le=64 * 1024 * 1024)
    curve_keys_dir: str = ""


ADMIN, DELEGATE = "admin", "delegate"
ROLES = ("viewer", "operator", "approver", "reviewer", "finance", "author", ADMIN)
"""The roles of an administrator; ``daemon/administration/role_table.py`` says what each may do."""
PEER_ROLES = (*ROLES, DELEGATE, *(f"{DELEGATE}:{role}" for role in ROLES))
"""The roles that ``admin.roles`` can assign to a peer. A delegate asks on behalf of other people and names their roles:
any except ``admin``, or only the role after the colon."""
_PEER = re.compile(r"(uid|gid):([0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?)")
UID_MAX = 2**32 - 2


class AdminSection(_Section):
    """The endpoint of administrators: ipc only, and 0600 unless ``socket_group`` opens it to a group.

    ``roles`` maps peers (``uid:1001``, ``gid:app``) to their roles; the group alone assigns nobody a role."""

    endpoint: str = ""
    socket_group: str = ""
    roles: dict[str, list[str]] = {}

    @field_validator("roles")
    @classmethod
    def _are_known(cls, roles: dict[str, list[str]]) -> dict[str, list[str]]:
        for peer, named in roles.items():
            found = _PEER.fullmatch(peer)
            if found is None or (found[2].isdecimal() and int(found[2]) > UID_MAX):
                raise ValueError(f"{peer!r} is not a peer; write uid:1001, uid:NAME, gid:1001 or gid:NAME")
            for role in named:
                if role not in PEER_ROLES:
                    nearest = difflib.get_close_matches(role, PEER_ROLES, 1, 0.5)
                    hint = f"did you mean {nearest[0]}?" if nearest else f"roles are {', '.join((*ROLES, DELEGATE))}"
                    raise ValueError(f"{peer}: {role!r} is not a role; {hint}")
        return roles


def with_a_port(address: str) -> str:
    """``address`` if it is HOST:PORT. Raises ValueError."""
    _, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > PORT_MAX:
        raise ValueError(f"{address!r} is not an address; write HOST:PORT, with a port from 0 (any free one) to "
                         f"{PORT_MAX}")
    return address


class HttpSection(_Section):
    """The address that Prometheus scrapes; port 0 picks a free one."""

    address: Annotated[str, AfterValidator(with_a_port)] = "127.0.0.1:9464"


class ConsoleSection(_Section):
    """The web console, which is a process of its own: its address, and what protects it where others can reach it."""

    address: Annotated[str, AfterValidator(with_a_port)] = "127.0.0.1:9465"
    hosts: list[str] = []
    tls_certificate: str = ""
    tls_key: str = ""
    trusted_proxy: str = ""
    runtime_dir: str = ""
    session_hours: float = Field(default=8, ge=0.01, le=24 * 30)
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret_file: str = ""
    oidc_roles: dict[str, list[str]] = {}
    oidc_groups_claim: str = "groups"
    oidc_name_claim: str = "preferred_username"


class DoorSection(_Section):
    """The HTTP door, which is a process of its own: its address, who may call, and how long it keeps answers.

    ``jwt_*`` say which JSON Web Tokens count; without ``jwt_algorithms`` none does.
    """

    address: Annotated[str, AfterValidator(with_a_port)] = "127.0.0.1:9466"
    tls_certificate: str = ""
    tls_key: str = ""
    trusted_proxy: str = ""
    state_dir: str = ""
    connections: int = Field(default=4096, ge=1, le=COUNT_MAX)
    in_flight: int = Field(default=1000, ge=1, le=COUNT_MAX)
    idempotency_seconds: float = Field(default=86_400, ge=1, le=31_536_000)
    idempotency_bytes: int = Field(default=268_435_456, ge=1_048_576, le=2**40)
    jwt_algorithms: tuple[Literal["RS256", "ES256", "EdDSA", "HS256"], ...] = ()
    jwt_jwks: str = ""
    jwt_secret_file: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_leeway_seconds: float = Field(default=30, ge=0, le=3600)
    jwt_user_claim: str = Field(default="sub", min_length=1, max_length=100)
    jwt_user_namespace: str = ""
    jwt_requests_per_minute: int = Field(default=6000, ge=1, le=10_000_000)


class PoolSection(_Section):
    """The bounds of the scheduler; a call beyond them is answered OVERLOADED."""

    max_workers: int = Field(default=1000, ge=1, le=COUNT_MAX)
    idle_seconds: Seconds = 300
    queue_depth: int = Field(default=1024, ge=1, le=COUNT_MAX)
    in_flight: int = Field(default=20_000, ge=1, le=COUNT_MAX)
    per_host: int = Field(default=10_000, ge=1, le=COUNT_MAX)
    prefetch: int = Field(default=8, ge=1, le=64)
    boot_seconds: Seconds = 10
    spare_workers: int = Field(default=2, ge=0, le=64)


_LimitKeys: Any = create_model("_LimitKeys", __base__=_Section, **{
    name: (type_of(name), Field(default=type_of(name)(default_of(name)), ge=limit.low, le=limit.high))
    for name, limit in (LIMITS | PLATFORM_LIMITS).items()})  # type: ignore[call-overload]  # the catalogue's names


class LimitsSection(_LimitKeys):  # type: ignore[misc]  # it is made of the catalogue
    """The platform's policy; a manifest may lower it. Every key is in ``catalogue.limits``."""

    def policy(self) -> Limits:
        """The limits of a plugin whose manifest lowers none."""
        return Limits(**{name: getattr(self, name) for name in LIMITS})


Uid = Annotated[int, Field(ge=1, le=2**32 - 2)]
"""Never 0: a worker that is root could undo its jail."""
Layer = Literal["fds", "env", "session", "cgroup", "namespaces", "rlimits", "identity", "pdeathsig", "no_new_privs",
                "landlock", "seccomp", "selftest"]


class SandboxSection(_Section):
    """The lowest isolation level that we accept, and the layers that are waived by name."""

    min_level: Literal["L0", "L1", "L2", "L3", "L4"] = "L2"
    waive: list[Layer] = []
    extra_modules: list[str] = []
    governor: Literal["auto", "psutil", "cgroup"] = "auto"
    uid_range: tuple[Uid, Uid] = (200_000, 265_535)
    fresh_realm: bool = False

    @field_validator("uid_range")
    @classmethod
    def _upwards(cls, uids: tuple[int, int]) -> tuple[int, int]:
        if uids[0] > uids[1]:
            raise ValueError(f"the first uid, {uids[0]}, is greater than the last, {uids[1]}; swap them")
        return uids


class SecuritySection(_Section):
    """What a bundle must pass before it is installed."""

    scan: Literal["enforce", "warn"] = "enforce"
    require_signature: Literal["none", "author", "market"] = "none"
    policy_file: str = ""


class TableSection(_Section):
    """One table that plugins may see: whose its rows are, its visible columns, whether plugins may write it.

    ``owner`` is the column with the user's id, or says how a row belongs to a tenant and users to tenants, or is "rls":
    ``gateway.sql.owners`` reads it.
    """

    owner: Any
    columns: list[str] = Field(min_length=1)
    write: bool = False


class DataSection(_Section):
    """The platform's database, as plugins see it. ``prepared_statements`` is for PostgreSQL without a pooler,
    ``write_ahead_log`` for an SQLite file that the platform made."""

    url: DatabaseUrl = "sqlite:///<state_dir>/data.db"
    tables: dict[str, TableSection] = {}
    prepared_statements: Literal["auto"] | bool = "auto"
    write_ahead_log: bool = False

    @property
    def prepares(self) -> bool | None:
        """Whether PostgreSQL may keep prepared statements; None means that it may unless a pooler is in between."""
        return None if self.prepared_statements == "auto" else self.prepared_statements

    @field_validator("tables", mode="before")
    @classmethod
    def _with_schemas(cls, tables: Any) -> Any:
        """``[data.tables.app.orders]`` is the table app.orders, as ``[data.tables."app.orders"]`` is."""
        if not isinstance(tables, dict):
            return tables
        done: dict[str, Any] = {}
        for name, entry in tables.items():
            found = {name: entry}
            if isinstance(entry, dict) and entry and all(isinstance(inner, dict) for inner in entry.values()) and (
                    "owner" not in entry):
                found = {f"{name}.{inner}": table for inner, table in entry.items()}
            if twice := found.keys() & done.keys():
                raise ValueError(f"{min(twice)} is listed twice; remove one of the two entries")
            done |= found
        return done


class FetchSection(_Section):
    """Hosts that plugins may reach. ``internal`` maps hosts of the operator's own, written as in ``allow``, to the
    networks that they may have addresses in. ``ca_file`` holds authorities that count in addition to the system's.
    """

    allow: list[str] = []
    allow_private: bool = False
    internal: dict[str, list[str]] = {}
    ca_file: str = ""


class AuditSection(_Section):
    """The ledger. ``group`` commits within 10 ms; ``strict`` commits before the reply."""

    url: str = Field(default="sqlite:///<state_dir>/audit.db", pattern="^sqlite:///.")
    durability: Literal["group", "strict"] = "group"
    retention_days: int = Field(default=400, ge=1, le=36_500)
    min_free_bytes: int = Field(default=268_435_456, ge=0, le=2**50)
    anchor: str = ""


class RegistrySection(_Section):
    """The database of plugins, versions, approvals and keys, and how large a bundle may be."""

    url: DatabaseUrl = "sqlite:///<state_dir>/registry.db"
    bundle_bytes: int = Field(default=8_388_608, ge=65_536, le=33_554_432)
    bundle_files: int = Field(default=2000, ge=10, le=20_000)


class StorageSection(_Section):
    """What plugins keep for themselves: its database, and how much it may be."""

    url: DatabaseUrl = "sqlite:///<state_dir>/storage.db"
    user_bytes: int = Field(default=262_144, ge=0, le=2**40)
    plugin_bytes: int = Field(default=5_242_880, ge=0, le=2**40)


class SecretsSection(_Section):
    """The keys that plugins' secrets are encrypted with: a file of the daemon's user alone, or a command that prints
    what would stand in it."""

    key_file: str = Field(default="<state_dir>/secrets.key", min_length=1)
    key_command: tuple[str, ...] = Field(default=(), max_length=100)


class BreakerSection(_Section):
    """When a plugin that keeps failing is paused, and how restarts are spaced."""

    ends: int = Field(default=5, ge=1, le=COUNT_MAX)
    window_seconds: Seconds = 60
    open_seconds: Seconds = 60
    stable_seconds: Seconds = 10
    backoff_min_seconds: Seconds = 0.1
    backoff_max_seconds: Seconds = 30

    @model_validator(mode="after")
    def _upwards(self) -> BreakerSection:
        if self.backoff_min_seconds > self.backoff_max_seconds:
            raise ValueError(f"breaker.backoff_min_seconds, {self.backoff_min_seconds:g}, is greater than "
                             f"breaker.backoff_max_seconds, {self.backoff_max_seconds:g}; lower the one or raise the "
                             "other")
        return self


class RecycleSection(_Section):
    """When a healthy worker is replaced between calls; 0 means never."""

    after_calls: int = Field(default=0, ge=0, le=10**15)
    after_seconds: SecondsOrNone = 0
    growth_mb: float = Field(default=20, ge=0, le=MEMORY_MB_MAX)


class LogSection(_Section):
    """The daemon's own log on stderr, and how much of it one plugin may fill."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    plugin_lines_per_second: float = Field(default=20, ge=0.001, le=COUNT_MAX)


class MetricsSection(_Section):
    """Metrics that are exported in addition to the default ones."""

    per_plugin_histograms: bool = False


class TracesSection(_Section):
    """Where traces go, by OTLP over HTTP, and which calls are traced; nothing is traced without ``endpoint``.

    ``headers_file`` has secrets, ``NAME: VALUE`` on each line. ``resource`` are attributes of everything that is sent.
    """

    endpoint: str = Field(default="", max_length=2000)
    sample_ratio: float = Field(default=0, ge=0, le=1)
    headers_file: str = ""
    ca_file: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    compression: Literal["gzip", "none"] = "gzip"
    timeout_seconds: float = Field(default=10, ge=0.1, le=60)
    service_name: str = Field(default="apex-exec", min_length=1, max_length=100)
    resource: dict[Annotated[str, Field(min_length=1, max_length=100)], Annotated[str, Field(max_length=500)]] = Field(
        default={}, max_length=32)


class UiSection(_Section):
    """Components that plugins may render; an empty list means any."""

    components: list[str] = []


class MarketSection(_Section):
    """The marketplace's store, and the index that ``plugin install ID`` reads and that we follow for revocations.

    ``stale`` says whether plugins from the marketplace are still served if its index has expired; ``halted`` whether a
    plugin goes back to the version before if the release of the one that it serves is halted. ``entitlements`` are
    files or URLs that the marketplace signed for this daemon; ``customer`` is the marketplace's name for its owner.
    ``maps`` is a folder of source maps that the operator has made by building plugins: ``<SHA-256 of the
    JavaScript>.map``. Packages of npm do not count in a plugin's coverage if such a map says where they are.
    """

    url: DatabaseUrl = "sqlite:///<state_dir>/market.db"
    index: str = ""
    refresh_seconds: float = Field(default=300, ge=1, le=604_800)
    stale: Literal["serve", "stop"] = "serve"
    halted: Literal["keep", "go_back"] = "keep"
    entitlements: tuple[str, ...] = Field(default=(), max_length=100)
    customer: str = ""
    maps: str = ""


NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class FleetSection(_Section):
    """Several daemons as one: who the members are, and what this one is among them.

    ``endpoint`` is bound for the other nodes, and ``advertise`` is what they connect to, if that is another address.
    ``book`` is where the nodes' signed statements are, ``signing_key`` the private key of the role ``node`` with which
    this node may sign its own. ``capacity`` 0 is the number of cores.
    """

    engine: Literal["none", "static", "kubernetes", "ray"] = "none"
    node: str = ""
    role: Literal["both", "router"] = "both"
    endpoint: str = Field(default="tcp://0.0.0.0:9466", pattern="^tcp://.+:[0-9]{1,5}$")
    advertise: str = Field(default="", pattern="^(tcp://.+:[0-9]{1,5})?$")
    members: list[str] = Field(default=[], max_length=1000)
    keys_dir: str = ""
    book: str = ""
    signing_key: str = ""
    capacity: float = Field(default=0, ge=0, le=COUNT_MAX)
    new_owner: Literal["wait", "afresh"] = "wait"
    lost_seconds: float = Field(default=0.9, ge=0.1, le=600)
    join_seconds: Seconds = 2
    linger_seconds: Seconds = 1

    @field_validator("node")
    @classmethod
    def _is_a_name(cls, node: str) -> str:
        if node and NODE.fullmatch(node) is None:
            raise ValueError(f"{node[:80]!r} is not a valid node name; use up to 63 of a-z, 0-9, dots and hyphens")
        return node


class HookSection(_Section):
    """A hook of this platform's own: params and result in JSON Schema, and how a dispatch runs it."""

    mode: Literal["all", "chain", "first"]
    params: dict[str, Any] = {"type": "object"}
    result: dict[str, Any] | None = None
    void: bool = False
    default: Any = None


class Settings(_Section):
    """All settings of the daemon."""

    runtime_dir: str = ""
    state_dir: str = ""
    plugins_dir: str = ""
    drain_seconds: SecondsOrNone = 10.0
    host: HostSection = HostSection()
    admin: AdminSection = AdminSection()
    http: HttpSection = HttpSection()
    console: ConsoleSection = ConsoleSection()
    door: DoorSection = DoorSection()
    pool: PoolSection = PoolSection()
    limits: LimitsSection = LimitsSection()
    sandbox: SandboxSection = SandboxSection()
    security: SecuritySection = SecuritySection()
    data: DataSection = DataSection()
    fetch: FetchSection = FetchSection()
    audit: AuditSection = AuditSection()
    registry: RegistrySection = RegistrySection()
    storage: StorageSection = StorageSection()
    secrets: SecretsSection = SecretsSection()
    breaker: BreakerSection = BreakerSection()
    recycle: RecycleSection = RecycleSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    traces: TracesSection = TracesSection()
    ui: UiSection = UiSection()
    market: MarketSection = MarketSection()
    fleet: FleetSection = FleetSection()
    hooks: dict[str, HookSection] = {}

    @field_validator("hooks")
    @classmethod
    def _can_be_declared(cls, hooks: dict[str, HookSection]) -> dict[str, HookSection]:
        check_names(list(hooks))
        for name, section in hooks.items():
            try:
                hook_of(name, section.model_dump())
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from None
        return hooks

    def declared_hooks(self) -> dict[str, dict[str, Any]]:
        """What ``catalogue.declared.declare_all`` takes."""
        return {name: section.model_dump() for name, section in self.hooks.items()}

    @property
    def runtime_path(self) -> Path:
        """The folder of the sockets."""
        return Path(self.runtime_dir) if self.runtime_dir else runtime_candidates()[0]

    @property
    def state_path(self) -> Path:
        """The folder of registry, ledger, bundles, keys and plugin logs."""
        if self.state_dir:
            return Path(self.state_dir)
        if os.geteuid() == 0:
            return Path("/var/lib/apex-exec")
        try:
            return Path.home() / ".local/state/apex-exec"
        except RuntimeError:
            raise ConfigError(f"state_dir: uid {os.geteuid()} has no home folder; set this key to a folder") from None

    @property
    def host_endpoint(self) -> str:
        """The address that the daemon binds for hosts."""
        return self.host.endpoint or f"ipc://{self.runtime_path}/host.sock"

    @property
    def admin_endpoint(self) -> str:
        """The address that the daemon binds for administrators."""
        return self.admin.endpoint or f"ipc://{self.runtime_path}/admin.sock"

    @property
    def node_name(self) -> str:
        """This node's name in its fleet, by default the machine's."""
        return self.fleet.node or platform.node().lower()

    @property
    def fleet_keys_path(self) -> Path:
        """The folder of this node's CURVE pair, and of the fleet's book unless that is elsewhere."""
        return Path(self.fleet.keys_dir) if self.fleet.keys_dir else self.state_path / "fleet"

    def database_url(self, url: str) -> str:
        """``url`` with ``<state_dir>`` filled in and the driver named, for SQLAlchemy and sqlite3."""
        return POSTGRES.sub("postgresql+psycopg://", url.replace("<state_dir>", str(self.state_path)), count=1)


def runtime_candidates() -> list[Path]:
    """The folders where this user's daemon may put its sockets, and last root's; a client tries each."""
    root = Path("/run/apex-exec")
    own = [root] if os.geteuid() == 0 else []
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        own.append(Path(runtime) / "apex-exec")
    own.append(Path(f"/tmp/apex-exec-{os.geteuid()}"))  # noqa: S108 - the folder is made 0700 and its owner checked
    return own if root in own else [*own, root]


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. Raises ConfigError with one line per problem, naming the nearest known key."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or a number with thousands of digits
            raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from None
    for key, value in os.environ.items():
        if key.startswith(ENV_PREFIX) and key != NOT_A_SETTING:
            _put(data, key.removeprefix(ENV_PREFIX).lower().split("__"), _value(value))
    for key, value in (overrides or {}).items():
        _put(data, key.split("."), _value(value))
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_problem(item) for item in error.errors())) from None


def _value(value: Any) -> Any:
    """Decodes a list or a table in an environment variable or a flag as JSON; other text is kept (``[::1]:9464``)."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _put(data: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{'.'.join(parts)}: {part} already has a value, so no key below it can be set; set one "
                              "or the other")
    data[parts[-1]] = value


def _problem(item: Any) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "value_error":
        return f"{key}: {item['ctx']['error']}"
    if item["type"] != "extra_forbidden":
        return f"{key}: {item['msg']}"
    nearest = difflib.get_close_matches(key, known_keys(), 1, 0.3)
    return f"{key}: this key does not exist" + (f"; did you mean {nearest[0]}?" if nearest else "")


def known_keys() -> list[str]:
    """Every key, dotted."""
    keys: list[str] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            keys.append(name)
    return keys
