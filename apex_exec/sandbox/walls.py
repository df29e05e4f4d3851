"""What each layer of the jail stops, in a sentence for people: the same words wherever a layer is shown."""

from __future__ import annotations

STOPS = {
    "fds": "using files, sockets or pipes that the daemon has open",
    "env": "reading the daemon's environment variables, which may contain secrets",
    "session": "writing to the operator's terminal or signalling the daemon's process group",
    "cgroup": "using more memory or CPU than its share, by the kernel's own account",
    "namespaces": "seeing the network, other processes and the machine's file system",
    "rlimits": "allocating memory without end, opening many files and starting processes",
    "identity": "acting as the daemon's user: signalling, tracing or reading what belongs to it",
    "pdeathsig": "running on after the daemon has ended",
    "no_new_privs": "gaining rights from a setuid program",
    "landlock": "opening a file or a TCP port, even by a path that it knows",
    "seccomp": "calling the parts of the kernel that a plugin does not need",
    "selftest": "starting at all if one of the layers above does not hold",
    "kill": "surviving its deadline or its limits",
}
"""Layer -> what a plugin that tries it is kept from."""
