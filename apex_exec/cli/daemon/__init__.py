"""Verbs that run, watch and keep a daemon."""
