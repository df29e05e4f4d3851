"""A real Prometheus that scrapes one address, for as long as a test asks it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import need
from tests.support.daemon import wait_for

Query = Callable[[str], list[dict[str, Any]]]


@contextmanager
def scraping(target: str, folder: Path, job: str) -> Iterator[Query]:
    """Runs Prometheus with its data in ``folder`` until the block ends. Gives what answers PromQL, once it has scraped
    ``target`` (host:port) as ``job``; the answer is empty while Prometheus does not answer."""
    need(shutil.which("prometheus"), "prometheus (Debian's package)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [target]}]}]}))

    def query(expression: str) -> list[dict[str, Any]]:
        address = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
        try:
            with urllib.request.urlopen(address, timeout=5) as reply:
                return list(json.load(reply)["data"]["result"])
        except OSError:
            return []

    with subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: any(found["value"][1] == "1" for found in query("up")), 20, "a scrape")
            yield query
        finally:
            server.terminate()
