"""Traces: which calls are traced, what their spans say, and the process that exports it by OTLP."""
