"""What precision="bfloat16" does to the distances.

    pip install -e ".[dev]" && python benchmarks/precision.py

Moving digits, corrupted, against others: on the features of the bundled model, 1000 clips a side,
and on those of I3D, 16 clips of 16 frames. Rounding is the same on every backend, so a CPU shows
what a TPU or GPU gives. Both sides are encoded alike: a part of what rounding does cancels.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from srvp_fd_jax import FrechetDistanceCalculator, FrechetVideoDistanceCalculator
from srvp_fd_jax.videos import corruptions
from srvp_fd_jax.videos.moving_digits import moving_digits


def sets(n: int, length: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Pairs of sets of clips, the second corrupted."""
    rng = np.random.default_rng(0)
    x, y = (moving_digits(rng, n, length) for _ in range(2))
    yield "same distribution", x, y
    yield "noise 0.1", x, corruptions.add_noise(y, rng, 0.1)
    yield "blur 7", x, corruptions.blur(y, 7)
    yield "shuffled in time", x, corruptions.shuffle_time(y, rng, 1.0)
    yield "one digit, not two", x, moving_digits(rng, n, length, digits=1)


def row(name: str, what: str, float32: object, bfloat16: object) -> None:
    """Prints one line."""
    a, b = float(float32), float(bfloat16)
    print(f"{name:16}{what:20}{a:12.4f}{b:12.4f}{(b - a) / a:12.2%}", flush=True)


def main() -> None:
    """Prints the table."""
    print(f"{'features':16}{'':20}{'float32':>12}{'bfloat16':>12}{'change':>12}")
    calculators = [FrechetDistanceCalculator("digits", precision=p) for p in PRECISIONS]
    for comparison_type in ("frame", "static_content", "dynamics"):
        for what, x, y in sets(1000, 8):
            if comparison_type == "frame":
                x, y = x[:, -1], y[:, -1]
            row(comparison_type, what, *(c(x, y, comparison_type) for c in calculators))
    fvd = [FrechetVideoDistanceCalculator(precision=p) for p in PRECISIONS]
    for what, x, y in itertools.islice(sets(16, 16), 3):
        row("I3D", what, *(calculator(x, y) for calculator in fvd))


PRECISIONS = ("float32", "bfloat16")

if __name__ == "__main__":
    main()
