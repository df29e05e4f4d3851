"""A plugin's folder, read and checked: the manifest (all its problems at once) and the files that are loaded."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from apex_exec import API_VERSION
from apex_exec.core.plugin import ADMIN_PERMISSIONS, HOOKS, STANDARD_PERMISSIONS, Limits, PluginSpec
from apex_exec.errors import Code, Refusal

FILES_MAX = 500
BUNDLE_BYTES_MAX = 2 * 1024 * 1024
"""All files together; a bundle travels to its worker in one frame."""

Hook = Literal["onDashboardLoad", "onDataFetch", "onActionExecute", "onAuthSuccess"]
assert Hook.__args__ == HOOKS  # type: ignore[attr-defined]  # typing keeps a Literal's values there


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CodePart(_Strict):
    """The manifest's inner ``manifest``: what is loaded, and which hooks it has."""

    entrypoint: str = Field(min_length=1, max_length=200)
    hooks: list[Hook] = Field(min_length=1)


class LimitsPart(_Strict):
    """Caps that the author lowers."""

    timeoutMs: int = Field(default=5000, ge=1)
    memoryMb: int = Field(default=50, ge=1)
    cpuPercent: float = Field(default=10, gt=0)
    networkPerMinute: int = Field(default=100, ge=0)


class Network(_Strict):
    """Hosts that the plugin wants to reach."""

    allow: list[str] = []


class Data(_Strict):
    """Tables that the plugin wants to read."""

    tables: list[str] = []


class Manifest(_Strict):
    """The document's registration object."""

    id: Annotated[str, StringConstraints(pattern=r"\A[a-z0-9-]{3,50}\z")]
    name: str = Field(min_length=1, max_length=100)
    version: Annotated[str, StringConstraints(pattern=r"\A(0|[1-9][0-9]{0,5})(\.(0|[1-9][0-9]{0,5})){2}\z")]
    author: str = Field(min_length=1, max_length=100)
    permissions: list[str]
    manifest: CodePart
    apiVersion: str = ">=1.0,<2"
    priority: int = Field(default=100, ge=0, le=10_000)
    limits: LimitsPart = LimitsPart()
    network: Network = Network()
    data: Data = Data()
    pricing: dict[str, Any] = {"model": "free"}

    @field_validator("permissions")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        known = (*STANDARD_PERMISSIONS, *ADMIN_PERMISSIONS)
        unknown = [item for item in value if item not in known]
        if unknown:
            raise ValueError(f"no such permission: {unknown[0]!r}; there are {', '.join(known)}")
        return value

    @field_validator("apiVersion")
    @classmethod
    def _range(cls, value: str) -> str:
        if match := re.fullmatch(r"\^(\d+)\.(\d+)(\.\d+)?", value):
            raise ValueError(f"a caret range is not understood; write >={match[1]}.{match[2]},<{int(match[1]) + 1}")
        try:
            if API_VERSION not in SpecifierSet(value):
                raise ValueError(f"incompatible_api_version: this daemon speaks {API_VERSION}")
        except InvalidSpecifier:
            raise ValueError("not a version range such as >=1.0,<2") from None
        return value


class Bundle:
    """One version of one plugin: manifest, the files a worker loads, and the digest that names them."""

    def __init__(self, manifest: Manifest, files: dict[str, bytes]) -> None:
        self.manifest = manifest
        self.files = files
        self.sha256 = {path: hashlib.sha256(body).hexdigest() for path, body in sorted(files.items())}
        listing = "".join(f"{path}\0{len(files[path])}\0{digest}\n" for path, digest in self.sha256.items())
        self.digest = hashlib.sha256(listing.encode()).hexdigest()

    @property
    def entrypoint(self) -> str:
        """The entry point inside the bundle: ``/plugins/<id>/x`` means ``x``."""
        return self.manifest.manifest.entrypoint.removeprefix(f"/plugins/{self.manifest.id}/")

    def spec(self, policy: Limits) -> PluginSpec:
        """What the pool serves; the manifest's limits lower ``policy`` and never raise it."""
        wanted, manifest = self.manifest.limits, self.manifest
        limits = Limits(
            min(wanted.timeoutMs, policy.timeout_ms), min(wanted.memoryMb, policy.memory_mb),
            min(wanted.cpuPercent, policy.cpu_percent), min(wanted.networkPerMinute, policy.network_per_minute))
        return PluginSpec(
            id=manifest.id, version=manifest.version, digest=self.digest, entrypoint=self.entrypoint,
            hooks=tuple(manifest.manifest.hooks), permissions=tuple(manifest.permissions),
            priority=manifest.priority, limits=limits, network_allow=tuple(manifest.network.allow),
            tables=tuple(manifest.data.tables), name=manifest.name, author=manifest.author)


def parse_manifest(data: bytes) -> Manifest:
    """Raises Refusal("manifest_invalid") with every problem at once."""
    try:
        return Manifest.model_validate(json.loads(data), strict=True)
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise Refusal("manifest_invalid", f"manifest.json is not JSON: {error}", code=Code.INVALID_INPUT) from None
        problems = [
            {"code": item["type"], "path": "$." + ".".join(map(str, item["loc"])), "message": item["msg"], "hint": ""}
            for item in error.errors()
        ]
        lines = "; ".join(f"{p['path']}: {p['message']}" for p in problems)
        message = f"manifest.json: {lines}"
        raise Refusal("manifest_invalid", message, code=Code.INVALID_INPUT, problems=problems) from None


def read_folder(folder: Path) -> Bundle:
    """The bundle in ``folder``. Raises Refusal; links are refused, tests and compiled files are not loaded."""
    try:
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
    except OSError as error:
        hint = "a bundle is a folder with a manifest.json"
        raise Refusal("manifest_missing", f"{folder}: {error}", hint=hint) from None
    files: dict[str, bytes] = {}
    total_bytes = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise Refusal("link_refused", f"{folder}: {name} is a symbolic link")
        if path.is_dir() or name.startswith("tests/") or "__pycache__" in name:
            continue
        total_bytes += path.stat().st_size
        if total_bytes > BUNDLE_BYTES_MAX or len(files) >= FILES_MAX:
            raise Refusal("bundle_too_large", f"{folder}: over {BUNDLE_BYTES_MAX} bytes or {FILES_MAX} files")
        files[name] = path.read_bytes()
    bundle = Bundle(manifest, files)
    if not bundle.entrypoint.endswith(".py"):
        hint = "write the entry point in Python"
        raise Refusal("unsupported_runtime", f"{bundle.entrypoint} is not Python", hint=hint)
    if bundle.entrypoint not in files:
        raise Refusal("entrypoint_missing", f"{folder}: the entry point {bundle.entrypoint!r} is not there")
    return bundle
