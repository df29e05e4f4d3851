"""A plugin with thirteen packages of npm in it, as an author bundles it: packages from the registry, esbuild, the
documented command. Nothing of it is kept in the repository.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apex_exec.registry.bundles.manifest import BUNDLE_COMMAND
from apex_exec.registry.bundles.scaffold_javascript import ESBUILD_RANGE

LIBRARIES = {
    "zod": "^4.6.0", "date-fns": "^4.4.0", "lodash-es": "^4.18.0", "nanoid": "^5.1.0", "uuid": "^14.0.0",
    "dayjs": "^1.11.0", "mustache": "^4.2.0", "marked": "^18.2.0", "big.js": "^7.0.0", "ramda": "^0.32.0",
    "immer": "^11.2.0", "superjson": "^2.2.0", "ajv": "^8.20.0"}
"""Package -> versions. Their licences (MIT all) allow what is done here: they are used where they are installed."""
ID, HOOK = "thirteen", "onActionExecute"
SECONDS_MAX = 500
"""For one run of npm: a registry may be slow."""

SOURCE = '''import { z } from "zod";
import { addDays, formatISO, parseISO } from "date-fns";
import { chunk, groupBy } from "lodash-es";
import { nanoid } from "nanoid";
import { v5, validate } from "uuid";
import dayjs from "dayjs";
import Mustache from "mustache";
import { marked } from "marked";
import Big from "big.js";
import * as R from "ramda";
import { produce } from "immer";
import superjson from "superjson";
import Ajv from "ajv";

const order = z.object({ id: z.uuid(), total: z.number().min(1), tags: z.array(z.string()).default([]) });
const state = Object.freeze({ rows: Object.freeze([1, 2]) });
const ACTIONS = {
  "zod": (c) => [order.safeParse(c.order).success,
    order.safeParse({ id: 1 }).error.issues.map((one) => one.path.join("."))],
  "date-fns": () => formatISO(addDays(parseISO("2024-02-28"), 1), { representation: "date" }),
  "lodash-es": () => [chunk([1, 2, 3], 2), groupBy([1, 2, 3], (n) => (n % 2 ? "odd" : "even"))],
  "nanoid": () => [nanoid().length, nanoid() !== nanoid(), /^[\\w-]+$/.test(nanoid(40))],
  "uuid": () => [v5("apex", v5.URL), validate(v5("a", v5.DNS))],
  "dayjs": () => dayjs("2024-01-31T10:00:00Z").add(1, "month").format("YYYY-MM-DD"),
  "mustache": () => Mustache.render("{{#rows}}<{{name}}>{{/rows}}", { rows: [{ name: "a" }, { name: "b & c" }] }),
  "marked": () => marked.parse("# One\\n\\n- *a*\\n"),
  "big.js": () => new Big("0.1").plus("0.2").times(3).toString(),
  "ramda": () => R.pipe(R.filter((n) => n > 1), R.map((n) => n * n), R.sum)([1, 2, 3]),
  "immer": () => [produce(state, (draft) => { draft.rows.push(3) }), state.rows.length],
  "superjson": () => superjson.parse(superjson.stringify({ at: new Date(0), all: new Set([1, 2]) })).all.size,
  "ajv": () => {
    const check = new Ajv().compile({ type: "object", required: ["a"], properties: { a: { type: "integer" } } });
    return [check({ a: 1 }), check({ a: "x" }), check.errors[0].instancePath];
  },
};
export default {
  id: "thirteen", version: "1.0.0", permissions: [],
  hooks: { onActionExecute: async (c) => ({ result: await ACTIONS[c.action](c.context), metadata: {} }) },
};
'''
ORDER = {"id": "f81d4fae-7dec-41d0-a765-00a0c91e6bf6", "total": 12.5}
ANSWERS: dict[str, Any] = {
    "zod": [True, ["id", "total"]], "date-fns": "2024-02-29",
    "lodash-es": [[[1, 2], [3]], {"odd": [1, 3], "even": [2]}],
    "nanoid": [21, True, True], "uuid": ["909c79a0-848e-54f6-bacf-3899a0f95caf", True], "dayjs": "2024-02-29",
    "mustache": "<a><b &amp; c>", "marked": "<h1>One</h1>\n<ul>\n<li><em>a</em></li>\n</ul>\n", "big.js": "0.9",
    "ramda": 13, "immer": [{"rows": [1, 2, 3]}, 2], "superjson": 2, "ajv": [True, False, "/a"]}
"""Package -> what its use in the hook returns for the context ``{"order": ORDER}``."""


class CannotInstall(Exception):
    """npm is missing, or the registry does not answer."""


def install(folder: Path, packages: Mapping[str, str] = LIBRARIES) -> None:
    """Installs esbuild and the packages below ``folder``, without their scripts. Blocks for minutes. Raises
    CannotInstall."""
    npm = shutil.which("npm")
    if npm is None:
        raise CannotInstall("npm is not installed")
    (folder / "package.json").write_text(json.dumps({
        "private": True, "type": "module", "dependencies": dict(packages),
        "devDependencies": {"esbuild": ESBUILD_RANGE}}))
    done = subprocess.run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder,
                          capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    if done.returncode:
        raise CannotInstall(f"npm cannot install: {done.stderr[-300:]}")


def build(folder: Path, source: str = SOURCE) -> None:
    """Bundles ``source`` into ``index.js`` below ``folder``, with its map, by the documented command."""
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src" / "plugin.ts").write_text(source.replace("const ACTIONS =", "const ACTIONS: Record<string, any> ="))
    subprocess.run(f"node_modules/.bin/{BUNDLE_COMMAND}", shell=True, cwd=folder, check=True, capture_output=True,
                   timeout=SECONDS_MAX)


def manifest() -> dict[str, Any]:
    """The plugin's manifest."""
    return {"id": ID, "name": "Thirteen packages", "version": "1.0.0", "author": "ACME Corp", "permissions": [],
            "manifest": {"entrypoint": "index.js", "hooks": [HOOK]}}


def write_plugin(folder: Path, built: Path, *, with_map: bool = True) -> Path:
    """The bundle of what was built in ``built``, as a folder below ``folder``."""
    target = folder / ID
    target.mkdir(parents=True)
    for name in ("index.js", "index.js.map") if with_map else ("index.js",):
        shutil.copy(built / name, target / name)
    (target / "manifest.json").write_text(json.dumps(manifest()))
    return target
