"""The pod for Kubernetes: valid, restricted, and enough for a daemon that is started with what it gives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import kubernetes_validate
import psutil
import pytest
import yaml

from apex_exec.client import Client
from apex_exec.deploy import files
from tests.sandbox.test_doctor import DOCKER
from tests.support import RUN_FOLDER, has_landlock, need, other_user
from tests.support.daemon import ECHO, USER, write_plugin

GIVEN = {"name": "apex-exec", "namespace": "shop", "image": "example.com/apex-exec:0.1",
         "host_image": "example.com/a:1", "workers": 20, "state": "pvc", "monitoring": "monitoring"}
MONITOR = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor"}
"""No kind of Kubernetes itself: its fields are compared with what the operator's documentation names."""
MONITOR_ENDPOINT = {"port", "interval", "path", "scheme", "scrapeTimeout"}


def documents(**changes: Any) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(files.kubernetes(**{**GIVEN, **changes})) if one]


def pod_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = next(one for one in found if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("state", files.STATES)
@pytest.mark.parametrize("version", ["1.33", "1.29"])
@pytest.mark.slow_after(1)
def test_everything_is_valid_by_kubernetes_own_schemas(state: str, version: str) -> None:
    kinds = []
    for one in documents(state=state):
        kinds.append(one["kind"])
        if one["kind"] == MONITOR["kind"]:
            assert one["apiVersion"] == MONITOR["apiVersion"] and one["spec"].keys() == {"selector", "endpoints"}
            assert all(endpoint.keys() <= MONITOR_ENDPOINT for endpoint in one["spec"]["endpoints"])
        else:
            kubernetes_validate.validate(one, version, strict=True)
        assert one["metadata"]["namespace"] == "shop"
    assert ("PersistentVolumeClaim" in kinds) is (state == "pvc")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Service", "spec": {"port": 1}}, version, strict=True)


def test_the_pod_is_restricted_by_the_rules_of_pod_security() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, profile "restricted"."""
    pod = pod_of(documents())
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys() and pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] and container["resources"]["limits"]["memory"]
    kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds == {"emptyDir", "configMap", "persistentVolumeClaim"}


@pytest.mark.parametrize("word", ["a: b", 'x"', "a\nb", "", "A", "-x", "x" * 60, "${name}"])
@pytest.mark.parametrize("key", ["name", "namespace", "image", "host_image", "monitoring"])
def test_a_word_that_could_end_a_line_is_refused(key: str, word: str) -> None:
    if key.endswith("image") and word == "x" * 60:
        return  # a repository may have a long name
    with pytest.raises(ValueError, match=key.replace("_", "-")):
        files.kubernetes(**{**GIVEN, key: word})


@pytest.mark.parametrize("workers", [1, 20, 500])
def test_the_memory_holds_every_worker_at_its_limit_and_compose_gives_the_same(workers: int) -> None:
    limit = pod_of(documents(workers=workers))["containers"][1]["resources"]["limits"]["memory"]
    compose = yaml.safe_load(files.compose(name="a", image="a", host_image="b", workers=workers))
    assert compose["services"]["apex-exec"]["mem_limit"] == limit.removesuffix("Mi") + "m"
    assert int(limit.removesuffix("Mi")) >= files.BASE_MIB + workers * files.WORKER_MIB


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.system
def test_a_daemon_that_is_started_as_the_pod_says_answers_at_l2(tmp_path: Path) -> None:
    """In bubblewrap: the pod's user, no capability, a read-only root, volumes as kubelet makes them, and the calls
    refused that a container's default profile refuses."""
    need(os.geteuid() == 0 and has_landlock(), "making a pod takes root, and L2 takes Landlock")
    need(shutil.which("bwrap"), "bubblewrap")
    found = documents()
    pod = pod_of(found)
    container = pod["containers"][1]
    user, group = pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]
    base = other_user.new_folder()
    port = free_port()
    text = next(one for one in found if one["kind"] == "ConfigMap")["data"]["apex-exec.toml"]
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "--as-pid-1",
               "--die-with-parent", "--tmpfs", "/run", "--tmpfs", "/var/lib", "--tmpfs", "/etc"]
    for path in ("/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/localtime"):
        command += ["--ro-bind-try", path, path]
    for mount in container["volumeMounts"]:
        folder = base / mount["name"]
        folder.mkdir()
        os.chown(folder, 0, group)
        folder.chmod(0o2777)
        if mount["name"] == "config":
            (folder / "apex-exec.toml").write_text(text.replace("0.0.0.0:9464", f"127.0.0.1:{port}"))
        command += ["--ro-bind" if mount.get("readOnly") else "--bind", str(folder), mount["mountPath"]]
    plugins = write_plugin(base / "plugins", "echo", ECHO).parent
    for path in (os.environ[RUN_FOLDER], str(base)):  # the pod's volumes may have hidden them
        command += ["--ro-bind", path, path]
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--bounding-set=-all",
              "--inh-caps=-all", "--no-new-privs"]
    place = other_user.become()["cwd"]
    command += ["--chdir", str(place), "--", *become, other_user.python(), "tests/sandbox/simulated.py",
                json.dumps({"errno": DOCKER}), other_user.python(), "-m", "apex_exec", *container["args"]]
    env = {"PATH": os.environ["PATH"], "APEX_EXEC_PLUGINS_DIR": str(plugins),
           **{name: word for name, word in other_user.environment().items() if name in ("LD_LIBRARY_PATH", "HOME")}}
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        due = time.monotonic() + container["startupProbe"]["failureThreshold"]
        while not ready(port):
            assert time.monotonic() < due and process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.2)
        with Client(f"ipc://{base}/run/daemon/host.sock") as client:
            assert client.hello()["isolation"] == "L2"
            assert client.invoke("echo", "onActionExecute", USER, {"action": "a", "context": {"n": 1}})["result"]
        assert (base / "state" / "daemon" / "audit.db").stat().st_uid == user
    finally:
        for daemon in psutil.Process(process.pid).children():  # PID 1 of the pod
            daemon.send_signal(signal.SIGTERM)
        try:
            status = process.wait(pod["terminationGracePeriodSeconds"])
        finally:
            process.kill()
            log.close()
            shutil.rmtree(base, ignore_errors=True)
    assert status == 0, (tmp_path / "log").read_text()[-3000:]


def ready(port: int) -> bool:
    """What the kubelet's probe gets."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_the_verbs_print_and_write_and_refuse_in_one_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "apex_exec", "deploy", *arguments], capture_output=True, text=True,
                              timeout=60)

    done = run("kubernetes", "--namespace", "shop", "--state", "emptydir", "-o", str(tmp_path / "pod.yaml"))
    assert done.returncode == 0 and "persistentVolumeClaim" not in (tmp_path / "pod.yaml").read_text()
    assert "apex-exec:9" in run("containerfile", "--image", "apex-exec:9").stdout
    wrong = run("kubernetes", "--state", "nfs")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "pvc, emptydir" in wrong.stderr
