"""The Helm chart: rendered by Helm's own library, valid by Kubernetes' schemas, and what `deploy fleet` prints."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from apex_exec.config import load_settings
from apex_exec.deploy import chart, files
from tests.deploy.test_fleet import GIVEN, KINDS, documents
from tests.support import need

WORDS = {key: word for key, word in GIVEN.items() if key not in ("name", "namespace")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The chart with the words of the fleet that it is compared with, as the verb writes it."""
    need(importlib.util.find_spec("helm_python"), "helm-python-sdk is not installed: pip install -e '.[test-helm]'")
    place = tmp_path / "chart"
    done = verb("--image", WORDS["image"], "--host-image", WORDS["host_image"], "-o", str(place))
    assert done.returncode == 0, done.stderr
    return place


def verb(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "apex_exec", "deploy", "helm", *arguments], capture_output=True,
                          text=True, timeout=60)


def helm(place: Path, *values: dict[str, Any], name: str = "apex") -> dict[str, Any]:
    releases = [{"name": name, "values": one} for one in values]
    done = subprocess.run([sys.executable, "-m", "tests.deploy.helm_renders", str(place), json.dumps(releases)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def objects(manifests: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for path, text in manifests.items() if path.endswith(".yaml")
            for one in yaml.safe_load_all(text) if one}


@pytest.mark.system
def test_helm_finds_nothing_to_say_and_renders_the_objects_of_the_fleet(folder: Path) -> None:
    found = helm(folder, {"autoscaler": False}, {}, {"nodes": 5, "workers": 3, "nodesMax": 7})
    assert found["lint"]["errors"] == [] and all(one["severity"] == 1 for one in found["lint"]["messages"])
    alone, scaled, larger = (objects(one) for one in found["rendered"])
    expected = documents()
    assert scaled.keys() == KINDS == expected.keys() and alone.keys() == KINDS - {"HorizontalPodAutoscaler"}
    for one in (alone, scaled, larger):  # another configuration takes other pods
        assert one["StatefulSet"]["spec"]["template"]["metadata"].pop("annotations")["checksum/config"]
    assert alone == {kind: one for kind, one in expected.items() if kind in alone}
    del expected["StatefulSet"]["spec"]["replicas"]  # the autoscaler's, which an upgrade must not set back
    assert scaled == expected
    expected = documents(nodes=5, workers=3)
    del expected["StatefulSet"]["spec"]["replicas"]
    assert expected["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 10
    expected["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] = 7
    assert larger == expected


@pytest.mark.system
@pytest.mark.parametrize("version", ["1.33", "1.29"])
def test_everything_is_valid_by_kubernetes_own_schemas(folder: Path, version: str) -> None:
    more = {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "b", "key": "c"}}}], "storageClass": "fast",
            "config": "[limits]\ntimeout_ms = 300\n"}
    for manifests in helm(folder, {}, more)["rendered"]:
        for one in objects(manifests).values():
            kubernetes_validate.validate(one, version, strict=True)
            assert one["metadata"]["namespace"] == "shop"


@pytest.mark.system
def test_more_configuration_is_read_by_a_daemon_and_changes_the_pods(folder: Path, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"config": '[limits]\ntimeout_ms = 300\n\n[hooks.onSay]\nmode = "all"\nvoid = true',
              "env": [{"name": "A", "value": "b: c"}], "storageClass": "fast"}
    plain, more = (objects(one) for one in helm(folder, {}, values)["rendered"])
    sums = {one["StatefulSet"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for one in (plain, more)}
    assert len(sums) == 2
    assert more["StatefulSet"]["spec"]["template"]["spec"]["containers"][1]["env"][-1] == values["env"][0]
    assert more["StatefulSet"]["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    monkeypatch.setenv("APEX_EXEC_FLEET__NODE", "apex-0")
    (tmp_path / "apex-exec.toml").write_text(more["ConfigMap"]["data"]["apex-exec.toml"])
    settings = load_settings(tmp_path / "apex-exec.toml")
    assert settings.limits.timeout_ms == 300 and "onSay" in settings.hooks
    assert settings.fleet.members == ["apex-nodes.shop.svc"]


@pytest.mark.system
def test_helm_refuses_what_the_verb_refuses(folder: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"image": "a: b"}, {"hostImage": 'x"'}, {"image": "a\nb"}, {"monitoring": "A"}, {"monitoring": "x" * 60},
        {"workers": 0}, {"workers": files.WORKERS_MAX + 1}, {"nodes": 0}, {"nodes": files.NODES_MAX + 1},
        {"nodes": "3\nx: y"}, {"storage": "10"}, {"wrokers": 3}, {"averageInFlight": 0},
    ]
    found = helm(folder, *wrong)["rendered"]
    assert all(isinstance(one, str) for one in found), found
    assert all(next(iter(value)) in said for value, said in zip(wrong, found, strict=True)), found
    said = helm(folder, {}, name="shop.plugins")["rendered"]
    assert isinstance(said[0], str) and "cannot be the name of a Service" in said[0]


def test_the_verb_writes_over_nothing_and_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    for arguments, status, word in ((("-o", str(tmp_path)), 1, "not empty"), ((), 2, "--output"),
                                    (("-o", str(tmp_path / "new"), "--nodes", "0"), 2, "nodes"),
                                    (("-o", str(tmp_path / "mine")), 1, "cannot be written")):
        done = verb(*arguments)
        assert done.returncode == status and word in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def test_a_word_that_could_end_a_line_never_reaches_the_default_values() -> None:
    with pytest.raises(ValueError, match="host-image"):
        chart.helm(**{**WORDS, "host_image": "a\nb: c"})
