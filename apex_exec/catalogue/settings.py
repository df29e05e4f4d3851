"""The settings that a plugin declares in its manifest: one JSON Schema, read once, and the check of each value.

``settings`` of a manifest is ``{"properties": {NAME: SCHEMA}}``. A SCHEMA may say what ``json_schema`` supports, and
beside that ``default``, ``secret`` and, for a secret, ``fetch``: the header that the gateway adds to requests to some
hosts, so that the plugin never sees the secret. Everything is bounded, and nothing leads outside the manifest: ``$ref``
is refused by name. Pure; the supervisor, the registrar and the test fakes use the same functions.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from apex_exec.catalogue import json_schema
from apex_exec.common.canonical_json import canonical_json

SETTINGS_MAX = 50
"""The settings of one plugin."""
SCHEMA_BYTES_MAX = 32_768
"""Of all of a plugin's settings, as JSON."""
VALUES_BYTES_MAX = 65_536
"""Of the values that one owner (everybody, a tenant or a user) has for one plugin, as JSON."""
SECRET_CHARS_MIN, SECRET_CHARS_MAX = 8, 8_192
"""A shorter secret would be found by chance in logs and results, which are searched for it."""
HOSTS_MAX = 20

SCOPES = ("everybody", "tenant", "user")
"""Whose a value can be, the weakest first."""
PLACE = "{secret}"
"""Where a header's value has the secret."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_OWN = frozenset(("default", "secret", "fetch"))


class Setting(msgspec.Struct, frozen=True):
    """One setting. ``schema`` and ``default`` are JSON; ``default`` is "" if there is none.

    ``header`` is "" unless the gateway puts the secret into a header: it then sends ``value``, with the secret in the
    place of ``{secret}``, to ``hosts`` and to no other."""

    name: str
    schema: str
    default: str = ""
    secret: bool = False
    header: str = ""
    value: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What a person reads: the schema's title, or else the name."""
        return str(json.loads(self.schema).get("title", self.name))

    def filled(self, secret: str) -> str:
        """The header's value with ``secret`` in it."""
        return self.value.replace(PLACE, secret)


def read(schema: Any, network_allow: tuple[str, ...] = ()) -> tuple[Setting, ...]:
    """The settings that ``schema`` declares; ``network_allow`` are the manifest's hosts.

    Raises ValueError with the place in the schema, for what is not supported or makes no sense.
    """
    if not isinstance(schema, dict):
        raise ValueError('$: settings must be a map, as in {"properties": {"region": {"type": "string", "default": '
                         '"eu"}}}')
    if not schema:
        return ()
    if len(json.dumps(schema)) > SCHEMA_BYTES_MAX:
        raise ValueError(f"$: the schema of all settings is larger than {SCHEMA_BYTES_MAX} bytes; shorten it")
    for keyword in schema:
        if keyword not in ("type", "properties", "additionalProperties", "title", "description"):
            raise ValueError(f"$: {_why_not(str(keyword))}")
    if schema.get("type", "object") != "object" or schema.get("additionalProperties", False) is not False:
        raise ValueError("$: `type` must be `object`, and additionalProperties false or absent")
    properties = schema.get("properties")
    if not isinstance(properties, dict) or len(properties) > SETTINGS_MAX:
        raise ValueError(f"$.properties: this must be a map from names to schemas, with at most {SETTINGS_MAX} entries")
    return tuple(_setting(name, one, f"$.properties.{str(name)[:60]}", network_allow)
                 for name, one in properties.items())


def _why_not(keyword: str) -> str:
    if keyword == "required":
        return ("required is not supported: give the setting a default, or let the plugin say what it does without a "
                "value")
    if keyword in ("$ref", "$defs", "definitions", "$id", "$schema"):
        return f"{keyword} is not supported: write each schema where it is used; nothing is read from elsewhere"
    return f"{keyword[:60]!r} is not supported; there are properties, title and description"


def _setting(name: Any, schema: Any, path: str, network_allow: tuple[str, ...]) -> Setting:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ValueError(f"{path}: this is not a valid name: begin with a letter, and use up to 64 letters, digits "
                         "and _")
    if not isinstance(schema, dict):
        raise ValueError(f'{path}: this must be a map, as in {{"type": "string"}}')
    plain = {key: value for key, value in schema.items() if key not in _OWN}
    try:
        json_schema.compiled(plain, "Setting")
    except ValueError as error:
        raise ValueError(f"{path}{str(error).removeprefix('$')}") from None
    if "type" not in plain and "enum" not in plain and "const" not in plain:
        raise ValueError(f"{path}: the setting has no type; add `type`, or list the values with `enum`")
    secret = schema.get("secret", False)
    if type(secret) is not bool:
        raise ValueError(f"{path}.secret: this must be true or false")
    if secret and plain.get("type") != "string":
        raise ValueError(f"{path}.type: a secret must be of the type `string`")
    if secret and "default" in schema:
        raise ValueError(f"{path}.default: a secret cannot have a default, which everybody could read in the bundle; "
                         "remove it")
    setting = Setting(name, canonical_json(plain), canonical_json(schema["default"]) if "default" in schema else "",
                      secret)
    if "default" in schema and (why := problem(setting, schema["default"])):
        raise ValueError(f"{path}.default: {why}")
    if "fetch" not in schema:
        return setting
    if not secret:
        raise ValueError(f'{path}.fetch: only a secret can be put into requests; add "secret": true, or remove fetch')
    return _bound(setting, schema["fetch"], f"{path}.fetch", network_allow)


def _bound(setting: Setting, fetch: Any, path: str, network_allow: tuple[str, ...]) -> Setting:
    """``setting`` with its header, value and hosts."""
    example = '{"header": "Authorization", "value": "Bearer {secret}", "hosts": ["api.example.com"]}'
    if not isinstance(fetch, dict) or set(fetch) - {"header", "value", "hosts"} or not {"header", "hosts"} <= set(
            fetch):
        raise ValueError(f"{path}: write {example}")
    header, value, hosts = fetch["header"], fetch.get("value", PLACE), fetch["hosts"]
    if not isinstance(header, str) or _HEADER.fullmatch(header) is None:
        raise ValueError(f"{path}.header: this must be the name of a header, such as Authorization")
    if not isinstance(value, str) or _HEADER_VALUE.fullmatch(value) is None or value.count(PLACE) != 1 or len(
            value) > SECRET_CHARS_MAX:
        raise ValueError(f"{path}.value: this must be one line of ASCII that contains {PLACE} once, as in Bearer "
                         f"{PLACE}")
    if not isinstance(hosts, list) or not 1 <= len(hosts) <= HOSTS_MAX or not all(
            isinstance(host, str) for host in hosts):
        raise ValueError(f"{path}.hosts: this must be a list of 1 to {HOSTS_MAX} hosts")
    for host in hosts:
        if host not in network_allow:
            raise ValueError(f"{path}.hosts: {host[:80]!a} is not in network.allow; add it there")
    return msgspec.structs.replace(setting, header=header, value=value, hosts=tuple(hosts))


@functools.lru_cache(maxsize=1024)
def _type(schema: str) -> Any:
    """The type that a setting's schema means. Schemas are few, and each was compiled before when it was read."""
    return json_schema.compiled(json.loads(schema), "Setting")


def problem(setting: Setting, value: Any) -> str:
    """Why ``value`` does not fit; "" if it does. The text names no value: it is logged and recorded."""
    if setting.secret:
        if not isinstance(value, str):
            return "a secret is a text"
        if not SECRET_CHARS_MIN <= len(value) <= SECRET_CHARS_MAX:
            return f"a secret has {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} characters"
        if setting.header and _HEADER_VALUE.fullmatch(value) is None:
            return f"the secret goes into the header {setting.header}, so it is one line of ASCII"
    try:
        msgspec.convert(value, _type(setting.schema))
    except msgspec.ValidationError as error:
        if setting.secret:
            return "the secret does not fit the setting's schema"
        if "nvalid enum value" in str(error):
            allowed = json.loads(setting.schema)
            return f"it is one of {json.dumps(allowed.get('enum', [allowed.get('const')]))[:200]}"
        return str(error)
    except RecursionError:
        return "it is nested too deeply"
    return ""


def effective(settings: tuple[Setting, ...], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values that a call gets: the last of ``layers`` that has a fitting one, else the default.

    A value that fits no longer, because another version declares another type, counts as not there. Secrets that the
    gateway puts into requests are left out: the plugin never sees them.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        if setting.header:
            continue
        value = _latest(setting, layers)
        if value is not None:
            found[setting.name] = value
        elif setting.default:
            found[setting.name] = json.loads(setting.default)
    return found


def injected(settings: tuple[Setting, ...], layers: Sequence[Mapping[str, Any]]) -> tuple[tuple[Setting, str], ...]:
    """The secrets that the gateway puts into requests, each with its setting."""
    pairs = ((setting, _latest(setting, layers)) for setting in settings if setting.header)
    return tuple((setting, value) for setting, value in pairs if value is not None)


def _latest(setting: Setting, layers: Sequence[Mapping[str, Any]]) -> Any:
    for layer in reversed(layers):
        if setting.name in layer and not problem(setting, layer[setting.name]):
            return layer[setting.name]
    return None
