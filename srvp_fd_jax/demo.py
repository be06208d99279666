"""Moving digits, corrupted, to show what each comparison reacts to."""

import json
from collections.abc import Iterator

import numpy as np

from srvp_fd_jax.calculator import FrechetDistanceCalculator
from srvp_fd_jax.networks.srvp import COMPARISON_TYPES
from srvp_fd_jax.statistics import FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.videos import corruptions
from srvp_fd_jax.videos.corruptions import Clips
from srvp_fd_jax.videos.moving_digits import moving_digits


def run(n: int, seed: int, as_json: bool) -> None:
    """Prints the distances of corrupted clips.

    Args:
        n: Clips a row.
        seed: Of all randomness.
        as_json: Whether to print one line of JSON in place of a table.
    """
    calculator = FrechetDistanceCalculator("digits")

    def statistics(clips: Clips) -> dict[str, FeatureStatistics]:
        return {
            comparison_type: calculator.statistics(
                [clips[:, -1] if comparison_type == "frame" else clips], comparison_type
            )
            for comparison_type in COMPARISON_TYPES
        }

    rng = np.random.default_rng(seed)
    reference = statistics(moving_digits(rng, n, 8))
    if not as_json:
        print(f"Moving digits, {n} clips of 8 frames against {n} others")
        print(f"{'':24}" + "".join(f"{name:>16}" for name in COMPARISON_TYPES), flush=True)
    rows = []
    for name, clips in _corrupted(rng, n):
        distances = {
            comparison_type: float(frechet_distance_from_statistics(s, reference[comparison_type]))
            for comparison_type, s in statistics(clips).items()
        }
        rows.append({"clips": name, **distances})
        if not as_json:
            numbers = "".join(f"{distance:16.3f}" for distance in distances.values())
            print(f"{name:24}{numbers}", flush=True)
    if as_json:
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
