"""The HTTP requests of plugins."""
