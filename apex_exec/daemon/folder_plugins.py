"""Plugins served straight from ``plugins_dir``, one bundle a folder: read at start and at every reload."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import msgspec

from apex_exec.core.plugin import ADMIN_PERMISSIONS, Limits, PluginSpec
from apex_exec.errors import ConfigError, Refusal
from apex_exec.registry.bundles.blobs import BundleSource
from apex_exec.registry.bundles.bundle import Bundle, read_folder
from apex_exec.registry.trust.policy_file import Policy

log = logging.getLogger("apex_exec")


def read_plugins(folder: str) -> list[Bundle]:
    """Every bundle below ``folder``; a bad one is reported and left out. Two with one id: ConfigError."""
    if not folder:
        return []
    bundles: dict[str, tuple[Path, Bundle]] = {}
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    except OSError as error:
        raise ConfigError(f"plugins_dir: {folder}: {error.strerror}") from None
    for path in paths:
        try:
            bundle = read_folder(path)
        except Refusal as error:
            log.error("plugin %s is left out: %s", path.name, error.message)
            continue
        id_ = bundle.manifest.id
        if id_ in bundles:
            raise ConfigError(f"plugins_dir: {bundles[id_][0]} and {path} both have the id {id_}; remove one")
        bundles[id_] = (path, bundle)
    return [bundle for _, bundle in bundles.values()]


class Scan(NamedTuple):
    """What ``plugins_dir`` held at one moment: its bundles, the specs to serve, the ids to serve no longer."""

    bundles: list[Bundle]
    specs: list[PluginSpec]
    gone: list[str]


class FolderPlugins:
    """What is served from ``plugins_dir``: ``scan`` looks, ``take`` changes."""

    def __init__(self, source: BundleSource) -> None:
        self._source = source
        self._digests: dict[str, str] = {}
        self._before: set[str] = set()

    def __contains__(self, plugin: str) -> bool:
        return plugin in self._digests

    def scan(self, folder: str, policy: Limits, policy_file: str = "") -> Scan:
        """Reads the folder and changes nothing. Blocks for reading; raises ConfigError.

        Nobody has approved what lies in a folder: an admin permission holds where ``policy_file`` names plugin and
        permission.
        """
        bundles = read_plugins(folder)
        try:
            permitted = Policy.read(policy_file)
        except Refusal as error:
            raise ConfigError(error.message) from None
        found = {bundle.manifest.id for bundle in bundles}
        return Scan(bundles, [_granted(bundle.spec(policy), permitted) for bundle in bundles],
                    [plugin for plugin in self._digests if plugin not in found])

    def take(self, scan: Scan) -> None:
        """Serves what ``scan`` found from now on.

        The content that a plugin had before stays held until the next ``take``, since a worker may be starting with it;
        older content, and that of plugins that are gone, is forgotten.
        """
        digests = {bundle.manifest.id: bundle.digest for bundle in scan.bundles}
        for bundle in scan.bundles:
            self._source.hold(bundle)
        replaced = {digest for plugin, digest in self._digests.items() if plugin in digests}
        kept = replaced | set(digests.values())
        for digest in (self._before | set(self._digests.values())) - kept:
            self._source.forget(digest)
        self._before, self._digests = replaced, digests


def _granted(spec: PluginSpec, permitted: Policy) -> PluginSpec:
    allowed, named = permitted.allowed(spec.id), permitted.named(spec.id)
    return msgspec.structs.replace(
        spec, permissions=tuple(one for one in spec.permissions if one in allowed),
        approved=tuple(one for one in spec.permissions if one in named and one in ADMIN_PERMISSIONS))
