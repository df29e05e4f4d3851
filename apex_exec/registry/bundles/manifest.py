"""The manifest: the registration object of the specification, checked in full; all problems are reported at once.

A problem is ``{code, path, message, hint}``: ``code`` is stable and meant for programs, ``path`` is a JSON path such as
``$.permissions[1]``. Identifiers are ASCII and matched as a whole. This module reads no file and runs no plugin code.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

import msgspec
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from apex_exec import API_VERSION
from apex_exec.catalogue.hooks import HOOKS
from apex_exec.catalogue.limits import LIMITS, Limits, key_of, type_of
from apex_exec.catalogue.permissions import ADMIN_PERMISSIONS, PERMISSIONS
from apex_exec.catalogue.settings import Setting
from apex_exec.catalogue.settings import read as read_settings
from apex_exec.errors import Code, Refusal
from apex_exec.executor.processes.runtimes import PYTHON, runtime_of
from apex_exec.registry.vendored.lock import requirement
from apex_exec.wire.error_paths import step

MANIFEST_BYTES_MAX = 65_536
PROBLEMS_MAX = 100
"""How many problems of one manifest we report; a hostile one could have thousands."""
HOOKS_MAX = 100
"""The number of hooks that one plugin may declare, of those that the platform has."""
VERSION_CHARACTERS_MAX = 40
KEYWORDS_MAX, SCREENSHOTS_MAX = 10, 8
AMOUNT_MAX = 10**12
"""The largest price in minor units: far above any real price, far below the limit of a 64-bit column."""

_ID = re.compile(r"[a-z0-9-]{3,50}")
_PART = r"(0|[1-9][0-9]{0,5}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})(\.(0|[1-9][0-9]{0,5})){2}(-" + _PART + rf"(\.{_PART}){{0,3}})?")
"""As in Semantic Versioning, without build metadata: 1.4.0, 1.4.0-beta.1."""
_HOST = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?")
_PATH = re.compile(r"/?[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_CARET = re.compile(r"[\^~]\s*(0|[1-9][0-9]{0,5})(?:\.(0|[1-9][0-9]{0,5}))?(?:\.(0|[1-9][0-9]{0,5}))?")

_CODES = {
    "missing": "missing", "extra_forbidden": "unknown_key", "string_too_short": "too_short",
    "string_too_long": "too_long", "too_short": "too_short", "too_long": "too_long",
    "greater_than": "out_of_range", "greater_than_equal": "out_of_range",
    "less_than": "out_of_range", "less_than_equal": "out_of_range", "finite_number": "out_of_range",
    "literal_error": "not_one_of", "union_tag_invalid": "not_one_of", "union_tag_not_found": "missing",
}


def _error(code: str, message: str, hint: str = "") -> PydanticCustomError:
    # pydantic's formatter would read braces as placeholders, so both texts travel as values.
    return PydanticCustomError(code, "{text}", {"text": message, "hint": hint})


def is_plugin_id(value: str) -> bool:
    """True for 3 to 50 characters of ``a-z 0-9 -``."""
    return _ID.fullmatch(value) is not None


def _check_id(value: str) -> str:
    if not is_plugin_id(value):
        raise _error("malformed", f"{value[:60]!a} is not a plugin id",
                     "3 to 50 of lower-case a-z, digits and hyphens, as in custom-analytics")
    return value


def _check_version(value: str) -> str:
    if _VERSION.fullmatch(value) is None or len(value) > VERSION_CHARACTERS_MAX:
        raise _error("malformed", f"{value[:60]!a} is not a version",
                     "three numbers without leading zeros, as in 1.0.0; a pre-release is 1.0.0-beta.1")
    return value


def _check_label(value: str) -> str:
    if not value.isprintable() or value.strip() != value or not unicodedata.is_normalized("NFC", value):
        raise _error("malformed", "it holds invisible, directional or unnormalised characters, or outer spaces",
                     "write it in printable, NFC-normalised characters")
    return value


def _check_known(value: str, what: str, known: Collection[str]) -> str:
    """``value`` if it is one of ``known``; else an error that names the nearest, or all of them."""
    if value not in known:
        near = difflib.get_close_matches(value, known, 1)
        raise _error(f"unknown_{what}", f"{value[:60]!a} is not a {what}",
                     f"did you mean {near[0]}?" if near else f"the {what}s are {', '.join(known)}")
    return value


def _check_hook(value: str) -> str:
    return _check_known(value, "hook", HOOKS)


def _check_permission(value: str) -> str:
    return _check_known(value, "permission", PERMISSIONS)


BUNDLE_COMMAND = ("esbuild src/plugin.ts --bundle --format=esm --target=es2022 --platform=neutral "
                  "--main-fields=module,main --conditions=browser,import "
                  "--define:process.env.NODE_ENV='\"production\"' --sourcemap=linked --sources-content=false "
                  "--outfile=index.js")
"""Makes one ES module of an author's source and the packages that it imports, and a source map. That need not repeat
the source, which is in the bundle."""


def _check_entrypoint(value: str) -> str:
    if re.search(r"\.(cjs|ts|tsx|jsx|mts|cts)\Z", value, re.IGNORECASE):
        raise _error("unsupported_runtime",
                     f"{value[:100]!a} is not an ES module that the engine can run: TypeScript, JSX and CommonJS have "
                     "to be bundled first", f"bundle it and name the result: {BUNDLE_COMMAND}")
    if runtime_of(value) is None:
        raise _error("unsupported_runtime", f"{value[:100]!a} is neither Python nor JavaScript",
                     "name a .py, .js or .mjs file of the bundle")
    if _PATH.fullmatch(value) is None or ".." in value:
        raise _error("malformed", f"{value[:100]!a} is not a path inside a bundle",
                     "letters, digits, _ - . and /, as in plugin.py or src/plugin.py")
    return value


def _check_host(value: str) -> str:
    if _HOST.fullmatch(value) is None or len(value) > 253:
        raise _error("malformed", f"{value[:80]!a} is not a host name",
                     "a lower-case DNS name without scheme, port or path, as in api.example.com or *.example.org; "
                     "international names in their xn-- form")
    return value


def _check_table(value: str) -> str:
    if _TABLE.fullmatch(value) is None:
        raise _error("malformed", f"{value[:80]!a} is not a table name", "a plain SQL name, as in orders")
    return value


def _check_api_range(value: str) -> str:
    if match := _CARET.fullmatch(value.strip()):
        low = f"{match[1]}.{match[2] or 0}" + (f".{match[3]}" if match[3] else "")
        high = str(int(match[1]) + 1) if value.strip()[0] == "^" else f"{match[1]}.{int(match[2] or 0) + 1}"
        raise _error("malformed", f"{value!a} uses npm's notation, which we do not support",
                     f'write ">={low},<{high}"')
    try:
        if not value.isascii() or not value.strip():
            raise InvalidSpecifier(value)
        wanted = SpecifierSet(value)
    except InvalidSpecifier:
        raise _error("malformed", f"{value[:60]!a} is not a version range", 'write one such as ">=1.0,<2"') from None
    if API_VERSION not in wanted:
        raise _error("incompatible_api_version", f"the plugin needs API {value}, but this daemon has API {API_VERSION}",
                     "use a version of the plugin made for this API, or another daemon")
    return value


def _check_currency(value: str) -> str:
    if re.fullmatch("[A-Z]{3}", value) is None:
        raise _error("malformed", f"{value[:20]!a} is not a currency", "three capitals of ISO 4217, as in USD")
    return value


def _check_dependency(value: str) -> str:
    try:
        requirement(value)
    except Refusal as error:
        raise _error("malformed", error.message, error.hint) from None
    return value


def _check_licence(value: str) -> str:
    try:
        canonical = canonicalize_license_expression(value) if value.isascii() else ""
    except InvalidLicenseExpression:
        canonical = ""
    if canonical != value:
        near = canonical or next(iter(difflib.get_close_matches(value, _LICENCES, 1)), "")
        raise _error("unknown_licence", f"{value[:60]!a} is not a licence's name in SPDX",
                     f"did you mean {near}?" if near else "as in Apache-2.0, MIT, MIT OR Apache-2.0; one of your own "
                     "is LicenseRef-Proprietary")
    return value


def _check_homepage(value: str) -> str:
    if not value.isascii() or not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]+)?(/[^\s<>\"'`\\]*)?", value):
        raise _error("malformed", f"{value[:80]!a} is not an https address", "as in https://example.com/my-plugin")
    return value


def _check_shown(*suffixes: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if _PATH.fullmatch(value) is None or value.startswith("/") or ".." in value or not value.endswith(suffixes):
            raise _error("malformed", f"{value[:100]!a} is not the path of a {' or '.join(suffixes)} file in the "
                                      "bundle",
                         f"as in shown/picture{suffixes[0]}")
        return value

    return check


def _check_contact(value: str) -> str:
    plain = value.isascii() and value.isprintable()
    if not plain or not re.fullmatch(r"https://\S+|[^@\s]+@[^@\s]+\.[^@\s]+", value):
        raise _error("malformed", f"{value[:80]!a} is not a contact", "an e-mail address or an https:// address")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CodePart(_Strict):
    """The manifest's inner ``manifest``: the file that is loaded, and the hooks that the plugin has."""

    entrypoint: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_entrypoint)]
    hooks: Annotated[list[Annotated[str, AfterValidator(_check_hook)]], Field(min_length=1, max_length=HOOKS_MAX)]


_LimitKeys: Any = create_model("_LimitKeys", __base__=_Strict, **{
    key_of(name): (Annotated[type_of(name), Field(ge=limit.low, le=limit.high)] | None, None)
    for name, limit in LIMITS.items()})  # type: ignore[call-overload]  # the catalogue's names


class LimitsPart(_LimitKeys):  # type: ignore[misc]  # it is made of the catalogue
    """Limits that the author lowers, or asks for. None means the platform's policy, or the least of what is asked for.
    """

    def within(self, policy: Limits) -> Limits:
        """The limits in force: ``policy``, lowered where the manifest asks for less, and never raised."""
        usual = Limits()
        wanted = {name: getattr(usual, name) if value is None and LIMITS[name].platform is not None else value
                  for name in LIMITS for value in (getattr(self, key_of(name)),)}
        return msgspec.structs.replace(policy, **{
            name: value for name, value in wanted.items() if value is not None and value < getattr(policy, name)})

    def without_effect(self, policy: Limits) -> list[str]:
        """One sentence for each limit above ``policy``. Such a limit is not an error, but it has no effect."""
        pairs = ((key_of(name), getattr(self, key_of(name)), getattr(policy, name)) for name in LIMITS)
        return [f"$.limits.{key}: {wanted:g} is above this platform's limit; {allowed:g} applies"
                for key, wanted, allowed in pairs if wanted is not None and wanted > allowed]


class NetworkPart(_Strict):
    """Hosts that the plugin wants to reach. The operator's list must name them, too."""

    allow: Annotated[list[Annotated[str, AfterValidator(_check_host)]], Field(max_length=100)] = []


class DataPart(_Strict):
    """Tables that the plugin wants to use. The operator's list must name them, too."""

    tables: Annotated[list[Annotated[str, AfterValidator(_check_table)]], Field(max_length=100)] = []


class PricingPart(_Strict):
    """A price in integer minor units (1995 is 19.95 USD). ``free`` has no amount; ``subscription`` has an interval."""

    model: Literal["free", "one-time", "subscription"] = "free"
    amount: Annotated[int, Field(ge=1, le=AMOUNT_MAX)] | None = None
    currency: Annotated[str, AfterValidator(_check_currency)] | None = None
    interval: Literal["month", "year"] | None = None

    @model_validator(mode="after")
    def _whole(self) -> PricingPart:
        wanted = {"free": set(), "one-time": {"amount", "currency"},
                  "subscription": {"amount", "currency", "interval"}}[self.model]
        given = {name for name in ("amount", "currency", "interval") if getattr(self, name) is not None}
        if given != wanted:
            example = {"free": '{"model": "free"}',
                       "one-time": '{"model": "one-time", "amount": 1995, "currency": "USD"}',
                       "subscription": '{"model": "subscription", "amount": 500, "currency": "USD", '
                                       '"interval": "month"}'}
            raise _error("incomplete", f"a price of the model {self.model!r} has {', '.join(sorted(wanted)) or 'no'} "
                                       f"further keys, but this one has {', '.join(sorted(given)) or 'none'}",
                         f"as in {example[self.model]}; amounts are whole minor units")
        return self


class SupportPart(_Strict):
    """The contact for users of a paid plugin, and within how many hours they get an answer."""

    contact: Annotated[str, Field(min_length=3, max_length=200), AfterValidator(_check_contact)]
    responseHours: Annotated[int, Field(ge=1, le=24)] = 24


_LICENCES = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "GPL-2.0-only", "GPL-3.0-only",
             "GPL-3.0-or-later", "LGPL-3.0-or-later", "AGPL-3.0-or-later", "CC0-1.0", "Unlicense", "0BSD", "Zlib",
             "LicenseRef-Proprietary")
"""Names that a misspelt one is compared with."""
Label = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_check_label)]


class Manifest(_Strict):
    """The registration object of the specification. Only ``parse_manifest`` makes one."""

    id: Annotated[str, AfterValidator(_check_id)]
    name: Label
    version: Annotated[str, AfterValidator(_check_version)]
    author: Label
    permissions: Annotated[list[Annotated[str, AfterValidator(_check_permission)]], Field(max_length=len(PERMISSIONS))]
    manifest: CodePart
    apiVersion: Annotated[str, Field(max_length=100), AfterValidator(_check_api_range)] = ">=1.0,<2"
    priority: int = Field(default=100, ge=0, le=10_000)
    limits: LimitsPart = LimitsPart()
    network: NetworkPart = NetworkPart()
    data: DataPart = DataPart()
    pricing: PricingPart = PricingPart()
    support: SupportPart | None = None
    description: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_label)] | None = None
    icon: Annotated[str, Field(max_length=200), AfterValidator(_check_shown(".svg", ".png"))] | None = None
    licence: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_licence)] | None = None
    homepage: Annotated[str, Field(max_length=300), AfterValidator(_check_homepage)] | None = None
    keywords: Annotated[list[Annotated[str, Field(min_length=1, max_length=30), AfterValidator(_check_label)]],
                        Field(max_length=KEYWORDS_MAX)] = []
    changelog: Annotated[str, Field(max_length=200), AfterValidator(_check_shown(".md", ".txt"))] | None = None
    screenshots: Annotated[list[Annotated[str, Field(max_length=200), AfterValidator(_check_shown(".png"))]],
                           Field(max_length=SCREENSHOTS_MAX)] = []
    dependencies: Annotated[list[Annotated[str, AfterValidator(_check_dependency)]], Field(max_length=100)] = []
    isolation: Literal["shared", "call"] = "shared"
    ordering: Literal["user", "none"] = "user"
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _settings_make_sense(self) -> Manifest:
        try:
            self.declared_settings()
        except ValueError as error:
            path, _, why = str(error).partition(": ")
            raise _error("settings_invalid", f"settings{path.removeprefix('$')}: {why}",
                         "JSON Schema of one level, as apex_exec/registry/plugin_settings/README.md has it") from None
        return self

    def declared_settings(self) -> tuple[Setting, ...]:
        """The settings that an operator may give values to. Raises ValueError for a schema that is refused."""
        return read_settings(self.settings, tuple(self.network.allow))

    @property
    def entrypoint(self) -> str:
        """The entry point inside the bundle: ``/plugins/<id>/x`` means ``x``."""
        return self.manifest.entrypoint.removeprefix(f"/plugins/{self.id}/")

    @property
    def runtime(self) -> str:
        """The language that the plugin is written in, by its entry point: a row of ``executor.processes.runtimes``."""
        return (runtime_of(self.entrypoint) or PYTHON).name  # an entry point without a runtime was refused

    def shown(self) -> dict[str, Any]:
        """What people are shown of the plugin beside its name: the keys that the manifest has."""
        keys = ("description", "icon", "licence", "homepage", "keywords", "changelog", "screenshots", "dependencies")
        return {key: value for key in keys if (value := getattr(self, key))}

    @property
    def admin_permissions(self) -> tuple[str, ...]:
        """The permissions of this manifest that need an approval."""
        return tuple(p for p in self.permissions if p in ADMIN_PERMISSIONS)


class _Duplicates:
    """Collects keys that appear twice in one JSON object; ``json`` alone would silently keep the last one."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made:
                self.found.append(key)
            made[key] = value
        return made


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _path(loc: tuple[Any, ...]) -> str:
    return "$" + "".join(map(step, loc))


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    model: Any = Manifest
    for part in loc[:-1]:
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = field.annotation if field else None
        if getattr(model, "__args__", None):
            model = model.__args__[0]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _hint(item: Any) -> str:
    kind, context = item["type"], item.get("ctx") or {}
    if "hint" in context:
        return str(context["hint"])
    if kind == "extra_forbidden":
        known = _known_keys(item["loc"])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
        return f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}"
    if kind == "missing":
        return f"add {json.dumps(str(item['loc'][-1]))} to the manifest"
    return ""


def _own_problems(raw: Any, duplicates: list[str]) -> list[dict[str, Any]]:
    """Problems that types cannot express: keys and list items that appear twice, an entry point of another plugin."""
    found = [{"code": "duplicate", "path": "$", "message": f"the key {key[:60]!a} appears twice in one object",
              "hint": "remove one"} for key in duplicates]
    if not isinstance(raw, dict):
        return found
    inner = raw["manifest"] if isinstance(raw.get("manifest"), dict) else {}
    lists = [("$.permissions", raw.get("permissions")), ("$.manifest.hooks", inner.get("hooks")),
             *((f"$.{key}", raw.get(key)) for key in ("keywords", "screenshots", "dependencies"))]
    for section, key in (("network", "allow"), ("data", "tables")):
        part = raw.get(section)
        lists.append((f"$.{section}.{key}", part.get(key) if isinstance(part, dict) else None))
    for path, items in lists:
        if isinstance(items, list):
            seen: set[str] = set()
            for index, item in enumerate(items):
                if isinstance(item, str) and item in seen:
                    found.append({"code": "duplicate", "path": f"{path}[{index}]",
                                  "message": f"{item[:60]!a} appears twice", "hint": "remove one"})
                elif isinstance(item, str):
                    seen.add(item)
    entry = inner.get("entrypoint")
    runtime = runtime_of(entry) if isinstance(entry, str) else None
    if raw.get("isolation") == "call" and runtime is not None and not runtime.fresh:
        found.append({"code": "isolation_unsupported", "path": "$.isolation",
                      "message": f"a plugin in {runtime.name} cannot have an engine of its own for each call: a jailed "
                                 "process may not fork, and no byte of a plugin is read before the jail",
                      "hint": "leave isolation out, or write the plugin in JavaScript"})
    if raw.get("dependencies") and runtime is not None and runtime.name != PYTHON.name:
        found.append({"code": "dependencies_unsupported", "path": "$.dependencies",
                      "message": "these are packages of PyPI; JavaScript names those of npm in package.json",
                      "hint": "leave it out; `apex-exec plugin add NAME` builds packages of npm into index.js"})
    limits = raw.get("limits")
    places = limits.get("concurrency") if isinstance(limits, dict) else None
    if raw.get("isolation") == "call" and isinstance(places, int) and places > 1:
        found.append({"code": "isolation_unsupported", "path": "$.limits.concurrency",
                      "message": "calls that have an engine each cannot run at once: there is one at a time",
                      "hint": "leave out isolation or limits.concurrency"})
    if isinstance(entry, str) and entry.startswith("/") and not entry.startswith(f"/plugins/{raw.get('id')}/"):
        found.append({"code": "malformed", "path": "$.manifest.entrypoint",
                      "message": f"{entry[:100]!a} is not inside this plugin's bundle",
                      "hint": f"a path inside the bundle, or /plugins/{str(raw.get('id'))[:50]}/<path>"})
    return found


def _without_enabled(raw: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``raw`` without ``enabled``. Hosts' own schemas have this key, but it is not a property of the plugin. It counts
    in a registration object that an operation receives, and never in a bundle: no author enables his own plugin."""
    odd = raw.get("enabled", False)
    problems = [] if isinstance(odd, bool) else [{
        "code": "wrong_type", "path": "$.enabled", "message": "Input should be a valid boolean",
        "hint": "true or false"}]
    return {key: value for key, value in raw.items() if key != "enabled"}, problems


_SECTIONS = ("manifest", "limits", "network", "data", "pricing", "settings")


def _with_maps(raw: dict[str, Any]) -> dict[str, Any]:
    """``raw`` with an empty map in place of an empty array: PHP and Lua write an empty map that way."""
    return {**raw, **{key: {} for key in _SECTIONS if raw.get(key) == []}}


def _with_licence(raw: dict[str, Any]) -> dict[str, Any]:
    """``raw`` with ``license``, as npm and others write it, under our name for it."""
    return {"licence" if key == "license" and "licence" not in raw else key: value for key, value in raw.items()}


def check_manifest(data: bytes) -> tuple[Manifest | None, list[dict[str, Any]]]:
    """The manifest in ``data`` (JSON) and every problem with it. The manifest is None exactly if there is a problem."""
    if len(data) > MANIFEST_BYTES_MAX:
        return None, [{"code": "too_long", "path": "$", "message": f"manifest.json is over {MANIFEST_BYTES_MAX} bytes",
                       "hint": "move data into separate files"}]
    duplicates = _Duplicates()
    try:
        raw = json.loads(data.decode("utf-8"), object_pairs_hook=duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return None, [{"code": "not_json", "path": "$", "message": f"manifest.json is not JSON in UTF-8: {error}"[:300],
                       "hint": "check it with any JSON tool; comments and trailing commas are not JSON"}]
    manifest: Manifest | None = None
    problems = _own_problems(raw, duplicates.found)
    if isinstance(raw, dict):
        raw, odd = _without_enabled(raw)
        problems += odd
        raw = _with_licence(_with_maps(raw))
    try:
        manifest = Manifest.model_validate(raw, strict=True)
    except ValidationError as error:
        problems = [
            {"code": _CODES.get(item["type"], item["type"] if "hint" in (item.get("ctx") or {}) else "wrong_type"),
             "path": _path(item["loc"]), "message": item["msg"][:300], "hint": _hint(item)}
            for item in error.errors(include_url=False, include_input=False)[:PROBLEMS_MAX]  # a hint takes 0.1 ms
        ] + problems
    return (None if problems else manifest), problems[:PROBLEMS_MAX]


_REASONS = ("unsupported_runtime", "incompatible_api_version", "isolation_unsupported")
"""Problems that are a refusal's reason where a manifest has no other."""


def manifest_refusal(problems: list[dict[str, Any]], where: str = "manifest.json") -> Refusal:
    """One Refusal for ``problems``. Its reason is their code if they all share one (such as ``unsupported_runtime``).
    """
    codes = {problem["code"] for problem in problems}
    single = codes.pop() if len(codes) == 1 else ""
    reason = single if single in _REASONS else "manifest_invalid"
    lines = "; ".join(f"{p['path']}: {p['message']}" for p in problems)
    hint = problems[0]["hint"] if len(problems) == 1 else ""
    return Refusal(reason, f"{where}: {lines}"[:4000], hint=hint, code=Code.INVALID_INPUT, problems=problems)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in ``data``. Raises Refusal with every problem at once."""
    manifest, problems = check_manifest(data)
    if manifest is None:
        raise manifest_refusal(problems)
    return manifest


def registration_object(manifest: Manifest) -> dict[str, Any]:
    """The manifest as the registration object of the specification: ``parse_manifest`` reads it back."""
    return manifest.model_dump(exclude_defaults=True, exclude_none=True)
