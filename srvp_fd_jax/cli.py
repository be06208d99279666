"""The command srvp-fd-jax."""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar, get_args

import jax

import srvp_fd_jax
from srvp_fd_jax import demo, plots, report
from srvp_fd_jax.evaluation import (
    Collected,
    Result,
    cautions_of_sides,
    collect,
    evaluate,
    evaluate_cached,
)
from srvp_fd_jax.files import cache_folder, check_writable, printable, size_of, trim
from srvp_fd_jax.frechet import Method
from srvp_fd_jax.metrics import Metric, load_metrics
from srvp_fd_jax.networks.srvp import COMPARISON_TYPES
from srvp_fd_jax.statistics import (
    FeatureStatistics,
    cautions,
    check_comparable,
    distance_between,
    mark,
)
from srvp_fd_jax.videos.protocols import (
    OVERRIDES,
    PROTOCOLS,
    Protocol,
    Side,
    Start,
    find_protocol,
)
from srvp_fd_jax.videos.resizing import Resize
from srvp_fd_jax.videos.sources import Video, find_videos
from srvp_fd_jax.weights import DATASETS

_T = TypeVar("_T")

_STATISTICS_SUFFIX = ".safetensors"

_STRAYS_TOLD = 20
_SECONDS_A_LINE = 30

_CACHE_BYTES = 2 << 30  # of statistics and compiled programs; weights come on top

_DATA_HELP = (
    "a folder, .zip or .tar of video files, folders of frames or arrays; a .npy or .npz file of "
    "clips; or statistics (.safetensors)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments, by default those of the process.

    Returns:
        Exit status: 0; 1 after an error, told in one line on standard error; 130 when interrupted;
        143 when terminated. (After wrong usage the process exits with 2.)
    """
    try:
        with _termination_interrupts():
            return _run(argv)
    except _Terminated:
        _tell("terminated")
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        _tell("interrupted")
        return 128 + signal.SIGINT


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    # Threads of OpenBLAS, in which JAX factorises on the CPU, wait for each other in a busy loop:
    # of matrices as small as these they take several times as long as one, on a busy machine a
    # thousand times.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    args.cache = None if args.run in (_protocols, _cache) else _find_cache()
    if args.cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(args.cache / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            args.run(args)
        except (OSError, ValueError, ModuleNotFoundError) as error:
            _tell(f"error: {error}")
            return 1
    return 0


class _Terminated(KeyboardInterrupt):
    pass


_terminated = threading.Event()


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: worker processes and the memory shared with them go first."""

    def end(number: int, frame: object) -> None:
        _terminated.set()
        raise _Terminated

    def tell_unraisable(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, _Terminated):
            tell_others(unraisable)

    if threading.current_thread() is not threading.main_thread():  # signals are not its business
        yield
        return
    _terminated.clear()
    tell_others = sys.unraisablehook
    before, sys.unraisablehook = signal.signal(signal.SIGTERM, end), tell_unraisable
    try:
        yield
        _raise_if_terminated()
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = tell_others


def _raise_if_terminated() -> None:
    """Raises again what Python ignores where a signal comes while an object is finalised."""
    if _terminated.is_set():
        raise _Terminated


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _name(text: str) -> str:
    # An empty variable of a shell would mean the current folder, or a default.
    if not text.strip():
        raise argparse.ArgumentTypeError("got an empty name")
    return text


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() and len(text) < 10 else -1
        if number < least:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected a whole number of at least {least}"
            )
        return number

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="srvp-fd-jax", description=srvp_fd_jax.__doc__)
    parser.add_argument("--version", action="version", version=srvp_fd_jax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print one line of JSON")
        command.set_defaults(run=run)
        return command

    command = add("demo", _demo, "corrupt moving digits and see what each distance sees")
    command.add_argument("--clips", type=_whole(2), default=300, help="a row (default %(default)s)")
    command.add_argument("--seed", type=int, default=0)

    add("protocols", _protocols, "list the protocols")

    command = add("cache", _cache, "list what is kept for later runs, or clear it")
    command.add_argument("--clear", action="store_true", help="remove all of it")

    command = add("compute", _compute, "distance between real and generated videos")
    command.add_argument("real", type=_name, metavar="REAL", help=_DATA_HELP)
    command.add_argument(
        "fake", type=_name, metavar="FAKE", help="generated ones, in any of these forms"
    )
    _add_evaluation(command)
    _add_distributed(command)
    _add_method(command)
    command.add_argument(
        "--no-cache", action="store_true", help="neither reuse nor keep statistics of REAL"
    )

    command = add("report", _report, "a page on the distance, how far to trust it, and the clips")
    command.add_argument(
        "real", type=_name, metavar="REAL", help="videos as of `compute`, not statistics"
    )
    command.add_argument(
        "fake", type=_name, metavar="FAKE", help="generated ones, in any of these forms"
    )
    _add_evaluation(command)
    command.add_argument(
        "-o",
        "--output",
        type=_name,
        required=True,
        help="a name *.html; else a folder, that gets images",
    )

    command = add("stats", _stats, "statistics of videos, to be compared later")
    command.add_argument("data", type=_name, metavar="DATA", help=_DATA_HELP)
    _add_evaluation(command)
    _add_distributed(command)
    command.add_argument(
        "-o",
        "--output",
        type=_name,
        required=True,
        help=f"a name *{_STATISTICS_SUFFIX}; with {{protocol}} in it if there are several",
    )
    command.add_argument("--fake", action="store_true", help="sample as generated videos, not real")

    command = add("compare", _compare, "distance between two files of statistics")
    command.add_argument("real", type=_name, metavar="REAL", help="what `stats` or `save` wrote")
    command.add_argument("fake", type=_name, metavar="FAKE", help="the same")
    _add_method(command)
    return parser


def _add_evaluation(command: Any) -> None:
    command.add_argument(
        "--protocol",
        type=_name,
        metavar="NAME[,NAME...]",
        help="in one pass, see `srvp-fd-jax protocols`",
    )
    command.add_argument("--dataset", choices=DATASETS, help="of SRVP, in place of --protocol")
    command.add_argument("--comparison-type", choices=COMPARISON_TYPES, help="default frame")
    changes = command.add_argument_group("changes to the protocol, which its name will say")
    changes.add_argument("--clips", type=int, help="a side, at most one of each video")
    changes.add_argument("--frames", type=int, help="of a clip")
    changes.add_argument("--step", type=int, help="takes every n-th frame")
    changes.add_argument("--start", choices=get_args(Start), help="where a clip starts")
    changes.add_argument("--resize", choices=get_args(Resize), help="how frames are resized")
    changes.add_argument("--seed", type=int, help="of random starts; not named")
    command.add_argument(
        "--weights", type=_name, help="a converted file, checkpoint folder or state dict"
    )
    command.add_argument(
        "--workers", type=_whole(0), default=0, help="processes that read videos (default: threads)"
    )
    command.add_argument("--strict", action="store_true", help="stop at an unreadable video")


def _add_distributed(command: Any) -> None:
    command.add_argument(
        "--distributed",
        action="store_true",
        help="be one of many processes (jax.distributed.initialize), each reads its part",
    )


def _add_method(command: Any) -> None:
    command.add_argument("--method", choices=get_args(Method), default="procrustes")


def _demo(args: argparse.Namespace) -> None:
    demo.run(args.clips, args.seed, args.json)


def _protocols(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps([dataclasses.asdict(protocol) for protocol in PROTOCOLS.values()]))
        return
    rows = [protocol.described() for protocol in PROTOCOLS.values()]
    for row in [{column: column for column in rows[0]}, *rows]:
        cells = (
            row[column].ljust(max(len(column), *(len(other[column]) for other in rows)))
            for column in row
        )
        print("  ".join(cells).rstrip())


def _cache(args: argparse.Namespace) -> None:
    folder = cache_folder()
    kinds = _kept_in(folder)
    told: dict[str, Any] = {
        kind: {"files": len(paths), "bytes": size_of(paths)} for kind, paths in kinds.items()
    }
    if args.clear:
        for path in (path for paths in kinds.values() for path in paths):
            path.unlink(missing_ok=True)
    if args.json:
        print(json.dumps({"folder": str(folder), "cleared": args.clear, **told}))
        return
    print(printable(str(folder)) + (", cleared of" if args.clear else ""))
    for kind, of_kind in told.items():
        print(f"{kind:12}{of_kind['files']:>6} files{of_kind['bytes'] / 2**20:>10.1f} MiB")


def _kept_in(folder: Path) -> dict[str, list[Path]]:
    """Files of the cache by what they are."""

    def files(pattern: str) -> list[Path]:
        return sorted(path for path in folder.glob(pattern) if path.is_file())

    return {
        "weights": files("*.safetensors"),
        "statistics": files("statistics/*"),
        "programs": files("xla/**/*"),
    }


def _compute(args: argparse.Namespace) -> None:
    _start_distributed(args)
    _tell_if_one(args)
    kept = {path: FeatureStatistics.load(path) for path in (args.real, args.fake) if _is_kept(path)}
    protocols = _asked_for(args, list(kept.values()))
    both_kept = {args.real, args.fake} <= kept.keys()
    if both_kept and args.weights:
        raise ValueError(f"weights: got {args.weights}, but both sides are statistics")
    videos = _find_both(args, protocols, kept)
    metrics = [] if both_kept else load_metrics(protocols, args.weights)
    for statistics in kept.values():  # of one protocol; before the videos are gone through
        asked = metrics[0].empty[0] if metrics else mark(statistics, **protocols[0].marks())
        check_comparable(statistics, asked)

    def scored(path: str, side: Side) -> list["_Scored"]:
        if path in kept:
            return [_Scored.of_file(path, kept[path])]
        make = evaluate
        if side == "real" and args.cache and not args.no_cache and not args.distributed:
            make = functools.partial(evaluate_cached, folder=args.cache / "statistics")
        results = _go_through(make, videos[side], metrics, side, args)
        _tell_results(path, side, results)
        return [_Scored.of_videos(path, result) for result in results]

    _print_distances(scored(args.real, "real"), scored(args.fake, "fake"), args)


def _compare(args: argparse.Namespace) -> None:
    _tell_if_one(args)
    real, fake = (
        [_Scored.of_file(path, FeatureStatistics.load(path))] for path in (args.real, args.fake)
    )
    for taken_for, (scored,) in (("real", real), ("fake", fake)):
        of = scored.summary
        _tell(f"{taken_for}: {of['path']}: {of['samples']} samples, side {of['side'] or 'unknown'}")
    _print_distances(real, fake, args)


def _report(args: argparse.Namespace) -> None:
    _tell_if_one(args)
    for side in ("real", "fake"):
        if _is_kept(path := getattr(args, side)):
            raise ValueError(f"{side}: got the statistics {path}, a report needs the videos")
    report.check_output(args.output)
    plots.check_matplotlib()
    protocols = _asked_for(args, [])
    videos = _find_both(args, protocols)
    metrics = load_metrics(protocols, args.weights)

    make = functools.partial(collect, shown=report.CLIPS_SHOWN)

    def collected(path: str, side: Side) -> list[Collected]:
        of_side = _go_through(make, videos[side], metrics, side, args)
        _tell_results(path, side, [one.result for one in of_side])
        return of_side

    sides = collected(args.real, "real"), collected(args.fake, "fake")
    for real, fake in zip(*sides, strict=True):
        for text in cautions(real.result.statistics, fake.result.statistics):
            warnings.warn(text, stacklevel=1)
    findings = [report.find(*both) for both in zip(*sides, strict=True)]
    failure = None
    try:
        report.write(args.output, findings, args.real, args.fake)
    except OSError as error:  # the distances, which took the time, are told all the same
        failure = error
    if args.json:
        results = [
            {
                **one.summary(),
                "real": _Scored.of_videos(args.real, one.real.result).summary,
                "fake": _Scored.of_videos(args.fake, one.fake.result).summary,
            }
            for one in findings
        ]
        version = srvp_fd_jax.__version__
        output = None if failure else args.output
        print(json.dumps({"results": results, "output": output, "version": version}))
    elif failure:
        _print_table([(one.real.result.protocol.name, one.distance) for one in findings])
    else:
        print(printable(args.output))
    if failure:
        raise failure


def _stats(args: argparse.Namespace) -> None:
    _start_distributed(args)
    protocols = _asked_for(args, [])
    if not _is_kept(args.output):
        raise ValueError(f"output: got {args.output}, expected a name *{_STATISTICS_SUFFIX}")
    if len(protocols) > 1 and "{protocol}" not in args.output:
        raise ValueError(f"output: got {args.output} for several protocols, expected {{protocol}}")
    outputs = {
        p.name: Path(args.output.replace("{protocol}", p.name.replace(":", "_"))) for p in protocols
    }
    if jax.process_index() == 0:
        for output in outputs.values():
            check_writable(output)
    partial = Path(f"{next(iter(outputs.values()))}.partial")
    side: Side = "fake" if args.fake else "real"
    videos = _find(args.data, side, protocols)
    metrics = load_metrics(protocols, args.weights)
    make = evaluate if args.distributed else functools.partial(evaluate, save_to=partial)
    results = _go_through(make, videos, metrics, side, args)
    _tell_results(args.data, side, results)
    if jax.process_index() > 0:
        return
    for result in results:
        result.statistics.save(outputs[result.protocol.name])
    partial.unlink(missing_ok=True)
    if args.json:
        summaries = [
            {**_Scored.of_videos(args.data, result).summary, "output": str(outputs[name])}
            for result in results
            for name in [result.protocol.name]
        ]
        print(json.dumps({"statistics": summaries, "version": srvp_fd_jax.__version__}))
    else:
        for output in outputs.values():
            print(printable(str(output)))


class _Scored(NamedTuple):
    """Statistics of one side under one protocol, and what there is to say of them."""

    statistics: FeatureStatistics
    summary: dict[str, Any]

    @classmethod
    def of_file(cls, path: str, statistics: FeatureStatistics) -> "_Scored":
        side = dict(statistics.source).get("side")
        return cls(statistics, {"path": path, "samples": int(statistics.count), "side": side})

    @classmethod
    def of_videos(cls, path: str, result: Result) -> "_Scored":
        summary = {
            "path": path,
            "protocol": dataclasses.asdict(result.protocol),
            "samples": int(result.statistics.count),
            "found": result.found,
            "used": result.used,
            "too_short": result.too_short,
            "unreadable": dict(result.unreadable),
            "cached": result.cached,
        }
        return cls(result.statistics, summary)


def _find_cache() -> Path | None:
    """The folder of the cache; None if it cannot be written, which is told once."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        kept = _kept_in(folder)
        trim(kept["statistics"] + kept["programs"], _CACHE_BYTES)
        return folder
    except OSError as error:
        _tell(f"warning: going on without the cache (XDG_CACHE_HOME): {error}")
        return None


def _start_distributed(args: argparse.Namespace) -> None:
    if args.distributed:
        jax.distributed.initialize()


def _tell_if_one(args: argparse.Namespace) -> None:
    with contextlib.suppress(OSError):  # told where they are read
        if os.path.samefile(args.real, args.fake):
            _tell(f"warning: REAL and FAKE are one and the same: {args.real}")


def _is_kept(path: str) -> bool:
    return path.endswith(_STATISTICS_SUFFIX)


def _asked_for(args: argparse.Namespace, kept: Sequence[FeatureStatistics]) -> list[Protocol]:
    """The protocols of the command line, by default those of statistics that were kept."""
    if args.protocol and (args.dataset or args.comparison_type):
        raise ValueError("protocol: got --dataset or --comparison-type too, expected either")
    of_kept = [dict(s.source)["protocol"] for s in kept if "protocol" in dict(s.source)]
    if args.protocol:
        names = args.protocol.split(",")
    elif args.dataset or args.comparison_type or not of_kept:
        names = [f"srvp:{args.dataset or DATASETS[0]}:{args.comparison_type or 'frame'}"]
    else:
        names = of_kept[:1]
    overrides = {name: getattr(args, name) for name in OVERRIDES}
    protocols = {p.name: p for p in (find_protocol(name, **overrides) for name in names)}
    if kept and len(protocols) > 1:
        raise ValueError(f"protocol: got {len(protocols)} of them, statistics are of one")
    return list(protocols.values())


def _find(path: str, side: Side, protocols: Sequence[Protocol]) -> list[Video]:
    """The videos at a path; told before any is read: that they are too few, and strays."""
    videos = find_videos(path)
    for protocol in protocols:
        if len(videos) < (protocol.clips or 1):
            raise ValueError(
                f"{path}: holds {len(videos)} videos, protocol {protocol.name!r} takes "
                f"{protocol.clips} clips"
            )
    _tell_strays(side, videos)
    return videos


def _find_both(
    args: argparse.Namespace, protocols: Sequence[Protocol], kept: Container[str] = ()
) -> dict[Side, list[Video]]:
    """The videos of the sides that are no kept statistics."""
    sides: tuple[Side, ...] = get_args(Side)
    paths = {side: getattr(args, side) for side in sides}
    return {s: _find(path, s, protocols) for s, path in paths.items() if path not in kept}


def _go_through(
    make: Callable[..., list[_T]],
    videos: Sequence[Video],
    metrics: Sequence[Metric],
    side: Side,
    args: argparse.Namespace,
) -> list[_T]:
    """What one of `evaluation`'s functions makes of videos; tells how far it is."""
    clips = min(len(videos), max(metric.protocols[0].clips or len(videos) for metric in metrics))
    with _progress(side, clips) as show_progress:

        def on_progress(position: int) -> None:
            _raise_if_terminated()
            show_progress(position)

        return make(
            videos,
            metrics,
            side,
            workers=args.workers,
            strict=args.strict,
            on_progress=on_progress,
        )


def _tell_strays(side: Side, videos: Sequence[Video]) -> None:
    strays = [name for video in videos for name in video.strays]
    if strays:
        _tell(f"{side}: {len(strays)} images are no frames of the sequences that they lie beside")
    for name in strays[:_STRAYS_TOLD]:
        _tell(f"  no frame: {name}")


def _tell_results(path: str, side: Side, results: Sequence[Result]) -> None:
    for result in results:
        weights = dict(result.statistics.source)["weights_sha256"][:8]
        cached = "; statistics from the cache (--no-cache computes them anew)"
        _tell(
            f"{side}: {path}: {result.found} videos, {result.used} used, {len(result.too_short)} "
            f"too short, {len(result.unreadable)} unreadable; {result.protocol.name}, weights "
            f"{weights}" + (cached if result.cached else "")
        )
        for name in result.too_short:
            _tell(f"  too short: {name}")
        for name, error in result.unreadable:
            _tell(f"  unreadable: {name}: {error}")


def _print_distances(
    real: Sequence[_Scored], fake: Sequence[_Scored], args: argparse.Namespace
) -> None:
    results: list[dict[str, Any]] = []
    for a, b in zip(real, fake, strict=True):
        source = dict(b.statistics.source) | dict(a.statistics.source)
        source.pop("side", None)
        for text in cautions_of_sides(a.statistics, b.statistics):
            warnings.warn(text, stacklevel=1)
        for text in cautions(a.statistics, b.statistics):
            warnings.warn(text, stacklevel=1)
        ddof = int(source.get("ddof", 1))
        for one in (a, b):
            if one.summary["samples"] <= ddof:
                path, samples = one.summary["path"], one.summary["samples"]
                raise ValueError(f"{path}: got {samples} samples for a divisor of n - {ddof}")
        both = {"real": a.statistics, "fake": b.statistics}
        distance = float(distance_between(both, args.method))
        if not math.isfinite(distance):
            raise ValueError(f"distance: got {distance} of {a.summary['path']}")
        results.append(
            {
                "distance": distance,
                "protocol": source.get("protocol"),
                "source": source,
                "real": a.summary,
                "fake": b.summary,
            }
        )
    if jax.process_index() > 0:
        return
    if args.json:
        version = srvp_fd_jax.__version__
        print(json.dumps({"results": results, "method": args.method, "version": version}))
    else:
        _print_table([(result["protocol"], result["distance"]) for result in results])


def _print_table(distances: Sequence[tuple[str | None, float]]) -> None:
    for protocol, distance in distances:
        print(f"{distance:.6g}" if len(distances) == 1 else f"{protocol}\t{distance:.6g}")


@contextlib.contextmanager
def _progress(side: Side, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error if that is a terminal, else a line now and then."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # it comes with the extra "video", which arrays do without
        tqdm = None
    if tqdm is None or not sys.stderr.isatty():
        yield _progress_in_lines(side, total)
        return
    with tqdm(total=total, desc=side, unit="video") as bar:
        yield lambda position: bar.update(min(position, total) - bar.n)


def _progress_in_lines(side: Side, total: int) -> Callable[[int], None]:
    begun = told = time.monotonic()

    def tell(position: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _SECONDS_A_LINE and jax.process_index() == 0:
            told = now
            _tell(f"{side}: {min(position, total)} of {total} videos in {now - begun:.0f} s")

    return tell


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _tell(f"warning: {message}")


def _tell(text: str) -> None:
    print(f"srvp-fd-jax: {printable(text)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
