"""``version``: what is installed here."""

from __future__ import annotations

import platform
import sys

from apex_exec.cli.output import print_json, say
from apex_exec.cli.root import AsJson, app, examples


@app.command(epilog=examples("apex-exec version", "apex-exec version --json"))
def version(as_json: AsJson = False) -> None:
    """Prints the versions of apex-exec, its plugin API and Python, and the platform; `doctor` says what it enforces."""
    from apex_exec import API_VERSION, __version__, extras

    if as_json:
        print_json({"version": __version__, "pluginApi": API_VERSION, "python": platform.python_version(),
                    "implementation": platform.python_implementation(), "platform": sys.platform,
                    "kernel": platform.release(), "machine": platform.machine(), "servesHere": sys.platform == "linux",
                    "extras": extras.listing()})
        return
    say(f"apex-exec {__version__}, plugin API {API_VERSION}")
    say(f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.release()}, "
        f"{platform.machine()}" + ("" if sys.platform == "linux" else "; plugins are run on Linux only"))
    say(extras.in_words())
