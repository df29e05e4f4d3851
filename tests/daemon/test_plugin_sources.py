"""What is served is what the sources want, the folder before the registry, whatever order their words come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.plugin_sources import PluginSources, Snapshot, Source


def spec(plugin: str, version: str = "1.0.0") -> PluginSpec:
    return PluginSpec(plugin, version, f"digest of {plugin} {version}", "plugin.py", ("onDataFetch",))


class Served:
    """A pool that only remembers; ``broken`` are the plugins that it fails at."""

    def __init__(self) -> None:
        self.specs: dict[str, PluginSpec] = {}
        self.broken: set[str] = set()
        self.changes: list[str] = []
        self.failures: list[str] = []
        self.overruled: list[tuple[str, Source, Source]] = []
        self.sources = PluginSources(
            served=self.specs.get, serve=self.serve, withdraw=self.withdraw,
            failed=lambda _duty, _error, plugin: self.failures.append(plugin),
            overruled=lambda *which: self.overruled.append(which))

    def serve(self, spec: PluginSpec) -> None:
        if spec.id in self.broken:
            raise OSError("broken")
        self.changes.append(f"+{spec.id} {spec.version}")
        self.specs[spec.id] = spec

    def withdraw(self, plugin: str) -> None:
        self.changes.append(f"-{plugin}")
        del self.specs[plugin]


def test_a_snapshot_changes_what_differs_and_nothing_else() -> None:
    served = Served()
    served.sources.replace("registry", [spec("a"), spec("b"), spec("c")])
    served.changes.clear()
    served.sources.replace("registry", [spec("a"), spec("b", "2.0.0"), spec("d")])
    assert sorted(served.changes) == ["+b 2.0.0", "+d 1.0.0", "-c"]


def test_the_folder_wins_and_the_registry_is_served_again_once_the_folder_has_no_such_plugin() -> None:
    served = Served()
    served.sources.replace("folder", [spec("a", "9.0.0")])
    served.sources.replace("registry", [spec("a"), spec("b")])
    assert served.specs["a"].version == "9.0.0" and served.overruled == [("a", "registry", "folder")]
    served.sources.update("registry", removed=["a"])
    assert served.specs["a"].version == "9.0.0", "the registry has no say in what the folder serves"
    served.sources.update("registry", [spec("a", "2.0.0")])
    served.sources.replace("folder", [])
    assert served.specs["a"].version == "2.0.0" and "b" in served.specs


def test_a_snapshot_that_breaks_off_withdraws_nothing_and_the_next_one_all_that_is_gone() -> None:
    served = Served()
    served.sources.replace("registry", [spec("a"), spec("b")])
    Snapshot(served.sources, "registry").add([spec("c")])
    assert set(served.specs) == {"a", "b", "c"}
    served.sources.replace("registry", [spec("c")])
    assert set(served.specs) == {"c"}


def test_a_plugin_that_cannot_be_served_costs_no_other_and_is_tried_again_with_the_next_snapshot() -> None:
    served = Served()
    served.broken = {"b"}
    wanted = [spec("a"), spec("b"), spec("c")]
    served.sources.replace("folder", wanted)
    assert set(served.specs) == {"a", "c"} and served.failures == ["b"]
    served.broken = set()
    served.sources.replace("folder", wanted)
    assert set(served.specs) == {"a", "b", "c"}


WORDS = st.tuples(st.sampled_from(("replace", "update", "remove")), st.sampled_from(("folder", "registry")),
                  st.dictionaries(st.sampled_from("abc"), st.sampled_from(("1.0.0", "2.0.0"))))


@given(st.lists(WORDS, max_size=12))
def test_whatever_is_said_in_whatever_order_the_pool_serves_what_the_stronger_source_wants(
        words: list[tuple[str, Source, dict[str, str]]]) -> None:
    served = Served()
    wanted: dict[Source, dict[str, str]] = {"folder": {}, "registry": {}}
    for word, source, versions in words:
        specs = [spec(plugin, version) for plugin, version in versions.items()]
        if word == "replace":
            served.sources.replace(source, specs)
            wanted[source] = dict(versions)
        elif word == "update":
            served.sources.update(source, specs)
            wanted[source] |= versions
        else:
            served.sources.update(source, removed=versions)
            for plugin in versions:
                wanted[source].pop(plugin, None)
        assert {one.id: one.version for one in served.specs.values()} == {**wanted["registry"], **wanted["folder"]}
