"""Peak resident memory and time of streams through the bundled encoder and I3D.

    python benchmarks/memory.py

Each row runs in its own process. The peak does not grow with the number of frames, nor with a batch
size larger than the stream. Streams of JAX arrays cost the same as streams of NumPy arrays.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

import srvp_fd_jax
from srvp_fd_jax.demo.moving_digits import moving_digits


def frames(count: int, length: int) -> Iterator[np.ndarray]:
    """Yields batches of frames, made on demand by shifting the same digits."""
    bank = moving_digits(np.random.default_rng(0), 1000, 1)[:, 0]
    for i in range(count // length):
        yield np.roll(bank, i, axis=1)[i % (1001 - length) :][:length].copy()


def digits(
    batches: Iterator[np.ndarray], output: str = "frame", batch_size: int | None = None
) -> object:
    """Statistics of frames or clips with the bundled model."""
    calculator = srvp_fd_jax.Calculator("digits").only(output)
    return calculator.statistics(batches, batch_size)[output]


def i3d(clips: int, height: int, width: int) -> object:
    """Statistics of clips of 16 RGB frames with I3D."""
    rng = np.random.default_rng(0)
    batches = (rng.integers(0, 256, (1, 16, height, width, 3), np.uint8) for _ in range(clips))
    return srvp_fd_jax.Calculator("tensorflow").statistics(batches)["logits"]


ROWS = {
    "start and nothing else": lambda: digits(frames(0, 1)),
    "20,000 frames": lambda: digits(frames(20_000, 1000)),
    "200,000 frames": lambda: digits(frames(200_000, 1000)),
    "3,000 single frames": lambda: digits(frames(3_000, 1)),
    "3,000 single frames of JAX": lambda: digits(map(jnp.asarray, frames(3_000, 1))),
    "20 clips, batch_size=1024": lambda: digits(
        (moving_digits(np.random.default_rng(0), 20, 20) for _ in range(1)),
        output="dynamics",
        batch_size=1024,
    ),
    "I3D, 8 clips of 2.4 MB": lambda: i3d(8, 224, 224),
    "I3D, 8 clips of 33 MB": lambda: i3d(8, 720, 960),
}


def main() -> None:
    """Runs all rows."""
    for name in ROWS:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        start = time.perf_counter()
        statistics = ROWS[sys.argv[1]]()
        count = int(statistics.count)  # waits for the result
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{sys.argv[1]:28} {count:8} samples: peak {peak:5.0f} MiB, {seconds:6.1f} s")
    else:
        main()
