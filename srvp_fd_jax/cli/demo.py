"""Show how each distance reacts to corrupted moving digits.

Examples:
  srvp-fd-jax demo
  srvp-fd-jax demo -o videos
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from srvp_fd_jax.cli import _options
from srvp_fd_jax.demo import table, videos
from srvp_fd_jax.files.atomic import printable


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "--clips",
        type=_options.whole(2),
        default=300,
        help="number of clips per corruption, or of videos per folder (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="seed of all randomness (default: %(default)s)"
    )
    command.add_argument(
        "-o",
        "--output",
        type=_options.name,
        help="folder to write example videos to, without a table",
    )


def run(args: Namespace) -> None:
    """Runs the command."""
    if args.output:
        videos.write_videos(Path(args.output), args.clips, args.seed)
        print(printable(args.output))
    else:
        table.run(args.clips, args.seed, args.json)
