"""The zygote, and what a fork of it becomes: the daemon's half of this package."""
