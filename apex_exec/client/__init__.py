"""The clients with which a Python host calls the daemon and the command line administers it."""

from apex_exec.client.admin import AdminClient
from apex_exec.client.aio import AsyncClient
from apex_exec.client.errors import (
    CONNECTION_LOST,
    AdminRefused,
    ApiRefused,
    Busy,
    CallError,
    Cancelled,
    ConnectionLost,
    DaemonFault,
    InvalidRequest,
    LimitExceeded,
    NotServed,
    PluginFailed,
)
from apex_exec.client.protocol import CurveKeys, HostCall, HostMethodError
from apex_exec.client.sync import Client

__all__ = [
    "CONNECTION_LOST",
    "AdminClient",
    "AdminRefused",
    "ApiRefused",
    "AsyncClient",
    "Busy",
    "CallError",
    "Cancelled",
    "Client",
    "ConnectionLost",
    "CurveKeys",
    "DaemonFault",
    "HostCall",
    "HostMethodError",
    "InvalidRequest",
    "LimitExceeded",
    "NotServed",
    "PluginFailed",
]
