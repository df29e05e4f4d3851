"""``market ticket``: support tickets and the clock that runs until the first response."""

from __future__ import annotations

from typing import Annotated

from apex_exec.cli.market.common import PluginId, User, ask, show_facts
from apex_exec.cli.output import print_table
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, market_app
from apex_exec.cli.verbs import Argument, Group, Option

ticket_app = Group("Support tickets; the first response to a paid plugin's is due in under 24 hours.")
Ticket = Annotated[int, Argument(min=1, help="The ticket's number.")]
_TICKET = ("id", "plugin", "userId", "subject", "paid", "responder", "breached", "openedAt", "respondedAt", "dueAt")
market_app.add("ticket", ticket_app)


@ticket_app.command("open", epilog=examples("apex-exec market ticket open sums --user 1111… --subject 'no totals'"))
def open_ticket(plugin: PluginId, user: User, subject: Annotated[str, Option(help="What it is about.")],
                as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Opens a ticket; its clock starts."""
    done = ask(config, runtime_dir, "market.ticket.open", plugin=plugin, userId=user, subject=subject)
    show_facts(done, as_json, _TICKET)


@ticket_app.command("respond", epilog=examples("apex-exec market ticket respond 3 --by ann"))
def respond(ticket: Ticket, responder: Annotated[str, Option("--by", metavar="NAME", help="Who answers.")],
            text: Annotated[str, Option(help="The answer, if the store is to keep it.")] = "",
            as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Records the first response, which stops the clock."""
    show_facts(ask(config, runtime_dir, "market.ticket.respond", ticket=ticket, responder=responder, text=text),
               as_json, _TICKET)


@ticket_app.command("close", epilog=examples("apex-exec market ticket close 3"))
def close_ticket(ticket: Ticket, as_json: AsJson = False, runtime_dir: RuntimeDir = None,
                 config: ConfigFile = None) -> None:
    """Closes a ticket; one that nobody answered keeps running towards its breach."""
    show_facts(ask(config, runtime_dir, "market.ticket.close", ticket=ticket), as_json, _TICKET)


@ticket_app.command("list", epilog=examples("apex-exec market ticket list sums"))
def list_tickets(plugin: Annotated[str, Argument(help="One plugin; none: all.")] = "", as_json: AsJson = False,
                 runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lists tickets with their breaches."""
    print_table(ask(config, runtime_dir, "market.ticket.list", plugin=plugin), _TICKET, as_json=as_json,
                empty="no tickets")
