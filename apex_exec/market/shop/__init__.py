"""The index, downloads, what was bought."""
