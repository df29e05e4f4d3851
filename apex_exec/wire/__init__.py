"""The host protocol: its messages and their size- and depth-capped coding."""
