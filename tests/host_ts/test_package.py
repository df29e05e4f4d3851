"""The client as an npm package: packed, installed into a fresh project, imported in both forms, bundled, and run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import apex_exec
from tests.host_ts.conftest import HOST_TS, run
from tests.support import need
from tests.support.daemon import USER, Daemon

CALL = f'''
const client = new ApexClient(process.argv[2]);
const made = [];
client.on("connect", () => made.push("connect"));
(async () => {{
  const calls = Array.from({{ length: 200 }}, (_, n) => client.invoke("echo-a", "onActionExecute", "{USER}",
    {{ action: "echo", context: {{ n, bytes: new Uint8Array(300) }} }}));
  const found = await Promise.all(calls);
  console.log(JSON.stringify({{ made, calls: found.length, version: (await client.hello()).server }}));
  await client[Symbol.asyncDispose]();
}})();
'''


def test_its_version_is_the_daemons() -> None:
    assert json.loads((HOST_TS / "package.json").read_text())["version"] == apex_exec.__version__


def answer(text: str) -> None:
    found = json.loads(text.strip().splitlines()[-1])
    assert found["calls"] == 200 and found["made"] == ["connect"] and found["version"].startswith("apex-exec/")


def test_a_fresh_project_imports_it_requires_it_and_has_its_types(project: Path, daemon: Daemon) -> None:
    (project / "esm.mjs").write_text('import { ApexClient } from "@apex-exec/host";' + CALL)
    (project / "cjs.cjs").write_text('const { ApexClient } = require("@apex-exec/host");' + CALL)
    for name in ("esm.mjs", "cjs.cjs"):
        answer(run("node", name, daemon.endpoint, cwd=project))
    (project / "types.mts").write_text(
        'import { ApexClient, type Result } from "@apex-exec/host";\nconst client = new ApexClient("ipc:///x");\n'
        'export const made: Promise<Result<"onDataFetch">> =\n'
        '  client.invoke("p", "onDataFetch", "u", { query: "q", filters: {} });\n')
    (project / "wrong.mts").write_text((project / "types.mts").read_text().replace("filters: {}", "filters: 5"))
    tsc = [str(HOST_TS / "node_modules/.bin/tsc"), "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022",
           "--lib", "es2022,dom,esnext.disposable", "--types", "node", "--typeRoots",
           str(HOST_TS / "node_modules/@types")]
    run(*tsc, "types.mts", cwd=project)
    wrong = subprocess.run([*tsc, "wrong.mts"], cwd=project, capture_output=True, text=True, timeout=300)
    assert "TS2322" in wrong.stdout


@pytest.fixture(scope="module")
def bundle(project: Path) -> Path:
    """The client and all that it needs, in one file."""
    (project / "entry.mjs").write_text('import { ApexClient } from "@apex-exec/host";' + CALL)
    esbuild = HOST_TS / "node_modules/.bin/esbuild"
    need(esbuild.exists(), f"run `npm ci` in {HOST_TS}")
    run(str(esbuild), "entry.mjs", "--bundle", "--platform=node", "--format=esm", "--outfile=alone/bundle.mjs",
        cwd=project)
    return project / "alone" / "bundle.mjs"


def test_it_bundles_into_one_file_without_an_addon(bundle: Path, daemon: Daemon, tmp_path: Path) -> None:
    alone = tmp_path / "bundle.mjs"
    shutil.copy(bundle, alone)
    assert alone.stat().st_size < 200_000
    answer(run("node", str(alone), daemon.endpoint, cwd=tmp_path))
