"""The command line: one verb a file. Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 no daemon."""

from apex_exec.cli.run import main

__all__ = ["main"]
