"""Processes for workers: runtimes, zygotes, forks, spares."""
