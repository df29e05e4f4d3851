"""Measurements that anyone can run; figures stand in README.md as they were seen."""
