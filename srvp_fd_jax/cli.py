"""The command srvp-fd-jax."""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Shaped

import srvp_fd_jax
from srvp_fd_jax.calculator import ComparisonType, FrechetDistanceCalculator
from srvp_fd_jax.frechet import Method
from srvp_fd_jax.fvd import FrechetVideoDistanceCalculator
from srvp_fd_jax.statistics import FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.videos import corruptions
from srvp_fd_jax.videos.corruptions import Clips
from srvp_fd_jax.videos.moving_digits import moving_digits
from srvp_fd_jax.videos.protocols import PROTOCOLS
from srvp_fd_jax.weights import DATASETS

COMPARISON_TYPES = get_args(ComparisonType)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments, by default those of the process.

    Returns:
        Exit status: 0, or 1 after an error, told in one line on standard error.
    """
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            args.run(args)
        except (OSError, ValueError) as error:
            print(f"srvp-fd-jax: error: {error}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="srvp-fd-jax", description=srvp_fd_jax.__doc__)
    parser.add_argument("--version", action="version", version=srvp_fd_jax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="corrupt moving digits and see what each distance sees")
    demo.add_argument("--clips", type=int, default=300, help="a row (default %(default)s)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    compute = commands.add_parser("compute", help="score one array file against another")
    compute.add_argument("a", metavar="A", help=".npy or .npz of frames or clips, e.g. real ones")
    compute.add_argument("b", metavar="B", help="the same, e.g. generated ones")
    compute.add_argument("--dataset", choices=DATASETS, help=f"default {DATASETS[0]}")
    compute.add_argument("--comparison-type", choices=COMPARISON_TYPES, help="default frame")
    compute.add_argument(
        "--protocol", choices=PROTOCOLS, help="the Fréchet Video Distance, in place of SRVP's"
    )
    compute.add_argument("--batch-size", type=int, help="samples encoded at a time")
    compute.add_argument("--weights", help="a converted file, checkpoint folder or state dict")
    compute.add_argument("--method", choices=get_args(Method), default="procrustes")
    compute.set_defaults(run=_compute)

    for command in (demo, compute):
        command.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


def _compute(args: argparse.Namespace) -> None:
    if args.protocol and (args.dataset or args.comparison_type):
        raise ValueError("--protocol is for FVD, --dataset and --comparison-type are for SRVP")
    x, y = _read_array(args.a), _read_array(args.b)
    options = {"weights": args.weights, "method": args.method}
    if args.protocol:
        distance = FrechetVideoDistanceCalculator(args.protocol, **options)(x, y, args.batch_size)
        made_by = {"protocol": args.protocol}
    else:
        dataset = args.dataset or DATASETS[0]
        comparison_type: ComparisonType = args.comparison_type or "frame"
        calculator = FrechetDistanceCalculator(dataset, **options)
        distance = calculator(x, y, comparison_type, args.batch_size)
        made_by = {"dataset": dataset, "comparison_type": comparison_type}
    if args.json:
        result = {
            "distance": float(distance),
            **made_by,
            "method": args.method,
            "samples": [len(x), len(y)],
            "version": srvp_fd_jax.__version__,
        }
        print(json.dumps(result))
    else:
        print(f"{distance:.6g}")


def _read_array(path: str) -> Shaped[np.ndarray, "..."]:
    if not path.endswith((".npy", ".npz")):
        raise ValueError(f"{path}: expected a .npy or .npz file")
    try:
        file = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable array file: {error}") from error
    if isinstance(file, np.ndarray):
        return file
    with file:
        if len(file.files) != 1:
            raise ValueError(f"{path}: holds arrays {file.files}, expected one")
        return file[file.files[0]]


def _demo(args: argparse.Namespace) -> None:
    calculator = FrechetDistanceCalculator("digits")

    def statistics(clips: Clips) -> dict[str, FeatureStatistics]:
        return {
            comparison_type: calculator.statistics(
                [clips[:, -1] if comparison_type == "frame" else clips], comparison_type
            )
            for comparison_type in COMPARISON_TYPES
        }

    rng = np.random.default_rng(args.seed)
    reference = statistics(moving_digits(rng, args.clips, 8))
    if not args.json:
        print(f"Moving digits, {args.clips} clips of 8 frames against {args.clips} others")
        print(f"{'':24}" + "".join(f"{name:>16}" for name in COMPARISON_TYPES), flush=True)
    rows = []
    for name, clips in _corrupted(rng, args.clips):
        distances = {
            comparison_type: float(frechet_distance_from_statistics(s, reference[comparison_type]))
            for comparison_type, s in statistics(clips).items()
        }
        rows.append({"clips": name, **distances})
        if not args.json:
            numbers = "".join(f"{distance:16.3f}" for distance in distances.values())
            print(f"{name:24}{numbers}", flush=True)
    if args.json:
        print(json.dumps(rows))


def _corrupted(rng: np.random.Generator, n: int) -> Iterator[tuple[str, Clips]]:
    clips = moving_digits(rng, n, 8)
    yield "same distribution", clips
    yield "noise 0.1", corruptions.add_noise(clips, rng, 0.1)
    yield "noise 0.3", corruptions.add_noise(clips, rng, 0.3)
    yield "blur 3", corruptions.blur(clips, 3)
    yield "blur 7", corruptions.blur(clips, 7)
    yield "frozen after 3 frames", corruptions.freeze(clips, 3)
    yield "frozen from the start", corruptions.freeze(clips, 1)
    yield "half shuffled in time", corruptions.shuffle_time(clips, rng, 0.5)
    yield "all shuffled in time", corruptions.shuffle_time(clips, rng, 1.0)
    yield "one digit swapped", moving_digits(rng, n, 8, swapped=1)
    yield "both digits swapped", moving_digits(rng, n, 8, swapped=2)
    yield "one digit, not two", moving_digits(rng, n, 8, digits=1)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"srvp-fd-jax: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
