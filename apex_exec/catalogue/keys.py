"""Every key of the configuration: its default in words, what it is for, and an example where the default shows none.

The table of the configuration's page is made from this one (``python -m apex_exec.catalogue``), and so is the file that
``config init`` writes. ``config.py`` has the types and the bounds; the limits' rows come from ``limits.py``.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from apex_exec.catalogue.limits import LIMITS, PLATFORM_LIMITS, default_of


class Key(NamedTuple):
    """``default`` and ``meaning`` are cells of a Markdown table. ``example`` is TOML, where the default would say
    little of how the key is written."""

    default: str
    meaning: str
    example: str = ""


def _limits() -> dict[str, Key]:
    """A key for each limit."""
    return {f"limits.{name}": Key(
        f"{default_of(name):g}", f"{limit.doc}{'; may fire first: ' * bool(limit.also)}{limit.also}")
        for name, limit in (LIMITS | PLATFORM_LIMITS).items()}


KEYS: dict[str, Key] = {
    "runtime_dir": Key(
        "`/run/apex-exec` for root, else `$XDG_RUNTIME_DIR/apex-exec`, else `/tmp/apex-exec-<uid>`",
        "the folder of the sockets; 0700, made by the daemon; on a volume, use a folder inside it"),
    "state_dir": Key(
        "`/var/lib/apex-exec` for root, else `~/.local/state/apex-exec`",
        "the folder of registry, ledger, bundles, keys and logs; on a volume, use a folder inside it"),
    "plugins_dir": Key(
        "none",
        "bundles that are served directly from folders, enabled for everybody: for development, demo and tests",
        '"/srv/plugins"'),
    "drain_seconds": Key(
        "10",
        "how long SIGTERM and SIGINT wait for pending calls; at most 5 s later all processes have ended"),
    "host.endpoint": Key("`ipc://<runtime_dir>/host.sock`", "where hosts connect; `tcp://` needs CURVE"),
    "host.socket_group": Key("none", "a group that may connect as well (0750/0660)", '"platform"'),
    "host.max_message_bytes": Key("1048576", "a larger message is `PAYLOAD_TOO_LARGE`"),
    "host.curve_keys_dir": Key(
        "none",
        "pyzmq certificates: `server.key_secret`, one `<client>.key` each",
        '"/etc/apex-exec/curve"'),
    "admin.endpoint": Key("`ipc://<runtime_dir>/admin.sock`", "administration; ipc only, 0600"),
    "admin.socket_group": Key(
        "none",
        "a group that may connect there as well (0660, and 0750 for the folder; 0711 if `host.socket_group` is a "
        "different one); it assigns no role",
        '"platform"'),
    "admin.roles": Key(
        "none",
        "the roles of peers: `{\"uid:1001\" = [\"operator\"], \"gid:app\" = [\"viewer\"]}`; see below",
        '{"uid:1001" = ["operator"], "gid:app" = ["viewer"]}'),
    "http.address": Key("127.0.0.1:9464", "`/metrics /livez /readyz`; port 0 picks a free one"),
    "console.address": Key(
        "127.0.0.1:9465",
        "where `apex-exec console` listens; an address that is not a loopback one needs TLS or a trusted proxy; port 0 "
        "picks a free one"),
    "console.hosts": Key(
        "none",
        "the names, with their port if it is not the scheme's own, under which browsers reach the console; requests "
        "for other names are refused",
        '["console.example.com"]'),
    "console.tls_certificate": Key(
        "none",
        "a PEM file with the certificate and its chain; with it the console speaks https only",
        '"/etc/apex-exec/console.pem"'),
    "console.tls_key": Key("none", "the key of that certificate", '"/etc/apex-exec/console.key"'),
    "console.trusted_proxy": Key(
        "none",
        "the IP address of a proxy that speaks https to browsers; with it nobody else is answered, and "
        "`X-Forwarded-For` and `X-Forwarded-Proto` count",
        '"127.0.0.1"'),
    "console.runtime_dir": Key(
        "`<runtime_dir>-console`",
        "the console's own folder, 0700, with the socket by which `console link` reaches it"),
    "console.oidc_issuer": Key(
        "none",
        "the OpenID Connect provider by which people may sign in to the console, beside links: its issuer, by https",
        '"https://login.example.com"'),
    "console.oidc_client_id": Key("none", "the console's name there; its redirect URI is `<origin>/login/callback`"),
    "console.oidc_client_secret_file": Key(
        "none", "a file with the client's secret; without it the console is a public client, protected by PKCE"),
    "console.oidc_roles": Key(
        "`{}`", "which roles a group gives; who is in none of these groups cannot sign in",
        '{ platform = ["operator"], books = ["finance"] }'),
    "console.oidc_groups_claim": Key('`"groups"`', "the claim that lists a person's groups"),
    "console.oidc_name_claim": Key(
        '`"preferred_username"`', "the claim with the name under which a person acts; it has to be unique there"),
    "console.session_hours": Key(
        "8",
        "how long a person stays signed in; half an hour without a request ends it earlier"),
    "door.address": Key(
        "127.0.0.1:9466",
        "where `apex-exec door` listens; an address that is not a loopback one needs TLS or a trusted proxy; port 0 "
        "picks a free one"),
    "door.tls_certificate": Key(
        "none", "a PEM file with the certificate and its chain; with it the door speaks https only",
        '"/etc/apex-exec/door.pem"'),
    "door.tls_key": Key("none", "the key of that certificate", '"/etc/apex-exec/door.key"'),
    "door.trusted_proxy": Key(
        "none",
        "the IP address of a proxy that speaks https to callers; with it nobody else is answered, and "
        "`X-Forwarded-For` and `X-Forwarded-Proto` count",
        '"127.0.0.1"'),
    "door.state_dir": Key(
        "`<state_dir>/door`",
        "the door's own folder, 0700, with the answers that it keeps for requests with an `Idempotency-Key`"),
    "door.connections": Key(
        "4096", "connections at once; a further one gets 503; lowered to what RLIMIT_NOFILE allows"),
    "door.in_flight": Key(
        "1000", "calls under way at once, of one caller as many as are left for others; a further one gets 503"),
    "door.idempotency_seconds": Key("86400", "how long a key gets the same answer"),
    "door.idempotency_bytes": Key(
        "268435456",
        "how much is kept of answers, of one caller as much as is left for others; above it a request with a new key "
        "gets 503"),
    "door.jwt_algorithms": Key(
        "none", "which JSON Web Tokens count: of `RS256`, `ES256`, `EdDSA` and `HS256`", '["ES256"]'),
    "door.jwt_jwks": Key(
        "none", "the key set for RS256, ES256 and EdDSA: a file, or a URL with https, read again every five minutes",
        '"https://login.example.com/.well-known/jwks.json"'),
    "door.jwt_secret_file": Key(
        "none", "a file with the secret of HS256, 32 bytes or more", '"/etc/apex-exec/door.secret"'),
    "door.jwt_issuer": Key(
        "none", "the `iss` of the tokens that count", '"https://login.example.com/"'),
    "door.jwt_audience": Key("none", "the `aud` of the tokens that count", '"apex-exec"'),
    "door.jwt_leeway_seconds": Key("30", "how far the issuer's clock may be off for `exp`, `nbf` and `iat`"),
    "door.jwt_user_claim": Key("sub", "the claim that says who the user is"),
    "door.jwt_user_namespace": Key(
        "none",
        "a UUID in whose namespace a user's name becomes one (UUIDv5), whatever it looks like; without it the claim "
        "has to be a UUID",
        '"6ba7b810-9dad-11d1-80b4-00c04fd430c8"'),
    "door.jwt_requests_per_minute": Key("6000", "requests of one user with JSON Web Tokens"),
    "pool.max_workers": Key(
        "1000",
        "above it the least recently used idle worker is stopped; it is lowered to what RLIMIT_NOFILE allows"),
    "pool.idle_seconds": Key("300", "an idle worker is stopped after this time"),
    "pool.queue_depth": Key(
        "1024",
        "waiting calls of one plugin; one user may have a quarter of them while others wait"),
    "pool.in_flight": Key("20000", "pending calls of the daemon"),
    "pool.per_host": Key("10000", "pending requests of one connection"),
    "pool.spare_workers": Key(
        "2",
        "workers that are forked and jailed in advance, for the next plugin that needs one; about 4 MB each"),
    "pool.prefetch": Key(
        "8",
        "calls on a worker's link at once, of which one runs; a worker that runs several has no more there than run"),
    "pool.boot_seconds": Key("10", "how long a worker may take to load its plugin"),
    **_limits(),
    "sandbox.min_level": Key("L2", "below it `serve` refuses to start"),
    "sandbox.waive": Key(
        "none",
        "layers that are waived by name; shown in `doctor`, the log and a metric",
        '["landlock"]'),
    "sandbox.extra_modules": Key(
        "none",
        "standard-library modules that are preloaded in addition to the allow-list",
        '["difflib"]'),
    "sandbox.fresh_realm": Key(
        "`false`",
        "gives every call of a JavaScript plugin an engine of its own, made after the answer to the call before: "
        "nothing that one call leaves is there in the next. Costs about a millisecond of CPU for each call. A "
        "manifest asks for the same with `isolation: \"call\"`"),
    "sandbox.governor": Key("auto", "`psutil` or `cgroup`: what limits plugins to their CPU share"),
    "sandbox.uid_range": Key(
        "200000–265535",
        "a uid for each worker, never 0, if the daemon is root; it also limits the number of workers and spares"),
    "security.scan": Key("enforce", "`warn` installs despite findings"),
    "security.require_signature": Key("none", "`author` or `market`"),
    "security.policy_file": Key(
        "none",
        "TOML: `allow = [permissions]`, `[plugin.<id>] allow = […]`",
        '"/etc/apex-exec/policy.toml"'),
    "data.url": Key(
        "`sqlite:///<state_dir>/data.db`",
        "the platform's database, SQLite or PostgreSQL (`postgresql://role@host/name`)"),
    "data.tables": Key(
        "none",
        "`{orders = {owner = \"user_id\", columns = [\"id\", \"total\"], write = false}}`; whose a row is may "
        "also be said by a [membership table or row-level security](gateway/README.md#whose-a-row-is)",
        '{orders = {owner = "user_id", columns = ["id", "total"], write = false}}'),
    "data.prepared_statements": Key(
        "auto",
        "whether PostgreSQL keeps the queries that are used often. `auto` means unless a pooler is noticed"),
    "data.write_ahead_log": Key(
        "`false`",
        "switches an SQLite file that the platform made to a write-ahead log, so that queries and writes do not wait "
        "for each other and a commit waits for the disk once. A file that the daemon makes has one anyway"),
    "fetch.allow": Key(
        "none",
        "hosts that plugins may reach; the plugin's manifest must list them, too",
        '["api.example.com"]'),
    "fetch.allow_private": Key("false", "allows loopback addresses, for tests only"),
    "fetch.internal": Key(
        "none", '`{"billing.corp" = ["10.20.0.0/16"]}`: networks of your own in which the addresses of a host may be; '
        "`fetch.allow` must name the host, too",
        '{"api.example.com" = ["10.20.0.0/16"]}'),
    "fetch.ca_file": Key("`\"\"`", "certificates of authorities (PEM) that are trusted in addition to the system's"),
    "audit.url": Key("`sqlite:///<state_dir>/audit.db`", "the ledger"),
    "audit.durability": Key("group", "commits at most 10 ms later; with `strict`, a reply follows its record's commit"),
    "audit.retention_days": Key("400", "how long records are kept"),
    "audit.min_free_bytes": Key("268435456", "with less free space no work is admitted; a warning comes well before"),
    "audit.anchor": Key(
        "`\"\"`",
        "a file, best on another volume, that records the length of the ledger: it reveals an older state folder "
        "that was put back",
        '"/mnt/other/apex-exec.anchor"'),
    "registry.url": Key("`sqlite:///<state_dir>/registry.db`", "plugins, versions, approvals, keys"),
    "registry.bundle_bytes": Key(
        "8388608", "how large all files of one bundle may be together; may fire first: a worker's memory, since it "
        "holds the bundle"),
    "registry.bundle_files": Key("2000", "how many files one bundle may have"),
    "storage.url": Key(
        "`sqlite:///<state_dir>/storage.db`",
        "what plugins keep by `context.api.storage`; on PostgreSQL it may be the registry's database"),
    "storage.user_bytes": Key("262144", "what one plugin may keep of one user: keys, values, and 64 bytes an entry"),
    "storage.plugin_bytes": Key("5242880", "what one plugin may keep in all, of its users and in common"),
    "secrets.key_file": Key(
        "`<state_dir>/secrets.key`",
        "the keys that plugins' secrets are encrypted with, one `NAME BASE64` a line, the first encrypts; 0600, made "
        "by the first `plugin settings set` of a secret; no backup contains it"),
    "secrets.key_command": Key(
        "`[]`", "a command that prints what would stand in that file, for a KMS or a secret manager",
        '["/usr/local/bin/plugin-keys"]'),
    "breaker.ends": Key("5", "how many unwanted ends of a plugin's worker within the window open its breaker"),
    "breaker.window_seconds": Key("60", "that window"),
    "breaker.open_seconds": Key("60", "how long it stays open"),
    "breaker.stable_seconds": Key("10", "a worker that lives this long resets the backoff"),
    "breaker.backoff_min_seconds": Key("0.1", "the first wait before a restart"),
    "breaker.backoff_max_seconds": Key("30", "the longest wait"),
    "recycle.after_calls": Key("0", "a worker is replaced after this many calls; 0 means never"),
    "recycle.after_seconds": Key("0", "the same by age"),
    "recycle.growth_mb": Key("20", "the same by growth of its memory"),
    "log.level": Key("info", "debug, info, warning or error"),
    "log.format": Key("text", "or `json`"),
    "log.plugin_lines_per_second": Key("20", "how many lines of one plugin are logged"),
    "metrics.per_plugin_histograms": Key("false", "a `plugin` label on the two duration histograms"),
    "traces.endpoint": Key(
        "none", "where [traces](observe/README.md#traces) go, by OTLP over HTTP (`http/protobuf`); without a path "
        "`/v1/traces` is added; without an endpoint nothing is traced; needs the extra `otel`",
        '"https://otel.example.com:4318"'),
    "traces.sample_ratio": Key(
        "0", "the share of the calls without a `traceparent` that are traced, 0 to 1; a call with one is traced if its "
        "sampled flag is set, whatever the share is"),
    "traces.headers_file": Key(
        "none", "a file with headers for the endpoint, `NAME: VALUE` on each line, which others must not be able to "
        "read; it is read again when it changes; needs https, unless the endpoint is on this machine",
        '"/etc/apex-exec/otel.headers"'),
    "traces.ca_file": Key(
        "the system's", "certificates of authorities (PEM) that count for the endpoint, in place of the system's",
        '"/etc/apex-exec/otel-ca.pem"'),
    "traces.tls_certificate": Key(
        "none", "a PEM file with the certificate that the daemon shows the endpoint", '"/etc/apex-exec/otel.pem"'),
    "traces.tls_key": Key(
        "none", "the key of that certificate, if it is not in the same file", '"/etc/apex-exec/otel.key"'),
    "traces.compression": Key("gzip", "or `none`"),
    "traces.timeout_seconds": Key("10", "how long a request may take, with all its tries; calls never wait for it"),
    "traces.service_name": Key("apex-exec", "the attribute `service.name` of all spans"),
    "traces.resource": Key(
        "none", "further attributes of all spans; variables of the environment (`OTEL_…`) do not count",
        '{"deployment.environment.name" = "production"}'),
    "ui.components": Key("any", "components that plugins may render", '["Chart", "Table"]'),
    "market.url": Key("`sqlite:///<state_dir>/market.db`", "submissions, purchases, statements"),
    "market.index": Key(
        "none",
        "where `plugin install ID` finds the signed index, which is read regularly for revocations",
        '"https://market.example.com/index"'),
    "market.refresh_seconds": Key(
        "300",
        "time between two checks of the index, a tenth more or less; it is also checked at every start and reload"),
    "market.stale": Key(
        "`serve`",
        "`stop`: plugins from the marketplace are not served (`market_index_stale`) if its index has expired or "
        "was never fetched"),
    "market.halted": Key(
        "`keep`",
        "`go_back`: a plugin whose version is halted by the marketplace, or by its failures here, goes back to the "
        "version that was served before; with `keep` it stays, and only new installs are refused"),
    "market.entitlements": Key(
        "`[]`",
        "files or URLs of entitlements that a marketplace signed for this daemon (`market entitle`); checked as "
        "often as the index",
        '["https://market.example.com/entitlements/acme"]'),
    "market.customer": Key(
        "\"\"",
        "the marketplace's name for this daemon's owner: an entitlement for a customer counts if it names the same",
        '"acme"'),
    "market.maps": Key(
        "\"\"",
        "a folder of source maps that you made by building plugins, `<SHA-256 of the JavaScript>.map`: the "
        "packages of npm that they name do not count in a plugin's coverage; without one all code counts",
        '"/srv/maps"'),
    "fleet.engine": Key(
        "none", "what knows the members of a [fleet](fleet/README.md) of daemons: `static` (the list in "
        "`fleet.members`), `kubernetes` (the pods of a headless Service), `ray` (what `fleet up` looks after); with "
        "`none` this daemon is alone"),
    "fleet.node": Key("the machine's name", "this daemon's name in the fleet; in Kubernetes the pod's", '"plugins-1"'),
    "fleet.role": Key("both", "`router`: runs no plugin itself, and forwards every call to a node that does"),
    "fleet.endpoint": Key(
        "tcp://0.0.0.0:9466", "where the other nodes connect, with CURVE; hosts whose keys are in "
        "`host.curve_keys_dir` may call there too"),
    "fleet.advertise": Key(
        "`fleet.endpoint`", "the address that other nodes connect to, as this node's own statement has it",
        '"tcp://plugins-1.example.com:9466"'),
    "fleet.members": Key(
        "none", "`static`: the names of the nodes; `kubernetes`: the headless Service",
        '["plugins-1", "plugins-2", "plugins-3"]'),
    "fleet.keys_dir": Key("`<state_dir>/fleet`", "the folder of this node's CURVE pair, made by `fleet keys`"),
    "fleet.book": Key(
        "the table `fleet_statements` if `registry.url` is PostgreSQL, else `<fleet.keys_dir>/nodes`",
        "a folder with the signed statements of all nodes", '"/etc/apex-exec/nodes"'),
    "fleet.signing_key": Key(
        "none", "the private key of a registered key of role `node`, with which this node signs its own statement; "
        "without one, make the statement with `fleet keys`", '"/etc/apex-exec/fleet.key"'),
    "fleet.capacity": Key("0", "this node's share of the plugins, as a weight; 0 is the number of cores", "16"),
    "fleet.new_owner": Key(
        "wait", "what a node does with `fetch` of a plugin that it has taken over, if the count of the last minute is "
        "lost: `wait` refuses it for a minute, so that the limit holds exactly; `afresh` counts anew, so that the "
        "limit may be spent twice once"),
    "fleet.lost_seconds": Key(
        "0.9", "how long another node may give no sign of life until it is lost; it is asked three times in that time"),
    "fleet.join_seconds": Key("2", "how long a node that starts waits for the others before it takes calls"),
    "fleet.linger_seconds": Key(
        "1", "how long a node that ends still answers those that have not heard of it"),
    "hooks": Key("none", "hooks of this platform's own, one section each: `[hooks.onInvoiceCreated]`; see below"),
}
"""In the order of the page."""


def table() -> str:
    """The table of the configuration's page, in Markdown."""
    return "\n".join(["| key | default | meaning |", "|---|---|---|",
                      *(f"| `{name}` | {key.default} | {key.meaning} |" for name, key in KEYS.items()), ""])


LINK = re.compile(r"\[([^]]+)\]\([^)]*\)")
HEAD = """\
Configuration of apex-exec {version}. Every key is here with its default: remove the # in front of a key to set it.
What comes later wins: this file, then the environment (APEX_EXEC_LIMITS__CPU_PERCENT=20), then flags
(serve --set limits.cpu_percent=20). `apex-exec config check FILE` says what is wrong and where each value comes from.
"""
HOOK = """
# Hooks of this platform's own, one section each.
#[hooks.onInvoiceCreated]
#mode = "chain"
#params = { type = "object", required = ["invoice"], properties = { invoice = { type = "object" } } }
#result = { type = "object", required = ["invoice"], properties = { invoice = { type = "object" } } }
"""


def commented_file(defaults: Mapping[str, Any], version: str) -> str:
    """A configuration file in TOML in which every key is commented out. ``defaults`` gives each section's values."""
    out = [textwrap.indent(HEAD.format(version=version), "# ")]
    section = ""
    for name, key in KEYS.items():
        first, dot, last = name.rpartition(".")
        if name == "hooks":
            out.append(HOOK)
            continue
        if dot and first != section:
            section = first
            out.append(f"\n[{section}]\n")
        value: Any = defaults
        for part in name.split("."):
            value = value[part]
        meaning = LINK.sub(r"\1", key.meaning).replace("; see below", "").replace("`", "")
        if not value and value is not False and key.default.startswith("`"):
            meaning += f"; by default {key.default.replace('`', '')}"
        sentence = f"{meaning[0].upper()}{meaning[1:]}."
        out.append(textwrap.fill(sentence, 118, initial_indent="\n# ", subsequent_indent="# ", break_on_hyphens=False))
        out.append(f"\n#{last} = {key.example or _toml(value)}\n")
    return "".join(out)


def _toml(value: Any) -> str:
    """A default as TOML, which writes text, numbers, truth and lists as JSON does, and an empty table as ``{}``."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
