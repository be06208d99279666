"""Peak resident memory while streaming frames through the bundled encoder.

    python benchmarks/memory.py

Streams 20,000 and 200,000 frames, each in a process of its own, and prints the peak of each: it
does not grow with the number of frames.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

import srvp_fd_jax
from srvp_fd_jax.videos.moving_digits import moving_digits


def batches(frames: int, length: int = 1000) -> Iterator[np.ndarray]:
    """Frames made as they are asked for: the same digits, moved along."""
    bank = moving_digits(np.random.default_rng(0), length, 1)[:, 0]
    for i in range(frames // length):
        yield np.roll(bank, i, axis=1)


def stream(frames: int) -> None:
    """Prints what one run took."""
    calculator = srvp_fd_jax.FrechetDistanceCalculator("digits")
    start = time.perf_counter()
    statistics = calculator.statistics(batches(frames))
    seconds = time.perf_counter() - start + 0 * float(statistics.count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{int(statistics.count):8} frames: peak {peak:.0f} MiB, {frames / seconds:.0f} frames/s")


def main() -> None:
    """Runs both counts."""
    for frames in (20_000, 200_000):
        subprocess.run([sys.executable, __file__, str(frames)], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        stream(int(sys.argv[1]))
    else:
        main()
