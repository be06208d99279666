"""Corrupted moving digits, to show what each comparison reacts to."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from srvp_fd_jax.demo import corruptions
from srvp_fd_jax.demo.corruptions import Clips
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.features.calculator import Calculator


def run(n: int, seed: int, as_json: bool) -> None:
    """Prints a table of the distances of `n` clips per corruption, or one line of JSON."""
    calculator = Calculator("digits")
    frames, clips_only = calculator.only("frame"), calculator.only("static_content", "dynamics")

    def statistics(clips: Clips) -> dict[str, Any]:
        # One frame per clip, since the frames of a clip depend on each other.
        return frames.statistics([clips[:, -1]]) | clips_only.statistics([clips])

    rng = np.random.default_rng(seed)
    reference = statistics(moving_digits(rng, n, 8))
    if not as_json:
        print(f"Moving digits, {n} clips of 8 frames against {n} others")
        print(f"{'':24}" + "".join(f"{name:>16}" for name in reference), flush=True)
    rows = []
    for name, clips in _corrupted(rng, n):
        distances = {
            output: float(calculator.distance(s, reference[output]))
            for output, s in statistics(clips).items()
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
    yield "twice as fast", moving_digits(rng, n, 15)[:, ::2]
    yield "one digit swapped", moving_digits(rng, n, 8, swapped=1)
    yield "both digits swapped", moving_digits(rng, n, 8, swapped=2)
    yield "one digit, not two", moving_digits(rng, n, 8, digits=1)
