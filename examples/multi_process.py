"""Evaluate with many processes, each of which reads its own part of the videos.

Start it once per process, like any JAX program on a cluster:

    python examples/multi_process.py COORDINATOR_ADDRESS PROCESSES PROCESS REAL.npy GENERATED.npy

On a TPU pod or under SLURM, `jax.distributed.initialize()` needs no arguments. Here each of n
processes takes every n-th clip of two files; a real job would open its own shards. Parts may have
any size: the statistics count each sample once, where a sampler that pads the last round with
repeats (such as PyTorch's DistributedSampler) would change the distance.
"""

import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

import srvp_fd_jax


def batches(path: str, length: int = 100) -> Iterator[np.ndarray]:
    """Yields this process's part of the clips in a file, in batches."""
    clips = np.load(path, mmap_mode="r")[jax.process_index() :: jax.process_count()]
    for start in range(0, len(clips), length):
        yield clips[start : start + length]


def main() -> None:
    """Prints the distance, which is the same on every process."""
    address, processes, process, real, generated = sys.argv[1:]
    jax.distributed.initialize(address, int(processes), int(process))
    calculator = srvp_fd_jax.Calculator("digits").only("dynamics")
    statistics = []
    for path in (real, generated):
        own = calculator.statistics(batches(path))["dynamics"]
        statistics.append(multihost_utils.process_allgather(own).reduce())
    distance = srvp_fd_jax.frechet_distance_from_statistics(*statistics)
    print(f"{statistics[0].count} real, {statistics[1].count} generated: {distance:.9g}")


if __name__ == "__main__":
    main()
