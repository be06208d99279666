"""The time that a loop spends in Python per call, beyond the jitted function that the call runs.

    pip install -e ".[dev]" && python benchmarks/dispatch.py

The arrays are tiny, so that the device has little to do. Times are the least of five turns.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import srvp_fd_jax
from srvp_fd_jax.distances import statistics
from srvp_fd_jax.features import encoders, extract


def microseconds(function: Callable[[], object], calls: int = 200) -> float:
    """Time per call, the work of the device included."""
    function()

    def turn() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            made = function()
        jax.block_until_ready(made)
        return (time.perf_counter() - start) / calls

    return 1e6 * min(turn() for _ in range(5))


def main() -> None:
    """Prints a row per method."""
    features = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)
    empty = srvp_fd_jax.FeatureStatistics.empty(8)
    fold = (empty, {"features": features[:, None]}, None, None, None)

    scorer = srvp_fd_jax.Calculator("digits").only("dynamics")
    clips = jnp.zeros((1, 5, 64, 64, 1), jnp.uint8)
    states = scorer.nothing()
    of_arrays = extract.Extract(encoders.moments_of_arrays, scorer.network, scorer.protocols)
    block = jax.device_put((np.asarray(clips), np.ones(1, bool), np.int32(1)))
    rows: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "FeatureStatistics.update": (
            lambda: empty.update(features),
            lambda: statistics._fold_batch(*fold),
        ),
        "Calculator.update": (
            lambda: scorer.update({"dynamics": states[0]}, clips),
            lambda: extract._fold_divided(states, of_arrays, clips, None, None, 1, 1),
        ),
        "Calculator.statistics": (
            lambda: scorer.statistics([clips]),
            lambda: extract._fold_block(states, of_arrays, *block, None, 1),
        ),
    }
    print(f"{'microseconds per call':28}{'method':>10}{'jitted':>10}{'beyond':>10}")
    for name, both in rows.items():
        method, jitted = map(microseconds, both)
        print(f"{name:28}{method:10.0f}{jitted:10.0f}{method - jitted:10.0f}")
    merge = microseconds(lambda: empty.merge(empty))
    print(f"{'FeatureStatistics.merge':28}{merge:10.0f}{'(is jitted)':>20}")


if __name__ == "__main__":
    main()
