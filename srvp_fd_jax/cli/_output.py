"""What the commands print: results on standard output, all else on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from srvp_fd_jax._version import __version__
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.files.atomic import printable
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.result import Result

SETS: dict[Side, str] = {"real": "real", "fake": "generated"}
"""The names of the two sets in messages."""


def log(text: str) -> None:
    """Prints a line on standard error."""
    print(f"srvp-fd-jax: {printable(text)}", file=sys.stderr)


def print_json(**values: Any) -> None:
    """Prints values and the version as a line of JSON."""
    print(json.dumps({**values, "version": __version__}))


def log_set(side: Side, name: str, made: Mapping[Protocol, FeatureStatistics]) -> None:
    """Prints how many videos of a set were used, and the reasons why others were not."""
    for statistics in made.values():
        source, videos = dict(statistics.source), statistics.videos
        cached = "; statistics from the cache (--no-cache computes them again)"
        log(
            f"{SETS[side]}: {name}: {videos.found} videos, {videos.used} used, "
            f"{len(videos.too_short)} too short, {len(videos.unreadable)} unreadable; "
            f"{source['protocol']}, weights {source['weights_sha256'][:8]}"
            + (cached if videos.cached else "")
        )
        for video in videos.too_short:
            log(f"  too short: {video}")
        for video, error in videos.unreadable:
            log(f"  unreadable: {video}: {error}")


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
        if result.significance:
            text = result.significance.described()
            print(f"null distribution\t{prefix(result, results)}{text}")


def print_distances(distances: Sequence[tuple[str | None, float]]) -> None:
    """Prints one distance, or a table of the distances under several protocols."""
    for protocol, distance in distances:
        print(f"{distance:.6g}" if len(distances) == 1 else f"{protocol}\t{distance:.6g}")


def prefix(result: Result, results: Sequence[Result]) -> str:
    """The protocol of one of several results."""
    return f"{result.protocol.name}: " if result.protocol and len(results) > 1 else ""
