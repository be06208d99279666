"""Measure corruptions of real videos, by which later distances are read.

Examples:
  srvp-fd-jax severity real/ --protocol fvd2048_16f
"""

import functools
from argparse import Namespace
from typing import Any

from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import log, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.evaluation import calculator_of, find_videos, group_labels
from srvp_fd_jax.passes import load_calculators
from srvp_fd_jax.ruler import ladder
from srvp_fd_jax.ruler.ladder import LEAST_CLIPS, kept_at

_MAX_CLIPS = 128


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "data", type=_options.name, metavar="REAL", help=f"real videos: {_options.DATA}"
    )
    _options.add_evaluation(command)
    command.add_argument(
        "--size",
        type=_options.whole(LEAST_CLIPS),
        metavar="K",
        help="number of clips that are compared with as many others, and the smallest number of "
        f"generated videos for `compute` (default: 45 %% of the videos, at most {_MAX_CLIPS})",
    )
    _options.add(command, "--group-by")


def run(args: Namespace) -> None:
    """Runs the command."""
    protocols = _options.find_protocols(args)
    videos = find_videos(args.data, "real", protocols, _options.find_glob(args))
    calculators = load_calculators(protocols, args.weights)
    # Some videos may be too short or damaged.
    size = args.size or max(LEAST_CLIPS, min(int(0.45 * len(videos)), _MAX_CLIPS))
    scales = []
    for protocol in protocols:
        calculator = calculator_of(protocol, calculators)
        with progress("sets") as show:
            made = ladder.build(
                videos,
                calculator,
                size,
                groups=args.group_by and group_labels(videos, "real", args.group_by),
                on_progress=functools.partial(show, "real"),
            )
        if args.cache and (path := kept_at(videos, calculator, args.cache / "statistics")):
            ladder.save(made, path)
        else:
            log("warning: the scale is not cached, so `compute` and `report` cannot use it")
        scales.append({"protocol": protocol.name, **ladder.summary(made)})
    if args.json:
        print_json(severity=scales)
        return
    for scale in scales:
        print(f"{scale['protocol']}: {size} real clips against {size} others: {scale['clean']:.6g}")
        for corruption in scale["rungs"]:
            for level in corruption["steps"]:
                print(f"  {level['described']:48}{level['distance']:12.6g}")
        for name, reason in scale["left_out"].items():
            print(f"  {name} is left out: {reason}")
