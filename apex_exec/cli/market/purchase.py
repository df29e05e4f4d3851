"""``market buy``, ``refund``, ``entitle`` and ``customer``: who may run a paid plugin, and who pays."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

from apex_exec.cli.market.common import PluginId, Reason, User, ask, show_facts
from apex_exec.cli.plugin.common import replace_file
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, market_app
from apex_exec.cli.verbs import Argument, Option

Key = Annotated[str, Option(help="Idempotency key: the same key does it once. Default: a new one, printed.")]


@market_app.command(epilog=examples("apex-exec market buy sums --user 11111111-2222-4333-8444-555555555555 "
                                    "--customer 'ACME Corp'"))
def buy(plugin: PluginId, user: User,
        customer: Annotated[str, Option(help="Who pays for this user from now on.")] = "", key: Key = "",
        as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Buys a plugin for a user, or one more period of a running subscription."""
    bought = ask(config, runtime_dir, "market.buy", plugin=plugin, userId=user, customer=customer,
                 key=key or str(uuid.uuid4()))
    show_facts(bought, as_json, ("key", "plugin", "userId", "customer", "gross", "fee", "authorShare", "startsAt",
                                 "endsAt"))


@market_app.command(epilog=examples("apex-exec market entitle sums --customer 'ACME Corp' --until 2027-01-31 -o acme",
                                    "apex-exec market entitle sums --user 1111… --until 2027-01-31 -o one.json"))
def entitle(plugin: PluginId,
            until: Annotated[str, Option(metavar="TIME", help="When it ends, in UTC unless the time names a zone.")],
            output: Annotated[Path, Option("--output", "-o", help="The file to write.")],
            user: Annotated[list[str] | None,
                            Option("--user", metavar="UUID", help="A user; may be given again.")] = None,
            customer: Annotated[str, Option(help="Cover every user of daemons whose market.customer is this.")] = "",
            as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Signs an entitlement for a customer's own daemon, which takes it by market.entitlements."""
    done = ask(config, runtime_dir, "market.entitle", plugin=plugin, until=until, users=user or [], customer=customer)
    signed = done.pop("entitlement")
    replace_file(output, signed)
    show_facts(done, as_json, ("plugin", "users", "customer", "endsAt"))


@market_app.command(epilog=examples("apex-exec market refund 5c0f… --reason 'did not work'"))
def refund(purchase: Annotated[str, Argument(help="The purchase's key.")], reason: Reason, key: Key = "",
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Reverses a purchase to the cent; the entitlement that it gave ends at once."""
    done = ask(config, runtime_dir, "market.refund", purchase=purchase, reason=reason, key=key or str(uuid.uuid4()))
    show_facts(done, as_json, ("key", "plugin", "userId", "gross", "fee", "authorShare", "refundedAt"))


@market_app.command(epilog=examples("apex-exec market customer 1111… 'ACME Corp'"))
def customer(user: Annotated[str, Argument(metavar="UUID", help="The user.")],
             name: Annotated[str, Argument(help="The customer's name.")], as_json: AsJson = False,
             runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Says who pays for a user from now on."""
    show_facts(ask(config, runtime_dir, "market.customer", userId=user, customer=name), as_json, ("userId", "customer"))
