"""The extras: what each of them adds, whether it is installed here, and what to say if it is missing.

The base runs plugins from a folder, keeps the ledger, exports metrics, and has the clients and the command line. A
feature that needs more packages is an extra. Code that needs one calls ``need`` before importing any of its packages,
so that a missing extra is one clear line and never a traceback.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from apex_exec.errors import ConfigError


class Extra(NamedTuple):
    """One extra: the modules that its packages bring, and what it is for."""

    modules: tuple[str, ...]
    purpose: str


EXTRAS = {
    "registry": Extra(("sqlalchemy", "alembic"), "installs, signs, approves and remembers plugins; the marketplace"),
    "data": Extra(("sqlglot",), "lets plugins query and write the platform's database"),
    "postgres": Extra(("psycopg", "psycopg_pool"), "databases on PostgreSQL"),
    "fetch": Extra(("aiohttp",), "lets plugins make HTTP requests"),
    "console": Extra(("aiohttp", "jinja2", "joserfc"), "the web console"),
    "door": Extra(("aiohttp", "jwt"), "the HTTP door"),
    "otel": Extra(("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"), "exports traces by OTLP"),
    "debug": Extra(("debugpy",), "stops a plugin at a line, on its author's machine"),
    "fleet-ray": Extra(("ray",), "keeps the daemons of a fleet running on Ray's nodes"),
    "market": Extra(("coverage", "bandit", "pytest"), "runs the tests of plugins and measures them"),
}
"""The extras by name, as in ``pip install '.[data]'``; a test compares them with the packages in ``pyproject.toml``."""


class ExtraMissing(ConfigError):
    """A configured or requested feature needs an extra that is not installed. ``extra`` is its name."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(words(extra, what))
        self.extra = extra


def is_installed(extra: str) -> bool:
    """Whether every module of ``extra`` can be found. Imports none of them."""
    try:
        return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra].modules)
    except (ImportError, ValueError):  # a finder that refuses the name, or a module without a spec
        return False


def words(extra: str, what: str) -> str:
    """One line for a person: ``what`` needs ``extra``, and how to install it."""
    return (f'{what} needs the extra "{extra}", which is not installed: in the folder that apex-exec was '
            f"installed from, run pip install '.[{extra}]'")


def need(extra: str, what: str) -> None:
    """Raises ExtraMissing unless ``extra`` is installed. ``what`` is the key or the verb that needs it."""
    if not is_installed(extra):
        raise ExtraMissing(extra, what)


def bringing(module: str) -> str:
    """The extra that brings ``module``; "" if none does."""
    top = module.partition(".")[0]
    return next((name for name, extra in EXTRAS.items()
                 if any(top == brought.partition(".")[0] for brought in extra.modules)), "")


def in_words() -> str:
    """One line for a person: which extras are installed and which are not."""
    found = listing()
    there, missing = ([name for name, is_there in found.items() if is_there is wanted] for wanted in (True, False))
    return (f"extras: {', '.join(there) or 'none'}"
            + (f"; not installed: {', '.join(missing)}" if missing else ""))


def listing() -> dict[str, bool]:
    """Every extra, and whether it is installed."""
    return {name: is_installed(name) for name in EXTRAS}
