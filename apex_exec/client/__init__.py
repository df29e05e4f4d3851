"""What a host in Python calls the daemon with."""

from apex_exec.client.sync import CallError, Client, ConnectionLost

__all__ = ["CallError", "Client", "ConnectionLost"]
