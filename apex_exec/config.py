"""Settings: a TOML file, then ``APEX_EXEC_*`` environment variables, then flags. Unknown keys are errors."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apex_exec.errors import ConfigError

ENV_PREFIX = "APEX_EXEC_"
SOCKET_PATH_BYTES_MAX = 107
"""Longest path of a unix socket on Linux (sun_path less its NUL)."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostSection(_Section):
    """The endpoint that hosts call."""

    endpoint: str = ""
    max_message_bytes: int = Field(default=1_048_576, ge=1024, le=64 * 1024 * 1024)


class PoolSection(_Section):
    """Bounds of the scheduler; full is answered OVERLOADED."""

    max_workers: int = Field(default=1000, ge=1)
    idle_seconds: float = Field(default=300, gt=0)
    queue_depth: int = Field(default=1024, ge=1)
    in_flight: int = Field(default=20_000, ge=1)
    per_host: int = Field(default=10_000, ge=1)
    prefetch: int = Field(default=8, ge=1, le=64)
    boot_seconds: float = Field(default=10, gt=0)


class LimitsSection(_Section):
    """The platform's policy; a manifest may lower it."""

    timeout_ms: int = Field(default=5000, ge=1)
    memory_mb: int = Field(default=50, ge=1)


class SandboxSection(_Section):
    """The least isolation level that is accepted. L0 is what this version reaches."""

    min_level: Literal["L0", "L1", "L2", "L3", "L4"] = "L0"


class BreakerSection(_Section):
    """When a plugin that keeps failing is paused, and how restarts are spaced."""

    ends: int = Field(default=5, ge=1)
    window_seconds: float = 60
    open_seconds: float = 60
    stable_seconds: float = 10
    backoff_min_seconds: float = 0.1
    backoff_max_seconds: float = 30


class HttpSection(_Section):
    """Where Prometheus scrapes; port 0 takes a free one."""

    address: str = "127.0.0.1:9464"


class LogSection(_Section):
    """The daemon's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section):
    """Everything the daemon can be told."""

    runtime_dir: str = ""
    plugins_dir: str = ""
    drain_seconds: float = Field(default=10.0, ge=0)
    host: HostSection = HostSection()
    pool: PoolSection = PoolSection()
    limits: LimitsSection = LimitsSection()
    sandbox: SandboxSection = SandboxSection()
    breaker: BreakerSection = BreakerSection()
    http: HttpSection = HttpSection()
    log: LogSection = LogSection()

    @property
    def runtime_path(self) -> Path:
        """The folder of the sockets."""
        return Path(self.runtime_dir) if self.runtime_dir else runtime_candidates()[0]

    @property
    def host_endpoint(self) -> str:
        """Where the daemon binds."""
        return self.host.endpoint or f"ipc://{self.runtime_path}/host.sock"


def runtime_candidates() -> list[Path]:
    """Where a daemon of this user, or root's, puts its sockets; a client tries each."""
    own = [Path("/run/apex-exec")] if os.geteuid() == 0 else []
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        own.append(Path(runtime) / "apex-exec")
    own.append(Path(f"/tmp/apex-exec-{os.geteuid()}"))  # noqa: S108 - the folder is made 0700 and its owner checked
    return own


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. Raises ConfigError with one line per problem, naming the nearest known key."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
    for key, value in os.environ.items():
        if key.startswith(ENV_PREFIX):
            _put(data, key.removeprefix(ENV_PREFIX).lower().split("__"), value)
    for key, value in (overrides or {}).items():
        _put(data, key.split("."), value)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_problem(item) for item in error.errors())) from None


def _put(data: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        data = data.setdefault(part, {})
    data[parts[-1]] = value


def _problem(item: Any) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"{key}: {item['msg']}"
    nearest = difflib.get_close_matches(key, known_keys(), 1, 0.3)
    return f"{key}: no such key" + (f"; did you mean {nearest[0]}?" if nearest else "")


def known_keys() -> list[str]:
    """Every key, dotted."""
    keys: list[str] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            keys.append(name)
    return keys
