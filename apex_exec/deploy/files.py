"""Fills in the templates of this folder. A value that could end a line or a quote is refused, not escaped."""

from __future__ import annotations

import math
import re
from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent
BASE_MIB = 192
"""The daemon's processes with registry, gateway and ledger at work: 120 to 190 MiB of PSS."""
WORKER_MIB = 50
"""``limits.memory_mb`` as it is by default. Every worker may reach it, so the container has to hold them all."""
STEP_MIB = 64
REQUESTED_WORKERS = 4
"""A container asks for the memory of this many, and may take that of all."""
IMAGE = re.compile(r"[a-z0-9]+(?:[._:/@-]+[A-Za-z0-9]+)*")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")
NODES_MIN, NODES_MAX = 1, 100
WORKERS_MAX = 10_000
STATES = ("pvc", "emptydir")
CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: ${name}-state
  namespace: ${namespace}
  labels: {app.kubernetes.io/name: ${name}}
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests: {storage: 10Gi}
---
"""


def systemd() -> str:
    """The unit for a daemon that root runs."""
    return (FOLDER / "apex-exec.service").read_text("utf-8")


def containerfile(*, image: str) -> str:
    """A build in two stages. Raises ValueError unless ``image`` is an image's name."""
    return filled("Containerfile", image=image)


def compose(*, name: str, image: str, host_image: str, workers: int) -> str:
    """A host and its sidecar for docker compose. Raises ValueError."""
    return filled("compose.yaml", name=name, image=image, host_image=host_image, workers=workers)


def kubernetes(*, name: str, namespace: str, image: str, host_image: str, workers: int, state: str,
               monitoring: str) -> str:
    """A restricted pod with what belongs to it. ``state`` is one of STATES: with ``emptydir`` the registry and the
    ledger are gone with the pod. Raises ValueError."""
    if state not in STATES:
        raise ValueError(f"{state!r} is not a kind of state; write one of {', '.join(STATES)}")
    claimed = state == "pvc"
    volume = f"{{name: state, persistentVolumeClaim: {{claimName: {name}-state}}}}" if claimed else (
        "{name: state, emptyDir: {sizeLimit: 1Gi}}")
    return filled("kubernetes.yaml", name=name, image=image, host_image=host_image, workers=workers,
                  namespace=namespace, monitoring=monitoring, state_volume=volume,
                  volume_claim=Template(CLAIM).substitute(name=name, namespace=namespace) if claimed else "")


def fleet(*, name: str, namespace: str, image: str, host_image: str, workers: int, nodes: int, monitoring: str) -> str:
    """A StatefulSet of ``nodes`` daemons, each beside a host, with what belongs to it. Raises ValueError."""
    check_nodes(nodes)
    return filled("fleet.yaml", name=name, image=image, host_image=host_image, workers=workers, namespace=namespace,
                  monitoring=monitoring, nodes=str(nodes), nodes_max=str(2 * nodes), verb="fleet",
                  replicas=f"  replicas: {nodes}\n", annotations="", more_config="", more_env="",
                  average_in_flight="50", storage="10Gi", storage_class="")


def check_nodes(nodes: int) -> None:
    """Raises ValueError if this is not a fleet's number of nodes."""
    if not NODES_MIN <= nodes <= NODES_MAX:
        raise ValueError(f"nodes: {nodes} is not between {NODES_MIN} and {NODES_MAX}")


def memory_mib(workers: int) -> int:
    """What a container needs that ``workers`` at their limit fit in, in steps of ``STEP_MIB``."""
    return math.ceil((BASE_MIB + workers * WORKER_MIB) / STEP_MIB) * STEP_MIB


def filled(template: str, *, workers: int = 1, **words: str) -> str:
    """The template with its words and with the memory that ``workers`` take. Raises ValueError."""
    for key, word in words.items():
        pattern = IMAGE if key.endswith("image") else NAME
        if key in ("name", "namespace", "monitoring", "image", "host_image") and not pattern.fullmatch(word):
            raise ValueError(f"{key.replace('_', '-')}: {word!r} is not a name that can stand here")
    if not 1 <= workers <= WORKERS_MAX:
        raise ValueError(f"workers: {workers} is not between 1 and {WORKERS_MAX}")
    limit = memory_mib(workers)
    return Template((FOLDER / template).read_text("utf-8")).substitute(
        words, workers=str(workers), memory_limit=f"{limit}Mi", memory_limit_compose=f"{limit}m",
        memory_request=f"{memory_mib(min(workers, REQUESTED_WORKERS))}Mi")
