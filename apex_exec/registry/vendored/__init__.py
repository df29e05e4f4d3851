"""Packages of PyPI inside a bundle."""
