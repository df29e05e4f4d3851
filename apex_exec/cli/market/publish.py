"""``market publish`` and ``revoke``: what the signed index lists."""

from __future__ import annotations

from typing import Annotated

from apex_exec.cli.market.common import PluginId, Reason, ask, show_facts
from apex_exec.cli.root import EXIT_USAGE, AsJson, ConfigFile, RuntimeDir, examples, fail, market_app, this_user
from apex_exec.cli.verbs import Argument, Option


@market_app.command(epilog=examples("apex-exec market publish 7 --by olga", "apex-exec market publish 7 --percent 5",
                                    "apex-exec market publish --refresh"))
def publish(submission: Annotated[int, Argument(min=0, help="The approved submission.")] = 0,
            publisher: Annotated[str, Option("--by", metavar="NAME", help="The publisher, for the record.")] = "",
            percent: Annotated[int, Option("--percent", min=0, max=100, metavar="N", help="Offer it to this share of "
                                           "the customers, 1 to 100; again with a greater share, to more of them. "
                                           "Default: to all.")] = 0,
            refresh: Annotated[bool, Option("--refresh", help="Only sign the index again; publish nothing.")] = False,
            as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Counter-signs a bundle with the market key and puts it into the signed index.

    With --percent the release goes out in stages: those who are offered it at 5 % keep it at 25 %, and it is halted by
    itself if the new version fails more often than the one before it.
    """
    from apex_exec.cli.facts import facts

    if bool(submission) == refresh:
        fail("name a submission, or --refresh", EXIT_USAGE)
    done = ask(config, runtime_dir, "market.publish", submission=submission, publisher=publisher or this_user(),
               percent=percent)
    show_facts(done, as_json, tuple(facts(done)))


@market_app.command(epilog=examples("apex-exec market revoke sums --by olga --reason 'leaks data'"))
def revoke(plugin: PluginId, reason: Reason,
           actor: Annotated[str, Option("--by", metavar="NAME", help="Your name, as it is recorded.")] = "",
           version: Annotated[str, Option(help="One version; default: all.")] = "",
           deprecate: Annotated[bool, Option("--deprecate", help="Stop new sales only; what was bought stays "
                                                                 "usable.")] = False,
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Takes a plugin off the market and stops it where it runs; or only deprecates it."""
    done = ask(config, runtime_dir, "market.revoke", plugin=plugin, version=version, reason=reason,
               actor=actor or this_user(), deprecate=deprecate)
    show_facts(done, as_json, ("plugin", "state", "versions"))
