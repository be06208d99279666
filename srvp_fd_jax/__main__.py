"""The command srvp-fd-jax, from its first moment on: Ctrl-C ends it, also in the imports."""

import os
import signal
import sys


def main() -> int:
    """Runs the command with the arguments of the process.

    Returns:
        Exit status, as of `cli.main`.
    """
    # The imports take seconds, and in the middle of some a KeyboardInterrupt would come out as
    # another error. There is nothing to clean up yet.
    interrupts = signal.getsignal(signal.SIGINT)
    ours = interrupts is signal.default_int_handler  # it may be ignored, as under nohup
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from srvp_fd_jax import cli

    try:
        signal.signal(signal.SIGINT, interrupts)
        return cli.main()
    except KeyboardInterrupt:  # before or after what `cli.main` catches
        return 128 + signal.SIGINT
    finally:
        if ours:  # libraries clean up at exit; all that matters is done
            sys.stdout.flush()
            signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: object) -> None:
    os.write(2, b"srvp-fd-jax: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
