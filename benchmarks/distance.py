"""Time from statistics to the distance, against SciPy's sqrtm.

    python benchmarks/distance.py

For each dimension d, `frechet_distance_from_statistics` in float32 alternates in one process with
what srvp-fd does with the covariances, `scipy.linalg.sqrtm` of their product in float64. The table
has the medians and their ratio. A spectrum that stays above 5e-5 of the largest variance takes one
SVD, any other takes a second one for the rest (see `frechet.py`).
"""

import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics


def seconds(function: Callable[[], object], calls: int) -> list[float]:
    """Times of consecutive calls, after one during which the other library's threads stop."""
    function()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Prints the table."""
    print(f"{'d':>5} {'decay':>6} {'ours':>10} {'sqrtm':>10} {'ratio':>6}")
    rng = np.random.default_rng(0)
    for d, calls in ((128, 30), (400, 10), (2048, 1)):
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

            pairs = [(seconds(ours, calls), seconds(theirs, calls)) for _ in range(3)]
            a, b = np.median(pairs, axis=(0, 2))
            print(f"{d:5} {decay:6} {a * 1e3:8.1f}ms {b * 1e3:8.1f}ms {b / a:6.1f}", flush=True)


if __name__ == "__main__":
    main()
