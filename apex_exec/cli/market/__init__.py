"""Verbs of `apex-exec market` and `billing`."""
