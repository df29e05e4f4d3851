"""A plugin run without a daemon: its tests, one call."""
