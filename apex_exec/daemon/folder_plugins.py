"""Plugins served straight from ``plugins_dir``, one bundle a folder: read at start and at every reload."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import msgspec

from apex_exec.catalogue.limits import Limits
from apex_exec.catalogue.permissions import ADMIN_PERMISSIONS
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import ConfigError, Refusal
from apex_exec.registry.bundles.bundle import Bundle, read_folder
from apex_exec.registry.trust.policy_file import Policy

log = logging.getLogger("apex_exec")


def read_plugins(folder: str) -> list[Bundle]:
    """Every bundle below ``folder``; a bad one is logged and left out. Raises ConfigError if two have the same id."""
    if not folder:
        return []
    bundles: dict[str, tuple[Path, Bundle]] = {}
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    except OSError as error:
        raise ConfigError(f"plugins_dir: the folder {folder} cannot be read: {error.strerror}") from None
    for path in paths:
        try:
            bundle = read_folder(path)
        except Refusal as error:
            log.error("the plugin in the folder %s is not served: %s", path.name, error.message)
            continue
        id_ = bundle.manifest.id
        if id_ in bundles:
            raise ConfigError(f"plugins_dir: {bundles[id_][0]} and {path} both have the id {id_}; remove one of the "
                              "two folders")
        bundles[id_] = (path, bundle)
    return [bundle for _, bundle in bundles.values()]


class Scan(NamedTuple):
    """What ``plugins_dir`` held at one moment: its bundles, and the spec to serve each with."""

    bundles: list[Bundle]
    specs: list[PluginSpec]


def scan_folder(folder: str, policy: Limits, policy_file: str = "") -> Scan:
    """Reads ``folder`` and changes nothing. Blocks while it reads; raises ConfigError.

    Nobody approves what lies in a folder: an admin permission holds if ``policy_file`` names plugin and permission.
    """
    bundles = read_plugins(folder)
    try:
        permitted = Policy.read(policy_file)
    except Refusal as error:
        raise ConfigError(error.message) from None
    return Scan(bundles, [_granted(bundle.spec(policy), permitted) for bundle in bundles])


def _granted(spec: PluginSpec, permitted: Policy) -> PluginSpec:
    allowed, named = permitted.allowed(spec.id), permitted.named(spec.id)
    return msgspec.structs.replace(
        spec, permissions=tuple(one for one in spec.permissions if one in allowed),
        approved=tuple(one for one in spec.permissions if one in named and one in ADMIN_PERMISSIONS))
