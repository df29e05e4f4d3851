"""Processes beside the loop."""
