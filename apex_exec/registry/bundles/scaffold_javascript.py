"""The files that ``plugin new --js`` and ``--ts`` create, beside those that every language has.

The npm package with the types is copied into ``types/`` and named as a file: until it is published, nobody may look its
name up at a registry. ``index.js`` of a TypeScript plugin is what its own ``npm run build`` makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from apex_exec.catalogue.generated import plugin_augmentation
from apex_exec.catalogue.hooks import HOOKS
from apex_exec.registry.bundles.manifest import BUNDLE_COMMAND

Language = Literal["javascript", "typescript"]
NPM_PACKAGE = Path(__file__).parents[2] / "npm" / "plugin"
TYPES = ("package.json", "plugin.d.ts", "testing.d.ts", "testing.js")
"""The files of the npm package that a scaffold carries."""
ESBUILD_RANGE, TYPESCRIPT_RANGE = "^0.28.0", "^7.0.0"
"""The versions that ``tests/npm`` builds and checks the scaffolds with, or later ones that promise the same."""

_WIDGETS_JS = '''// {name}: one widget on the dashboard.

/** @type {{import("@apex-exec/plugin").Plugin}} */
export default {{
  id: "{id}",
  version: "0.1.0",
  permissions: ["ui:render"],

  hooks: {{
    // The context has the hook's parameters (dashboardId), userId, api, log and remainingMs().
    onDashboardLoad: async (context) => {{
      context.log.info("dashboard %s", context.dashboardId);
      return {{
        customWidgets: [
          {{
            id: "greeting",
            component: "Text",
            props: {{ text: "Hello from {name}!" }},
          }},
        ],
      }};
    }},
  }},
}};
'''
_ANY_JS = '''// {name}: answers {hook}.

/** @type {{import("@apex-exec/plugin").Plugin}} */
export default {{
  id: "{id}",
  version: "0.1.0",
  permissions: [],

  hooks: {{
    // The context has the hook's parameters, as {sample}, and userId, api, log and remainingMs().
    {hook}: async (context) => {{
      context.log.info("%s for %s", context.hook, context.userId);
      return {result};
    }},
  }},
}};
'''
_WIDGETS_TS = '''/** {name}: one widget on the dashboard. */

import type {{ HookContext, Plugin, Widget }} from "@apex-exec/plugin";

export default {{
  id: "{id}",
  version: "0.1.0",
  permissions: ["ui:render"],

  hooks: {{
    /** One widget that greets. The context has the hook's parameters (dashboardId), userId, api and log. */
    async onDashboardLoad(context: HookContext<"onDashboardLoad">) {{
      const greeting: Widget = {{
        id: "greeting",
        component: "Text",
        props: {{
          text: "Hello from {name}!",
        }},
      }};
      context.log.info("dashboard %s", context.dashboardId);
      return {{ customWidgets: [greeting] }};
    }},
  }},
}} satisfies Plugin;
'''
_WIDGETS_BUILT = '''// src/plugin.ts
var plugin_default = {{
  id: "{id}",
  version: "0.1.0",
  permissions: ["ui:render"],
  hooks: {{
    /** One widget that greets. The context has the hook's parameters (dashboardId), userId, api and log. */
    async onDashboardLoad(context) {{
      const greeting = {{
        id: "greeting",
        component: "Text",
        props: {{
          text: "Hello from {name}!"
        }}
      }};
      context.log.info("dashboard %s", context.dashboardId);
      return {{ customWidgets: [greeting] }};
    }}
  }}
}};
export {{
  plugin_default as default
}};
//# sourceMappingURL=index.js.map
'''
_WIDGETS_MAP = ('{\n  "version": 3,\n  "sources": ["src/plugin.ts"],\n  "mappings": "'
                ";AAIA,IAAO,iBAAQ;AAAA,EACb,IAAI;AAAA,EACJ,SAAS;AAAA,EACT,aAAa,CAAC,WAAW;AAAA,EAEzB,OAAO;AAAA;AAAA,IA"
                "EL,MAAM,gBAAgB,SAAyC;AAC7D,YAAM,WAAmB;AAAA,QACvB,IAAI;AAAA,QACJ,WAAW;AAAA,QACX,OAAO;AAAA,UACL,MAAM;A"
                "AAA,QACR;AAAA,MACF;AACA,cAAQ,IAAI,KAAK,gBAAgB,QAAQ,WAAW;AACpD,aAAO,EAAE,eAAe,CAAC,QAAQ,EAAE;AAAA,IAC"
                "rC;AAAA,EACF;AACF;"
                '",\n  "names": []\n}\n')
"""Of the file above: no place in it depends on the plugin's name, since nothing stands behind that on a line."""
_ANY_TS = '''/** {name}: answers {hook}. */

import type {{ HookContext, Plugin }} from "@apex-exec/plugin";

export default {{
  id: "{id}",
  version: "0.1.0",
  permissions: [],

  hooks: {{
    /** The context has the hook's parameters, as {sample}, and userId, api and log. */
    async {hook}(context: HookContext<"{hook}">) {{
      context.log.info("%s for %s", context.hook, context.userId);
      return {result};
    }},
  }},
}} satisfies Plugin;
'''
_ANY_BUILT = '''// src/plugin.ts
var plugin_default = {{
  id: "{id}",
  version: "0.1.0",
  permissions: [],
  hooks: {{
    async {hook}(context) {{
      context.log.info("%s for %s", context.hook, context.userId);
      return {result};
    }}
  }}
}};
export {{
  plugin_default as default
}};
'''
_WIDGETS_TEST = '''// What the plugin promises. `apex-exec plugin test .` runs this in the jail, `npm test` under Node.

import assert from "node:assert/strict";
import test from "node:test";
import {{ FakePlatform }} from "@apex-exec/plugin/testing";
import plugin from "../index.js";

test("the dashboard gets one widget", async () => {{
  const result = await new FakePlatform(plugin).call("onDashboardLoad", {{ dashboardId: "main" }});
  assert.deepEqual(result.customWidgets.map((widget) => widget.component), ["Text"]);
}});
'''
_ANY_TEST = '''// What the plugin promises. `apex-exec plugin test .` runs this in the jail, `npm test` under Node.

import assert from "node:assert/strict";
import test from "node:test";
import {{ FakePlatform }} from "@apex-exec/plugin/testing";
import plugin from "../index.js";

test("the hook answers", async () => {{
  assert.deepEqual(await new FakePlatform(plugin).call("{hook}", {sample}), {result});
}});
'''
_IGNORE = "# Not part of the plugin: the types that an editor, tsc and node read.\n/types/\n"
_WORKING = '''
## Working on it

`types/` holds the types of plugins and the fake platform for tests; `npm install` links them{fetches}.

```
npm install
npm test
apex-exec plugin test .
```
'''
_BUILDING = '''
The daemon loads `index.js`. `npm run build` makes it of `src/plugin.ts`, and `npm run check` checks the types.
Both files and the source map are packed: a reviewer reads the source, and a failure names its lines.
'''


def javascript_files(language: Language, values: dict[str, str], hook: str, is_widgets: bool) -> dict[str, str]:
    """The texts of a new plugin by path, without manifest and README. ``values`` fill the templates: id, name, hook,
    and sample and result as JSON."""
    is_typescript = language == "typescript"
    made = {"tests/index.test.js": (_WIDGETS_TEST if is_widgets else _ANY_TEST).format(**values),
            "package.json": _json(_package(values["id"], is_typescript)), ".apxignore": _IGNORE}
    if is_typescript:
        made["src/plugin.ts"] = (_WIDGETS_TS if is_widgets else _ANY_TS).format(**values)
        made["index.js"] = (_WIDGETS_BUILT if is_widgets else _ANY_BUILT).format(**values)
        if is_widgets:
            made["index.js.map"] = _WIDGETS_MAP
        made["tsconfig.json"] = _json(_compiler({"module": "esnext", "moduleResolution": "bundler",
                                                 "verbatimModuleSyntax": True}, ["src"]))
    else:
        made["index.js"] = (_WIDGETS_JS if is_widgets else _ANY_JS).format(**values)
        made["jsconfig.json"] = _json(_compiler({"module": "nodenext", "allowJs": True, "checkJs": True}, ["index.js"]))
    for name in TYPES:
        made[f"types/{name}"] = (NPM_PACKAGE / name).read_text("utf-8")
    if declared := plugin_augmentation([HOOKS[hook]]):
        made["types/hooks.d.ts"] = declared
    return made


def working_section(language: Language) -> str:
    """What the README says about working on the plugin."""
    fetches = " and fetches esbuild and TypeScript" if language == "typescript" else ", without any registry"
    return _WORKING.format(fetches=fetches) + (_BUILDING if language == "typescript" else "")


def _package(plugin: str, is_typescript: bool) -> dict[str, Any]:
    scripts = {"test": "node --test", "validate": "apex-exec plugin validate .", "pack": "apex-exec plugin pack ."}
    packages = {"@apex-exec/plugin": "file:./types"}
    if is_typescript:
        scripts = {"build": BUNDLE_COMMAND, "check": "tsc --noEmit", "pretest": "npm run build",
                   "prepack": "npm run build", **scripts}
        packages |= {"esbuild": ESBUILD_RANGE, "typescript": TYPESCRIPT_RANGE}
    return {"name": plugin, "version": "0.1.0", "private": True, "type": "module", "scripts": scripts,
            "devDependencies": packages}


def _compiler(options: dict[str, Any], include: list[str]) -> dict[str, Any]:
    return {"compilerOptions": {"strict": True, "target": "es2022", "lib": ["es2023", "webworker"], "types": [],
                                "noEmit": True, **options},
            "include": [*include, "types/*.d.ts"]}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
