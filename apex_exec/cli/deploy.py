"""``deploy``: files with which other programs run a daemon and look after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from apex_exec.cli.output import say
from apex_exec.cli.root import EXIT_NO, EXIT_USAGE, deploy_app, examples, fail
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


Image = Annotated[str, Option(
    "--image", metavar="IMAGE", help="The image of apex-exec; `deploy containerfile` builds it.")]
HostImage = Annotated[str, Option("--host-image", metavar="IMAGE", help="The image of your platform's host.")]
Workers = Annotated[int, Option(
    "--workers", metavar="N", help="Workers at once; the memory limit holds them all at 50 MB.")]
Nodes = Annotated[int, Option("--nodes", metavar="N", help="How many pods there are; the autoscaler may double it.")]
Monitoring = Annotated[str, Option(
    "--monitoring", metavar="NAME", help="The namespace that may scrape the daemon.")]


@deploy_app.command(epilog=examples("apex-exec deploy systemd -o /etc/systemd/system/apex-exec.service",
                                    "systemctl daemon-reload && systemctl enable --now apex-exec"))
def systemd(output: Out = None) -> None:
    """Prints a unit for systemd.

    It runs the daemon as root with six capabilities and a read-only file system; workers have all levels of isolation.
    """
    from apex_exec.deploy import files

    _give(files.systemd(), output)


@deploy_app.command(epilog=examples(
    "apex-exec deploy kubernetes --image registry.example.com/apex-exec:0.1 --host-image … | kubectl apply -f -",
    "apex-exec deploy kubernetes --namespace shop --workers 50 --state emptydir -o apex-exec.yaml"))
def kubernetes(
    name: Annotated[str, Option("--name", metavar="NAME", help="The name of everything that is made.")] = "apex-exec",
    namespace: Annotated[str, Option("--namespace", metavar="NAME", help="Where it is made.")] = "default",
    image: Image = "apex-exec:latest",
    host_image: HostImage = "host:latest",
    workers: Workers = 20,
    state: Annotated[str, Option(
        "--state", metavar="KIND", help="pvc, or emptydir: registry and ledger are gone with the pod then.")] = "pvc",
    monitoring: Monitoring = "monitoring",
    output: Out = None,
) -> None:
    """Prints a sidecar in a restricted pod, with its volumes, probes, network policy and monitor.

    Isolation in such a pod is L2. The pod was tried without a cluster: apex_exec/deploy/README.md says how.
    """
    from apex_exec.deploy import files

    _made(lambda: files.kubernetes(name=name, namespace=namespace, image=image, host_image=host_image, workers=workers,
                                   state=state, monitoring=monitoring), output)


@deploy_app.command(epilog=examples(
    "apex-exec deploy fleet --image registry.example.com/apex-exec:0.1 --host-image … | kubectl apply -f -",
    "apex-exec deploy fleet --nodes 5 --namespace shop -o fleet.yaml"))
def fleet(
    name: Annotated[str, Option("--name", metavar="NAME", help="The name of everything that is made.")] = "apex-exec",
    namespace: Annotated[str, Option("--namespace", metavar="NAME", help="Where it is made.")] = "default",
    image: Image = "apex-exec:latest",
    host_image: HostImage = "host:latest",
    workers: Workers = 20,
    nodes: Nodes = 3,
    monitoring: Monitoring = "monitoring",
    output: Out = None,
) -> None:
    """Prints a StatefulSet of daemons that are one fleet, each beside a host, with its names, budget and autoscaler.

    It was checked against Kubernetes' schemas, and not tried on a cluster.
    """
    from apex_exec.deploy import files

    _made(lambda: files.fleet(name=name, namespace=namespace, image=image, host_image=host_image, workers=workers,
                              nodes=nodes, monitoring=monitoring), output)


@deploy_app.command(epilog=examples(
    "apex-exec deploy helm --image registry.example.com/apex-exec:0.1 --host-image … -o chart",
    "helm install plugins chart --namespace shop --set workers=50"))
def helm(
    folder: Annotated[Path, Option("--output", "-o", metavar="DIR", help="The chart's folder; new, or empty.")],
    image: Image = "apex-exec:latest",
    host_image: HostImage = "host:latest",
    workers: Workers = 20,
    nodes: Nodes = 3,
    monitoring: Monitoring = "monitoring",
) -> None:
    """Writes a Helm chart of what `deploy fleet` prints, with the options as its default values.

    It was rendered by Helm's own library and checked against Kubernetes' schemas, and not tried on a cluster.
    """
    from apex_exec.deploy.chart import helm

    try:
        chart = helm(image=image, host_image=host_image, workers=workers, nodes=nodes, monitoring=monitoring)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):  # templates of another release would be rendered along with these
            fail(f"{folder} is not empty; remove what it has, or name another folder", EXIT_NO)
        for path, text in chart.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, "utf-8")
    except OSError as error:
        fail(f"{folder} cannot be written: {error.strerror}", EXIT_NO)
    say(f"wrote {folder}, a chart of {len(chart)} files")


@deploy_app.command(epilog=examples("apex-exec deploy compose --host-image shop:latest -o compose.yaml",
                                    "docker compose up --wait"))
def compose(
    name: Annotated[str, Option("--name", metavar="NAME", help="The name of the project.")] = "apex-exec",
    image: Image = "apex-exec:latest",
    host_image: HostImage = "host:latest",
    workers: Workers = 20,
    output: Out = None,
) -> None:
    """Prints a host and its sidecar for docker compose."""
    from apex_exec.deploy import files

    _made(lambda: files.compose(name=name, image=image, host_image=host_image, workers=workers), output)


@deploy_app.command(epilog=examples("apex-exec deploy containerfile -o Containerfile",
                                    "podman build -t apex-exec:latest ."))
def containerfile(image: Image = "apex-exec:latest", output: Out = None) -> None:
    """Prints the build of an image from Debian's packages, in two stages."""
    from apex_exec.deploy import files

    _made(lambda: files.containerfile(image=image), output)


def _made(make: Callable[[], str], output: Path | None) -> None:
    try:
        text = make()
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    _give(text, output)


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
