"""HTTP of plugins."""
