"""Bundles in JavaScript: what of them reaches a worker, what is refused with what to do instead, and the scaffolds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apex_exec.errors import Refusal
from apex_exec.market.review.readme import readme_problems
from apex_exec.registry.bundles.bundle import Bundle, make_bundle, pack, read_folder, unpack
from apex_exec.registry.bundles.scaffold import Language, language_of, scaffold_readme, write_scaffold
from tests.registry.test_cli import Shell
from tests.support.bundles import manifest, write_folder, zip_of

CODE = b'''export default {
  id: "sample", version: "1.0.0", permissions: ["ui:render"], hooks: { onDashboardLoad: () => ({ customWidgets: [] }) },
};
'''


def files(entrypoint: str = "index.js", **more: bytes) -> dict[str, bytes]:
    """A bundle's files. In the names of ``more`` two underscores are a slash, and the last one is a dot."""
    made = manifest(manifest={"entrypoint": entrypoint, "hooks": ["onDashboardLoad"]})
    return {"manifest.json": json.dumps(made).encode(), entrypoint: CODE, "README.md": b"# Sample\n",
            **{".".join(name.replace("__", "/").rsplit("_", 1)): body for name, body in more.items()}}


def loaded(**more: bytes) -> set[str]:
    return set(make_bundle(files(**more), "sample").loaded) - {"manifest.json", "index.js"}


def refused(made: dict[str, bytes]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        make_bundle(made, "sample")
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def test_maps_typescript_and_source_are_in_the_bundle_and_never_reach_a_worker() -> None:
    more = {"index.js_map": b"{}", "src__plugin_ts": b"let a: number", "src__lib_js": b"1", "tests__index.test_js": b"",
            "types__plugin.d_ts": b"", "lib__shape_js": b"1", "lib__data_json": b"{}", "lib__x_mjs": b"", "x_cjs": b"",
            "logo_png": b"\x89PNG", "package-lock_json": b"{}", "tsconfig_json": b"{}"}
    bundle = make_bundle(files(**more), "sample")
    assert set(bundle.loaded) == {"manifest.json", "index.js", "lib/shape.js", "lib/data.json", "lib/x.mjs"}
    assert set(bundle.sha256) == set(bundle.loaded)
    assert {"index.js.map", "src/plugin.ts", "src/lib.js", "tests/index.test.js"} < set(bundle.files)
    assert unpack(pack(bundle))[0].files == bundle.files, "a reviewer gets all of it"


def test_source_that_code_outside_imports_is_code() -> None:
    assert loaded(src__a_js=b"1", lib__b_js=b'import "../src/a.js";') == {"src/a.js", "lib/b.js"}
    assert loaded(src__a_js=b"1", lib__b_js=b"// made of ./src/a.js\n") == {"lib/b.js"}
    inside = make_bundle(files("src/index.js", src__a_js=b"1"), "sample")
    assert {"src/index.js", "src/a.js"} <= set(inside.loaded)


@pytest.mark.parametrize("entrypoint", ["index.js", "index.mjs"])
def test_packages_of_npm_are_refused_once_with_the_command_that_bundles_them(entrypoint: str) -> None:
    made = files(entrypoint, node_modules__zod__index_js=b"1", node_modules__a__b_json=b"{}",
                 lib__node_modules__x__y_js=b"1")
    error = refused(made)
    assert [problem["path"] for problem in error.problems] == ["lib/node_modules/", "node_modules/"]
    assert error.reason == "node_modules" and "npx esbuild src/plugin.ts --bundle" in error.hint


def test_packages_beside_a_plugin_stay_out_of_what_is_packed_and_are_listed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sample", files(node_modules__zod__index_js=b"1"))
    left_out: list[str] = []
    assert "node_modules/" not in str(sorted(read_folder(folder, left_out).files)) and left_out == ["node_modules/"]
    (folder / ".apxignore").write_text("!node_modules/\n")
    with pytest.raises(Refusal) as caught:
        read_folder(folder)
    assert caught.value.reason == "node_modules"


@pytest.mark.parametrize(("name", "body"), [
    ("x_node", b"x"), ("lib__x_wasm", b"x"), ("x_bin", b"\0asm\1\0\0\0"), ("x_so", b"x"), ("x_dat", b"\x7fELF")])
def test_native_code_and_webassembly_are_refused_with_what_to_do(name: str, body: bytes) -> None:
    error = refused(files(**{name: body}))
    assert error.reason == "native_code" and "written in JavaScript alone" in error.hint


@pytest.mark.parametrize(("name", "body", "says"), [
    ("a_js", b"\xef\xbb\xbf1", "begins with a byte order mark"), ("a_mjs", b"\xff", "is not UTF-8"),
    ("a_json", b"\xef\xbb\xbf{}", "begins with a byte order mark"), ("a_js", b"a\0b", "a NUL byte"),
    ("a_js", "1".encode("utf-16"), "a NUL byte"), ("a_js", b"'\xed\xa0\x80'", "is not UTF-8"),
    ("a_js", b"// harmless\rsteal()\n", "a carriage return stands alone"),
    ("tests__a_js", b"1\r", "a carriage return stands alone")])
def test_text_that_is_not_plain_utf8_is_refused_and_said(name: str, body: bytes, says: str) -> None:
    error = refused(files(**{name: body}))
    assert says in error.message and error.hint.startswith("save it as UTF-8" if "UTF" in error.message else "save it")


def test_windows_line_ends_are_accepted_as_they_are() -> None:
    made = files(lib__a_js=b"export const a = 1;\r\n", b_json=b'{\r\n}')
    assert make_bundle(made, "sample").files["lib/a.js"].endswith(b";\r\n")


def test_the_rules_of_javascript_are_not_those_of_a_bundle_in_python() -> None:
    made = manifest()
    kept = {"manifest.json": json.dumps(made).encode(), "plugin.py": b"x = 1\n", "src/a.py": b"", "data.json": b"\xff",
            "page.js": b"\xff", "a.map": b"", "node_modules/x.txt": b""}
    assert set(unpack(zip_of(kept))[0].loaded) == set(kept)


def test_an_entry_point_that_is_left_out_is_said_to_be_and_how_it_is_packed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sample", files("dist/index.js"))
    with pytest.raises(Refusal) as caught:
        read_folder(folder)
    assert caught.value.reason == "entrypoint_missing" and "write !/dist/ in .apxignore" in caught.value.hint
    (folder / ".apxignore").write_text("!/dist/\n")
    assert read_folder(folder).entrypoint == "dist/index.js"


SCAFFOLDS = [(language, hook) for language in ("javascript", "typescript")
             for hook in ("onDashboardLoad", "onDataFetch", "onAuthSuccess")]


def scaffold(folder: Path, language: Language, hook: str) -> tuple[Path, Bundle]:
    made = write_scaffold(folder, "my-plugin", "ACME Corp", hook, language)
    return made, read_folder(made)


@pytest.mark.parametrize(("language", "hook"), SCAFFOLDS)
def test_a_scaffold_is_a_bundle_without_the_types_that_it_carries(tmp_path: Path, language: Language,
                                                                  hook: str) -> None:
    folder, bundle = scaffold(tmp_path, language, hook)
    assert bundle.entrypoint == "index.js" and bundle.manifest.manifest.hooks == [hook]
    assert language_of(bundle) == language
    assert (folder / "types" / "plugin.d.ts").exists() and not [name for name in bundle.files if "types" in name]
    assert "src/plugin.ts" in bundle.files or language == "javascript"
    assert set(bundle.loaded) == {"manifest.json", "index.js", "package.json"}
    assert unpack(pack(bundle))[0].digest == bundle.digest
    problems = readme_problems(bundle.files["README.md"], scaffold_readme("my-plugin", hook, language))
    assert problems == ["README.md still is the scaffold's text: say what the plugin does, and how "
                        "to set it up and use it"], "the marketplace sees that it is the scaffold's"


@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_a_scaffold_names_the_types_as_a_file_and_never_for_a_registry(tmp_path: Path, language: Language) -> None:
    folder, _ = scaffold(tmp_path, language, "onDashboardLoad")
    package = json.loads((folder / "package.json").read_text())
    assert package["devDependencies"].pop("@apex-exec/plugin") == "file:./types"
    assert set(package["devDependencies"]) == ({"esbuild", "typescript"} if language == "typescript" else set())
    assert package["type"] == "module" and package["private"] is True and "dependencies" not in package
    carried = json.loads((folder / "types" / "package.json").read_text())
    assert carried["name"] == "@apex-exec/plugin" and carried["private"] is True
    assert not {"dependencies", "devDependencies", "scripts"} & set(carried)
    assert all((folder / "types" / name).exists() or name == "README.md" for name in carried["files"])


def test_the_verb_makes_either_and_not_both(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell("plugin", "new", "one-js", "--js", "--author", "me")
    shell("plugin", "new", "one-ts", "--ts", "--author", "me")
    assert not (tmp_path / "one-js" / "src").exists() and (tmp_path / "one-ts" / "src" / "plugin.ts").exists()
    told = shell.run("plugin", "new", "both", "--js", "--ts")
    assert told.returncode == 2 and "not both" in told.stderr and not (tmp_path / "both").exists()
