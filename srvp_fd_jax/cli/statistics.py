"""Compute statistics of videos, to compare them later.

Examples:
  srvp-fd-jax statistics real/ -o real.safetensors
  srvp-fd-jax statistics generated/ --generated -o generated.safetensors
"""

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax

from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import SETS, log_set, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.distances import states
from srvp_fd_jax.evaluation import STATISTICS_SUFFIX, clips_to_read, find_videos
from srvp_fd_jax.files import check_writable, printable
from srvp_fd_jax.passes import evaluate, load_calculators
from srvp_fd_jax.protocols import Protocol, Side


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "data", type=_options.name, metavar="DATA", help=f"videos: {_options.DATA}"
    )
    _options.add_evaluation(command)
    _options.add(command, "--distributed")
    _options.add_output(
        command,
        f"file to write, *{STATISTICS_SUFFIX}; for several protocols with {{protocol}} in it",
    )
    command.add_argument(
        "--sample",
        type=_options.whole(1),
        metavar="K",
        help="also save a random sample of K clips with their features, which --significance "
        "needs, and any distance that compares samples (kvd, mind, precision, recall, density, "
        "coverage)",
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
    partial = Path(f"{next(iter(outputs.values()))}.partial")
    side: Side = "fake" if args.generated else "real"
    videos = find_videos(args.data, side, protocols, _options.find_glob(args))
    total = clips_to_read(videos, protocols)
    with progress() as show:
        show(SETS[side], 0, total)
        results = evaluate(
            videos,
            load_calculators(protocols, args.weights),
            side,
            strict=args.strict,
            save_to=None if args.distributed else partial,
            sample=args.sample and min(args.sample, max(1, len(videos))),
            on_progress=lambda position: show(SETS[side], position, total),
        )
    results = [dataclasses.replace(result, name=args.data) for result in results]
    log_set(side, results)
    if jax.process_index() > 0:
        return
    for result in results:
        states.save(result.statistics, outputs[result.protocol.name], result.sample)
    partial.unlink(missing_ok=True)
    if args.json:
        print_json(
            statistics=[
                {**result.summary(), "output": str(outputs[result.protocol.name])}
                for result in results
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
