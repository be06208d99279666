"""How precision="bfloat16" changes the distances.

    pip install -e ".[dev]" && python benchmarks/precision.py

Corrupted moving digits are compared with others: 1000 clips per side on the features of the bundled
model, 16 clips of 16 frames on those of I3D. Rounding is the same on all backends, so a CPU shows
what a TPU or GPU gives. Both sides are rounded alike, so that some of the errors cancel.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from srvp_fd_jax import Calculator, FrechetDistanceCalculator
from srvp_fd_jax.demo import corruptions
from srvp_fd_jax.demo.moving_digits import moving_digits


def sets(n: int, length: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields names and pairs of sets of clips, the second set corrupted."""
    rng = np.random.default_rng(0)
    x, y = (moving_digits(rng, n, length) for _ in range(2))
    yield "same distribution", x, y
    yield "noise 0.1", x, corruptions.add_noise(y, rng, 0.1)
    yield "blur 7", x, corruptions.blur(y, 7)
    yield "shuffled in time", x, corruptions.shuffle_time(y, rng, 1.0)
    yield "one digit, not two", x, moving_digits(rng, n, length, digits=1)


def row(name: str, what: str, float32: object, bfloat16: object) -> None:
    """Prints one line of the table."""
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
    fvd = [Calculator(precision=p) for p in PRECISIONS]
    for what, x, y in itertools.islice(sets(16, 16), 3):
        row("I3D", what, *(calculator.distances(x, y)["logits"] for calculator in fvd))


PRECISIONS = ("float32", "bfloat16")

if __name__ == "__main__":
    main()
