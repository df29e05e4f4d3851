"""The static scan's hit rate on small malicious plugins, and its false alarms on ordinary code.

``python -m benchmarks.bench_scan [--json]``. Hits count findings at error level, the level that stops an installation.
Ordinary code is the example plugins and ten well-known pure-Python packages, read from where pip put them. No package
was written for a sandbox: warnings on them (imports that a worker does not have) are expected, errors are false alarms.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import apex_exec
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.bundles.manifest import parse_manifest
from apex_exec.registry.scan.findings import Finding
from apex_exec.registry.scan.scanner import scan
from apex_exec.testing.scan_samples import MALICIOUS, ORDINARY_PACKAGES, malicious_bundle, package_files
from benchmarks.lab import Lab

_NO_PERMISSIONS = parse_manifest(json.dumps({
    "id": "sample", "name": "Sample", "version": "1.0.0", "author": "Nobody", "permissions": [],
    "manifest": {"entrypoint": "plugin.py", "hooks": ["onDashboardLoad"]}}).encode())
EXAMPLES = Path(apex_exec.__file__).parent / "examples" / "plugins"


TITLE = "The static scan: hits and false alarms"


def _counts(findings: tuple[Finding, ...]) -> dict[str, int]:
    return {severity: sum(item.severity == severity for item in findings) for severity in ("error", "warning", "note")}


def measure() -> dict[str, Any]:
    """Hits, misses and false alarms."""
    missed: list[str] = []
    begun = time.perf_counter()
    for name, source in MALICIOUS.items():
        report = scan(malicious_bundle(source), _NO_PERMISSIONS, with_bandit=False)
        if not report.errors:
            missed.append(name)
    seconds = (time.perf_counter() - begun) / len(MALICIOUS)
    ordinary: dict[str, dict[str, int]] = {}
    for name in ORDINARY_PACKAGES:
        ordinary[name] = _counts(scan(package_files(name), None).findings)
    for folder in sorted(EXAMPLES.iterdir()):
        if (folder / "manifest.json").exists():
            bundle = read_folder(folder)
            ordinary[f"examples/{folder.name}"] = _counts(scan(bundle.files, bundle.manifest).findings)
    return {"samples": len(MALICIOUS), "hits": len(MALICIOUS) - len(missed), "missed": missed,
            "secondsPerScan": round(seconds, 3), "ordinary": ordinary,
            "falseAlarms": sum(counts["error"] for counts in ordinary.values())}


def run(lab: Lab) -> None:
    """Adds the rows."""
    made = measure()
    lab.add("malicious samples", "found at error level", f"of {made['samples']}", made["hits"])
    lab.add("a small plugin, process of the scan included", "time", "ms", made["secondsPerScan"] * 1000)
    for name, counts in made["ordinary"].items():
        for severity, count in counts.items():
            lab.add(name, f"{severity}s", "", count, ordinary="package or example")
    lab.note(f"false alarms at error level: {made['falseAlarms']}")


def main() -> int:
    """Prints the figures; 1 where ordinary code has an error."""
    made = measure()
    if "--json" in sys.argv:
        print(json.dumps(made))
    else:
        print(f"malicious samples found at error level: {made['hits']} of {made['samples']}"
              + (f"; missed: {', '.join(made['missed'])}" if made["missed"] else ""))
        print(f"seconds a scan of a small plugin (its own process included): {made['secondsPerScan']}")
        for name, counts in made["ordinary"].items():
            print(f"{name:<32} " + "   ".join(f"{severity}s {count:>4}" for severity, count in counts.items()))
        print(f"false alarms at error level: {made['falseAlarms']}")
    return 1 if made["falseAlarms"] else 0


if __name__ == "__main__":
    sys.exit(main())
