"""The registry's tables as they are today. Times are nanoseconds of UTC since 1970.

``revisions`` creates them; if you change a table here, add a revision that changes it in existing stores.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from apex_exec.registry.database import Schema

SCHEMA = Schema("registry", Path(__file__).parent / "revisions", revision="0005", version=2)
STORE = SCHEMA.name

metadata = sa.MetaData()

plugins = sa.Table(
    "plugins", metadata,
    sa.Column("id", sa.String(50), primary_key=True),
    sa.Column("name", sa.String(400), nullable=False),
    sa.Column("author", sa.String(400), nullable=False),
    sa.Column("version", sa.String(20), nullable=False, default=""),  # the served version; "" before the first
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("author_key", sa.String(32), nullable=False, default=""),  # the key that signed the served version
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("updated_ns", sa.BigInteger, nullable=False),
)

versions = sa.Table(
    "versions", metadata,
    sa.Column("plugin", sa.String(50), sa.ForeignKey("plugins.id"), primary_key=True),
    sa.Column("version", sa.String(20), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("manifest", sa.Text, nullable=False),  # JSON as in the bundle
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    # "" if it is unsigned, or signed by an unknown key
    sa.Column("author_key", sa.String(32), nullable=False, default=""),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("created_uid", sa.Integer, nullable=False),
    sa.Column("served_ns", sa.BigInteger, nullable=False, default=0),  # when it was last switched to; 0 means never
)

approvals = sa.Table(
    "approvals", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plugin", sa.String(50), nullable=False, index=True),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("permission", sa.String(40), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("requested_ns", sa.BigInteger, nullable=False),
    sa.Column("decided_ns", sa.BigInteger, nullable=False, default=0),
    sa.Column("expires_ns", sa.BigInteger, nullable=False, default=0),
    sa.Column("uid", sa.Integer, nullable=False, default=-1),  # who decided; -1 before a decision
    sa.Column("key_id", sa.String(32), nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("statement", sa.Text, nullable=False, default=""),  # the signed text, byte for byte
    sa.Column("signature", sa.String(128), nullable=False, default=""),
)

enablement = sa.Table(
    "enablement", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plugin", sa.String(50), nullable=False, index=True),
    sa.Column("user_id", sa.String(36), nullable=False, default=""),  # "" is everybody
    sa.Column("from_ns", sa.BigInteger, nullable=False),
    sa.Column("to_ns", sa.BigInteger),  # NULL while the interval is open
)

installs = sa.Table(
    "installs", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plugin", sa.String(50), nullable=False, index=True),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("operation", sa.String(20), nullable=False),  # install upgrade rollback remove quarantine ...
    sa.Column("uid", sa.Integer, nullable=False),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False, default=""),
)

keys = sa.Table(
    "keys", metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False, index=True),
    sa.Column("role", sa.String(20), nullable=False),  # author approver market
    sa.Column("owner", sa.String(400), nullable=False),  # the person or company behind it
    sa.Column("public_key", sa.String(64), nullable=False),  # raw Ed25519, hexadecimal
    sa.Column("state", sa.String(20), nullable=False),  # active revoked
    sa.Column("valid_from_ns", sa.BigInteger, nullable=False),
    sa.Column("valid_until_ns", sa.BigInteger, nullable=False),
    sa.Column("registered_ns", sa.BigInteger, nullable=False),
    sa.Column("uid", sa.Integer, nullable=False),
    sa.Column("revoked_ns", sa.BigInteger, nullable=False, default=0),
    sa.Column("reason", sa.Text, nullable=False, default=""),
)

signatures = sa.Table(
    "signatures", metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(20), primary_key=True),
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("signature", sa.String(128), nullable=False),
    sa.Column("signed_ns", sa.BigInteger, nullable=False),
)

plugin_settings = sa.Table(
    "plugin_settings", metadata,
    sa.Column("plugin", sa.String(50), primary_key=True),
    sa.Column("scope", sa.String(10), primary_key=True),  # everybody tenant user
    sa.Column("owner", sa.String(200), primary_key=True),  # "", the tenant or the user's id
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("secret", sa.Boolean, nullable=False),
    sa.Column("value", sa.Text, nullable=False),  # JSON; of a secret what plugin_settings/secret_keys.py makes of it
    sa.Column("updated_ns", sa.BigInteger, nullable=False),
    sa.Column("uid", sa.Integer, nullable=False),
)

door_tokens = sa.Table(
    "door_tokens", metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # SHA-256 of the token, which is nowhere here
    sa.Column("user_id", sa.String(36), nullable=False),
    sa.Column("act_as", sa.Boolean, nullable=False),
    sa.Column("plugins", sa.Text, nullable=False),  # JSON lists; an empty one means all
    sa.Column("hooks", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("requests_per_minute", sa.Integer, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
    sa.Column("uid", sa.Integer, nullable=False),
    sa.Column("revoked_ns", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

bundles = sa.Table(
    "bundles", metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),  # the .apx; only daemons that share a server put theirs here
    sa.Column("stored_ns", sa.BigInteger, nullable=False),
)
CHANGES = "registry_changes"
"""On a server: the sequence that every change takes a number from. It is smaller than it was only if the database was
restored from a backup."""
