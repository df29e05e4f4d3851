"""Submissions, their checks, and their reviewers."""
