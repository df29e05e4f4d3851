"""The engine ``kubernetes``: the pods of a StatefulSet, by the names that its headless Service gives them.

The cluster's DNS has an entry ``<set>-<i>.<service>`` for each pod, so no right to the API server is needed. The
Service has to publish pods that are not ready yet (``publishNotReadyAddresses``): a pod is ready when it has reached
the others, and they have to find it for that.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence

from apex_exec.errors import ConfigError
from apex_exec.fleet.engines.silence import EngineSilent

BEYOND = 2
"""How many names after the last pod that was found are asked for too: pods may start out of order."""
PODS_MAX = 256
_POD = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?)-([0-9]{1,4})")


class Kubernetes:
    """``node`` is this pod's name, ``members`` holds the name of the Service, as ``apex-exec.shop.svc``."""

    def __init__(self, node: str, members: Sequence[str],
                 resolve: Callable[[str], object] = lambda host: socket.getaddrinfo(host, None)) -> None:
        found = _POD.fullmatch(node)
        if found is None:
            raise ConfigError(f"fleet.node: {node!r} is not the name of a StatefulSet's pod, as apex-exec-0")
        if len(members) != 1:
            raise ConfigError("fleet.members: with the engine kubernetes, name the headless Service and nothing else, "
                              'as ["apex-exec.default.svc"]')
        self._set, self._own = found[1], int(found[3])
        self._service = members[0]
        self._resolve = resolve

    def members(self) -> set[str]:
        """The pods that DNS knows. Raises EngineSilent if it knows not even this one."""
        found: set[str] = set()
        last, number = self._own, 0
        while number <= min(last + BEYOND, PODS_MAX):
            name = f"{self._set}-{number}"
            try:
                self._resolve(f"{name}.{self._service}")
            except socket.gaierror as error:
                if error.errno == socket.EAI_AGAIN:
                    raise EngineSilent(f"the cluster's DNS does not answer for {name}.{self._service}: {error}"
                                       ) from None
            except (OSError, UnicodeError) as error:
                raise EngineSilent(f"{name}.{self._service}: {error}") from None
            else:
                found.add(name)
                last = max(last, number)
            number += 1
        if f"{self._set}-{self._own}" not in found:
            raise EngineSilent(f"the headless Service {self._service} does not know this pod, {self._set}-{self._own}; "
                               "does it publish addresses that are not ready?")
        return found
