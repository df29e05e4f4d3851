"""What a static scan can find: the rules, a finding, a report, and their output as text, JSON and SARIF.

The scan informs; the jail is the boundary. Each rule has one severity: ``error`` stops an installation (with
``security.scan = "enforce"``), ``warning`` asks a person to look, ``note`` is worth knowing.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from apex_exec import __version__

SEVERITIES = ("error", "warning", "note")
FINDINGS_MAX = 500
"""How many findings of one bundle are kept; a hostile bundle could cause millions."""


class Rule(msgspec.Struct, frozen=True):
    """One rule: its number, name and severity, why it matters, and how to fix the code."""

    id: str
    name: str
    severity: str
    why: str
    fix: str


STEERS = "could steer the interpreter"
"""In the message of a finding: what stands there can change the interpreter's memory or make code for it, so that lines
are executed that nothing has called. Where a bundle has such a finding, its lines are claimed and not proven."""


class Finding(msgspec.Struct, frozen=True):
    """One place in the source. ``path`` is inside the bundle; ``line`` counts from 1, and 0 means the whole file."""

    rule: str
    severity: str
    path: str
    line: int
    message: str
    why: str = ""
    fix: str = ""


_RULES = (
    ("APX001", "decoded-code", "error", "Code that is decoded, downloaded or read and then run is hidden from review.",
     "ship the code as ordinary source"),
    ("APX002", "dynamic-code", "warning", "Code that is made at run time is code that a reviewer cannot see.",
     "write the code out, or use a table of functions"),
    ("APX003", "dunder-walk", "error", "Walking from an object to its class's internals is how code escapes sandboxes.",
     "use the object's public interface"),
    ("APX004", "native-call", "error", "Native code bypasses every rule of the language.",
     "use plain source; the jail has no library to load"),
    ("APX005", "import-not-allowed", "warning", "A worker does not have this module: importing it fails there.",
     "use an allowed module, or context.api"),
    ("APX006", "process-start", "error", "A plugin starts no processes; the jail refuses it.",
     "do the work in the plugin, or ask the platform through context.api"),
    ("APX007", "direct-network", "error", "A plugin has no network of its own; the gateway checks and counts requests.",
     "use context.api.fetch and declare network:fetch"),
    ("APX008", "suspicious-literal", "error", "The text names credentials, devices or commands that attacks use.",
     "remove it; a plugin sees no files of the host"),
    ("APX009", "bidirectional-text", "error", "Directional controls make source read differently from what it does.",
     "remove the characters; write them as \\u escapes where they are data"),
    ("APX010", "invisible-character", "warning", "A character that cannot be seen may hide data or a difference.",
     "write it as a \\u escape"),
    ("APX011", "look-alike", "error", "The name looks like another one, or becomes another one when it is read.",
     "write identifiers in ASCII, or wholly in one script"),
    ("APX012", "hidden-name", "error", "A dangerous name is put together from pieces, so that a search misses it.",
     "write the name out, and explain why it is needed"),
    ("APX013", "hidden-payload", "error", "A literal holds encoded code or a packed file.",
     "ship it as ordinary source or as a data file"),
    ("APX014", "tampering", "error", "Replacing parts of the interpreter or of the SDK changes code that is not yours.",
     "wrap what you need in functions of your own"),
    ("APX015", "unsafe-deserialisation", "warning", "pickle, marshal and shelve run code that is in the data.",
     "use json"),
    ("APX016", "frame-inspection", "warning", "Frames, the garbage collector and tracers reach into other code's data.",
     "pass values as arguments"),
    ("APX017", "giant-constant", "error", "Evaluating this takes all memory or all time.", "use a sensible size"),
    ("APX018", "undeclared-permission", "error", "The call is refused at run time: its permission is not declared.",
     "add the permission to the manifest and to the code"),
    ("APX019", "unused-permission", "warning", "A permission that is not used only makes the plugin harder to approve.",
     "remove it from the manifest and from the code"),
    ("APX020", "unparsable", "error", "What cannot be parsed cannot be reviewed, nor loaded.", "mend the syntax"),
    ("APX021", "scan-unfinished", "error", "The scan ran into its bounds: nothing is known about the rest.",
     "split or shorten the source"),
    ("APX022", "idle-declaration", "warning", "Hosts or tables are named without the permission that uses them.",
     "add the permission, or remove the list"),
    ("APX023", "file-access", "note", "A worker has no files: the call fails there.",
     "keep data in the bundle's modules, or use context.api"),
    ("APX024", "environment", "note", "A worker's environment is empty.", "use the manifest, or the payload"),
    ("APX026", "script-part", "warning", "No worker runs the code under `if __name__ == '__main__'`.",
     "remove it from the bundle"),
    ("APX027", "native-library", "warning", "The program's own native functions are one call away.",
     "use pure Python; ctypes is not among a worker's modules"),
    ("APX028", "coverage-reach", "warning", "Code that reaches this can pretend that tests ran its lines.",
     "test through the plugin's own functions; look at `proven` in the findings"),
    ("APX025", "large-literal", "warning", "A large encoded literal cannot be reviewed by reading.",
     "ship it as a data file with a word on where it comes from"),
    ("APX029", "import-outside", "error", "A JavaScript worker loads the bundle's own files and nothing else.",
     "bundle the package (esbuild), or ship the file"),
    ("APX030", "not-a-plugin", "error", "The platform reads a plugin's hooks from its default export.",
     "write `export default { id, version, permissions, hooks: { … } }`"),
    ("APX031", "declaration-differs", "error", "Code that declares something else than its manifest is not installed.",
     "give the code and the manifest the same id, version, permissions and hooks"),
    ("APX032", "common-js", "error", "A worker loads ES modules: it has no require, module or exports.",
     "write import and export, or bundle with esbuild --format=esm"),
    ("APX033", "absent-global", "warning", "A worker does not have this: using it fails there.",
     "do as the message says, or ask for it with typeof first"),
    ("APX034", "deprecated", "warning", "A later version of the plugin API does not have it.",
     "do as the message says, before that version comes"),
)
RULES: dict[str, Rule] = {row[1]: Rule(*row) for row in _RULES}
"""The rules by name."""


def finding(rule: str, path: str, line: int, message: str) -> Finding:
    """A finding of ``rule`` with the rule's severity, reason and fix."""
    made = RULES[rule]
    return Finding(made.name, made.severity, path, line, message[:300], made.why, made.fix)


def lowered(item: Finding, package: str) -> Finding:
    """A finding in a vendored package: it weighs one step less, since the file is that of a published wheel, unchanged,
    and a reviewer is shown which. It stops no installation."""
    severity = {"error": "warning"}.get(item.severity, "note")
    return msgspec.structs.replace(item, severity=severity, message=f"{package}: {item.message}"[:300])


class Report(msgspec.Struct, frozen=True):
    """What one scan found. ``extras_missing`` names scanners that are not installed."""

    findings: tuple[Finding, ...]
    extras_missing: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that stop an installation."""
        return tuple(item for item in self.findings if item.severity == "error")

    def problems(self) -> list[dict[str, Any]]:
        """The errors as a refusal's problems."""
        return [{"code": item.rule, "path": f"{item.path}:{item.line}", "message": item.message, "hint": item.fix}
                for item in self.errors]

    def text(self) -> str:
        """Each finding as a line with the reason and the fix; never a percentage."""
        lines = [f"{item.path}:{item.line}: {item.severity}: {item.message} [{item.rule}]\n"
                 f"    why: {item.why}\n    fix: {item.fix}" for item in self.findings]
        counts = ", ".join(f"{sum(f.severity == s for f in self.findings)} {s}s" for s in SEVERITIES)
        lines.append(f"scan: {counts}")
        lines += [f"scan: {name} is not installed and was left out (pip install {name})"
                  for name in self.extras_missing]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return {"findings": [msgspec.to_builtins(item) for item in self.findings],
                "errors": len(self.errors), "extrasMissing": list(self.extras_missing)}

    def as_sarif(self) -> dict[str, Any]:
        """SARIF 2.1.0, as code hosts show it."""
        known = {rule.name: rule for rule in RULES.values()}
        used = sorted({item.rule for item in self.findings})
        described = [{
            "id": known[name].id if name in known else name, "name": name,
            "shortDescription": {"text": known[name].why if name in known else name},
            "help": {"text": known[name].fix if name in known else "see the scanner's documentation"},
        } for name in used]
        results = [{
            "ruleId": known[item.rule].id if item.rule in known else item.rule, "ruleIndex": used.index(item.rule),
            "level": item.severity, "message": {"text": f"{item.message}. {item.fix}"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": item.path},
                                                "region": {"startLine": max(1, item.line)}}}],
        } for item in self.findings]
        driver = {"name": "apex-exec", "version": __version__, "rules": described,
                  "informationUri": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/"}
        return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
                "runs": [{"tool": {"driver": driver}, "results": results}]}

    def print_json(self) -> str:
        """``as_json`` as one line of text."""
        return json.dumps(self.as_json())
