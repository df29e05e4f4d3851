"""What a plugin imports: ``Plugin``, ``HookContext`` and the errors that an API call can raise.

The same package contains the worker's own code (zygote, child, jail, loader). It imports msgspec and the standard
library only, and never ``apex_exec``.
"""

from workers.sdk import ApiError, DeadlineExceeded, HookContext, PermissionDenied, Plugin, RateLimited

__all__ = ["ApiError", "DeadlineExceeded", "HookContext", "PermissionDenied", "Plugin", "RateLimited"]
