"""Write a page with the distance, its significance and some of the clips.

Examples:
  srvp-fd-jax report real/ generated/ -o report.html
"""

from argparse import Namespace
from typing import Any

import jax

from srvp_fd_jax import evaluate
from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import SETS, log_set, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.files.atomic import printable


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    _options.add_sets(command, f"real videos, not statistics: {_options.DATA}")
    _options.add_evaluation(command)
    _options.add_output(
        command, "HTML file to write (*.html); or a folder for images, a new one with / at the end"
    )
    _options.add(command, "--distributed", "--no-cache", "--paired", "--group-by")


def run(args: Namespace) -> None:
    """Runs the command."""
    _options.start_distributed(args)
    with progress() as show:
        findings = evaluate.report(
            args.real,
            args.fake,
            _options.find_protocols(args),
            args.output,
            weights=args.weights,
            precision=args.precision,
            strict=args.strict,
            cache=_options.find_cache(args),
            match=args.match,
            paired=args.paired,
            groups=args.group_by,
            on_progress=lambda side, *numbers: show(SETS[side], *numbers),
            on_set=log_set,
        )
    if jax.process_index() > 0:
        return
    if args.json:
        print_json(results=[one.summary() for one in findings], output=args.output)
    else:
        print(printable(args.output))
