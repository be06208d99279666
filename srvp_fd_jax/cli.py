"""The command `srvp-fd-jax`."""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

import jax

import srvp_fd_jax
from srvp_fd_jax import overlap
from srvp_fd_jax.demo import table, videos
from srvp_fd_jax.distances import DISTANCES, load_statistics, states
from srvp_fd_jax.distances.sample import SAMPLE_SIZE
from srvp_fd_jax.evaluation import (
    DEFAULT,
    STATISTICS_SUFFIX,
    Result,
    calculator_of,
    check_names,
    clips_to_read,
    compare,
    compare_storage,
    compute,
    find_videos,
    group_labels,
    is_statistics,
    load_kept,
    match_of_sides,
    repeats,
    unit_labels,
)
from srvp_fd_jax.files import cache_folder, check_writable, printable, size_of, trim
from srvp_fd_jax.inputs import nearest
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.srvp import COMPARISON_TYPES, DATASETS, OWN
from srvp_fd_jax.passes import Evaluated, evaluate, load_calculators
from srvp_fd_jax.protocols import (
    OVERRIDES,
    PROTOCOLS,
    Protocol,
    Side,
    find_protocol,
)
from srvp_fd_jax.report import page, plots
from srvp_fd_jax.report.findings import find
from srvp_fd_jax.ruler import ladder
from srvp_fd_jax.ruler.ladder import LEAST_CLIPS, kept_at
from srvp_fd_jax.training.recipes import RECIPES, change

if TYPE_CHECKING:
    from srvp_fd_jax.training import trainer

_RULER_CLIPS = 128
_SECONDS_A_LINE = 30

_CACHE_BYTES = 2 << 30  # for statistics and compiled programs; weights are not limited

_DATA_HELP = (
    "a folder, .zip, .tar or .tar.gz of video files, folders of frames or arrays, a .npy or .npz "
    "file of clips, or a .txt file that lists paths"
)


_CHANGES = {
    "clips": "number of clips per side, at most one per video",
    "frames": "number of frames per clip",
    "step": "take every STEP-th frame",
    "skip": "number of first frames of every video that are left out, such as given frames",
    "start": "where a clip starts in its video",
    "resize": "rule for resizing frames",
    "distance": "name of the distance; precision, recall, density and coverage are larger for more "
    "alike videos",
    "seed": "seed of random starts, not part of the name",
}


_RECIPE_CHANGES: dict[str, tuple[str, Any]] = {
    "archi": ("type of the encoder and decoder", Literal["dcgan", "vgg"]),
    "skipco": ("whether skip connections lead to the decoder", Literal["true", "false"]),
    "nc": ("number of channels, 1 or 3", int),
    "nf": ("number of filters of the first convolution", int),
    "ny": ("dimension of the state", int),
    "nz": ("dimension of the noise that drives the state", int),
    "nt_inf": ("number of frames from which content and first state are inferred", int),
    "frames": ("number of frames per clip", int),
    "given": ("number of frames that the model is given to predict the others", int),
    "batch_size": ("number of clips per step", int),
    "accumulate": ("number of parts of a batch, for machines of little memory", int),
    "precision": ("precision of the convolutions", Precision),
    "euler_steps": ("number of Euler steps from a frame to the next", int),
    "obs_scale": ("standard deviation of the pixels around the decoded ones", float),
    "beta_y": ("weight of the divergence of the first state", float),
    "beta_z": ("weight of the divergence of the noise", float),
    "l2_res": ("weight of the norms of the residuals", float),
    "learning_rate": ("learning rate of Adam before it decays", float),
    "validate_every": ("number of steps between validations", int),
    "validation_clips": ("largest number of held-out clips", int),
    "samples": ("number of predictions per held-out clip", int),
    "seed": ("seed of weights, clips and noise", int),
    "split_seed": ("seed of the choice of held-out videos", int),
}


_POSITIONAL = ("real", "fake", "data", "videos")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments of the command; by default those of the process.

    Returns:
        Exit status: 0; 1 after an error, which is printed in one line on standard error; 130 if
        interrupted; 143 if terminated. Wrong usage raises `SystemExit` with status 2.
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
    # JAX factorises on the CPU with OpenBLAS, whose threads wait for each other in a busy loop. On
    # matrices as small as these they are several times slower than one, and a thousand times on a
    # busy machine.
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
        except OSError as error:
            named = error.filename and error.strerror
            _tell(f"error: {error.filename}: {error.strerror}" if named else f"error: {error}")
            return 1
        except (ValueError, ModuleNotFoundError) as error:
            _tell(f"error: {_as_typed(str(error), args)}")
            return 1
    return 0


def _as_typed(message: str, args: argparse.Namespace) -> str:
    """A message about an argument that came from an option, under the name of the option."""
    name, found, rest = message.partition(": got ")
    value = None if name in _POSITIONAL else getattr(args, name, None)
    if not found or value is None or not rest.startswith((str(value), repr(value))):
        return message
    return f"--{name.replace('_', '-')}{found}{rest}"


class _Terminated(KeyboardInterrupt):
    pass


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Handles SIGTERM like Ctrl-C, so that training saves a checkpoint."""

    def end(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # cannot handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if choice := re.fullmatch(r".*invalid choice: '(.*?)' \(choose from (.*)\)", message):
            near = nearest(choice[1], re.findall(r"[\w.-]+", choice[2]))
            message += f"; did you mean {near!r}?" if near else ""
        super().error(printable(message))


def _name(text: str) -> str:
    # An empty shell variable would otherwise mean the current folder, or a default.
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

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str, *examples: str) -> Any:
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog="\n  srvp-fd-jax ".join(["examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print one line of JSON")
        command.set_defaults(run=run)
        return command

    command = add(
        "demo",
        _demo,
        "show how each distance reacts to corrupted moving digits",
        "demo",
        "demo -o videos",
    )
    command.add_argument(
        "--clips",
        type=_whole(2),
        default=300,
        help="number of clips per corruption, or of videos per folder (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="seed of all randomness (default: %(default)s)"
    )
    command.add_argument(
        "-o", "--output", type=_name, help="folder to write example videos to, without a table"
    )

    add("protocols", _protocols, "list the protocols and their settings", "protocols")

    command = add(
        "cache",
        _cache,
        "show or clear the cache of weights, statistics and compiled programs",
        "cache",
        "cache --clear",
    )
    command.add_argument("--clear", action="store_true", help="remove all files in the cache")

    command = add(
        "compute",
        _compute,
        "compute the distance between real and generated videos",
        "compute real/ generated/ --protocol fvd2048_16f",
        "compute real.tar generated.npy --dataset kth --comparison-type dynamics",
    )
    command.add_argument(
        "real",
        type=_name,
        metavar="REAL",
        help=f"real videos: {_DATA_HELP}; or their statistics (.safetensors, or cd-fvd's .pkl)",
    )
    command.add_argument(
        "fake", type=_name, metavar="FAKE", help="generated videos, in the same forms as REAL"
    )
    _add_evaluation(command)
    _add_distributed(command)
    command.add_argument(
        "--no-cache", action="store_true", help="neither reuse nor keep the statistics of REAL"
    )
    _add_floor(command)
    _add_paired(command)
    _add_groups(command)

    command = add(
        "report",
        _report,
        "write a page with the distance, its reliability and some of the clips",
        "report real/ generated/ -o report.html",
    )
    command.add_argument(
        "real", type=_name, metavar="REAL", help=f"real videos, not statistics: {_DATA_HELP}"
    )
    command.add_argument(
        "fake", type=_name, metavar="FAKE", help="generated videos, in the same forms as REAL"
    )
    _add_evaluation(command)
    command.add_argument(
        "-o",
        "--output",
        type=_name,
        required=True,
        help="HTML file to write (*.html); or a folder for images, a new one with / at the end",
    )
    _add_paired(command)
    _add_groups(command)

    command = add(
        "ruler",
        _ruler,
        "measure corruptions of real videos, by which later distances are read",
        "ruler real/ --protocol fvd2048_16f",
    )
    command.add_argument("data", type=_name, metavar="REAL", help=f"real videos: {_DATA_HELP}")
    _add_evaluation(command)
    command.add_argument(
        "--size",
        type=_whole(LEAST_CLIPS),
        metavar="K",
        help="number of clips that are compared with as many others, and fewest generated videos "
        f"that can be read off later (default: 45 %% of the videos, at most {_RULER_CLIPS})",
    )
    _add_groups(command)

    command = add(
        "stats",
        _stats,
        "compute statistics of videos, to compare them later",
        "stats real/ -o real.safetensors",
        "stats generated/ --fake -o generated.safetensors",
    )
    command.add_argument("data", type=_name, metavar="DATA", help=f"videos: {_DATA_HELP}")
    _add_evaluation(command)
    _add_distributed(command)
    command.add_argument(
        "-o",
        "--output",
        type=_name,
        required=True,
        help=f"file to write, *{STATISTICS_SUFFIX}; for several protocols with {{protocol}} in it",
    )
    command.add_argument(
        "--sample",
        type=_whole(1),
        metavar="K",
        help="keep a random sample of K clips with their features, which --floor needs, and any "
        "distance that compares samples (kvd, mind, precision, recall, density, coverage)",
    )
    command.add_argument(
        "--fake", action="store_true", help="sample the videos as generated ones, not as real ones"
    )

    command = add(
        "train",
        _train,
        "train an SRVP model on videos, whose features then score such videos",
        "train videos/ -o model.safetensors",
        "train videos/ -o model.safetensors --minutes 60 --nf 32",
        "train videos/ -o model.safetensors --resume",
    )
    command.add_argument("videos", type=_name, metavar="VIDEOS", help=f"videos: {_DATA_HELP}")
    command.add_argument(
        "-o",
        "--output",
        type=_name,
        required=True,
        help="file to write, *.safetensors; a folder *.run beside it keeps checkpoints and metrics",
    )
    command.add_argument(
        "--recipe",
        choices=RECIPES,
        help=f"how the model is trained (default: {OWN}, which fits its --batch-size, --nf and "
        "validations to the videos, the device and the time)",
    )
    command.add_argument(
        "--steps",
        type=_whole(1),
        metavar="N",
        help=f"number of steps (default: the recipe's; {OWN} takes fewer on a CPU)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="time of the whole run in minutes, with that before an interruption",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint of the run"
    )
    _add_distributed(command)
    changes = command.add_argument_group("changes to the recipe")
    for name, (text, kind) in _RECIPE_CHANGES.items():
        option: Any = {"choices": get_args(kind)} if get_args(kind) else {"type": kind}
        changes.add_argument(_option(name), help=f"{text} (default: the recipe's)", **option)

    command = add(
        "compare",
        _compare,
        "compute the distance between two files of statistics",
        "compare real.safetensors generated.safetensors",
    )
    command.add_argument(
        "real", type=_name, metavar="REAL", help="file of statistics of real videos, see `stats`"
    )
    command.add_argument(
        "fake", type=_name, metavar="FAKE", help="file of statistics of generated videos"
    )
    command.add_argument(
        "--distance", choices=DISTANCES, help="name of the distance (default: frechet)"
    )
    _add_floor(command)
    return parser


def _add_floor(command: Any) -> None:
    command.add_argument(
        "--floor",
        action="store_true",
        help="also compute the distances that chance gives with these clips, by a permutation test",
    )


def _add_paired(command: Any) -> None:
    command.add_argument(
        "--paired",
        action="store_true",
        help="the i-th video of FAKE is a prediction of the i-th video of REAL; videos in files of "
        "the same name are paired in any case",
    )


def _add_groups(command: Any) -> None:
    command.add_argument(
        "--group-by",
        type=_grouping,
        metavar="REGEX",
        help="videos whose names have the same match, or first group of it, depend on each other, "
        "such as clips of one recording (for the p-value); names are below the folder",
    )


def _grouping(text: str) -> Callable[[str], str]:
    """The function that labels a name by the first match of a regular expression."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"got {text!r}: {error}") from error

    def label(name: str) -> str:
        found = pattern.search(name)
        if found is None or found[pattern.groups > 0] is None:
            raise ValueError(f"--group-by: got {text!r}, which does not match {name}")
        return found[pattern.groups > 0]

    return label


def _add_evaluation(command: Any) -> None:
    command.add_argument(
        "--protocol",
        type=_name,
        metavar="NAME[,NAME...]",
        help="protocols, computed in one pass; `srvp-fd-jax protocols` lists them (default: that "
        f"of given statistics, else {DEFAULT})",
    )
    command.add_argument(
        "--dataset",
        choices=DATASETS,
        help="dataset of an SRVP protocol, instead of --protocol (default with "
        f"--comparison-type: {DATASETS[0]})",
    )
    command.add_argument(
        "--comparison-type",
        choices=COMPARISON_TYPES,
        help="features that an SRVP protocol compares (default: frame)",
    )
    changes = command.add_argument_group("changes to the protocol, which become part of its name")
    for name, text in _CHANGES.items():
        kind: Any = OVERRIDES[name]
        allowed = {"type": int} if kind is int else {"choices": kind}
        changes.add_argument(f"--{name}", help=f"{text} (default: the protocol's)", **allowed)
    command.add_argument(
        "--weights",
        type=_name,
        help="weights of the network: a converted file, a checkpoint folder or a state dict "
        "(default: the bundled, cached or downloaded ones)",
    )
    command.add_argument(
        "--match",
        type=_name,
        metavar="GLOB",
        action="append",
        help="take the files whose names, or paths below the folder, match GLOB, such as "
        "'*_gt.mp4' or 'test/*'; given twice, the first is for REAL and the second for FAKE",
    )
    command.add_argument(
        "--strict", action="store_true", help="stop at an unreadable video instead of skipping it"
    )


def _add_distributed(command: Any) -> None:
    command.add_argument(
        "--distributed",
        action="store_true",
        help="run as one of many processes (jax.distributed.initialize) that share the videos",
    )


def _demo(args: argparse.Namespace) -> None:
    if args.output:
        videos.write_videos(Path(args.output), args.clips, args.seed)
        print(printable(args.output))
        return
    table.run(args.clips, args.seed, args.json)


def _protocols(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps([dataclasses.asdict(protocol) for protocol in PROTOCOLS.values()]))
        return
    rows = [protocol.described() for protocol in PROTOCOLS.values()]
    columns = [column for column in rows[0] if len({row[column] for row in rows}) > 1]
    for row in [{column: column for column in columns}, *rows]:
        cells = (
            row[column].ljust(max(len(column), *(len(other[column]) for other in rows)))
            for column in columns
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
    print(printable(str(folder)) + (", cleared of:" if args.clear else ""))
    for kind, of_kind in told.items():
        print(f"{kind:12}{of_kind['files']:>6} files{of_kind['bytes'] / 2**20:>10.1f} MiB")


def _kept_in(folder: Path) -> dict[str, list[Path]]:
    """Files in the cache by kind."""

    def files(pattern: str) -> list[Path]:
        return sorted(path for path in folder.glob(pattern) if path.is_file())

    return {
        "weights": files("*.safetensors"),
        "statistics": files("statistics/*"),
        "programs": files("xla/**/*"),
    }


def _compute(args: argparse.Namespace) -> None:
    _start_distributed(args)
    keep = args.cache and not args.no_cache and not args.distributed
    with _progress() as show_progress:
        made = compute(
            args.real,
            args.fake,
            _asked_for(args) or _default(args),
            weights=args.weights,
            strict=args.strict,
            cache=args.cache / "statistics" if keep else None,
            floor=args.floor,
            match=args.match,
            paired=args.paired,
            groups=args.group_by,
            on_progress=show_progress,
            on_side=_tell_results,
        )
    results = made if isinstance(made, list) else [made]
    for result in results:
        for one in result.standing:
            _tell(f"ruler: {_prefix(result, results)}{one.described}")
    _print_results(results, args)


def _ruler(args: argparse.Namespace) -> None:
    protocols = _asked_for(args) or [find_protocol(DEFAULT, **_overrides(args))]
    videos = find_videos(args.data, "real", protocols, _glob(args))
    calculators = load_calculators(protocols, args.weights)
    # Some videos may be too short or damaged.
    size = args.size or max(LEAST_CLIPS, min(int(0.45 * len(videos)), _RULER_CLIPS))
    told = []
    for protocol in protocols:
        calculator = calculator_of(protocol, calculators)
        with _progress("set") as show:
            made = ladder.build(
                videos,
                calculator,
                size,
                groups=args.group_by and group_labels(videos, "real", args.group_by),
                on_progress=functools.partial(show, "real"),
            )
        if args.cache and (where := kept_at(videos, calculator, args.cache / "statistics")):
            ladder.save(made, where)
        else:
            _tell("warning: the ruler is not kept, so `compute` and `report` cannot use it")
        told.append({"protocol": protocol.name, **ladder.summary(made)})
    if args.json:
        print(json.dumps({"rulers": told, "version": srvp_fd_jax.__version__}))
        return
    for one in told:
        print(f"{one['protocol']}: {size} real clips against {size} others: {one['clean']:.6g}")
        for rung in one["rungs"]:
            for step in rung["steps"]:
                print(f"  {step['described']:48}{step['distance']:12.6g}")
        for name, reason in one["left_out"].items():
            print(f"  {name} is left out: {reason}")


def _compare(args: argparse.Namespace) -> None:
    real, fake = map(load_kept, (args.real, args.fake))
    for taken_for, side in (("real", real), ("fake", fake)):
        _tell(f"{taken_for}: {side.described()}")
    _print_results([compare(real, fake, distance=args.distance, floor=args.floor)], args)


def _report(args: argparse.Namespace) -> None:
    for side in ("real", "fake"):
        if is_statistics(path := getattr(args, side)):
            raise ValueError(f"{side}: got the statistics {path}, a report needs the videos")
    page.check_output(args.output)
    plots.check_extra()
    protocols = _asked_for(args) or [find_protocol(DEFAULT, **_overrides(args))]
    sides: dict[Side, str] = {"real": args.real, "fake": args.fake}
    globs = match_of_sides(args.match)
    videos = {side: find_videos(path, side, protocols, globs[side]) for side, path in sides.items()}
    compare_storage(videos, protocols)
    unit_labels(videos, args.paired, args.group_by)  # raises an error before videos are read
    if not (args.paired or args.group_by):
        check_names(videos)
    calculators = load_calculators(protocols, args.weights)
    of_files = overlap.of_files(videos)
    for text in of_files.values():
        warnings.warn(text, stacklevel=1)

    def evaluated(side: Side) -> list[Evaluated]:
        with _progress() as show:
            total = clips_to_read(videos[side], protocols)
            show(side, 0, total)
            made = evaluate(
                videos[side],
                calculators,
                side,
                strict=args.strict,
                sample=SAMPLE_SIZE,
                along=True,
                paired=args.paired,
                on_progress=lambda position: show(side, position, total),
            )
        results = [dataclasses.replace(one, name=sides[side]) for one in made]
        _tell_results(side, results)
        return results

    both = list(zip(evaluated("real"), evaluated("fake"), strict=True))
    cache = args.cache / "statistics" if args.cache else None
    repeated = repeats(both, calculators, of_files)
    units: dict[str, Any] = {"paired": args.paired, "groups": args.group_by}
    findings = [
        find(*one, videos, calculators, cache, [*of_files.values(), *texts], **units)
        for one, texts in zip(both, repeated, strict=True)
    ]
    for one in findings:
        for text in one.cautions:
            if text not in of_files.values():
                warnings.warn(text, stacklevel=1)
    failure = None
    try:
        page.write(args.output, findings, args.real, args.fake)
    except OSError as error:  # still print the distances, which took the time
        failure = error
    if args.json:
        results = [one.summary() for one in findings]
        version = srvp_fd_jax.__version__
        output = None if failure else args.output
        print(json.dumps({"results": results, "output": output, "version": version}))
    elif failure:
        _print_table([(one.protocol.name, one.distance) for one in findings])
    else:
        print(printable(args.output))
    if failure:
        raise failure


def _stats(args: argparse.Namespace) -> None:
    _start_distributed(args)
    protocols = _asked_for(args) or [find_protocol(DEFAULT, **_overrides(args))]
    if not args.output.endswith(STATISTICS_SUFFIX):
        raise ValueError(
            f"output: got {args.output}, expected a name that ends in {STATISTICS_SUFFIX}"
        )
    if len(protocols) > 1 and "{protocol}" not in args.output:
        raise ValueError(f"output: got {args.output}, several protocols need {{protocol}} in it")
    outputs = {
        p.name: Path(args.output.replace("{protocol}", p.name.replace(":", "_"))) for p in protocols
    }
    if jax.process_index() == 0:
        for output in outputs.values():
            check_writable(output)
    partial = Path(f"{next(iter(outputs.values()))}.partial")
    side: Side = "fake" if args.fake else "real"
    videos = find_videos(args.data, side, protocols, _glob(args))
    total = clips_to_read(videos, protocols)
    with _progress() as show:
        show(side, 0, total)
        results = evaluate(
            videos,
            load_calculators(protocols, args.weights),
            side,
            strict=args.strict,
            save_to=None if args.distributed else partial,
            sample=args.sample and min(args.sample, max(1, len(videos))),
            on_progress=lambda position: show(side, position, total),
        )
    results = [dataclasses.replace(result, name=args.data) for result in results]
    _tell_results(side, results)
    if jax.process_index() > 0:
        return
    for result in results:
        states.save(result.statistics, outputs[result.protocol.name], result.sample)
    partial.unlink(missing_ok=True)
    if args.json:
        summaries = [
            {**result.summary(), "output": str(outputs[result.protocol.name])} for result in results
        ]
        print(json.dumps({"statistics": summaries, "version": srvp_fd_jax.__version__}))
    else:
        for output in outputs.values():
            print(printable(str(output)))


def _train(args: argparse.Namespace) -> None:
    from srvp_fd_jax.training import trainer  # needs the extra "train"

    _start_distributed(args)
    changes = {
        name: value == "true" if name == "skipco" else value
        for name in _RECIPE_CHANGES
        if (value := getattr(args, name)) is not None
    }
    is_fitted = args.recipe in (None, OWN)
    try:
        with _progress() as show, _training_progress() as show_training:
            made = trainer.train(
                args.videos,
                args.output,
                changes if is_fitted else change(RECIPES[args.recipe], **changes),
                steps=args.steps,
                minutes=args.minutes,
                resume=args.resume,
                on_survey=functools.partial(show, "videos"),
                on_fitted=_tell_first,
                on_progress=show_training,
            )
    except ValueError as error:
        raise ValueError(_by_options(str(error))) from error
    if jax.process_index() > 0:
        return
    if args.json:
        summary = {**made._asdict(), "output": args.output, "run": str(made.run)}
        print(json.dumps({**summary, "version": srvp_fd_jax.__version__}))
    _tell_trained(made)
    if not args.json:
        print(printable(str(made.output)))


def _tell_trained(made: "trainer.Trained") -> None:
    """Tells how good a model is, and how to go on with it."""
    clips = f"{made.clips} held-out clip" + ("s" if made.clips > 1 else "")
    others = ", ".join(f"{name} {psnr:.2f} dB" for name, psnr in made.baselines.items())
    _tell(f"{made.step} steps; PSNR on {clips}: the model {made.psnr:.2f} dB, {others}")
    if made.is_better:
        command = f"srvp-fd-jax compute REAL FAKE --dataset {OWN} --weights {made.output}"
        _tell(f"to score videos: {command}")
    else:
        worse = " and ".join(n for n, psnr in made.baselines.items() if made.psnr <= psnr)
        _tell(
            f"warning: the model predicts no better than {worse}, so do not score with it: train "
            "longer (--resume with more --minutes or --steps) or on more videos"
        )


def _tell_first(text: str) -> None:
    if jax.process_index() == 0:
        _tell(text)


def _by_options(text: str) -> str:
    """A message of `train` in which values of the recipe have the names of their options."""
    names = "|".join(name for name in _RECIPE_CHANGES if "_" in name)  # which are no other words
    return re.sub(rf"(?<![\w/.-])({names})(?![\w/.-]\w)", lambda m: _option(m[1]), text)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _find_cache() -> Path | None:
    """The folder of the cache, or None with a warning if the folder cannot be written."""
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


def _glob(args: argparse.Namespace) -> str | None:
    """The glob of a command that takes one set."""
    if args.match and len(args.match) > 1:
        raise ValueError(f"match: got {len(args.match)} globs, expected one")
    return args.match[0] if args.match else None


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in OVERRIDES}


def _asked_for(args: argparse.Namespace) -> list[Protocol]:
    """The protocols that the command line names; empty if it names none."""
    if args.protocol and (args.dataset or args.comparison_type):
        raise ValueError(
            "protocol: --protocol cannot be combined with --dataset or --comparison-type"
        )
    names = args.protocol.split(",") if args.protocol else []
    if args.dataset or args.comparison_type:
        names = [f"srvp:{args.dataset or DATASETS[0]}:{args.comparison_type or 'frame'}"]
    found = [find_protocol(name, **_overrides(args)) for name in names]
    return list({protocol.name: protocol for protocol in found}.values())


def _default(args: argparse.Namespace) -> list[Protocol] | None:
    """The protocol where none is named: that of statistics, with changes; None without either."""
    kept = [load_statistics(path) for path in (args.real, args.fake) if is_statistics(path)]
    names = [name for s in kept if (name := dict(s.source).get("protocol"))]
    if not names and not any(value is not None for value in _overrides(args).values()):
        return None
    if kept and not names:
        raise ValueError(
            "protocol: the files of statistics do not name theirs, name it with --protocol"
        )
    return [find_protocol((names or [DEFAULT])[0], **_overrides(args))]


def _tell_results(side: Side, results: Sequence[Evaluated]) -> None:
    for result in results:
        source = dict(result.statistics.source)
        cached = "; statistics from the cache (--no-cache computes them anew)"
        _tell(
            f"{side}: {result.name}: {result.found} videos, {result.used} used, "
            f"{len(result.too_short)} too short, {len(result.unreadable)} unreadable; "
            f"{source['protocol']}, weights {source['weights_sha256'][:8]}"
            + (cached if result.cached else "")
        )
        for name in result.too_short:
            _tell(f"  too short: {name}")
        for name, error in result.unreadable:
            _tell(f"  unreadable: {name}: {error}")


def _print_results(results: Sequence[Result], args: argparse.Namespace) -> None:
    if jax.process_index() > 0:
        return
    summaries = [result.summary() for result in results]
    if args.json:
        print(json.dumps({"results": summaries, "version": srvp_fd_jax.__version__}))
    else:
        _print_table([(summary["protocol"], summary["distance"]) for summary in summaries])
        for result in results:
            if result.floor:
                print(f"floor\t{_prefix(result, results)}{result.floor.described()}")


def _prefix(result: Result, results: Sequence[Result]) -> str:
    """The protocol of one of several results."""
    return f"{result.protocol.name}: " if result.protocol and len(results) > 1 else ""


def _print_table(distances: Sequence[tuple[str | None, float]]) -> None:
    for protocol, distance in distances:
        print(f"{distance:.6g}" if len(distances) == 1 else f"{protocol}\t{distance:.6g}")


@contextlib.contextmanager
def _progress(unit: str = "video") -> Iterator[Callable[[str, int, int], None]]:
    """Shows progress on standard error: a bar on a terminal, else a line every 30 seconds."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # from the extra "video", which arrays do not need
        tqdm = None
    bars: dict[str, Any] = {}
    begun: dict[str, float] = {}
    told = 0.0

    def show(side: str, position: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if side not in begun:
            begun[side] = told = now
        if tqdm and sys.stderr.isatty():
            if side not in bars:
                bars[side] = tqdm(total=total, desc=side, unit=unit)
            bars[side].update(min(position, total) - bars[side].n)
            if position >= total:  # the next message begins on a new line
                bars[side].close()
        elif now - told >= _SECONDS_A_LINE and jax.process_index() == 0:
            told = now
            _tell(f"{side}: {min(position, total)} of {total} {unit}s in {now - begun[side]:.0f} s")

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


@contextlib.contextmanager
def _training_progress() -> Iterator[Callable[["trainer.Moment"], None]]:
    """Shows how a run goes: a bar on a terminal, else a line every 30 seconds."""
    from tqdm import tqdm

    told = time.monotonic()
    bar: Any = None

    def show(moment: "trainer.Moment") -> None:
        nonlocal bar, told
        now = time.monotonic()
        text = f"step {moment.step}"
        text += "".join(f", {name} {value:.5g}" for name, value in moment.terms.items())
        text += "" if moment.psnr is None else f", PSNR {moment.psnr:.2f} dB"
        text += "" if moment.seconds_left is None else f", {_duration(moment.seconds_left)} left"
        if sys.stderr.isatty():
            form = "{percentage:3.0f}%|{bar:20}| {elapsed}{postfix}"
            bar = bar or tqdm(total=1.0, initial=moment.share, bar_format=form)
            bar.set_postfix_str(text, refresh=False)
            bar.update(moment.share - bar.n)
        elif (now - told >= _SECONDS_A_LINE or moment.share == 1) and jax.process_index() == 0:
            told = now
            _tell(f"{moment.share:.0%}, {text}")

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _tell(f"warning: {message}")


def _tell(text: str) -> None:
    print(f"srvp-fd-jax: {printable(text)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
