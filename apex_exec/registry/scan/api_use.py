"""Which permissions a bundle's code uses, compared with those that its manifest declares. The same for every language.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from apex_exec.catalogue.endings import warning_of
from apex_exec.catalogue.hooks import BUILT_IN
from apex_exec.catalogue.methods import METHODS
from apex_exec.catalogue.permissions import PREFIXES
from apex_exec.registry.scan.findings import Finding, finding

if TYPE_CHECKING:
    from apex_exec.registry.scan.scanner import Request

WIDGET_FIELDS = frozenset(hook.collects for hook in BUILT_IN if hook.renders)
"""Fields of results that hold widgets."""
_METHODS = {method.python: method.name for method in METHODS.values()}
"""A method's name in Python -> its name in the catalogue, which JavaScript uses."""


class ApiUse:
    """The permissions that the API calls seen so far need, and whether some calls could not be resolved. ``renders``
    means that results may hold widgets."""

    def __init__(self) -> None:
        self.needed: dict[str, tuple[str, int, str]] = {}
        self._used: dict[str, tuple[str, int]] = {}
        self.opaque = False
        self.renders = False

    def needs(self, permission: str, path: str, line: int, call: str) -> None:
        """Remembers the first place where ``permission`` is needed, and the first of the method ``call``."""
        self._used.setdefault(_METHODS.get(call, call), (path, line))
        self.needed.setdefault(permission, (path, line, call))

    def calls_host(self, name: str, path: str, line: int) -> None:
        """Remembers a call of the host's method ``name``; "" is a name that reading does not show."""
        self.opaque = self.opaque or not name
        for prefix, permission in PREFIXES.items():
            if name.startswith(prefix):
                self.needs(permission, path, line, f"call({name[:40]!a})")

    def compared(self, request: Request) -> Iterator[Finding]:
        """The differences between the permissions that are used and those that are declared."""
        if request.permissions is None:
            return
        yield from self._ending(request, request.permissions)
        for permission, (path, line, call) in self.needed.items():
            if permission not in request.permissions:
                yield finding("undeclared-permission", path, line, f"context.api.{call} needs {permission}")
        for permission in request.permissions:
            if permission == "ui:render" and self.renders:
                continue  # the widgets in a result are rendered too
            if permission not in self.needed and not self.opaque:
                yield finding("unused-permission", "manifest.json", 0, f"{permission} is declared, but no call uses it")
        for name, permission, items in (("network.allow", "network:fetch", request.network),
                                        ("data.tables", "data:read", request.tables)):
            if items and permission not in request.permissions and "data:write" not in request.permissions:
                yield finding("idle-declaration", "manifest.json", 0, f"{name} is listed, and the permission "
                                                                      f"{permission} that it needs is not declared")

    def _ending(self, request: Request, permissions: Iterable[str]) -> Iterator[Finding]:
        for method, (path, line) in self._used.items():
            if warning := warning_of("method", method):
                yield finding("deprecated", path, line, warning)
        declared = [warning_of("hook", name) for name in request.hooks]
        declared += [warning_of("permission", name) for name in permissions]
        yield from (finding("deprecated", "manifest.json", 0, warning) for warning in declared if warning)
