"""``python -m apex_exec``. Import-free at the top: the zygote's spawn imports this module again."""


def main() -> None:
    """Runs the command line."""
    import os

    if os.getpid() == 1:  # the kernel gives PID 1 no default action: a container could not be stopped while it starts
        import signal

        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    from apex_exec.cli import main as run

    run()


if __name__ == "__main__":
    main()
