"""The fleet for Kubernetes: valid by its schemas, restricted, and with a configuration that a daemon reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from apex_exec.config import load_settings
from apex_exec.deploy import files

GIVEN: dict[str, Any] = {"name": "apex", "namespace": "shop", "image": "example.com/apex-exec:0.1",
                         "host_image": "example.com/a:1", "workers": 20, "nodes": 3, "monitoring": "monitoring"}
KINDS = {"ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"}


def documents(**changes: Any) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(files.fleet(**{**GIVEN, **changes})) if one}


@pytest.mark.parametrize("version", ["1.33", "1.29"])
@pytest.mark.slow_after(1)
def test_everything_is_valid_by_kubernetes_own_schemas(version: str) -> None:
    found = documents()
    assert found.keys() == KINDS
    for one in found.values():
        kubernetes_validate.validate(one, version, strict=True)
        assert one["metadata"]["namespace"] == "shop"


def test_its_pods_are_restricted_and_find_each_other_before_they_are_ready() -> None:
    found = documents()
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    for container in [*pod["containers"], *pod["initContainers"]]:
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]} and context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
    service = found["Service"]["spec"]
    assert service["publishNotReadyAddresses"] and service["clusterIP"] == "None"
    assert found["StatefulSet"]["spec"]["serviceName"] == found["Service"]["metadata"]["name"]
    mounted = {mount["name"] for container in [*pod["containers"], *pod["initContainers"]]
               for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in found["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]} | claims


def test_its_configuration_is_read_and_names_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = documents()
    (tmp_path / "apex-exec.toml").write_text(found["ConfigMap"]["data"]["apex-exec.toml"])
    daemon = found["StatefulSet"]["spec"]["template"]["spec"]["containers"][1]
    values = {entry["name"]: entry.get("value", "") for entry in daemon["env"]}
    monkeypatch.setenv("APEX_EXEC_FLEET__NODE", "apex-0")
    monkeypatch.setenv("APEX_EXEC_FLEET__ADVERTISE", values["APEX_EXEC_FLEET__ADVERTISE"].replace(
        "$(APEX_EXEC_FLEET__NODE)", "apex-0"))
    settings = load_settings(tmp_path / "apex-exec.toml")
    assert settings.fleet.engine == "kubernetes" and settings.fleet.members == ["apex-nodes.shop.svc"]
    assert settings.fleet.advertise == "tcp://apex-0.apex-nodes.shop.svc:9466"


def test_a_number_that_is_no_fleet_is_refused() -> None:
    with pytest.raises(ValueError, match="nodes"):
        documents(nodes=0)
