"""Runs plugins: the zygote, its workers, their links, what they use."""
