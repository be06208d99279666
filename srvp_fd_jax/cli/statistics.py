"""Compute statistics of videos, to compare them later.

Examples:
  srvp-fd-jax statistics real/ -o real.safetensors
  srvp-fd-jax statistics generated/ --generated -o generated.safetensors
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import jax

from srvp_fd_jax import evaluate
from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import SETS, log_set, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.evaluate import STATISTICS_SUFFIX
from srvp_fd_jax.files.atomic import check_writable, printable
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.result import summary


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "data", type=_options.name, metavar="DATA", help=f"videos: {_options.DATA}"
    )
    _options.add_evaluation(command)
    _options.add(command, "--distributed", "--no-cache")
    _options.add_output(
        command,
        f"file to write, *{STATISTICS_SUFFIX}; for several protocols with {{protocol}} in it",
    )
    command.add_argument(
        "--generated",
        action="store_true",
        help="sample the videos as generated ones, not as real ones",
    )


def run(args: Namespace) -> None:
    """Runs the command."""
    _options.start_distributed(args)
    protocols = _options.find_protocols(args)
    outputs = _outputs(args.output, protocols)
    if jax.process_index() == 0:
        for output in outputs.values():
            check_writable(output)
    side: Side = "fake" if args.generated else "real"
    with progress() as show:
        made = evaluate.statistics(
            args.data,
            protocols,
            side=side,
            weights=args.weights,
            precision=args.precision,
            strict=args.strict,
            cache=_options.find_cache(args),
            match=_options.find_glob(args),
            on_progress=lambda side, *numbers: show(SETS[side], *numbers),
        )
    found = made if isinstance(made, list) else [made]
    by_protocol = dict(zip(protocols, found, strict=True))
    log_set(side, args.data, by_protocol)
    if jax.process_index() > 0:
        return
    for protocol, one in by_protocol.items():
        one.save(outputs[protocol.name])
    if args.json:
        print_json(
            statistics=[
                {**summary(one, args.data), "output": str(outputs[protocol.name])}
                for protocol, one in by_protocol.items()
            ]
        )
    else:
        for output in outputs.values():
            print(printable(str(output)))


def _outputs(output: str, protocols: list[Protocol]) -> dict[str, Path]:
    """The file for each protocol, by its name."""
    if not output.endswith(STATISTICS_SUFFIX):
        raise ValueError(f"output: got {output}, expected a name that ends in {STATISTICS_SUFFIX}")
    if len(protocols) > 1 and "{protocol}" not in output:
        raise ValueError(f"output: got {output}, several protocols need {{protocol}} in it")
    return {p.name: Path(output.replace("{protocol}", p.name.replace(":", "_"))) for p in protocols}
