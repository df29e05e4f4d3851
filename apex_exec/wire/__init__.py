"""The host protocol: its messages, and their coding with limits on size and depth."""
