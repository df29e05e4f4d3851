"""apex-exec: a sidecar daemon that runs a platform's third-party plugins, each in a jailed process of its own.

Import-free on purpose: the zygote's main module imports this package, and what is imported here is paid for
in every worker.
"""

__version__ = "0.1.0"

API_VERSION = "1.0.0"
"""The plugin API this daemon speaks; a manifest's ``apiVersion`` range is matched against it."""
