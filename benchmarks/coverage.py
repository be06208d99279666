"""How often the 95 % interval of the distance covers the mean distance, and how wide it is.

    pip install -e ".[dev]" && python benchmarks/coverage.py

Both sides have independent clips with one vector of d features, of scales 1 / sqrt(i), and the fake
side is shifted by a multiple of the scales. "normal" features are Gaussian, "Student" ones have
Student's distribution with 4 degrees of freedom, each by itself, and "outliers" are Gaussian clips,
each divided by one random number, so that all of its features have that distribution together.

Every cell shows the share of 200 intervals that cover the mean of 2000 other distances, and the
mean width of the intervals. A width of 1 is the distance between the 2.5 % and 97.5 % quantiles of
the 2000. They stand in for the standard deviation, which is infinite for four degrees of freedom.
All cells took 13 minutes of processor time on a busy machine, divided between two processes.
"""

import functools
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import jax
import numpy as np
from jaxtyping import Array, Float

from srvp_fd_jax.significance.draws import Measure, between, state_of
from srvp_fd_jax.significance.interval import distance_interval

MEASURE = Measure("frechet", 1)
KINDS = ("normal", "Student", "outliers")
DIMS = (8, 24, 64)
SIZES = ((10, 10), (50, 50), (300, 300), (300, 60))
SHIFTS = (0, 0.1, 0.6)


def features(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...], shift: float
) -> Float[np.ndarray, "*shape"]:
    """Draws features of the last axis, independent along the others."""
    x = rng.standard_t(4, shape) if kind == "Student" else rng.standard_normal(shape)
    if kind == "outliers":
        x /= np.sqrt(rng.chisquare(4, (*shape[:-1], 1)) / 4)
    return ((x + shift) * np.arange(1, shape[-1] + 1) ** -0.5).astype(np.float32)


@jax.jit
def distances(
    real: Float[Array, "draws n 1 d"], fake: Float[Array, "draws m 1 d"]
) -> Float[Array, " draws"]:
    """The distance of each draw."""

    def of_draw(pair: tuple[Array, Array]) -> Array:
        return between(*(state_of({"features": side}, MEASURE) for side in pair), MEASURE)

    return jax.lax.map(of_draw, (real, fake))


def cell(kind: str, dim: int, sizes: tuple[int, int], shift: float) -> str:
    """Coverage and width for one kind of features at one dimension, size and shift."""
    rng = np.random.default_rng(0)
    draw = functools.partial(features, rng, kind)
    n, m = sizes
    found = np.concatenate(
        [distances(draw((100, n, 1, dim), 0), draw((100, m, 1, dim), shift)) for _ in range(20)]
    )
    mean, spread = found.mean(), np.subtract(*np.quantile(found, [0.975, 0.025]))
    sides = (
        ({"features": draw((k, 1, dim), s)} for k, s in ((n, 0), (m, shift))) for _ in range(200)
    )
    low, high = np.transpose([distance_interval(*pair, rng, MEASURE) for pair in sides])
    covered = np.mean((low <= mean) & (mean <= high))
    return f"{covered:10.2f}{np.mean(high - low) / spread:6.2f}"


def main() -> None:
    """Prints a row per kind of features, dimension and pair of sizes."""
    print(f"{'features':10}{'d':>4}{'real':>6}{'fake':>6}", end="")
    print("".join(f"{f'shift {shift}':>16}" for shift in SHIFTS))
    # The processes' threads for small matrices would wait for each other.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # JAX does not survive a fork of its process.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        rows = list(itertools.product(KINDS, DIMS, SIZES))
        cells = pool.map(
            cell, *zip(*((*row, shift) for row in rows for shift in SHIFTS), strict=True)
        )
        for kind, dim, (n, m) in rows:
            print(f"{kind:10}{dim:4}{n:6}{m:6}", end="")
            print("".join(itertools.islice(cells, len(SHIFTS))), flush=True)


if __name__ == "__main__":
    main()
