"""The SDK reference of the guide (``apex_exec/guide/sdk.md``), from docstrings and the catalogue.

The SDK's files are parsed and not imported: they are the workers', and what stands in them is what authors get.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

from apex_exec.catalogue.hooks import BUILT_IN, Hook
from apex_exec.catalogue.limits import LIMITS, default_of, key_of
from apex_exec.catalogue.methods import METHODS, Method
from apex_exec.catalogue.permissions import ALL as PERMISSIONS
from workers.wire import API_CODES

WORKERS = Path(__file__).parents[2] / "workers"
CLASSES = {
    "sdk.py": ("Plugin", "HookContext", "Fetched", "ApiError", "PermissionDenied", "RateLimited", "DeadlineExceeded",
               "InvalidOutput"),
    "fake.py": ("FakePlatform", "Refused"),
}
"""What an author sees of each file. The other classes are the runtime's."""
CONSTRUCTED = ("Plugin", "FakePlatform")
"""What authors make themselves, so that its parameters are shown."""
MODULES = {"sdk.py": "workers", "fake.py": "workers.fake"}
UNEXPORTED = {"Fetched": "workers.sdk", "InvalidOutput": "workers.sdk"}


def sdk_page() -> str:
    """The whole page."""
    parts = ["# SDK reference", "Made from the docstrings of the SDK and the catalogue by `python -m "
             "apex_exec.catalogue`. What is not here is not part of the API.", "## Hooks",
             "A hook is declared by `@plugin.hook(NAME)` in Python, and as a function of that name in `hooks` in "
             "JavaScript. `context` and `params` are given to the arguments of these names.", *map(_hook, BUILT_IN),
             "## The API in Python", "`context.api.…`: every method blocks until the answer is there; in an "
             "`async def` hook it is awaited. A call that is refused raises `ApiError`.",
             *map(_python, METHODS.values()),
             "## The API in JavaScript and TypeScript", "`context.api.…`, or `plugin.api.…` for the call that is "
             "running. A call that is refused rejects with an error that has `code`; `plugin.errors` has the classes.",
             *map(_typescript, METHODS.values()), "## Classes in Python"]
    for file, names in CLASSES.items():
        tree = ast.parse((WORKERS / file).read_text("utf-8"))
        found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for name in names:
            parts += _class(found[name], UNEXPORTED.get(name, MODULES[file]))
    parts += ["## Permissions", "\n".join(["| permission | lets a plugin | approved by an administrator |",
                                            "|---|---|---|", *(
                  f"| `{one.name}` | {one.doc} | {'for each version' if one.is_admin else 'no'} |"
                  for one in PERMISSIONS)]),
              "## Error codes of API calls", "`code` of an `ApiError`, and of an error in JavaScript.",
              "\n".join(["| code | means |", "|---|---|", *(f"| `{code}` | {text} |"
                                                             for code, text in API_CODES.items())])]
    return "\n\n".join(parts) + "\n"


def limits_table() -> str:
    """The limits that a manifest may lower, with the platform's defaults."""
    lines = ["| in the manifest's `limits` | platform's default | what it bounds |", "|---|---|---|"]
    for name, limit in LIMITS.items():
        doc = limit.doc.partition("; a manifest")[0].partition("; 0.1 at least")[0]
        also = f"; before it may come: {limit.also}" if limit.also else ""
        default = f"{default_of(name):g} {limit.unit}".rstrip()
        lines.append(f"| `{key_of(name)}` | {default} | {doc}{also} |")
    return "\n".join([*lines, ""])


def _hook(hook: Hook) -> str:
    fields = ", ".join(f"`{name}`" for name in hook.fields(hook.params))
    result = "nothing (null)" if hook.void else ", ".join(f"`{name}`" for name in hook.fields(hook.result))
    sample = "" if hook.void else f"\n{json.dumps(hook.sample_result)}"
    return (f"### {hook.name}\n\nGets {fields}. Returns {result}. In a dispatch to several plugins: {hook.doc}.\n\n"
            f"```\n{json.dumps(hook.sample)}{sample}\n```")


def _python(method: Method) -> str:
    return f"### {method.python}\n\n```\n{method.python}({method.signature})\n```\n\n{_marked(method.doc)}"


def _typescript(method: Method) -> str:
    doc = _marked(method.doc).replace(" None ", " null ")
    return f"### {method.name}\n\n```\n{method.name}{method.typescript}\n```\n\n{doc}"


def _class(node: ast.ClassDef, module: str) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    functions = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    made = next((one for one in functions if one.name == "__init__"), None)
    shown = f"\n\n```\n{node.name}{_signature(made)}\n```" if made is not None and node.name in CONSTRUCTED else ""
    yield f"### {module}.{node.name}{f' ({bases})' if bases else ''}{shown}"
    yield _doc(node)
    rows = [f"- `{name}`" for name in _attributes(made)] if made is not None else []
    for one in functions:
        if one.name.startswith("_"):
            continue
        is_property = any(isinstance(mark, ast.Name) and mark.id == "property" for mark in one.decorator_list)
        kept = f": {ast.unparse(one.returns)}" if is_property and one.returns is not None else ""
        rows.append(f"- `{one.name}{kept if is_property else _signature(one)}`: {_flat(_doc(one))}")
    if rows:
        yield "\n".join(rows)


def _attributes(made: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """What the constructor keeps under a public name, with the type that its parameter says."""
    types = {one.arg: ast.unparse(one.annotation) for one in (*made.args.args, *made.args.kwonlyargs)
             if one.annotation is not None}
    for statement in made.body:
        for target in (statement.targets if isinstance(statement, ast.Assign) else
                       [statement.target] if isinstance(statement, ast.AnnAssign) else ()):
            if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
                kind = ast.unparse(statement.annotation) if isinstance(statement, ast.AnnAssign) else types.get(
                    target.attr, "")
                yield f"{target.attr}: {kind}" if kind else target.attr


def _signature(function: ast.FunctionDef | ast.AsyncFunctionDef | None) -> str:
    """As ``(name: str, limit: int = 5) -> Any``, without ``self``."""
    if function is None:
        return "()"
    text = re.sub(r"^self(, )?", "", ast.unparse(function.args))
    returns = f" -> {ast.unparse(function.returns)}" if function.returns is not None else ""
    return f"({text})" + ("" if function.name == "__init__" else returns)


def _doc(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return _marked(inspect.cleandoc(ast.get_docstring(node) or ""))


def _flat(text: str) -> str:
    return " ".join(text.split())


def _marked(text: str) -> str:
    """Marks of reStructuredText as Markdown's."""
    return text.replace("``", "`")
