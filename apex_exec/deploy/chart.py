"""A Helm chart of the fleet: the manifests of ``fleet.yaml`` with Helm's expressions where ``deploy fleet`` has words.

So both have the same objects, and a word that the one refuses the other's schema refuses.
"""

from __future__ import annotations

import json
import re
from string import Template
from typing import Any

from apex_exec import __version__
from apex_exec.deploy import files

FOLDER = files.FOLDER / "helm"
IN_FLIGHT_MAX = 100_000
CONFIG_BYTES_MAX = 64 * 1024
"""A ConfigMap holds 1 MiB in all."""
NODE_MEMORY = '{{ include "apex-exec.memory" %s }}'
EXPRESSIONS = {
    "name": '{{ include "apex-exec.name" . }}',
    "namespace": "{{ .Release.Namespace }}",
    "image": "{{ .Values.image }}",
    "host_image": "{{ .Values.hostImage }}",
    "workers": "{{ int .Values.workers }}",
    "memory_limit": NODE_MEMORY % ".Values.workers",
    "memory_request": NODE_MEMORY % f"(min (int .Values.workers) {files.REQUESTED_WORKERS})",
    "monitoring": "{{ .Values.monitoring }}",
    "nodes": "{{ int .Values.nodes }}",
    "nodes_max": "{{ max (int .Values.nodes) (int .Values.nodesMax | default (mul 2 (int .Values.nodes))) }}",
    "average_in_flight": "{{ int .Values.averageInFlight }}",
    "storage": "{{ .Values.storage }}",
    "storage_class": "{{- with .Values.storageClass }}\n        storageClassName: {{ . }}\n{{- end }}\n",
    # With an autoscaler the number is the autoscaler's: an upgrade of the release would set it back.
    "replicas": "{{- if not .Values.autoscaler }}\n  replicas: {{ int .Values.nodes }}\n{{- end }}\n",
    # A daemon reads its file when it starts, so that other words take other pods.
    "annotations": "      annotations:\n        checksum/config: "
                   '{{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}\n',
    "more_config": "{{- with .Values.config }}\n{{ . | indent 4 }}\n{{- end }}\n",
    "more_env": "{{- with .Values.env }}\n{{ toYaml . | indent 12 }}\n{{- end }}\n",
    "verb": "helm",
}
"""What stands in the chart for each word of ``fleet.yaml``."""


def helm(*, image: str, host_image: str, workers: int, nodes: int, monitoring: str) -> dict[str, str]:
    """The text of each file of the chart by its path. The words are the defaults in ``values.yaml``.
    Raises ValueError."""
    files.check_nodes(nodes)
    chart = {
        "Chart.yaml": Template((FOLDER / "Chart.yaml").read_text("utf-8")).substitute(version=__version__),
        "values.yaml": files.filled("helm/values.yaml", image=image, host_image=host_image, workers=workers,
                                    nodes=str(nodes), monitoring=monitoring),
        "values.schema.json": json.dumps(_schema(), indent=2) + "\n",
        "templates/_helpers.tpl": Template((FOLDER / "helpers.tpl").read_text("utf-8")).substitute(
            name_pattern=_whole(files.NAME), step_mib=files.STEP_MIB, step_less_one=files.STEP_MIB - 1,
            base_mib=files.BASE_MIB, worker_mib=files.WORKER_MIB),
        "templates/NOTES.txt": (FOLDER / "NOTES.txt").read_text("utf-8"),
    }
    text = Template((files.FOLDER / "fleet.yaml").read_text("utf-8")).substitute(EXPRESSIONS)
    for manifest in text.split("---\n"):
        kind = re.findall(r"^kind: (\w+)$", manifest, re.M)[0]
        if kind == "HorizontalPodAutoscaler":
            manifest = "{{- if .Values.autoscaler }}\n" + manifest + "{{- end }}\n"
        chart[f"templates/{kind.lower()}.yaml"] = manifest
    return chart


def _whole(pattern: re.Pattern[str]) -> str:
    """The pattern as Go's library reads it, of a whole text. What it has of Python's syntax both have."""
    return f"^({pattern.pattern})$"


def _schema() -> dict[str, Any]:
    """What the values may be. Helm checks it before it renders."""
    image: dict[str, Any] = {"type": "string", "pattern": _whole(files.IMAGE)}
    properties: dict[str, Any] = {
        "image": image,
        "hostImage": image,
        "nodes": {"type": "integer", "minimum": files.NODES_MIN, "maximum": files.NODES_MAX},
        "nodesMax": {"type": "integer", "minimum": 0, "maximum": 2 * files.NODES_MAX},
        "autoscaler": {"type": "boolean"},
        "averageInFlight": {"type": "integer", "minimum": 1, "maximum": IN_FLIGHT_MAX},
        "workers": {"type": "integer", "minimum": 1, "maximum": files.WORKERS_MAX},
        "storage": {"type": "string", "pattern": "^[1-9][0-9]{0,8}(Mi|Gi|Ti)$"},
        "storageClass": {"type": "string", "pattern": "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"},
        "monitoring": {"type": "string", "pattern": _whole(files.NAME)},
        "config": {"type": "string", "maxLength": CONFIG_BYTES_MAX},
        "env": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": sorted(properties),
            "additionalProperties": False,
            "properties": {**properties, "global": {"type": "object"}}}  # what a chart above this one sets for all
