"""See `srvp_fd_jax.cli.convert`."""

import sys

from srvp_fd_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
