"""The npm package and the scaffolds with the real npm, tsc, esbuild and Node; what is wrong does not compile."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.common.source_map import SourceMaps
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.bundles.manifest import BUNDLE_COMMAND
from apex_exec.registry.bundles.scaffold import Language, write_scaffold
from apex_exec.registry.bundles.scaffold_javascript import ESBUILD_RANGE, NPM_PACKAGE, TYPESCRIPT_RANGE
from tests.support import need
from tests.support.daemon import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]  # a registry may be slow
EXAMPLES = ROOT / "apex_exec" / "examples" / "plugins"
STRICT = {"strict": True, "noEmit": True, "noUncheckedIndexedAccess": True, "exactOptionalPropertyTypes": True,
          "target": "es2022", "module": "nodenext", "lib": ["es2023", "webworker"], "types": [], "skipLibCheck": False,
          "allowJs": True, "checkJs": True}


def run(*arguments: str, cwd: Path, status: int = 0, **env: str) -> str:
    done = subprocess.run(list(arguments), cwd=cwd, capture_output=True, text=True, timeout=500,
                          env={**os.environ, **env})
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with esbuild, TypeScript and the packed package in its node_modules."""
    need(shutil.which("npm"), "npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    made = json.loads(run("npm", "pack", str(NPM_PACKAGE), "--json", cwd=folder))
    with tarfile.open(folder / made[0]["filename"]) as packed:
        assert {name.removeprefix("package/") for name in packed.getnames()} == {
            "package.json", "plugin.d.ts", "testing.js", "testing.d.ts", "README.md"}
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"esbuild@{ESBUILD_RANGE}",
        f"typescript@{TYPESCRIPT_RANGE}", f"./{made[0]['filename']}", cwd=folder)
    yield folder


def compiled(place: Path, folder: Path, *include: str) -> str:
    """What tsc says of the files ``include`` in ``folder``, which finds its packages in ``place``."""
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(place / "node_modules")
    if not (folder / "package.json").exists():
        (folder / "package.json").write_text('{"type": "module"}')
    (folder / "check.json").write_text(json.dumps({"compilerOptions": STRICT, "include": list(include)}))
    return subprocess.run([str(place / "node_modules/.bin/tsc"), "-p", "check.json"], cwd=folder, capture_output=True,
                          text=True, timeout=500).stdout


USE = '''import type {{ Api, HookContext, Permission, Plugin, Value }} from "@apex-exec/plugin";
import {{ FakePlatform }} from "@apex-exec/plugin/testing";

const permissions: Permission[] = ["data:read", "ui:render", "events:emit"];
export const made = {{
  id: "custom-analytics", version: "1.0.0", permissions,
  hooks: {{
    async onDashboardLoad({{ dashboardId, userId, api, log, remainingMs, hook }}) {{
      const [users, counts] = await Promise.all([
        api.query<{{ id: number }}>("SELECT id FROM users WHERE id = $1", [userId]),
        plugin.api.query("SELECT count(*) AS n FROM users"),
      ]);
      const written = await api.upsert<{{ id: number }}>("users", [{{ id: 1 }}], {{ on: "id", returning: ["id"] }});
      log.info(written.rows?.map((row) => row.id satisfies number), (await api.insert("users", {{ id: 2 }})).row?.id);
      await api.update("users", {{ id: 2 }}, {{ id: 1 }}, {{ returning: true }});
      const count: Value | undefined = counts[0]?.n;
      const props = {{ n: users.map((user) => user.id), count }};
      await plugin.api.renderWidget({{ component: "CustomChart", props }});
      await plugin.api.emit("custom-event", {{ payload: {{ at: new Date() }} }});
      const kept = await plugin.api.storage.get<{{ n: number }}>("layout");
      await api.storage.set("layout", {{ n: (kept?.n ?? 0) + 1 }}, {{ common: true }});
      if (new Error() instanceof plugin.errors.RateLimited) log.log(plugin.version);
      log.info(dashboardId, remainingMs(), hook satisfies "onDashboardLoad");
      return {{ customWidgets: [{{ id: "a", component: "B", props: {{}} }}] }};
    }},
    onDataFetch: ({{ query, filters, data }}) => ({{ transformedData: [query, filters, data] }}),
    onActionExecute: async (context) => ({{ result: context.action, metadata: context.context }}),
    async onAuthSuccess(context) {{ await context.api.call("admin.users.list", {{ session: context.sessionId }}); }},
  }},
}} satisfies Plugin;
export const general = (context: HookContext): Api => context.api;
const platform = new FakePlatform(made, {{ query: () => [], renderWidget: null }});
export const widgets: string[] = (await platform.call("onDashboardLoad", {{ dashboardId: "main" }}))
  .customWidgets.map((widget) => widget.component);
export const first: string | undefined = platform.calls[0]?.[0];
{more}
'''


def test_what_the_document_and_the_readme_show_compiles_strictly(place: Path, tmp_path: Path) -> None:
    (tmp_path / "use.ts").write_text(USE.format(more=""))
    blocks = re.findall(r"^```js\n(.*?)^```", (NPM_PACKAGE / "README.md").read_text(), re.M | re.S)
    (tmp_path / "index.js").write_text(blocks[0])
    assert compiled(place, tmp_path, "use.ts", "index.js") == ""


@pytest.mark.parametrize("wrong", [
    'made.hooks.onDashboardLoad satisfies Plugin["hooks"]["onDataFetch"];',
    'const a = { id: "a", version: "1.0.0", hooks: { onDashboardLoad: () => ({ widgets: [] }) } } satisfies Plugin;',
    'const a = { id: "a", version: "1.0.0", hooks: { onDashbordLoad: () => null } } satisfies Plugin;',
    'const a = { id: "a", version: "1.0.0", permissions: ["data:raed"], hooks: {} } satisfies Plugin;',
    'const a: Plugin = { id: "a", version: "1.0.0", hooks: { onAuthSuccess: (c) => void c.dashboardId } };',
    'await plugin.api.upsert("users", { id: 1 });', 'await plugin.api.delete("users", {}, { returning: "id" });',
    'await plugin.api.qury("SELECT 1");', "await plugin.api.query(7);", 'await plugin.api.renderWidget("Chart");',
    'await plugin.api.storage.set("key");', 'await plugin.api.storage.list("prefix");',
    'await plugin.api.emit("event", 7);', 'await platform.call("onShip");',
    'await platform.call("onDataFetch", { query: 7, filters: {} });', "import { readFileSync } from 'node:fs';"])
def test_what_is_wrong_does_not_compile(place: Path, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "use.ts").write_text(USE.format(more=wrong))
    assert "error TS" in compiled(place, tmp_path, "use.ts")


@pytest.mark.parametrize("hook", ["onDashboardLoad", "onAuthSuccess"])
@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_a_scaffold_installs_checks_builds_and_passes_its_test_under_node(place: Path, tmp_path: Path,
                                                                          language: Language, hook: str) -> None:
    folder = write_scaffold(tmp_path, "my-plugin", "ACME Corp", hook, language)
    before = read_folder(folder)
    if language == "javascript":
        assert compiled(place, folder, "index.js") == ""
        (folder / "node_modules").unlink()
        (folder / "check.json").unlink()
        run("npm", "install", "--no-audit", "--no-fund", cwd=folder,
            npm_config_registry="http://127.0.0.1:9/")  # nobody is asked for anything
        run(str(place / "node_modules/.bin/tsc"), "-p", "jsconfig.json", cwd=folder)
        run("npm", "test", cwd=folder)
    else:
        run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
        run("npm", "run", "check", cwd=folder)
        run("npm", "test", cwd=folder)  # builds first
        after = read_folder(folder)
        assert json.loads(after.files["index.js.map"])["sources"] == ["src/plugin.ts"]
        if hook == "onDashboardLoad":
            assert before.files.items() <= after.files.items(), "the scaffold carries what its own build makes"
    (folder / "tests" / "index.test.js").write_text((folder / "tests" / "index.test.js").read_text().replace(
        "assert.deepEqual(", "assert.notDeepEqual("))
    run("npm", "test", cwd=folder, status=1)


THROWS = '''interface Row { id: number }

enum Kind { First, Second }

const fail = (row: Row): never => {
  throw new RangeError(`no ${row.id} ${"h\u00e9 \U0001f600"}`);
};

export class Worker {
  private readonly kind: Kind = Kind.Second;

  run(rows: Row[]): number {
    return rows.map((row) => (this.kind === Kind.Second ? fail(row) : row.id)).length;
  }
}

try { new Worker().run([{ id: 1 }]); } catch (error) { console.log((error as Error).stack); }
'''


@pytest.mark.parametrize("flag", ["--sourcemap=linked", "--sourcemap=inline", "--sourcemap=linked --minify"])
def test_places_are_those_that_node_finds_with_the_same_map(place: Path, tmp_path: Path, flag: str) -> None:
    folder = tmp_path / "built"
    (folder / "src").mkdir(parents=True)
    (folder / "node_modules").symlink_to(place / "node_modules")
    (folder / "src" / "plugin.ts").write_text(THROWS, "utf-8")
    command = "node_modules/.bin/" + BUNDLE_COMMAND.replace("--sourcemap=linked", flag)
    subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True, timeout=60)
    files = {path.relative_to(folder).as_posix(): path.read_bytes()
             for path in folder.rglob("*") if path.is_file() and "node_modules" not in path.parts}
    there = f"(?:file://)?{re.escape(str(folder.resolve()))}/"
    raw = re.sub(there, "my-plugin/", run("node", "index.js", cwd=folder))
    wanted = re.findall(r"my-plugin/(src/\S+?:\d+:\d+)", re.sub(there, "my-plugin/", run(
        "node", "--enable-source-maps", "index.js", cwd=folder)))
    maps = SourceMaps("my-plugin", files)
    found = re.findall(r"my-plugin/(src/\S+?:\d+:\d+)", maps.rewritten(raw))
    assert found == wanted and len(found) >= 4 and found[0] == "src/plugin.ts:6:9" and not maps.notes


def as_the_document_has_it(code: str) -> str:
    """The minimal plugin in TypeScript, as the specification prints it."""
    annotated = code.replace("async (context) =>", "async (context: HookContext) =>")
    return 'import type { HookContext } from "@apex-exec/plugin";\n' + annotated


def test_the_examples_compile_and_pass_their_tests_under_node(place: Path, tmp_path: Path) -> None:
    examples = [path for path in sorted(EXAMPLES.iterdir()) if (path / "index.js").exists()]
    assert examples
    for example in examples:
        folder = tmp_path / example.name
        shutil.copytree(example, folder)
        (folder / "document.ts").write_text(as_the_document_has_it((folder / "index.js").read_text()))
        checked = ["document.ts"] if example.name == "hello-world-js" else ["index.js", "lib/*.js"]
        assert compiled(place, folder, *checked) == "", example.name
        assert "# pass 0" not in run("node", "--test", cwd=folder)
