"""What is made from the catalogue: a module for the workers, types for TypeScript hosts, tables of the documentation.

``python -m apex_exec.catalogue`` writes it; tests/catalogue compares it with what the tree holds. Workers may import
nothing of the daemon, and TypeScript cannot: so they get files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from apex_exec import API_VERSION, __version__
from apex_exec.catalogue.hooks import BUILT_IN, Hook
from apex_exec.catalogue.json_schema import typescript
from apex_exec.catalogue.keys import table
from apex_exec.catalogue.limits import LIMITS, key_of
from apex_exec.catalogue.methods import API_AT_ONCE, METHODS, PARTS, Method
from apex_exec.catalogue.permissions import ALL as PERMISSIONS
from apex_exec.catalogue.permissions import PREFIXES
from apex_exec.catalogue.reference import limits_table, sdk_page

PACKAGE = Path(__file__).parent.parent
ROOT = PACKAGE.parent
API_METHODS = ROOT / "workers" / "api_methods.py"
CONTRACT = ROOT / "workers" / "contract.py"
PRELUDE = ROOT / "workers" / "javascript" / "prelude" / "core.js"
PROTOCOL_TS = PACKAGE / "examples" / "host-ts" / "protocol.ts"
PLUGIN_TYPES = PACKAGE / "npm" / "plugin" / "plugin.d.ts"
PLUGIN_TESTING = PACKAGE / "npm" / "plugin" / "testing.js"
NPM_PACKAGE = PACKAGE / "npm" / "plugin" / "package.json"
HOST_PACKAGE = PACKAGE / "examples" / "host-ts" / "package.json"
GUIDE = PACKAGE / "guide"
LINE_MAX = 120
MAP = PACKAGE / "catalogue" / "README.md"
README = PACKAGE / "README.md"
WIRE_README = PACKAGE / "wire" / "README.md"


def files() -> dict[Path, str]:
    """Every file that is made, or made in part, from the catalogue, as it should be."""
    return {CONTRACT: contract(), API_METHODS: api_methods(), PRELUDE: prelude(),
            PROTOCOL_TS: protocol_ts(), README: replaced(README.read_text("utf-8"), "configuration", table()),
            PLUGIN_TYPES: plugin_types(), PLUGIN_TESTING: plugin_testing(), NPM_PACKAGE: npm_package(),
            HOST_PACKAGE: host_package(),
            MAP: catalogue_map(), GUIDE / "sdk.md": sdk_page(),
            GUIDE / "limits.md": replaced((GUIDE / "limits.md").read_text("utf-8"), "limits", limits_table()),
            WIRE_README: replaced(WIRE_README.read_text("utf-8"), "hooks", hook_table())}


def protocol_ts() -> str:
    """The host protocol as TypeScript types, with hooks and limits as they are declared."""
    limits = "".join(f"    {key_of(name)}: number;\n" for name in LIMITS) + "    "
    text = PROTOCOL_TS.read_text("utf-8")
    for name, part in (("hooks", typescript_types()), ("limits", limits)):
        text = replaced(text, name, part, "// <{}>", "// </{}>")
    return text


def plugin_types() -> str:
    """The types of JavaScript plugins, with hooks, permissions and the API as they are declared."""
    text = PLUGIN_TYPES.read_text("utf-8")
    for name, part in (("hooks", _plugin_hooks()), ("permissions", _plugin_permissions()), ("api", _plugin_api())):
        text = replaced(text, name, part, "// <{}>", "// </{}>")
    return text


def prelude() -> str:
    """The half of the JavaScript runtime that is in the engine, with the API's methods as they are declared."""
    carried = ", ".join(f"{json.dumps(name) if '.' in name else name}: true" for name in _carried())
    parts = "".join(
        f"  class {part.capitalize()} {{\n    #owner;\n    constructor(owner) {{ this.#owner = owner }}\n"
        "    #ask(method, params) { return ask(this.#owner ?? running, method, params) }\n"
        f"{''.join(map(_javascript_method, _of_part(part)))}  }}\n  freeze({part.capitalize()}.prototype);\n"
        for part in PARTS)
    getters = "".join(f"    get {part}() {{ return new {part.capitalize()}(this.#owner) }}\n" for part in PARTS)
    effects = ", ".join(f"{name}: true" for name in _effects())
    text = (f"  const CARRIED = {{ __proto__: null, {carried} }};\n"
            f"  const EFFECTS = {{ __proto__: null, {effects} }};\n{parts}  class Api {{\n    #owner;\n"
            "    constructor(owner) { this.#owner = owner }\n"
            "    #ask(method, params) { return ask(this.#owner ?? running, method, params) }\n"
            f"{''.join(map(_javascript_method, _of_part('')))}{getters}  }}\n  freeze(Api.prototype);\n  ")
    return replaced(PRELUDE.read_text("utf-8"), "api", text, "// <{}>", "// </{}>")


def _javascript_method(method: Method) -> str:
    """One method of the prelude: ``method.javascript``, a function, with its result as the call's parameters."""
    takes, _, gives = method.javascript.partition(" => ")
    return f'    {_last(method.name)}{takes} {{ return this.#ask("{method.name}", {gives}) }}\n'


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _of_part(part: str) -> list[Method]:
    """The methods of one part of the API; "": those of the API itself."""
    return [method for method in METHODS.values() if method.name.rpartition(".")[0] == part]


def _carried() -> list[str]:
    return [method.name for method in METHODS.values() if method.route != "gateway" or method.is_exact]


def _effects() -> list[str]:
    return [method.name for method in METHODS.values() if method.route == "effect"]


def plugin_testing() -> str:
    """The fake platform for tests under Node, with the permissions that each method takes."""
    constants = {
        "METHODS": list(METHODS),
        "PERMISSIONS": {method.name: method.permission for method in METHODS.values() if method.permission},
        "PREFIXES": dict(PREFIXES),
        "FILLS_USER": [hook.name for hook in BUILT_IN if hook.fills_user],
    }
    text = "".join(f"const {name} = {json.dumps(value, indent=2)};\n" for name, value in constants.items())
    text += "const PARAMS = {\n" + "".join(
        f'  "{method.name}": {method.javascript},\n' for part in PARTS for method in _of_part(part)) + "};\n"
    return replaced(PLUGIN_TESTING.read_text("utf-8"), "permissions", text, "// <{}>", "// </{}>")


def plugin_augmentation(hooks: list[Hook]) -> str:
    """Types of ``hooks``, which an operator declared, for plugins in TypeScript; "" if none was declared."""
    params = results = ""
    for hook in hooks:
        if (declared := hook.declared) is not None:
            params += f"    {hook.name}: {typescript(declared['params'], {})};\n"
            results += f"    {hook.name}: {'void | null' if hook.void else typescript(declared['result'], {})};\n"
    return params and ('/** Hooks of this platform\'s own. */\n\nexport {};\n\ndeclare module "@apex-exec/plugin" {\n'
                       f"  interface HookParams {{\n{params}  }}\n  interface HookResults {{\n{results}  }}\n}}\n")


def npm_package() -> str:
    """``package.json`` of the npm package, whose version is that of the plugin API."""
    return re.sub(r'("version": )"[^"]*"', rf'\1"{API_VERSION}"', NPM_PACKAGE.read_text("utf-8"), count=1)


def host_package() -> str:
    """``package.json`` of the client for hosts in TypeScript, whose version is the daemon's."""
    return re.sub(r'("version": )"[^"]*"', rf'\1"{__version__}"', HOST_PACKAGE.read_text("utf-8"), count=1)


def _plugin_hooks() -> str:
    """``HookParams`` and ``HookResults``. The daemon fills in ``userId``, so that a hook always has it."""
    shapes, definitions = msgspec.json.schema_components(
        [kind for hook in BUILT_IN for kind in (hook.params, hook.result)], ref_template="#/$defs/{name}")
    lines = ["/** The parameters of each hook. */", "export interface HookParams {"]
    for hook, shape in zip(BUILT_IN, shapes[::2], strict=True):
        body = typescript(shape, definitions).replace("userId?:", "userId:")
        more = "".join(f"; {name}?: unknown" for name in hook.carries if f" {name}" not in body)
        lines += [f"  /** In a dispatch: {hook.doc.replace('`', '')}. */", f"  {hook.name}: {body[:-2]}{more} }};"]
    lines += ["}", "", f"export interface Widget {typescript(definitions['Widget'], definitions, indent=True)}", "",
              "/** What each hook returns. */", "export interface HookResults {"]
    for hook, shape in zip(BUILT_IN, shapes[1::2], strict=True):
        result = "void | null" if hook.void else typescript(shape, definitions, named=("Widget",))
        lines.append(f"  {hook.name}: {result};")
    return "\n".join([*lines, "}", ""])


def _plugin_permissions() -> str:
    rows = "".join(f"\n  | {json.dumps(one.name)}" for one in PERMISSIONS)
    doc = "/** What a plugin may ask for. Those of administrators need an approval for each version. */"
    return f"{doc}\nexport type Permission ={rows};\n"


def _plugin_api() -> str:
    lines = ["/** The platform's API. A call that is refused rejects with an `ApiError`. */", "export interface Api {"]
    for part in ("", *PARTS):
        if part:
            lines += [f"  /** The methods of `{part}`. */", f"  readonly {part}: {{"]
        for method in _of_part(part):
            doc = method.doc.replace("``", "`").replace(" None ", " null ")
            lines += [f"  {'  ' * bool(part)}/** {doc} */",
                      f"  {'  ' * bool(part)}{_last(method.name)}{method.typescript};"]
        if part:
            lines.append("  };")
    return "\n".join([*lines, "}", ""])


def replaced(whole: str, name: str, text: str, begin: str = "<!-- {} -->", end: str = "<!-- /{} -->") -> str:
    """``whole`` with ``text`` between the marks of ``name``. Raises ValueError if it has no such marks."""
    first, last = begin.format(name), end.format(name)
    head, found, rest = whole.partition(first)
    _, closed, tail = rest.partition(last)
    if not found or not closed:
        raise ValueError(f"the text has no pair of marks {first} and {last}")
    return f"{head}{first}\n{text}{last}{tail}"


def contract() -> str:
    """``workers/contract.py``: what a worker and the fake platform have to know of the catalogue."""
    fills_user = [hook.name for hook in BUILT_IN if hook.fills_user]
    widgets = {hook.name: hook.collects for hook in BUILT_IN if hook.renders}
    permissions = {method.name: method.permission for method in METHODS.values() if method.permission}
    carried = _carried()
    effects = _effects()
    return f'''"""What workers have to know of the platform's catalogue, written by ``python -m apex_exec.catalogue``.

Workers may import nothing of the daemon, so that a plugin finds nothing of it in its process.
"""

from __future__ import annotations

FILLS_USER = frozenset(({_words(fills_user)}))
"""Hooks whose params get ``userId`` if the host has left it out."""
WIDGETS = {json.dumps(widgets)}
"""Hooks whose results hold widgets, and in which field."""
PERMISSIONS = {_map(permissions)}
"""The permission that each API method takes."""
PREFIXES = {_map(PREFIXES)}
"""The permission that a host method takes, by the beginning of its name."""
CARRIED = frozenset(({_words(carried)}))
"""API methods whose parameters a host reads, or the plugin later: they are held to the rule for results. Those of any
other method are the gateway's, which takes a UUID or a Decimal as text."""
EFFECTS = frozenset(({_words(effects)}))
"""API methods that ask for something which the reply carries to the host."""
API_AT_ONCE = {API_AT_ONCE}
"""API calls of one invocation that the supervisor takes at once; more wait in the worker."""
'''


def api_methods() -> str:
    """``workers/api_methods.py``: the methods of the SDK's ``Api``."""
    made = "".join(map(_api_method, _of_part("")))
    made += "".join(
        f"\n    @property\n    def {part}(self) -> {part.capitalize()}Methods:\n"
        f'        """``api.{part}.…``."""\n        return {part.capitalize()}Methods(self._call)\n' for part in PARTS)
    parts = "".join(
        f"\n\nclass {part.capitalize()}Methods:\n"
        f'    """The methods of ``api.{part}``. ``call`` is what makes a call."""\n\n    __slots__ = ("_call",)\n\n'
        "    def __init__(self, call: Callable[..., Any]) -> None:\n        self._call = call\n"
        f"{''.join(map(_api_method, _of_part(part)))}" for part in PARTS)
    return f'''"""The methods of the platform's API, as plugin code calls them; by ``python -m apex_exec.catalogue``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
{parts}

class ApiMethods:
    """Every method of the API. What it returns is what the supervisor answered."""

    def _call(self, api_method: str, /, **params: Any) -> Any:
        raise NotImplementedError

    def _effect(self, api_method: str, /, **params: Any) -> Any:
        return self._call(api_method, **params)
{made}'''


def _api_method(method: Method) -> str:
    sent = []
    made_by = "_effect" if method.route == "effect" else "_call"
    empty = {field.name: " or []" if field.default_factory is list else " or {}" if (
        field.default_factory is dict or field.default == msgspec.Raw(b"\x80")) else ""
        for field in msgspec.structs.fields(method.params)}
    for name, default in re.findall(r"(\w+): [^=]+?(?: = (\S+?))?(?:, (?=\w+:)|$)", method.signature):
        sent.append(f"{name}={name}{empty[name] if default == 'None' else ''}")
    head = f"    def {_last(method.python)}("
    parameters = ["self", *re.split(r", (?=\w+:)", method.signature)]
    return (f'\n{_filled(head, parameters, ") -> Any:")}\n        """{method.doc}"""\n'
            f'{_filled(f"        return self.{made_by}(", [json.dumps(method.name), *sent], ")")}\n')


def _filled(head: str, parts: list[str], tail: str) -> str:
    """``head``, ``parts`` and ``tail`` on lines of at most LINE_MAX characters, below each other."""
    lines = [head]
    for part in parts:
        ending = tail if part is parts[-1] else ","
        if len(lines[-1]) + len(part) + len(ending) + 1 > LINE_MAX:
            lines.append(" " * len(head))
        lines[-1] += f"{'' if lines[-1].endswith('(') or not lines[-1].strip() else ' '}{part}{ending}"
    return "\n".join(lines)


def _map(items: dict[str, str]) -> str:
    return "{\n" + "".join(f'    {json.dumps(key)}: {json.dumps(value)},\n' for key, value in items.items()) + "}"


def _words(items: list[str]) -> str:
    return ", ".join(map(json.dumps, items)) + "," * (len(items) == 1)


def typescript_types() -> str:
    """``HookPayloads`` and ``HookResults`` of protocol.ts."""
    shapes, definitions = msgspec.json.schema_components(
        [kind for hook in BUILT_IN for kind in (hook.params, hook.result)], ref_template="#/$defs/{name}")
    lines = ["/** The payload of each hook. `userId` may be left out: the daemon fills it in. */",
             "export interface HookPayloads {"]
    for hook, shape in zip(BUILT_IN, shapes[::2], strict=True):
        body = typescript(shape, definitions)
        more = "".join(f"; {name}?: unknown" for name in hook.carries if f" {name}" not in body)
        lines.append(f"  {hook.name}: {body[:-2]}{more} }};")
    lines += ["}", "", f"export interface Widget {typescript(definitions['Widget'], definitions, indent=True)}", "",
              "/** What each hook returns. */", "export interface HookResults {"]
    for hook, shape in zip(BUILT_IN, shapes[1::2], strict=True):
        lines.append(f"  {hook.name}: {typescript(shape, definitions, named=('Widget',))};")
    return "\n".join([*lines, "}", ""])


def augmentation(hooks: list[Hook]) -> str:
    """A TypeScript module that adds ``hooks``, which an operator declared, to those that ``client.ts`` knows."""
    payloads = results = replies = ""
    for hook in hooks:
        if (declared := hook.declared) is not None:
            payloads += f"    {hook.name}: {typescript(declared['params'], {})};\n"
            results += f"    {hook.name}: {'null' if hook.void else typescript(declared['result'], {})};\n"
            if hook.mode == "all" and not hook.void:
                replies += f"    {hook.name}: HookResults[\"{hook.name}\"][];\n"
    return ('/** Hooks of this platform\'s own, made by `apex-exec schema --typescript`. */\n\nexport {};\n\n'
            'declare module "./protocol.js" {\n'
            f"  interface HookPayloads {{\n{payloads}  }}\n  interface HookResults {{\n{results}  }}\n"
            f"  interface DispatchResults {{\n{replies}  }}\n}}\n")


def hook_table() -> str:
    """The hooks' table of wire/README.md."""
    lines = ["| hook | payload | result | in a dispatch |", "|---|---|---|---|"]
    for hook in BUILT_IN:
        result = "null" if hook.void else f"`{', '.join(hook.fields(hook.result))}`"
        if hook.renders:
            result = f"`{hook.collects}: [{{{', '.join(_item_fields(hook))}}}]`"
        lines.append(f"| `{hook.name}` | `{', '.join(hook.fields(hook.params))}` | {result} | {hook.doc} |")
    return "\n".join([*lines, ""])


def catalogue_map() -> str:
    """The catalogue's own page with its tables."""
    text = replaced(MAP.read_text("utf-8"), "methods", method_table())
    return replaced(text, "permissions", permission_table())


def method_table() -> str:
    """The API's methods, for the catalogue's own page; a bar in a cell is escaped."""
    lines = ["| method | in Python | permission | who does it | audit event |", "|---|---|---|---|---|"]
    bar = "\\|"
    lines += [f"| `{method.name}` | `{method.python}({method.signature.replace('|', bar)})` | "
              f"{f'`{method.permission}`' if method.permission else 'by the name of the host method'} | "
              f"{method.route} | `{method.event}` |" for method in METHODS.values()]
    return "\n".join([*lines, ""])


def permission_table() -> str:
    """The permissions, for the catalogue's own page."""
    lines = ["| permission | lets a plugin | host methods | approved by an administrator |", "|---|---|---|---|"]
    lines += [f"| `{one.name}` | {one.doc} | {f'`{one.prefix}*`' if one.prefix else ''} | "
              f"{'for each version' if one.is_admin else 'no'} |" for one in PERMISSIONS]
    return "\n".join([*lines, ""])


def _item_fields(hook: Hook) -> list[str]:
    """The keys of one item of what ``hook`` collects."""
    _, definitions = msgspec.json.schema_components([hook.result])
    (items,) = (shape["properties"][hook.collects]["items"] for shape in definitions.values()
                if hook.collects in shape.get("properties", {}))
    return list(definitions[re.sub(r".*/", "", items["$ref"])]["properties"])
