"""Plugins served straight from ``plugins_dir``, one bundle a folder: read at start and at every reload."""

from __future__ import annotations

import logging
from pathlib import Path

from apex_exec.core.plugin import Limits, PluginSpec
from apex_exec.errors import ConfigError, Refusal
from apex_exec.registry.blobs import BundleSource
from apex_exec.registry.bundle import Bundle, read_folder

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


class FolderPlugins:
    """What ``plugins_dir`` holds now; ``rescan`` says what changed."""

    def __init__(self, source: BundleSource) -> None:
        self._source = source
        self._digests: dict[str, str] = {}

    def __contains__(self, plugin: str) -> bool:
        return plugin in self._digests

    def rescan(self, folder: str, policy: Limits) -> tuple[list[PluginSpec], list[str]]:
        """(plugins to serve, ids to serve no longer). Blocks for reading; raises ConfigError and then changes nothing.

        Content of an earlier version stays held until the next scan: a worker may be starting with it.
        """
        bundles = read_plugins(folder)
        digests = {bundle.manifest.id: bundle.digest for bundle in bundles}
        gone = [plugin for plugin in self._digests if plugin not in digests]
        for bundle in bundles:
            self._source.hold(bundle)
        self._digests = digests
        return [bundle.spec(policy) for bundle in bundles], gone
