"""Layer ``identity``: a separate uid from the configured range, no groups, and no capability left anywhere."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome, invoke

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 23, 24, 47, 4
_CAPABILITY_VERSION_3 = 0x2008_0522


class Identity:
    """Root changes to the worker's uid. The workers of an unprivileged daemon share its uid, which counts as degraded.
    """

    name = "identity"

    def __init__(self, plan: dict[str, Any]) -> None:
        self._last = 0
        while self._last < 64 and ctypes.CDLL(None).prctl(PR_CAPBSET_READ, self._last, 0, 0, 0) >= 0:
            self._last += 1
        self._header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        self._none = (ctypes.c_uint32 * 6)()
        self._root = os.geteuid() == 0
        if self._root and plan["layers"][self.name][0] in ("try", "required"):
            self._empty_bounding_set()  # every fork inherits it; the zygote itself never calls exec

    def apply(self, child: Child) -> Outcome:
        """First the bounding set (dropping it takes a capability), then the uid, then every set. Raises OSError."""
        outcome = ACTIVE
        if not self._root:
            self._empty_bounding_set()  # entering a user namespace restored all of it
        invoke("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        if self._root:
            try:
                os.setgroups([])
                gid, uid = child.worker["gid"], child.worker["uid"]
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
            except OSError as error:
                outcome = Outcome("degraded", f"stays uid 0: {error.strerror}", error.errno or 0)
        else:
            outcome = Outcome("degraded", "shares the daemon's uid with every other worker")
        invoke("capset", self._header, self._none)
        return outcome

    def _empty_bounding_set(self) -> None:
        try:
            for capability in range(self._last):
                invoke("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            # No CAP_SETPCAP: we are not root and have no user namespace. With no_new_privs, nothing gains from the
            # bounding set.

    def check(self, child: Child) -> str:
        """Tries to become root again, and reads the capabilities."""
        if os.geteuid() != 0:
            try:
                os.setresuid(0, 0, 0)
                return "it could become root again"
            except OSError:
                pass
        if child.active["identity"].state == "active" and os.getresuid() != (child.worker["uid"],) * 3:
            return f"its uids are {os.getresuid()}"
        held = (ctypes.c_uint32 * 6)()
        invoke("capget", self._header, held)
        return "capabilities are left" if any(held) else ""
