"""Runs the command srvp-fd-jax."""

import signal
import sys
from types import FrameType

from srvp_fd_jax import cli


def main() -> int:
    """Runs the command with the arguments of the process; returns its exit status."""
    # As Ctrl-C does, so that training saves a checkpoint.
    signal.signal(signal.SIGTERM, _interrupt)
    return cli.main()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
