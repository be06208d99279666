"""Runs the command srvp-fd-jax, which Ctrl-C ends at any time, even during its imports."""

import os
import signal
import sys


def main() -> int:
    """Runs the command with the arguments of the process; returns the exit status of `cli.main`."""
    # The imports take seconds, and some would turn a KeyboardInterrupt into another error. There is
    # nothing to clean up yet.
    interrupts = signal.getsignal(signal.SIGINT)
    ours = interrupts is signal.default_int_handler  # False if it is ignored, as under nohup
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from srvp_fd_jax import cli

    try:
        signal.signal(signal.SIGINT, interrupts)
        return cli.main()
    except KeyboardInterrupt:  # `cli.main` catches it except at its start and end
        return 128 + signal.SIGINT
    finally:
        if ours:  # Ctrl-C may cut short what libraries do at exit
            sys.stdout.flush()
            signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: object) -> None:
    os.write(2, b"srvp-fd-jax: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
