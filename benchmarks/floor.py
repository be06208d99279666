"""What the floor of a distance costs: its time, and the memory of the samples that it takes.

    pip install -e ".[dev]" && python benchmarks/floor.py

The first rows time the permutation test between n and n clips. The others offer features of 400
dimensions to samples of 2,048 clips; each runs in a process of its own, whose peak memory it has.
"""

import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.null_distribution import find_floor

DIM = 400


def floor(n: int) -> None:
    """Prints the time of one test, compilation included."""
    rng = np.random.default_rng(0)
    sides = (
        {"features": rng.standard_normal((n, 1, DIM)).astype(np.float32)} for _ in ("real", "fake")
    )
    start = time.perf_counter()
    found = find_floor(*sides, Measure("frechet", 0))
    seconds = time.perf_counter() - start
    print(f"floor of {n} against {n} clips{seconds:12.1f} s   p = {found.p_value}", flush=True)


def stream(count: int) -> None:
    """Prints the time and the peak memory of a sample."""
    sample, batch = FeatureSample.empty(2048, DIM, mixture=False), 10_000
    start = time.perf_counter()
    for key in jax.random.split(jax.random.key(0), count // batch):
        sample = sample.offer({"features": jax.random.normal(key, (batch, 1, DIM), jnp.float32)})
        jax.block_until_ready(sample)  # no batches wait in memory
    assert int(sample.count) == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"sample of {count:9}{time.perf_counter() - start:20.1f} s{peak:8.0f} MiB", flush=True)


def main() -> None:
    """Prints all rows."""
    for n in (300, 2048):
        floor(n)
    for count in (100_000, 1_000_000, 10_000_000):
        subprocess.run([sys.executable, __file__, str(count)], check=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        stream(int(sys.argv[1]))
    else:
        main()
