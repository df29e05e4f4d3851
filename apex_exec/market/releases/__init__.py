"""Releases that go out in stages: who is offered one, how it does, and what halts it."""
