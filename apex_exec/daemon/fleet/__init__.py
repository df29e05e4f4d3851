"""The loop's part of a fleet: links to the other nodes, and calls that they run."""
