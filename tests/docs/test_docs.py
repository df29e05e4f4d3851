"""The documentation names what the code has: codes, keys, metrics, verbs, operations; and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import apex_exec
from apex_exec.config import known_keys
from apex_exec.console.pages import TYPES
from apex_exec.daemon.administration import registrar_table
from apex_exec.daemon.administration.operations import OPERATIONS
from apex_exec.daemon.hosts.connections import Trouble
from apex_exec.errors import Code
from apex_exec.ledger.records import EVENT_TYPES
from apex_exec.market.money.metering import METERED
from apex_exec.market.review.readme import readme_problems
from apex_exec.observe.metrics import METRICS
from apex_exec.registry.bundles.manifest import (
    CodePart,
    DataPart,
    LimitsPart,
    Manifest,
    NetworkPart,
    PricingPart,
    SupportPart,
    check_manifest,
)
from apex_exec.sandbox.modules import ALLOWED, WITHHELD
from apex_exec.wire import messages
from tests.cli.test_framework import VERBS
from workers import wire
from workers.wire import API_CODES

ROOT = Path(apex_exec.__file__).parent.parent
PACKAGE = ROOT / "apex_exec"
EXAMPLES = sorted((PACKAGE / "examples" / "plugins").iterdir())


def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def missing(names: list[str], page: str) -> list[str]:
    text = read(page)
    return [name for name in names if f"`{name}`" not in text and f"`{name} " not in text]


def test_the_wire_page_names_every_error_code_message_and_operation() -> None:
    registrar_table.register_all()
    assert not missing([*Code], "apex_exec/wire/README.md")
    assert not missing(sorted(OPERATIONS), "apex_exec/wire/README.md")
    kinds = [*messages.Request.__subclasses__(), *messages.Answer.__subclasses__()]
    assert not missing([str(kind.__struct_config__.tag) for kind in kinds], "apex_exec/wire/README.md")


def test_the_wire_page_names_no_operation_or_code_that_is_not() -> None:
    registrar_table.register_all()
    text = read("apex_exec/wire/README.md")
    told = set(re.findall(r"^\| `([a-z]+(?:\.[a-zA-Z.]+)?)` \| [^|]* \| (?:loop|registrar) \|", text, re.M))
    assert told == set(OPERATIONS)
    assert set(re.findall(r"^\| `([A-Z_]{3,})` \|", text, re.M)) == set(Code)


def test_every_configuration_key_is_told_and_none_that_is_not() -> None:
    told = re.findall(r"^\| `([a-z_.]+)` \| ", read("apex_exec/README.md"), re.M)
    assert sorted(told) == sorted(known_keys())


def test_every_verb_is_told_and_none_that_is_not() -> None:
    text = read("apex_exec/cli/README.md")
    assert not [verb for verb in VERBS if f"`{verb}`" not in text]
    table = text.partition("## Verbs")[2].splitlines()
    rows = "\n".join(line.split("|")[1] for line in table if line.startswith("| `"))
    assert set(re.findall(r"`([a-z ]+)`", rows)) == set(VERBS)


def test_every_metric_is_told() -> None:
    assert not missing(list(METRICS), "apex_exec/observe/README.md")


def test_every_type_of_audit_event_has_its_row_and_can_be_asked_for_in_the_console() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| (yes|no) \|$", read("apex_exec/ledger/README.md"), re.M)
    assert rows == [(kind, "yes" if kind in METERED else "no") for kind in EVENT_TYPES]
    assert TYPES == tuple(EVENT_TYPES), "the console imports nothing of the ledger, so it has a list of its own"


def test_every_api_error_code_is_told() -> None:
    assert not missing(list(API_CODES), "apex_exec/wire/README.md")


def test_the_readmes_commands_are_commands() -> None:
    text = read("README.md")
    starts = ("python3 -m venv", ".venv/bin/pip install -q -e")
    first, second = (line for line in text.splitlines() if line.startswith(starts))
    assert first.endswith(".venv/bin/apex-exec demo") and second.endswith("-m pytest -q")
    used = re.findall(r"apex-exec ((?:[a-z]+ ?)+)", text)
    known = set(VERBS) | {verb.split()[0] for verb in VERBS}
    unknown = {words for words in used if not any(words.strip().startswith(verb) for verb in known)}
    assert used and not unknown


@pytest.mark.parametrize("bundle", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_bundle_that_the_market_would_look_at(bundle: Path) -> None:
    manifest, problems = check_manifest((bundle / "manifest.json").read_bytes())
    assert not problems and manifest is not None and manifest.id == bundle.name
    assert not readme_problems((bundle / "README.md").read_bytes())
    shown = re.search(rf"apex-exec invoke {bundle.name} (\w+)", (bundle / "README.md").read_text())
    assert shown and shown[1] in manifest.manifest.hooks


@pytest.mark.parametrize("bundle", [path for path in EXAMPLES if (path / "plugin.py").exists()],
                         ids=lambda path: path.name)
@pytest.mark.slow_after(3)
def test_every_examples_own_tests_pass(bundle: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "-o",
                           "addopts=--import-mode=importlib", "tests"], cwd=bundle, capture_output=True, text=True,
                          timeout=60, env={"PYTHONPATH": f"{bundle}:{ROOT}", "PATH": "/usr/bin:/bin",
                                            "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stdout


def test_every_key_of_a_manifest_is_told_and_none_that_is_not() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| ([\w `]+) \|", read("apex_exec/registry/bundles/README.md"), re.M)
    needed = {key: needed for key, needed in rows if needed in ("yes", "no", "in `support`")}
    parts = {"manifest": CodePart, "limits": LimitsPart, "network": NetworkPart, "data": DataPart,
             "pricing": PricingPart, "support": SupportPart}
    keys = {}
    for name, field in Manifest.model_fields.items():
        if name not in parts:
            keys[name] = field.is_required()
            continue
        for inner, one in parts[name].model_fields.items():
            keys[f"{name}.{inner}"] = one.is_required()
    assert {key: word != "no" for key, word in needed.items()} == keys


def test_every_message_of_the_inner_link_is_told_with_its_direction() -> None:
    table = read("workers/README.md").partition("## The messages")[2].partition("\n## ")[0]
    told: dict[str, set[str]] = {}
    way = ""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and "`" in cells[2]:
            way = cells[1] or way
            told.setdefault(way, set()).update(re.findall(r"`(\w+)`", cells[2]))
    names = {way: {kind.__name__ for kind in get_args(union)} for way, union in (
        ("supervisor → zygote", wire.ToZygote), ("zygote → supervisor", wire.FromZygote),
        ("supervisor → worker", wire.ToWorker), ("worker → supervisor", wire.FromWorker),
        ("worker of tests → supervisor", wire.FromTests))}
    names["worker of tests → supervisor"] -= names["worker → supervisor"]
    assert told == names


def test_every_condition_of_readiness_and_every_anomaly_of_a_connection_is_told() -> None:
    sources = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    conditions = set(re.findall(r'health\["(\w+)"\] =', sources))
    assert {"zygote", "loop", "gateway"} <= conditions
    assert not missing(sorted(conditions), "apex_exec/observe/README.md")
    anomalies = read("apex_exec/observe/README.md").partition("anomalies\n`")[2].partition("`")[0].split()
    assert set(get_args(Trouble)) - {"unread"} <= set(anomalies)


def test_every_module_that_is_kept_from_plugins_is_told_with_its_reason() -> None:
    text = read("apex_exec/sandbox/README.md").partition("## Modules of the standard library")[2]
    told = {name: reason for names, reason in re.findall(r"^\| ((?:`[\w.]+` ?)+) \| ([^|]+) \|$", text, re.M)
            for name in re.findall(r"`([\w.]+)`", names)}
    assert told == WITHHELD
    assert not set(WITHHELD) & set(ALLOWED)
