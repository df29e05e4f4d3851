"""The runtime folder and the endpoints: ours, private, swept, watched; what cannot be served is one clear line."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import zmq

from apex_exec.testing.configuration import to_toml
from tests.support import need, other_user
from tests.support.daemon import ECHO, ROOT, Daemon, wait_for, write_plugin
from tests.support.host import Host

OTHER, THIRD = 65531, 65530


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    return tmp_path / "plugins"


def refused(tmp_path: Path, **config: object) -> str:
    """``serve`` with ``config`` (``__`` for a dot); its one line of refusal."""
    given = {"runtime_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state"),
             "http.address": "127.0.0.1:0", "audit.min_free_bytes": 0,
             **{key.replace("__", "."): value for key, value in config.items()}}
    path = tmp_path / "refused.toml"
    path.write_text(to_toml(given))
    ended = subprocess.run([sys.executable, "-m", "apex_exec", "serve", "--config", str(path)], cwd=ROOT,
                           capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2, (ended.returncode, ended.stderr)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("apex-exec: ")]
    assert len(lines) == 1 and "Traceback" not in ended.stderr, ended.stderr
    return lines[0]


@pytest.mark.slow
def test_a_second_daemon_is_told_who_is_there(plugins: Path) -> None:
    with Daemon(plugins=plugins) as daemon:
        assert f"already running on {daemon.runtime} (pid {daemon.pid})" in refused(
            daemon.folder, runtime_dir=str(daemon.runtime))
        with Host(daemon.endpoint) as host:
            assert host.invoke("echo")["type"] == "result"


@pytest.mark.slow
def test_what_a_killed_daemon_left_is_swept(plugins: Path) -> None:
    with Daemon(plugins=plugins) as daemon:
        daemon.kill()
        assert (daemon.runtime / "host.sock").exists() and (daemon.runtime / "admin.sock").exists()
        daemon.start()
        with Host(daemon.endpoint) as host:
            assert host.invoke("echo")["type"] == "result"
        assert daemon.stop() == 0
        assert [path.name for path in daemon.runtime.iterdir()] == ["lock"]


@pytest.mark.slow
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "giving a folder away needs root")
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", OTHER, OTHER)
    assert f"belongs to uid {OTHER}" in refused(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert "not a folder" in refused(tmp_path, runtime_dir=str(tmp_path / "link"))


def test_a_path_too_long_for_a_socket_is_refused_with_its_length(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    line = refused(tmp_path, runtime_dir=str(long))
    assert "at most 107" in line and "shorter runtime_dir" in line


@pytest.mark.slow
def test_an_endpoint_in_use_is_not_taken_over(tmp_path: Path) -> None:
    path = f"/tmp/apx-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
        holder.bind(path)
        try:
            holder.listen(1)
            assert "another process listens on" in refused(tmp_path, host__endpoint=f"ipc://{path}")
            assert os.path.exists(path)
        finally:
            os.unlink(path)
    (tmp_path / "file").write_text("precious")
    assert "is not a socket" in refused(tmp_path, host__endpoint=f"ipc://{tmp_path}/file")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert "http.address" in refused(tmp_path, http__address=f"127.0.0.1:{port}")


@pytest.mark.slow
def test_what_would_let_others_in_is_refused(tmp_path: Path) -> None:
    assert "needs host.curve_keys_dir" in refused(tmp_path, host__endpoint="tcp://127.0.0.1:0")
    assert "a local socket only" in refused(tmp_path, admin__endpoint="tcp://127.0.0.1:5555")
    assert "abstract" in refused(tmp_path, host__endpoint="ipc://@abstract")
    assert "is not supported" in refused(tmp_path, host__endpoint="inproc://x")
    assert "no group" in refused(tmp_path, host__socket_group="no-such-group-here")


def test_sockets_are_private_to_us(plugins: Path) -> None:
    with Daemon(plugins=plugins) as daemon:
        assert stat.S_IMODE(daemon.runtime.stat().st_mode) == 0o700
        for name in ("host.sock", "admin.sock", "lock"):
            assert stat.S_IMODE((daemon.runtime / name).stat().st_mode) == 0o600
        assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700


def ping_as(uid: int, gid: int, endpoint: str) -> str:
    """What a process of that user and group gets for a ping: the reply's type, or "nothing"."""
    code = ("import sys, zmq, msgspec\n"
            "dealer = zmq.Context().socket(zmq.DEALER); dealer.linger = 0; dealer.connect(sys.argv[1])\n"
            "dealer.send(msgspec.msgpack.encode({'type': 'ping', 'id': 1}))\n"
            "print(msgspec.msgpack.decode(dealer.recv())['type'] if dealer.poll(700) else 'nothing', flush=True)\n"
            "import os; os._exit(0)\n")
    done = subprocess.run([other_user.python(), "-c", code, endpoint], capture_output=True, text=True, timeout=20,
                          env=other_user.environment(), **other_user.become(uid, gid))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_host_of_the_socket_group_connects_and_nobody_else(plugins: Path) -> None:
    other_user.need_root()
    with Daemon(plugins=plugins, config={"host.socket_group": str(OTHER)}) as daemon:
        daemon.folder.chmod(0o711)
        assert stat.S_IMODE(daemon.runtime.stat().st_mode) == 0o750
        assert stat.S_IMODE((daemon.runtime / "host.sock").stat().st_mode) == 0o660
        assert stat.S_IMODE((daemon.runtime / "admin.sock").stat().st_mode) == 0o600
        assert ping_as(THIRD, OTHER, daemon.endpoint) == "pong"
        assert ping_as(OTHER, THIRD, daemon.endpoint) == "nothing"
        assert ping_as(THIRD, OTHER, daemon.admin) == "nothing"


@pytest.mark.slow
def test_a_deleted_socket_or_folder_is_bound_again_and_old_connections_stay(plugins: Path) -> None:
    with Daemon(plugins=plugins) as daemon, Host(daemon.endpoint) as before:
        assert before.invoke("echo")["type"] == "result"
        (daemon.runtime / "host.sock").unlink()
        wait_for((daemon.runtime / "host.sock").exists, 5, "the socket's return")
        with Host(daemon.endpoint) as host:
            assert host.invoke("echo")["type"] == "result"
        assert "was deleted; binding it again" in daemon.log
        assert before.invoke("echo")["type"] == "result"
        shutil.rmtree(daemon.runtime)
        wait_for((daemon.runtime / "admin.sock").exists, 5, "the folder's return")
        with Host(daemon.endpoint) as host:
            assert host.invoke("echo")["type"] == "result"
        assert "already running" in refused(daemon.folder, runtime_dir=str(daemon.runtime))
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 5, "readiness")
        assert daemon.operate("daemon.status")["health"] == {}


def curve_folder(folder: Path) -> Path:
    """Keys as ``keys curve`` makes them: the server's, and those of one known client; a stranger's elsewhere."""
    import zmq.auth

    folder.mkdir(parents=True)
    zmq.auth.create_certificates(folder, "server")
    zmq.auth.create_certificates(folder, "dashboard")
    (folder / "server.key_secret").chmod(0o600)
    (folder / "strangers").mkdir()
    zmq.auth.create_certificates(folder / "strangers", "stranger")
    return folder


def curve_options(folder: Path, name: str) -> dict[str, bytes]:
    import zmq.auth

    server, _ = zmq.auth.load_certificate(folder / "server.key")
    public, secret = zmq.auth.load_certificate(folder / f"{name}.key_secret")
    assert secret
    return {"CURVE_SERVERKEY": server, "CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret}


FROZEN = """
import sys, time, zmq, zmq.auth
endpoint, folder = sys.argv[1:]
server, _ = zmq.auth.load_certificate(f"{folder}/server.key")
public, secret = zmq.auth.load_certificate(f"{folder}/dashboard.key_secret")
dealer = zmq.Context().socket(zmq.DEALER)
dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = server, public, secret
dealer.connect(endpoint)
dealer.send(b"\\x82\\xa4type\\xa4ping\\xa2id\\x01")
dealer.recv()
print("connected", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_host_on_tcp_that_gives_no_sign_any_more_is_given_up(plugins: Path, tmp_path: Path) -> None:
    """A machine that loses its power sends no end of its connections; a stopped process stands for it."""
    keys = curve_folder(tmp_path / "keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"host.endpoint": f"tcp://127.0.0.1:{port}", "host.curve_keys_dir": str(keys)}
    with Daemon(plugins=plugins, config=config) as daemon, subprocess.Popen(
            [sys.executable, "-c", FROZEN, daemon.endpoint, str(keys)], stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None and host.stdout.readline() == "connected\n"
            wait_for(lambda: daemon.operate("daemon.status")["connections"] == 1, 5)
            host.send_signal(signal.SIGSTOP)
            wait_for(lambda: daemon.operate("daemon.status")["connections"] == 0, 20, "the host is given up")
        finally:
            host.kill()


@pytest.mark.slow
def test_tcp_is_served_to_known_curve_keys_only(plugins: Path, tmp_path: Path) -> None:
    keys = curve_folder(tmp_path / "keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"host.endpoint": f"tcp://127.0.0.1:{port}", "host.curve_keys_dir": str(keys)}
    with Daemon(plugins=plugins, config=config) as daemon:
        with Host(daemon.endpoint, **curve_options(keys, "dashboard")) as host:
            assert host.invoke("echo", {"n": 1})["result"]["result"] == {"n": 1}
        for options in ({}, curve_options(keys, "strangers/stranger")):
            with Host(daemon.endpoint, **options) as host:
                host.socket.send(b"\x82\xa4type\xa4ping\xa2id\x01")
                assert host.quiet(0.7)
        assert "its CURVE key is not in any file of" in daemon.log
        shutil.copy(keys / "strangers" / "stranger.key", keys)
        daemon.operate("daemon.reload")
        with Host(daemon.endpoint, **curve_options(keys, "strangers/stranger")) as host:
            assert host.ask({"type": "ping"})["type"] == "pong"
    (keys / "server.key_secret").chmod(0o644)
    assert "chmod 600" in refused(tmp_path, host__endpoint=f"tcp://127.0.0.1:{port}",
                                  host__curve_keys_dir=str(keys))


@pytest.mark.slow
def test_zap_is_asked_by_nobody_on_ipc(plugins: Path) -> None:
    with Daemon(plugins=plugins) as daemon, Host(daemon.endpoint, zmq.REQ) as host:
        assert host.ask({"type": "ping"})["type"] == "pong"


# ---------------------------------------------------------------------- volumes, and administration by others
@pytest.mark.parametrize(("key", "mode", "says"), [
    pytest.param("state_dir", 0o777, "name a folder inside it", marks=pytest.mark.slow),
    pytest.param("runtime_dir", 0o2777, "name a folder inside it", marks=pytest.mark.slow),
    pytest.param("state_dir", 0o755, "chown", marks=pytest.mark.slow),
    pytest.param("runtime_dir", 0o700, "chown", marks=pytest.mark.slow)])
def test_a_volume_of_root_is_refused_with_the_folder_to_name_instead(key: str, mode: int, says: str) -> None:
    other_user.need_root()
    folder = other_user.new_folder()
    volume = Path(tempfile.mkdtemp(prefix="apxv"))
    volume.chmod(mode)
    try:
        config = {"runtime_dir": folder / "run", "state_dir": folder / "state", "http.address": "127.0.0.1:0",
                  "audit.min_free_bytes": 0, "sandbox.min_level": "L0", key: volume}
        path = folder / "c.toml"
        path.write_text(to_toml(config))
        path.chmod(0o644)
        command = [other_user.python(), "-m", "apex_exec", "serve", "--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, env=other_user.environment(),
                              **other_user.become())
        said = [line for line in done.stderr.splitlines() if line.startswith("apex-exec: ")]
        assert done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr, done.stderr
        for part in (key, str(volume), "uid 0", f"uid {other_user.UID}", says):
            assert part in said[0]
        if says.startswith("name"):  # what it says works
            path.write_text(to_toml(config | {key: volume / "apex-exec"}))
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=other_user.environment(),
                                  **other_user.become()) as process:
                assert process.stderr is not None
                assert any("serving" in line for line in process.stderr)
                process.terminate()
                process.stderr.read()
            assert process.returncode == 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(volume, ignore_errors=True)


@pytest.mark.slow
def test_who_may_not_administer_is_told_so_at_once(plugins: Path) -> None:
    other_user.need_root()
    with Daemon(plugins=plugins) as daemon:
        daemon.folder.chmod(0o755)
        daemon.runtime.chmod(0o755)  # as with host.socket_group: the folder may be entered, the socket not
        daemon.config_file.chmod(0o644)
        code = f"""
import asyncio, time
from apex_exec.client import AdminClient, AsyncClient, ConnectionLost
begin = time.monotonic()
try:
    AdminClient({daemon.admin!r}).request("daemon.status")
except ConnectionLost as error:
    print(error, error.executed)
async def main():
    async with AsyncClient({daemon.admin!r}) as client:
        try:
            await client.ping()
        except ConnectionLost as error:
            print(error, error.executed)
asyncio.run(main())
print(time.monotonic() - begin < 2)
"""
        done = subprocess.run([other_user.python(), "-c", code], capture_output=True, text=True, timeout=40,
                              env=other_user.environment(), **other_user.become())
        first, second, soon = done.stdout.splitlines()
        for line in (first, second):
            assert f"uid {other_user.UID} may not connect to {daemon.runtime}/admin.sock" in line, done
            assert "belongs to uid 0" in line and line.endswith("False")
        assert soon == "True"
        verb = subprocess.run([other_user.python(), "-m", "apex_exec", "status", "--runtime-dir", str(daemon.runtime)],
                              capture_output=True, text=True, timeout=40, env=other_user.environment(),
                              **other_user.become())
        assert verb.returncode == 3 and "may not connect" in verb.stderr and len(verb.stderr.splitlines()) == 1


# ---------------------------------------------------------------------- strangers on tcp
@pytest.mark.slow
@pytest.mark.parametrize("strangers", [150, 800])
def test_strangers_without_a_key_use_up_nothing(strangers: int, plugins: Path, tmp_path: Path) -> None:
    keys = curve_folder(tmp_path / "keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"host.endpoint": f"tcp://127.0.0.1:{port}", "host.curve_keys_dir": str(keys)}
    limit = ["bash", "-c", 'ulimit -n 400; exec "$@"', "bash"]
    with Daemon(plugins=plugins, config=config, wrapper=limit) as daemon:
        with Host(daemon.endpoint, **curve_options(keys, "dashboard")) as known:
            assert known.invoke("echo", {"n": 0})["type"] == "result"
            held = []
            try:
                for _ in range(strangers):
                    held.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 400 - 32
                assert known.invoke("echo", {"n": 1})["type"] == "result"
                with Host(daemon.endpoint, **curve_options(keys, "dashboard")) as new:
                    assert new.invoke("echo", {"n": 2})["type"] == "result"
                assert daemon.operate("daemon.status")["plugins"]
                assert daemon.get("/readyz")[0] == 200
                wait_for(lambda: "too_many_connections" in daemon.metrics(), 5, "the count")
            finally:
                for one in held:
                    one.close()


@pytest.mark.slow
def test_a_daemon_without_descriptors_is_not_ready_and_says_why(plugins: Path) -> None:
    with Daemon(plugins=plugins) as daemon:
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 10, "ready")  # the exporter is started by the first question
        process = psutil.Process(daemon.pid)
        _, hard = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), hard))
        wait_for(lambda: daemon.get("/readyz")[0] == 503, 5, "not ready")
        assert "descriptors" in daemon.get("/readyz")[1] and daemon.get("/livez")[0] == 200
        process.rlimit(psutil.RLIMIT_NOFILE, (hard, hard))
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 5, "ready")


def test_the_supervisor_of_ipc_endpoints_brings_along_no_library_that_it_does_not_need() -> None:
    heavy = ("zmq", "asyncio", "ssl", "sqlalchemy", "cryptography", "aiohttp", "sqlglot")
    code = f"import sys, apex_exec.daemon.main; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"
