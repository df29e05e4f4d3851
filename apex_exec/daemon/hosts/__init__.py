"""Connections of hosts, and what they ask."""
