"""Write a page with the distance, its significance and some of the clips.

Examples:
  srvp-fd-jax report real/ generated/ -o report.html
"""

import dataclasses
import warnings
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from srvp_fd_jax import evaluation, overlap
from srvp_fd_jax.calculator import Calculator
from srvp_fd_jax.cli import _options
from srvp_fd_jax.cli._output import SETS, log_set, print_distances, print_json
from srvp_fd_jax.cli._progress import progress
from srvp_fd_jax.distances.sample import SAMPLE_SIZE
from srvp_fd_jax.files import printable
from srvp_fd_jax.passes import Evaluated, evaluate, load_calculators
from srvp_fd_jax.protocols import Side
from srvp_fd_jax.report import page, plots
from srvp_fd_jax.report.findings import Findings, find
from srvp_fd_jax.videos.sources import Video


def add_options(command: Any) -> None:
    """Adds the options of the command."""
    _options.add_sets(command, f"real videos, not statistics: {_options.DATA}")
    _options.add_evaluation(command)
    _options.add_output(
        command, "HTML file to write (*.html); or a folder for images, a new one with / at the end"
    )
    _options.add(command, "--paired", "--group-by")


def run(args: Namespace) -> None:
    """Runs the command."""
    for side in SETS:
        if evaluation.is_statistics(path := getattr(args, side)):
            raise ValueError(f"{side}: got the statistics {path}, a report needs the videos")
    page.check_output(args.output)
    plots.check_extra()
    findings = _find(args)
    failure = None
    try:
        page.write(args.output, findings, args.real, args.fake)
    except OSError as error:  # still print the distances, which took the time
        failure = error
    if args.json:
        results = [one.summary() for one in findings]
        print_json(results=results, output=None if failure else args.output)
    elif failure:
        print_distances([(one.protocol.name, one.distance) for one in findings])
    else:
        print(printable(args.output))
    if failure:
        raise failure


def _find(args: Namespace) -> list[Findings]:
    """What a report says under each protocol, with its warnings."""
    protocols = _options.find_protocols(args)
    globs = evaluation.match_of_sides(args.match)
    videos = {
        side: evaluation.find_videos(getattr(args, side), side, protocols, globs[side])
        for side in SETS
    }
    evaluation.compare_storage(videos, protocols)
    evaluation.unit_labels(videos, args.paired, args.group_by)  # before videos are read
    if not (args.paired or args.group_by):
        evaluation.check_names(videos)
    calculators = load_calculators(protocols, args.weights)
    of_files = overlap.of_files(videos)
    for text in of_files.values():
        warnings.warn(text, stacklevel=1)
    real, fake = (_evaluate(args, side, videos[side], calculators) for side in SETS)
    both = list(zip(real, fake, strict=True))
    cache = args.cache / "statistics" if args.cache else None
    repeated = evaluation.repeats(both, calculators, of_files)
    units: dict[str, Any] = {"paired": args.paired, "groups": args.group_by}
    findings = [
        find(*one, videos, calculators, cache, [*of_files.values(), *texts], **units)
        for one, texts in zip(both, repeated, strict=True)
    ]
    for one in findings:
        for text in one.cautions:
            if text not in of_files.values():
                warnings.warn(text, stacklevel=1)
    return findings


def _evaluate(
    args: Namespace, side: Side, videos: Sequence[Video], calculators: Sequence[Calculator]
) -> list[Evaluated]:
    total = evaluation.clips_to_read(videos, [p for c in calculators for p in c.protocols])
    with progress() as show:
        show(SETS[side], 0, total)
        made = evaluate(
            videos,
            calculators,
            side,
            strict=args.strict,
            sample=SAMPLE_SIZE,
            along=True,
            paired=args.paired,
            on_progress=lambda position: show(SETS[side], position, total),
        )
    results = [dataclasses.replace(one, name=getattr(args, side)) for one in made]
    log_set(side, results)
    return results
