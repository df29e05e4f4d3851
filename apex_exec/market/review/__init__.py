"""Submissions, their checks, their reviewers."""
