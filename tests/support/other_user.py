"""How a test becomes another user, wherever the clone, the virtual environment and the interpreter lie.

A clone below a private home folder, a virtual environment in it and an interpreter under ``/root`` are closed to every
other user. So a run of the tests that needs another user makes one folder which every user can read: the code of this
checkout, what is installed beside it, and the interpreter if it is private too. The code is copied; the rest is linked
if the folder lies on the same file system and the file is readable, and copied if not. The copy is made once per run,
on first use, by whichever process of the run comes first, and ``tests/conftest.py`` removes it at the end.

Nothing here is skipped if it fails: a copy that does not work fails every test that needs it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import RUN_FOLDER, need
from tests.support.folders import reachable

ROOT = Path(__file__).parents[2]
UID = 65532
"""The user that tests become if it does not matter which; no account has this number."""
_NOT_CODE = ("__pycache__", "node_modules")  # compiled anew below: a checkout's own may be missing or old
_NOT_OF_THE_LIBRARY = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages",
                       "dist-packages", "config-*")
_EXTRAS = ("", "postgres", "market")
_PRIVATE = ("HOME", "PYTHONHOME", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "TMPDIR", "VIRTUAL_ENV", "XDG_RUNTIME_DIR")
_CHECK = "import apex_exec, workers, zmq, msgspec, pydantic, psutil, sqlalchemy; print(apex_exec.__file__)"


def new_folder(uid: int = UID) -> Path:
    """A new folder that every user can read, owned by ``uid``. Needs root."""
    folder = Path(tempfile.mkdtemp(prefix="u", dir=_public()))
    folder.chmod(0o755)
    os.chown(folder, uid, uid)
    return folder


def need_root() -> None:
    """Skips the test unless it may become another user."""
    need(os.geteuid() == 0, "root: only root can become another user")


def become(uid: int = UID, gid: int | None = None) -> dict[str, Any]:
    """What ``subprocess`` takes to run a command of ``python()`` as that user, in a folder that it can read."""
    need_root()
    place = _place()
    return {"user": uid, "group": uid if gid is None else gid, "extra_groups": [], "cwd": place / "code"}


def environment() -> dict[str, str]:
    """This process's environment, but the copied interpreter finds its library and a home folder of nobody's."""
    kept = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    library = _place() / "python" / "lib"
    if library.is_dir():
        kept["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (str(library), kept.get("LD_LIBRARY_PATH"))))
    return {**kept, "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}


def python() -> str:
    """An interpreter that every user can execute, with this checkout's packages. Needs ``environment()``."""
    return str(_place() / "env" / "bin" / "python3")


def _public() -> Path:
    folder = Path(os.environ[RUN_FOLDER])
    need(reachable(folder), "folder: no temporary folder of this machine can be entered by every user")
    return folder


@cache
def _place() -> Path:
    """Makes the copy unless another process of this run has made it. Raises AssertionError if it does not work."""
    place = _public()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = place / "outcome"
        if not outcome.exists():
            outcome.write_text(_copy_and_try(place))
        failure = outcome.read_text()
    assert not failure, f"uid {UID} cannot use the copy of the interpreter and the code in {place}: {failure}"
    return place


def _copy_and_try(place: Path) -> str:
    """Makes the copy and uses it; "" or what went wrong, for every test that needs the copy."""
    python, library = place / "env" / "bin" / "python3", {"LD_LIBRARY_PATH": str(place / "python" / "lib")}
    try:
        _copy(place)
        subprocess.run([python, "-m", "compileall", "-q", place / "code"], env=library, umask=0o022, timeout=60)
        tried = subprocess.run([python, "-c", _CHECK], user=UID, group=UID, extra_groups=[], cwd=place / "code",
                               env=library, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError, shutil.Error) as error:
        return repr(error)
    expected = str(place / "code" / "apex_exec" / "__init__.py")
    return "" if tried.stdout.strip() == expected else f"{tried.stdout}{tried.stderr}"


def _copy(place: Path) -> None:
    code, environment, version = place / "code", place / "env", f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for name in ("apex_exec", "workers", "tests"):
        _bring(ROOT / name, code / name, _NOT_CODE, link=False)  # a bundle of the examples may hold no linked file
    executable = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]  # the interpreter below a venv
    library = Path(sysconfig.get_path("stdlib"))
    if not (reachable(executable) and reachable(library) and reachable(library / "encodings" / "__init__.py")):
        _bring(library, place / "python" / "lib" / version, _NOT_OF_THE_LIBRARY)
        for shared in _shared_libraries(executable):
            _bring_file(shared, place / "python" / "lib" / shared.name)
        executable = _bring_file(executable, place / "python" / "bin" / version)
    site = environment / "lib" / version / "site-packages"
    for source, name in _installed():
        _bring_file(source, site / name)
    _write(site / "apex-exec-tests.pth", f"{code}\n")
    _write(environment / "pyvenv.cfg", f"home = {executable.parent}\ninclude-system-site-packages = false\n")
    (environment / "bin").mkdir(mode=0o755)
    (environment / "bin" / "python3").symlink_to(executable)


def _installed() -> Iterator[tuple[Path, Path]]:
    """Every file of the packages that the product needs, and its path below ``site-packages``."""
    waiting, seen = [("apex-exec", extra) for extra in _EXTRAS], set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed here
        for text in found.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), one) for one in ("", *needed.extras)]
        if not extra and name != "apex-exec":
            for file in found.files or ():
                if ".." not in file.parts and file.suffix != ".pth" and Path(str(file.locate())).exists():
                    yield Path(str(found.locate_file(file))), Path(*file.parts)


def _shared_libraries(executable: Path) -> list[Path]:
    """The interpreter's own shared library, if it was built with one."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return []
    folders = {executable.parent.parent / "lib", Path(sysconfig.get_config_var("LIBDIR") or "/")}
    return [path for folder in folders for path in folder.glob("libpython3*.so*")]


def _bring(source: Path, target: Path, left_out: tuple[str, ...], *, link: bool = True) -> None:
    """A folder with all in it, every part readable by everybody."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*left_out),
                    copy_function=partial(_bring_file, link=link), ignore_dangling_symlinks=True)
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)


def _bring_file(source: Path | str, target: Path | str, *, link: bool = True) -> Path:
    """One file: a link if that is wanted and possible and everybody may read it, else a copy."""
    source, target = Path(source).resolve(), Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = source.stat().st_mode
    if link and mode & stat.S_IROTH:
        try:
            os.link(source, target)
            return target
        except OSError:
            pass  # another file system, or one without links
    shutil.copyfile(source, target)
    shutil.copystat(source, target)  # compiled modules are known by the times of their sources
    target.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
    return target


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
