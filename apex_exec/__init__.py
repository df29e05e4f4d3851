"""apex-exec: a sidecar daemon that runs a platform's third-party plugins, each in a jailed process of its own.

This module imports nothing on purpose: the zygote's main module imports this package, and every worker would pay for
what is imported here.
"""

__version__ = "0.1.0"

API_VERSION = "1.0.0"
"""The version of the plugin API in this daemon; a manifest's ``apiVersion`` range is compared with it."""
