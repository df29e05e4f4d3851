"""A daemon in a temporary folder, for the tests of plugin authors and of hosts. It needs Linux, and no pytest."""

from apex_exec.testing.bundles import replace_bundle, write_bundle
from apex_exec.testing.daemon import USER, Daemon, DaemonFailed

__all__ = ["USER", "Daemon", "DaemonFailed", "replace_bundle", "write_bundle"]
