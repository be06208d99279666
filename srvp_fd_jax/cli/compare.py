"""Compute the distance between two files of statistics.

Examples:
  srvp-fd-jax compare real.safetensors generated.safetensors
"""

from argparse import Namespace
from typing import Any

from srvp_fd_jax import evaluate
from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import log, print_results
from srvp_fd_jax.distances import DISTANCES, load_statistics
from srvp_fd_jax.result import described


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    for dest, metavar, kind in (("real", "REAL", "real"), ("fake", "GENERATED", "generated")):
        text = f"file of statistics of {kind} videos, see `statistics`"
        command.add_argument(dest, type=_options.name, metavar=metavar, help=text)
    command.add_argument(
        "--distance", choices=DISTANCES, help="name of the distance (default: frechet)"
    )
    _options.add(command, "--significance")


def run(args: Namespace) -> None:
    """Runs the command."""
    for kind, path in (("real", args.real), ("generated", args.fake)):
        log(f"{kind}: {described(load_statistics(path), path)}")
    result = evaluate.compare(
        args.real, args.fake, distance=args.distance, significance=args.significance
    )
    print_results([result], as_json=args.json)
