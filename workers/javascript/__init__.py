"""Plugins in JavaScript: QuickJS-ng in a process of its own for each worker."""
