"""Measurements that anyone can run; README.md has the figures that we measured."""
