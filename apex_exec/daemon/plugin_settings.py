"""What is set for plugins, in the supervisor's memory: which values a call gets, which secrets the gateway adds, and
what must not leave.

The registrar tells it all and decrypts it (``registry/plugin_settings``); nothing is read from a disk here, and the
worker gets the values of its call alone, with the call. A plugin whose secrets cannot be read is not served. The tenant
of a user is the platform's to say: while it is not known, calls of plugins that have values of tenants wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.catalogue.settings import SCOPES, effective, injected
from apex_exec.common.redaction import Redactor
from apex_exec.core.plugin import PluginSpec

if TYPE_CHECKING:
    from apex_exec.daemon.administration.registrar_messages import SettingsOf, SettingsTold

EVERYBODY, TENANT, USER = SCOPES
CACHED_MAX = 10_000
"""Encoded values, one for each user and version; all of them are dropped when there are more."""
UNKNOWN = "settings_unknown: the registry cannot say what is set for it; `/readyz` says why"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class _Held:
    """What is set for one plugin. ``sets`` are the values by (scope, owner)."""

    __slots__ = ("locked", "redactor", "sets", "tenants")

    def __init__(self) -> None:
        self.sets: dict[tuple[str, str], dict[str, Any]] = {}
        self.locked = ""
        self.tenants = 0
        self.redactor: Redactor | None = None


class PluginSettings:
    """``settle(plugin)`` has the pool serve the plugin anew, as ``adjusted`` has its spec. ``is_known`` is False while
    nothing has arrived yet although there may be something. ``tenant_of(user)`` is the user's only tenant, "" if
    there is none or there are several."""

    def __init__(self, *, is_known: bool, settle: Callable[[str], None] = lambda _plugin: None,
                 tenant_of: Callable[[str], str] = lambda _user: "") -> None:
        self.settle = settle
        self.redactors: dict[str, Redactor] = {}
        """By plugin: of those that have a secret. Logs and verdicts look here."""
        self._tenant_of = tenant_of
        self._held: dict[str, _Held] = {}
        self._is_known = is_known
        self._waiting: set[str] = set()
        """Plugins that are not served because nothing is known yet."""
        self._secret: dict[str, frozenset[str]] = {}
        """By plugin: the names of its secrets, as its spec declares them."""
        self._encoded: dict[tuple[str, str, str], bytes] = {}
        self._seen: dict[tuple[str, str, str], list[tuple[str, bytes]]] = {}

    # ------------------------------------------------------------------ what the registrar tells
    def take(self, message: SettingsOf) -> None:
        """Some of what is set for a plugin, or all of it."""
        held = self._held.setdefault(message.plugin, _Held())
        if message.whole:
            held.sets.clear()
        for scope, owner, values in message.sets:
            decoded = _decode(values)
            if decoded:
                held.sets[scope, owner] = decoded
            else:
                held.sets.pop((scope, owner), None)
        was, held.locked = held.locked, message.locked
        self._changed(message.plugin)
        if was != message.locked:
            self.settle(message.plugin)

    def told(self, message: SettingsTold) -> None:
        """The registrar has sent everything: other plugins have no values."""
        for plugin in self._held.keys() - set(message.plugins):
            was = self._held.pop(plugin)
            self._changed(plugin)
            if was.locked:
                self.settle(plugin)
        self._is_known = True
        waiting, self._waiting = self._waiting, set()
        for plugin in waiting:
            self.settle(plugin)

    def _changed(self, plugin: str) -> None:
        self._encoded.clear()
        self._seen.clear()
        held = self._held.get(plugin)
        names = self._secret.get(plugin, frozenset())
        found: set[str] = set()
        if held is not None:
            held.tenants = sum(scope == TENANT for scope, _ in held.sets)
            for values in held.sets.values():
                found.update(value for name, value in values.items() if name in names and isinstance(value, str))
        if found:
            self.redactors[plugin] = Redactor(found)
        else:
            self.redactors.pop(plugin, None)

    # ------------------------------------------------------------------ what the pool is to serve
    def adjusted(self, spec: PluginSpec) -> PluginSpec:
        """``spec`` as it is served: disabled, with the reason, while it would run without what is set for it."""
        if not spec.settings:
            if self._secret.pop(spec.id, None):
                self._changed(spec.id)
            return spec
        names = frozenset(setting.name for setting in spec.settings if setting.secret)
        if self._secret.get(spec.id) != names:
            self._secret[spec.id] = names
            self._changed(spec.id)
        held = self._held.get(spec.id)
        why = held.locked if held is not None else ""
        if not self._is_known:
            self._waiting.add(spec.id)
            why = UNKNOWN
        if why and spec.state == "enabled":
            return msgspec.structs.replace(spec, state="disabled", reason=why)
        return spec

    def forget(self, plugin: str) -> None:
        """The plugin is served no longer."""
        self._secret.pop(plugin, None)
        self._waiting.discard(plugin)
        self._changed(plugin)

    # ------------------------------------------------------------------ what a call gets
    def has_tenants(self, plugin: str) -> bool:
        """Whether a call of this plugin depends on the tenant of its user."""
        held = self._held.get(plugin)
        return held is not None and held.tenants > 0

    def of_call(self, spec: PluginSpec, user_id: str) -> bytes:
        """The values of a call of ``spec``, in MessagePack. Only for specs that declare settings."""
        tenant = self._tenant_of(user_id) if self.has_tenants(spec.id) else ""
        key = spec.digest, user_id, tenant
        found = self._encoded.get(key)
        if found is None:
            if len(self._encoded) >= CACHED_MAX:
                self._encoded.clear()
            found = self._encoded[key] = _encode(effective(spec.settings, self._layers(spec.id, user_id, tenant)))
        return found

    def injected(self, spec: PluginSpec, user_id: str) -> tuple[tuple[str, str, str, str, tuple[str, ...]], ...]:
        """What the gateway adds to requests of this user: (name, header, its value, the secret, hosts) each."""
        tenant = self._tenant_of(user_id) if self.has_tenants(spec.id) else ""
        return tuple((setting.name, setting.header, setting.filled(secret), secret, setting.hosts)
                     for setting, secret in injected(spec.settings, self._layers(spec.id, user_id, tenant)))

    def leaked(self, spec: PluginSpec, user_id: str, raw: bytes) -> str:
        """The name of a secret of this user's calls that stands in ``raw``, MessagePack; "" if none does. Texts are
        whole in MessagePack, so an exact copy is found and another form of it is not."""
        if spec.id not in self.redactors:
            return ""
        key = spec.digest, user_id, self._tenant_of(user_id) if self.has_tenants(spec.id) else ""
        found = self._seen.get(key)
        if found is None:
            if len(self._seen) >= CACHED_MAX:
                self._seen.clear()
            layers = self._layers(spec.id, user_id, key[2])
            found = self._seen[key] = [
                (setting.name, layer[setting.name].encode()) for setting in spec.settings if setting.secret
                for layer in layers if isinstance(layer.get(setting.name), str)]
        return next((name for name, secret in found if secret in raw), "")

    def redacted(self, plugin: str, text: str) -> str:
        """``text``, which a plugin wrote or which is about it, without its secrets."""
        redactor = self.redactors.get(plugin)
        return text if redactor is None else redactor.redacted(text)

    def _layers(self, plugin: str, user_id: str, tenant: str) -> list[dict[str, Any]]:
        held = self._held.get(plugin)
        if held is None:
            return []
        keys = [(EVERYBODY, ""), *(((TENANT, tenant),) if tenant else ()), (USER, user_id)]
        return [held.sets[key] for key in keys if key in held.sets]
