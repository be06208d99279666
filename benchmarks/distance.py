"""Time of the distance itself, from two covariances' worth of features, against SciPy's sqrtm.

    python benchmarks/distance.py

At each dimension: ours from statistics in float32 (`frechet_distance_from_statistics`), and what
srvp-fd does once it has the covariances (`scipy.linalg.sqrtm` of their product in float64),
alternating in one process; medians and their ratio. Spectra that stay within a thousandth of the
largest variance take one SVD, others a second one for the rest (see `frechet.py`).
"""

import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics


def seconds(function: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    print(f"{'d':>5} {'decay':>6} {'ours':>10} {'sqrtm':>10} {'ratio':>6}")
    rng = np.random.default_rng(0)
    for d, repeats in ((128, 25), (400, 9), (2048, 3)):
        for decay in (0, 1):
            spectrum = np.arange(1, d + 1.0) ** -decay
            directions = np.linalg.qr(rng.normal(size=(d, d)))[0]
            x, y = rng.normal(size=(2, 4 * d, d)) * spectrum @ directions
            s1, s2 = (FeatureStatistics.from_features(f.astype(np.float32)) for f in (x, y))
            c1, c2 = (np.cov(f, rowvar=False) for f in (x, y))

            def ours(s1=s1, s2=s2) -> object:
                return frechet_distance_from_statistics(s1, s2).block_until_ready()

            def theirs(c1=c1, c2=c2) -> object:
                return scipy.linalg.sqrtm(c1 @ c2)

            ours()  # compiles
            pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
            a, b = np.median(pairs, axis=0)
            print(f"{d:5} {decay:6} {a * 1e3:8.1f}ms {b * 1e3:8.1f}ms {b / a:6.1f}", flush=True)


if __name__ == "__main__":
    main()
