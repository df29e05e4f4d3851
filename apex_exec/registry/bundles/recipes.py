"""``plugin new --recipe``: a whole plugin from the package's examples, under the author's own id.

A recipe's folder holds what its author has written. Whatever every plugin of its language has (types, the settings of
tools) comes from the scaffold.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from pathlib import Path

from apex_exec.errors import Code, Refusal
from apex_exec.registry.bundles.scaffold import Language, scaffold_files, write_new

FOLDER = Path(__file__).parents[2] / "examples" / "recipes"
SOURCE_TS, BUILT = "src/plugin.ts", ("index.js", "index.js.map")
RENAMED = (".py", ".js", ".ts", ".md", ".json")


def recipes() -> list[str]:
    """Their names."""
    return sorted(path.parent.name for path in FOLDER.glob("*/manifest.json"))


def write_recipe(parent: Path, plugin: str, author: str, recipe: str) -> Path:
    """Creates ``parent/plugin`` from a recipe. Raises Refusal; never writes into an existing folder."""
    if recipe not in recipes():
        near = difflib.get_close_matches(recipe, recipes(), 1)
        raise Refusal("unknown_recipe", f"there is no recipe {recipe[:60]!a}", code=Code.INVALID_INPUT,
                      hint=f"did you mean {near[0]}?" if near else f"they are {', '.join(recipes())}")
    place = FOLDER / recipe
    own = {str(path.relative_to(place)): path.read_text("utf-8") for path in sorted(place.rglob("*"))
           if path.is_file() and "__pycache__" not in path.parts}
    manifest = json.loads(own["manifest.json"]) | {"id": plugin, "author": author}
    language: Language = "typescript" if SOURCE_TS in own else "python" if "plugin.py" in own else "javascript"
    files = {path: text for path, text in scaffold_files(plugin, author, manifest["manifest"]["hooks"][0],
                                                         language).items()
             if not path.startswith("tests/") and not (language == "typescript" and path in BUILT)}
    name = re.compile(rf"(?<![\w-]){re.escape(recipe)}(?![\w-])")
    merged = {path: name.sub(lambda _: plugin, text) if path.endswith(RENAMED) else text for path, text in own.items()}
    merged["manifest.json"] = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    if "package.json" in own:
        merged["package.json"] = json.dumps(json.loads(files["package.json"]) | json.loads(own["package.json"]),
                                            indent=2) + "\n"
    return write_new(parent, plugin, {**files, **merged})


def next_commands(folder: Path) -> list[str]:
    """What is to be typed before a new recipe can be called, and the call."""
    shown = shlex.quote(str(folder))
    here = shown if "/" in shown else f"./{shown}"
    if (folder / SOURCE_TS).exists():
        return [f"npm --prefix {here} install", f"npm --prefix {here} run build", f"apex-exec plugin test {here}"]
    return [*([f"apex-exec plugin add --dir {here}"] if (folder / "vendor.lock.json").exists() else []),
            f"apex-exec plugin test {here}"]
