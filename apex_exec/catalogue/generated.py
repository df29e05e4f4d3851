"""What is made from the catalogue: a module for the workers, types for TypeScript hosts, tables of the documentation.

``python -m apex_exec.catalogue`` writes it; tests/catalogue compares it with what the tree holds. Workers may import
nothing of the daemon, and TypeScript cannot: so they get files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from apex_exec.catalogue.hooks import BUILT_IN, Hook
from apex_exec.catalogue.json_schema import typescript

PACKAGE = Path(__file__).parent.parent
ROOT = PACKAGE.parent
CONTRACT = ROOT / "workers" / "contract.py"
PROTOCOL_TS = PACKAGE / "examples" / "host-ts" / "protocol.ts"
WIRE_README = PACKAGE / "wire" / "README.md"


def files() -> dict[Path, str]:
    """Every file that is made, or made in part, from the catalogue, as it should be."""
    return {CONTRACT: contract(),
            PROTOCOL_TS: replaced(PROTOCOL_TS, "hooks", typescript_types(), "// <{}>", "// </{}>"),
            WIRE_README: replaced(WIRE_README, "hooks", hook_table())}


def replaced(path: Path, name: str, text: str, begin: str = "<!-- {} -->", end: str = "<!-- /{} -->") -> str:
    """The file at ``path`` with ``text`` between the marks of ``name``. Raises ValueError if it has no such marks."""
    whole = path.read_text("utf-8")
    first, last = begin.format(name), end.format(name)
    head, found, rest = whole.partition(first)
    _, closed, tail = rest.partition(last)
    if not found or not closed:
        raise ValueError(f"{path} has no part between {first} and {last}")
    return f"{head}{first}\n{text}{last}{tail}"


def contract() -> str:
    """``workers/contract.py``: what a worker and the fake platform have to know of the catalogue."""
    fills_user = tuple(hook.name for hook in BUILT_IN if hook.fills_user)
    widgets = {hook.name: hook.collects for hook in BUILT_IN if hook.renders}
    return f'''"""What workers have to know of the platform's catalogue, written by ``python -m apex_exec.catalogue``.

Workers may import nothing of the daemon, so that a plugin finds nothing of it in its process.
"""

from __future__ import annotations

FILLS_USER = frozenset(({_words(fills_user)}))
"""Hooks whose params get ``userId`` if the host has left it out."""
WIDGETS = {json.dumps(widgets)}
"""Hooks whose results hold widgets, and in which field."""
'''


def _words(items: tuple[str, ...]) -> str:
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
    payloads = results = ""
    for hook in hooks:
        if (declared := hook.declared) is not None:
            payloads += f"    {hook.name}: {typescript(declared['params'], {})};\n"
            results += f"    {hook.name}: {'null' if hook.void else typescript(declared['result'], {})};\n"
    return ('/** Hooks of this platform\'s own, made by `apex-exec schema --typescript`. */\n\nexport {};\n\n'
            'declare module "./protocol.ts" {\n'
            f"  interface HookPayloads {{\n{payloads}  }}\n  interface HookResults {{\n{results}  }}\n}}\n")


def hook_table() -> str:
    """The hooks' table of wire/README.md."""
    lines = ["| hook | payload | result | in a dispatch |", "|---|---|---|---|"]
    for hook in BUILT_IN:
        result = "null" if hook.void else f"`{', '.join(hook.fields(hook.result))}`"
        if hook.renders:
            result = f"`{hook.collects}: [{{{', '.join(_item_fields(hook))}}}]`"
        lines.append(f"| `{hook.name}` | `{', '.join(hook.fields(hook.params))}` | {result} | {hook.doc} |")
    return "\n".join([*lines, ""])


def _item_fields(hook: Hook) -> list[str]:
    """The keys of one item of what ``hook`` collects."""
    _, definitions = msgspec.json.schema_components([hook.result])
    (items,) = (shape["properties"][hook.collects]["items"] for shape in definitions.values()
                if hook.collects in shape.get("properties", {}))
    return list(definitions[re.sub(r".*/", "", items["$ref"])]["properties"])
