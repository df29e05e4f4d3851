"""The operator's policy: the permissions that plugins may ask for at all.

``security.policy_file`` is TOML: ``allow = ["data:read", …]`` is for every plugin, and ``[plugin.<id>] allow = […]``
replaces it for one plugin. Without a file, plugins may ask for everything; admin permissions still need an approval.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from apex_exec.catalogue.permissions import PERMISSIONS
from apex_exec.errors import Refusal
from apex_exec.registry.bundles.manifest import Manifest, is_plugin_id


class Policy:
    """What plugins may ask for. Use ``Policy.read`` to make one."""

    def __init__(self, everyone: tuple[str, ...], single: dict[str, tuple[str, ...]], where: str) -> None:
        self._everyone = everyone
        self._single = single
        self._where = where

    @classmethod
    def read(cls, path: str) -> Policy:
        """The policy in the file at ``path``; "" means the open policy. A file that cannot be read raises
        Refusal("policy_unusable"), so that we fail closed."""
        if not path:
            return cls(PERMISSIONS, {}, "no policy file")
        try:
            data = tomllib.loads(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise _unusable(path, str(error)) from None
        if unknown := data.keys() - {"allow", "plugin"}:
            raise _unusable(path, f"unknown key {sorted(unknown)[0]!a}")
        everyone = _permissions(path, "allow", data.get("allow", list(PERMISSIONS)))
        single: dict[str, tuple[str, ...]] = {}
        sections = data.get("plugin", {})
        if not isinstance(sections, dict):
            raise _unusable(path, "`plugin` is not a table")
        for name, section in sections.items():
            if not is_plugin_id(name) or not isinstance(section, dict) or set(section) != {"allow"}:
                raise _unusable(path, f"[plugin.{name[:60]}] is not a plugin's id with `allow = […]`")
            single[name] = _permissions(path, f"plugin.{name}.allow", section["allow"])
        return cls(everyone, single, path)

    def allowed(self, plugin: str) -> tuple[str, ...]:
        """What ``plugin`` may ask for."""
        return self._single.get(plugin, self._everyone)

    def named(self, plugin: str) -> tuple[str, ...]:
        """What the file allows to ``plugin`` by name."""
        return self._single.get(plugin, ())

    def check(self, manifest: Manifest) -> list[dict[str, Any]]:
        """A problem for every permission that the manifest asks for and the policy does not allow."""
        allowed = self.allowed(manifest.id)
        return [
            {"code": "policy_denied", "path": f"$.permissions[{index}]",
             "message": f"the operator's policy does not allow {permission} to {manifest.id}",
             "hint": f"leave it out, or allow it in {self._where} under [plugin.{manifest.id}]"}
            for index, permission in enumerate(manifest.permissions) if permission not in allowed
        ]


def _unusable(path: str, why: str) -> Refusal:
    return Refusal("policy_unusable", f"security.policy_file: {path}: {why}",
                   hint='write `allow = ["data:read"]` and, for one plugin, `[plugin.<id>]` with its own `allow`')


def _permissions(path: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(item in PERMISSIONS for item in value):
        raise _unusable(path, f"`{key}` is not a list of permissions ({', '.join(PERMISSIONS)})")
    return tuple(value)
