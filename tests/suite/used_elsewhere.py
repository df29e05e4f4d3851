"""Names that nothing in the code refers to and that are used all the same: each with its user.

``{"file or pattern: name or pattern": who}``. A pattern is as for file names. What is used by tests alone does not
belong here, unless it is there for them.
"""

FRAMEWORKS = ["@app.command", "@*_app.command", "@rule", "@rule*", "@pytest.*", "@field_validator", "@model_validator",
              "@writes", "@writes*", "@call", "@*.register", "@app.callback", "@*_app.callback"]
"""Decorators that hand a function to somebody who calls it: typer, pydantic, pytest, the tables of the SQL writer."""

USED = {
    # what is encoded: msgspec reads the fields, and the reader is elsewhere
    "apex_exec/wire/messages.py: *": "fields of messages to hosts",
    "apex_exec/catalogue/hooks.py: *": "fields of payloads and results",
    "apex_exec/ledger/records.py: *": "fields of events",
    "apex_exec/ledger/report.py: *": "figures of the quarterly report, printed by their names",
    "apex_exec/console/figures.py: p[59][09]": "figures that a template shows",
    "apex_exec/console/upgrades.py: from_version": "what a template shows",
    "apex_exec/executor/outcome.py: cpu_ms": "a field of `usage`, encoded",
    "apex_exec/daemon/hosts/*.py: host_cpu_ms": "a field of `usage`, encoded",
    "apex_exec/market/shop/index.py: published_ns": "a field of the signed index",
    "apex_exec/market/review/checks.py: checked_ns": "a field of the signed findings",
    "apex_exec/market/money/statements.py: quantity": "a column of statements",
    "apex_exec/storage/tables.py: *": "columns, and the metadata that they belong to",
    "apex_exec/registry/store.py: *_ns": "columns of rows that are built from a query by position",
    "apex_exec/registry/store.py: created_uid": "a column of rows that are built from a query by position",
    "workers/wire.py: maxrss_kib": "a field of the zygote's notice, shown by whoever debugs it",
    "apex_exec/market/shop/index.py: homepage": "a field of the signed index",
    "apex_exec/registry/bundles/manifest.py: homepage": "a key of the manifest, shown by the marketplace",
    "apex_exec/pytest_plugin.py: pytest_*": "pytest",
    "apex_exec/registry/bundles/pictures.py: *Handler": "expat",
    "apex_exec/registry/database.py: limited": "SQLAlchemy's events",
    "apex_exec/registry/patience.py: check*": "SQLAlchemy's events of its pool",
    "workers/python/bundle_files.py: follow_symlinks": "an argument of os.stat, by its name",
    "workers/python/bundle_files.py: is_junction": "os.scandir's users",
    "workers/python/distributions.py: locate_file": "importlib.metadata",
    "workers/python/no_ssl.py: __getattr__": "Python, for a name that the module lacks",
    "apex_exec/client/admin.py: read_audit": "hosts that follow the ledger",
    "apex_exec/core/scheduler/pool.py: next_wake_ns": "drivers of the core that have no loop, such as the simulator's",
    "apex_exec/door/server.py: handle_error": "aiohttp",
    "apex_exec/door/server.py: turned_away": "whoever debugs a door that turns connections away",
    # what a library calls or reads
    "apex_exec/config.py: model_config": "pydantic",
    "apex_exec/config.py: _*": "pydantic's validators",
    "apex_exec/registry/bundles/manifest.py: model_config": "pydantic",
    "apex_exec/registry/bundles/manifest.py: _whole": "pydantic's validators",
    "apex_exec/registry/bundles/manifest.py: apiVersion": "a key of the manifest, read as `api_range`",
    "apex_exec/registry/bundles/bundle.py: create_system": "zipfile writes it",
    "apex_exec/registry/database.py: isolation_level": "sqlite3",
    "apex_exec/ledger/reading.py: text_factory": "sqlite3",
    "apex_exec/gateway/http/fetch.py: _factory": "aiohttp's connector",
    "apex_exec/gateway/sql/dialect.py: *": "sqlglot's parser reads its dialect's attributes",
    "apex_exec/gateway/sql/sqlite_functions.py: inverse": "sqlite3, for window functions",
    "apex_exec/gateway/sql/sqlite_functions.py: finalize": "sqlite3, for aggregates",
    "apex_exec/gateway/sql/expressions.py: _*": "rules of the SQL writer, registered by their decorator",
    "apex_exec/observe/exporter.py: *": "http.server calls and reads them",
    "apex_exec/sandbox/bare.py: finalizer": "keeps multiprocess from waiting for the process",
    "workers/python/imports.py: *": "importlib calls them",
    "workers/runtime/serve.py: __std*__": "the interpreter's own names for the standard streams",
    "workers/testing.py: *": "pytest and coverage call and read them",
    "apex_exec/cli/verbs.py: *_commands": "click calls them",
    "apex_exec/*/revisions/*.py: down_revision": "Alembic reads it",
    # what others import
    "apex_exec/client/*: unmatched": "a host's own monitoring",
    "apex_exec/client/errors.py: retryable": "hosts",
    "apex_exec/executor/ports.py: *": "the port of the room: types for whoever implements or uses it",
    "apex_exec/extras.py: purpose": "the table's own explanation, printed by tests and read by people",
    "apex_exec/testing/*: *": "tests of authors, of hosts and of ours, and the benchmarks",
    "workers/fake.py: *": "authors' own tests",
    "workers/sdk.py: *": "plugins",
    "workers/api_methods.py: *": "plugins",
    # what is there for tests to look at
    "apex_exec/catalogue/permissions.py: STANDARD_PERMISSIONS": "tests of the policy",
    "apex_exec/daemon/absent.py: *": "benchmarks and tests that run the loop without one of its parts",
    "apex_exec/core/scheduler/plugin_slot.py: runs": "tests of what is known of a hook's time",
    "apex_exec/registry/bundles/blobs.py: in_memory": "tests of what a reload keeps",
    "apex_exec/gateway/sql/growth.py: HAS_A_RULE": "the test that no expression is without a rule",
}
