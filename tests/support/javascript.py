"""JavaScript plugins that tests write, and the document's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCUMENT = """export default {
  id: "hello-world",
  version: "1.0.0",
  permissions: ["ui:render"],

  hooks: {
    onDashboardLoad: async (context) => {
      return {
        customWidgets: [
          {
            id: "hello-widget",
            component: "HelloWorld",
            props: { message: "Hello from plugin!" },
          },
        ],
      };
    },
  },
};
"""
"""The specification's "Minimal Plugin Structure" without its one type annotation."""
DOCUMENT_MANIFEST = {
    "id": "hello-world", "name": "Hello World", "version": "1.0.0", "author": "ACME Corp", "permissions": ["ui:render"],
    "manifest": {"entrypoint": "/plugins/hello-world/index.js", "hooks": ["onDashboardLoad"]}}
WIDGETS = {"customWidgets": [
    {"id": "hello-widget", "component": "HelloWorld", "props": {"message": "Hello from plugin!"}}]}

_TABLE = """{head}
const ACTIONS = {{
{actions}
}};
export default {{
  id: "{id}", version: "1.0.0", permissions: {permissions},
  hooks: {{ onActionExecute: {define} }},
}};
"""
_DEFINE = """async (context) => ({ result: await ACTIONS[context.action](context), metadata: {} })"""


def write_files(folder: Path, id_: str, files: Mapping[str, str | bytes], hooks: tuple[str, ...] = ("onActionExecute",),
                permissions: tuple[str, ...] = (), entrypoint: str = "index.js", **manifest: Any) -> Path:
    """One bundle of ``files`` below ``folder``; ``manifest`` adds keys to its manifest."""
    target = folder / id_
    made = {"id": id_, "name": id_, "version": "1.0.0", "author": "tests", "permissions": list(permissions),
            "manifest": {"entrypoint": entrypoint, "hooks": list(hooks)}, **manifest}
    for name, text in {"manifest.json": json.dumps(made), **files}.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return target


def write_document(folder: Path) -> Path:
    """The document's plugin, as the document prints it."""
    target = folder / "hello-world"
    target.mkdir(parents=True, exist_ok=True)
    (target / "index.js").write_text(DOCUMENT)
    (target / "manifest.json").write_text(json.dumps(DOCUMENT_MANIFEST))
    return target


def write_actions(folder: Path, id_: str, actions: Mapping[str, str], head: str = "",
                  files: Mapping[str, str] | None = None, permissions: tuple[str, ...] = (), **manifest: Any) -> Path:
    """A plugin whose hook runs ``actions[context.action](context)``, a function's source, and returns its value."""
    source = _TABLE.format(head=head, id=id_, permissions=json.dumps(list(permissions)), define=_DEFINE,
                           actions=",\n".join(f"  {json.dumps(name)}: {code}" for name, code in actions.items()))
    return write_files(folder, id_, {"index.js": source, **(files or {})}, permissions=permissions, **manifest)
