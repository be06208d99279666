"""Compute the distance between two files of statistics.

Examples:
  srvp-fd-jax compare real.safetensors generated.safetensors
"""

from argparse import Namespace
from typing import Any

from srvp_fd_jax import evaluation
from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import log, print_results
from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.evaluation import load_kept


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
    real, fake = map(load_kept, (args.real, args.fake))
    log(f"real: {real.described()}")
    log(f"generated: {fake.described()}")
    result = evaluation.compare(real, fake, distance=args.distance, floor=args.significance)
    print_results([result], as_json=args.json)
