"""``market halt`` and ``resume``: a release that goes out in stages, stopped and going on."""

from __future__ import annotations

from typing import Annotated

from apex_exec.cli.market.common import PluginId, Reason, ask, show_facts
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, market_app, this_user
from apex_exec.cli.verbs import Option

Version = Annotated[str, Option(help="The version; default: the latest release.")]
Actor = Annotated[str, Option("--by", metavar="NAME", help="Your name, as it is recorded.")]
KEYS = ("plugin", "version", "state", "percent", "reason")


@market_app.command(epilog=examples("apex-exec market halt sums --reason 'totals are wrong'"))
def halt(plugin: PluginId, reason: Reason, version: Version = "", actor: Actor = "", as_json: AsJson = False,
         runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Halts a release that goes out in stages: nobody is offered it any longer.

    Where it is served already it stays, or goes back to the version before, as market.halted of each daemon says.
    """
    show_facts(ask(config, runtime_dir, "market.halt", plugin=plugin, version=version, reason=reason,
                   actor=actor or this_user()), as_json, KEYS)


@market_app.command(epilog=examples("apex-exec market resume sums --reason 'the host was at fault'"))
def resume(plugin: PluginId, reason: Reason, version: Version = "", actor: Actor = "", as_json: AsJson = False,
           runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Lets a halted release go on at the share that it had reached; earlier failures do not count again."""
    show_facts(ask(config, runtime_dir, "market.resume", plugin=plugin, version=version, reason=reason,
                   actor=actor or this_user()), as_json, KEYS)
