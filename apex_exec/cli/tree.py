"""Which file holds which verb. Only the file of the verb that is typed is imported; help and completion import all."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from apex_exec.cli.root import GROUPS, app
from apex_exec.cli.verbs import build

FILES = {
    "help": "help", "demo": "demo", "doctor": "daemon.doctor", "version": "version", "completion": "completion",
    "serve": "daemon.serve", "stop": "daemon.background", "status": "daemon.status", "top": "daemon.top",
    "config check": "daemon.config_check", "config init": "daemon.config_init",
    "reload": "daemon.operate", "drain": "daemon.operate",
    "undrain": "daemon.operate", "restart": "daemon.operate", "breaker": "daemon.operate", "backup": "daemon.backup",
    "restore": "daemon.backup", "invoke": "invoke", "dispatch": "invoke", "schema": "schema", "keys": "keys",
    "audit": "audit", "console": "console", "deploy": "deploy", "door": "door", "fleet": "daemon.fleet",
    "conformance": "conformance",
    "plugin new": "plugin.new", "plugin add": "plugin.add",
    "plugin validate": "plugin.validate", "plugin test": "plugin.test",
    "plugin dev": "plugin.dev", "plugin pack": "plugin.pack", "plugin sign": "plugin.pack",
    "plugin install": "plugin.install", "plugin upgrade": "plugin.install", "plugin rollback": "plugin.install",
    "plugin remove": "plugin.install", "plugin enable": "plugin.enable", "plugin disable": "plugin.enable",
    "plugin quarantine": "plugin.enable", "plugin release": "plugin.enable", "plugin approve": "plugin.approve",
    "plugin deny": "plugin.approve", "plugin revoke": "plugin.approve", "plugin list": "plugin.show",
    "plugin show": "plugin.show", "plugin logs": "plugin.logs", "plugin verify": "plugin.verify",
    "plugin storage": "plugin.storage", "plugin settings": "plugin.settings", "plugin call": "plugin.call",
    "plugin debug": "plugin.debug",
    "secrets": "daemon.secrets",
    "market submit": "market.submission", "market status": "market.submission", "market review": "market.review",
    "market approve": "market.review", "market reject": "market.review", "market publish": "market.publish",
    "market revoke": "market.publish", "market search": "market.offer", "market show": "market.offer",
    "market buy": "market.purchase", "market refund": "market.purchase", "market entitle": "market.purchase",
    "market customer": "market.purchase", "market ticket": "market.ticket", "market report": "market.report",
    "market halt": "market.release", "market resume": "market.release",
    "market figures": "market.figures",
    "market clock": "market.report", "billing": "market.billing",
}
"""The keys are the words that a user types, or only the first one if one file holds all verbs of a group. Help shows a
group's verbs in this order."""
PROGRAM = "apex-exec"


def command_tree(arguments: Sequence[str] | None = None) -> click.Group:
    """The tree that parses ``arguments``. It has every verb if there are none, or if no file is known for them."""
    words = [word for word in arguments or () if not word.startswith("-")][:2]
    known = FILES.get(" ".join(words)) or (FILES.get(words[0]) if words else None)
    for name in (known,) if known else dict.fromkeys(FILES.values()):
        importlib.import_module(f"apex_exec.cli.{name}")  # it registers its verbs
    for name, group in GROUPS.items():
        app.add(name, group)
    return build(app, PROGRAM)
