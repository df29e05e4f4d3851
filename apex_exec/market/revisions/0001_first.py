"""The marketplace's first tables. Lines of a closed invoice cannot be changed or deleted: triggers refuse it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER increments by itself there
_Ns = sa.BigInteger
_Minor = sa.BigInteger


def _text(name: str, length: int = 200, **options: bool) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, **options)  # type: ignore[arg-type]  # bools only


def upgrade() -> None:
    """All of them, the clock at zero, and the triggers."""
    op.create_table(
        "submissions",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        _text("plugin"), _text("version"), _text("digest"), _text("author"), _text("author_key", 32),
        _text("submitter"), _text("state", 30),
        sa.Column("price", sa.Text, nullable=False), _text("contact"),
        sa.Column("sla_hours", sa.Integer, nullable=False),
        sa.Column("submitted_ns", _Ns, nullable=False), sa.Column("changed_ns", _Ns, nullable=False),
        _text("reviewer"), sa.Column("result", sa.Text, nullable=False), _text("result_signature", 400),
        sa.Index("submissions_plugin", "plugin", "version"))
    op.create_table(
        "publications",
        sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), primary_key=True, autoincrement=False),
        sa.Column("entry", sa.Text, nullable=False))
    op.create_table(
        "moves",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), nullable=False, index=True),
        _text("from_state", 30), _text("to_state", 30), _text("actor"), sa.Column("uid", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False), sa.Column("checklist", sa.Text, nullable=False),
        sa.Column("at_ns", _Ns, nullable=False))
    op.create_table(
        "prices",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        _text("plugin"), sa.Column("from_ns", _Ns, nullable=False), sa.Column("price", sa.Text, nullable=False),
        sa.Index("prices_plugin", "plugin", "from_ns"))
    op.create_table(
        "accounts",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        _text("user_id", 36), sa.Column("from_ns", _Ns, nullable=False), _text("customer"),
        sa.Index("accounts_user", "user_id", "from_ns"))
    op.create_table(
        "purchases",
        _text("key", 100, primary_key=True), sa.Column("request", sa.Text, nullable=False),
        _text("plugin"), _text("version"), _text("author"), _text("user_id", 36), _text("customer"),
        sa.Column("price", sa.Text, nullable=False), _text("currency", 3),
        sa.Column("gross", _Minor, nullable=False), sa.Column("fee", _Minor, nullable=False),
        sa.Column("author_share", _Minor, nullable=False), sa.Column("at_ns", _Ns, nullable=False),
        sa.Column("anchor_ns", _Ns, nullable=False), sa.Column("starts_ns", _Ns, nullable=False),
        sa.Column("ends_ns", _Ns), sa.Column("number", sa.Integer, nullable=False),
        sa.Index("purchases_of", "plugin", "user_id"))
    op.create_table(
        "refunds",
        _text("key", 100, primary_key=True), sa.Column("request", sa.Text, nullable=False),
        sa.Column("purchase", sa.String(100), sa.ForeignKey("purchases.key"), nullable=False, unique=True),
        sa.Column("gross", _Minor, nullable=False), sa.Column("fee", _Minor, nullable=False),
        sa.Column("author_share", _Minor, nullable=False), sa.Column("at_ns", _Ns, nullable=False),
        sa.Column("reason", sa.Text, nullable=False))
    op.create_table(
        "tickets",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        _text("plugin"), _text("user_id", 36), sa.Column("subject", sa.Text, nullable=False),
        sa.Column("paid", sa.Boolean, nullable=False), sa.Column("opened_ns", _Ns, nullable=False),
        sa.Column("responded_ns", _Ns), sa.Column("closed_ns", _Ns), _text("responder"),
        sa.Index("tickets_plugin", "plugin"))
    op.create_table(
        "contracts",
        _text("key", 100, primary_key=True), sa.Column("request", sa.Text, nullable=False), _text("customer"),
        sa.Column("title", sa.Text, nullable=False), sa.Column("cost", _Minor, nullable=False),
        sa.Column("price", _Minor, nullable=False), _text("currency", 3), sa.Column("at_ns", _Ns, nullable=False))
    op.create_table(
        "closed_months",
        _text("month", 7, primary_key=True), sa.Column("closed_ns", _Ns, nullable=False), _text("sha256", 64))
    op.create_table(
        "invoice_lines",
        sa.Column("month", sa.String(7), sa.ForeignKey("closed_months.month"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        _text("kind", 20), _text("line_group", 400), _text("for_month", 7), _text("plugin"), _text("customer"),
        _text("author"), _text("currency", 3), sa.Column("customer_minor", _Minor, nullable=False),
        sa.Column("author_minor", _Minor, nullable=False), sa.Column("platform_minor", _Minor, nullable=False),
        _text("quantity"), sa.Index("lines_group", "line_group"))
    op.create_table(
        "closed_usage",
        sa.Column("month", sa.String(7), sa.ForeignKey("closed_months.month"), primary_key=True),
        _text("plugin", primary_key=True), _text("user_id", 200, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False)
          for name in ("calls", "cpu_us", "memory_mb_ms", "api_calls", "network_requests")))
    op.create_table(
        "index_versions",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_ns", _Ns, nullable=False), _text("sha256", 64))
    op.create_table(
        "indexes_seen",
        sa.Column("place", sa.String(1000), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False), _text("sha256", 64))
    op.create_table(
        "clock",
        sa.Column("id", sa.Integer, primary_key=True),
                     sa.Column("last_ns", _Ns, nullable=False))
    op.execute("INSERT INTO clock (id, last_ns) VALUES (1, 0)")
    sqlite = op.get_context().dialect.name == "sqlite"
    for table in ("invoice_lines", "closed_usage", "closed_months"):
        if sqlite:
            for verb in ("UPDATE", "DELETE"):
                op.execute(f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
                           f"BEGIN SELECT RAISE(ABORT, '{table} is immutable'); END")
        else:
            op.execute(f"CREATE FUNCTION {table}_fixed() RETURNS trigger LANGUAGE plpgsql AS "
                       f"$$ BEGIN RAISE EXCEPTION '{table} is immutable'; END $$")
            op.execute(f"CREATE TRIGGER {table}_fixed BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                       f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_fixed()")
