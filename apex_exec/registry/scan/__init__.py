"""The scan of a bundle's code."""
