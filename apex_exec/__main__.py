"""``python -m apex_exec``. It imports nothing at the top, because starting the zygote imports this module again."""


def main() -> None:
    """Runs the command line."""
    from apex_exec.surroundings import put_right

    put_right()
    from apex_exec.cli import main as run

    run()


if __name__ == "__main__":
    main()
