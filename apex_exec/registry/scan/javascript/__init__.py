"""The scan of JavaScript sources."""
