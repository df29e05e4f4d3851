"""Plugins, workers and calls: who runs what, and when."""
