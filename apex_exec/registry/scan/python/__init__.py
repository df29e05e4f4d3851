"""The scan of Python sources."""
