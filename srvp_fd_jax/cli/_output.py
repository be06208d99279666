"""What the commands print: results on standard output, all else on standard error."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import jax

from srvp_fd_jax._version import __version__
from srvp_fd_jax.evaluation import Result
from srvp_fd_jax.files import printable
from srvp_fd_jax.passes import Evaluated
from srvp_fd_jax.protocols import Side

SETS: dict[Side, str] = {"real": "real", "fake": "generated"}
"""The names of the two sets in messages."""


def log(text: str) -> None:
    """Prints a line on standard error."""
    print(f"srvp-fd-jax: {printable(text)}", file=sys.stderr)


def print_json(**values: Any) -> None:
    """Prints values and the version as a line of JSON."""
    print(json.dumps({**values, "version": __version__}))


def log_set(side: Side, results: Sequence[Evaluated]) -> None:
    """Prints how many videos of a set were used, and the reasons why others were not."""
    for result in results:
        source = dict(result.statistics.source)
        cached = "; statistics from the cache (--no-cache computes them again)"
        log(
            f"{SETS[side]}: {result.name}: {result.found} videos, {result.used} used, "
            f"{len(result.too_short)} too short, {len(result.unreadable)} unreadable; "
            f"{source['protocol']}, weights {source['weights_sha256'][:8]}"
            + (cached if result.cached else "")
        )
        for name in result.too_short:
            log(f"  too short: {name}")
        for name, error in result.unreadable:
            log(f"  unreadable: {name}: {error}")


def print_results(results: Sequence[Result], *, as_json: bool) -> None:
    """Prints distances, and their null distributions if they were computed."""
    if jax.process_index() > 0:
        return
    summaries = [result.summary() for result in results]
    if as_json:
        print_json(results=summaries)
        return
    print_distances([(summary["protocol"], summary["distance"]) for summary in summaries])
    for result in results:
        if result.floor:
            print(f"null distribution\t{prefix(result, results)}{result.floor.described()}")


def print_distances(distances: Sequence[tuple[str | None, float]]) -> None:
    """Prints one distance, or a table of the distances under several protocols."""
    for protocol, distance in distances:
        print(f"{distance:.6g}" if len(distances) == 1 else f"{protocol}\t{distance:.6g}")


def prefix(result: Result, results: Sequence[Result]) -> str:
    """The protocol of one of several results."""
    return f"{result.protocol.name}: " if result.protocol and len(results) > 1 else ""
