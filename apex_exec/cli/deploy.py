"""``deploy``: files that other programs need to look after a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli.output import say
from apex_exec.cli.root import EXIT_NO, deploy_app, examples, fail
from apex_exec.cli.verbs import Option

Job = Annotated[str, Option("--job", metavar="NAME", help="The name of the scrape job in Prometheus.")]
Out = Annotated[Path | None, Option("--output", "-o", metavar="FILE", help="Write this file instead of printing.")]


@deploy_app.command(epilog=examples("apex-exec deploy alerts -o /etc/prometheus/rules/apex-exec.yml",
                                    "apex-exec deploy alerts --job plugins"))
def alerts(job: Job = "apex-exec", output: Out = None) -> None:
    """Prints alert rules for Prometheus.

    Each rule says in its annotations what it means and what to do first.
    """
    from apex_exec.observe.alerts import rules

    _give(rules(job), output)


@deploy_app.command(epilog=examples("apex-exec deploy grafana -o apex-exec.json",
                                    "apex-exec deploy grafana --job plugins -o apex-exec.json"))
def grafana(job: Job = "apex-exec", output: Out = None) -> None:
    """Prints a dashboard for Grafana.

    Import it in Grafana by Dashboards, New, Import; it asks for the Prometheus that scrapes the daemon.
    """
    import json

    from apex_exec.observe.dashboard import dashboard

    _give(json.dumps(dashboard(job), indent=1) + "\n", output)


def _give(text: str, output: Path | None) -> None:
    if output is None:
        say(text, end="")
        return
    from apex_exec.common.files import replace_file

    try:
        replace_file(output, text.encode(), mode=0o644)
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}", EXIT_NO)
    say(f"wrote {output}")
