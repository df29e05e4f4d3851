"""Verbs of `apex-exec plugin`."""
