"""Compute the distance between real and generated videos.

Examples:
  srvp-fd-jax compute real/ generated/ --protocol fvd2048_16f
  srvp-fd-jax compute real.tar generated.npy --dataset kth --comparison-type dynamics
"""

from argparse import Namespace
from typing import Any

from srvp_fd_jax import evaluate
from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import SETS, log, log_set, prefix, print_results
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.distances import load_statistics
from srvp_fd_jax.protocols import Protocol, find_protocol


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    _options.add_sets(
        command,
        f"real videos: {_options.DATA}; or their statistics (.safetensors, or cd-fvd's .pkl)",
    )
    _options.add_evaluation(command)
    _options.add(command, "--distributed", "--no-cache", "--significance", "--paired", "--group-by")


def run(args: Namespace) -> None:
    """Runs the command."""
    _options.start_distributed(args)
    with progress() as show:
        made = evaluate.compute(
            args.real,
            args.fake,
            _options.find_named(args) or _default(args),
            weights=args.weights,
            precision=args.precision,
            strict=args.strict,
            cache=_options.find_cache(args),
            significance=args.significance,
            match=args.match,
            paired=args.paired,
            groups=args.group_by,
            on_progress=lambda side, *numbers: show(SETS[side], *numbers),
            on_set=log_set,
        )
    results = made if isinstance(made, list) else [made]
    for result in results:
        for one in result.severity:
            log(f"severity: {prefix(result, results)}{one.described}")
    print_results(results, as_json=args.json)


def _default(args: Namespace) -> list[Protocol] | None:
    """The protocol if none is named: that of statistics, with changes; None without either."""
    given = [
        load_statistics(path) for path in (args.real, args.fake) if evaluate.is_statistics(path)
    ]
    names = [name for s in given if (name := dict(s.source).get("protocol"))]
    overrides = _options.find_overrides(args)
    if not names and not any(value is not None for value in overrides.values()):
        return None
    if given and not names:
        raise ValueError("protocol: the files of statistics have none, name it with --protocol")
    return [find_protocol((names or [evaluate.DEFAULT])[0], **overrides)]
