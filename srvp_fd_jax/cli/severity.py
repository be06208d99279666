"""Measure corruptions of real videos, by which later distances are read.

Examples:
  srvp-fd-jax severity real/ --protocol fvd2048_16f
"""

from argparse import Namespace
from typing import Any

import jax

from srvp_fd_jax import evaluate
from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import log, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.significance import severity as ladder


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "data", type=_options.name, metavar="REAL", help=f"real videos: {_options.DATA}"
    )
    _options.add_evaluation(command)
    command.add_argument(
        "--size",
        type=_options.whole(ladder.LEAST_CLIPS),
        metavar="K",
        help="number of clips that are compared with as many others, and the smallest number of "
        "generated videos for `compute` (default: 45 %% of the videos, at most "
        f"{evaluate.SCALE_CLIPS})",
    )
    _options.add(command, "--distributed", "--no-cache", "--group-by")


def run(args: Namespace) -> None:
    """Runs the command."""
    _options.start_distributed(args)
    protocols, cache = _options.find_protocols(args), _options.find_cache(args)
    with progress("sets") as show:
        made = evaluate.severity(
            args.data,
            protocols,
            size=args.size,
            weights=args.weights,
            precision=args.precision,
            cache=cache,
            match=_options.find_glob(args),
            groups=args.group_by,
            on_progress=lambda name, *numbers: show(name, *numbers),
        )
    if jax.process_index() > 0:
        return
    if not cache:
        log("warning: the scale is not cached, so `compute` and `report` cannot use it")
    scales = [
        {"protocol": protocol.name, **ladder.summary(one)}
        for protocol, one in zip(protocols, made if isinstance(made, list) else [made], strict=True)
    ]
    if args.json:
        print_json(severity=scales)
        return
    for scale in scales:
        sets = f"{scale['clips']} real clips against as many others"
        print(f"{scale['protocol']}: {sets}: {scale['clean']:.6g}")
        for corruption in scale["rungs"]:
            for level in corruption["steps"]:
                print(f"  {level['described']:48}{level['distance']:12.6g}")
        for name, reason in scale["left_out"].items():
            print(f"  {name} is left out: {reason}")
