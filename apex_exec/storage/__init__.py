"""What plugins keep for themselves, in tables of the daemon's own. README.md is the map."""
