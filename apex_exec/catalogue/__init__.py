"""What the platform offers, declared once: hooks, API methods, permissions, limits. README.md is the map."""
