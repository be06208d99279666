"""Throughput of the whole way from stored videos to statistics, and where its time goes.

    python benchmarks/pipeline.py [--videos 256] [--protocol srvp:digits:dynamics+frames=16]

Makes videos of moving digits (H.264, 64 frames of 64×64), then measures, each several times in
turn: a plain PyAV loop that decodes every frame of every video and does nothing else; our loader
alone, which decodes the frames that the protocol asks for; and the evaluation. The wait is the time
that the evaluation stands still for the loader; the rest is compute.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# As the command does: see cli.py.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import av
import numpy as np

from srvp_fd_jax.evaluation import evaluate
from srvp_fd_jax.metrics import load_metrics
from srvp_fd_jax.videos import rounds
from srvp_fd_jax.videos.loading import Loaded, load_clips
from srvp_fd_jax.videos.moving_digits import moving_digits
from srvp_fd_jax.videos.protocols import find_protocol
from srvp_fd_jax.videos.sources import find_videos

REPEATS = 5


def write_videos(folder: Path, n: int) -> None:
    """Writes moving digits as H.264."""
    for i, clip in enumerate(moving_digits(np.random.default_rng(0), n, 64)):
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
            for frame in clip:
                grey = av.VideoFrame.from_ndarray(frame[..., 0], format="gray")
                container.mux(stream.encode(grey))
            container.mux(stream.encode())


def decode_all(folder: Path) -> None:
    """The plain loop."""
    for path in folder.iterdir():
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=256)
    parser.add_argument("--protocol", default="srvp:digits:dynamics+frames=16+start=random")
    args = parser.parse_args()
    protocol = find_protocol(args.protocol)
    metrics = load_metrics([protocol])
    waits: list[float] = []

    def waiting(*given: object, **options: object) -> Iterator[Loaded]:
        loaded = load_clips(*given, **options)
        waits.append(0.0)
        while True:
            start = time.perf_counter()
            one = next(loaded, None)
            waits[-1] += time.perf_counter() - start
            if one is None:
                break
            yield one

    with tempfile.TemporaryDirectory() as name:
        write_videos(Path(name), args.videos)
        videos = find_videos(name)
        evaluate(videos[:16], metrics, "real")  # compiles
        rounds.load_clips = waiting
        seconds: dict[str, list[float]] = {"PyAV loop": [], "our loader": [], "evaluation": []}
        for _ in range(REPEATS):
            seconds["PyAV loop"].append(timed(lambda: decode_all(Path(name))))
            seconds["our loader"].append(
                timed(lambda: list(load_clips(videos, [protocol], "real")))
            )
            seconds["evaluation"].append(timed(lambda: evaluate(videos, metrics, "real")))
    print(f"{args.videos} videos of 64 frames, {protocol.name}, {os.cpu_count()} cores")
    median = {what: statistics.median(times) for what, times in seconds.items()}
    for what, time_ in median.items():
        ratio = median["PyAV loop"] / time_
        print(f"{what:12} {args.videos / time_:8.1f} clips/s   {ratio:5.2f} of the PyAV loop")
    wait = statistics.median(waits) / median["evaluation"]
    decode = median["our loader"] / median["evaluation"]
    print(
        f"evaluation: {wait:.0%} waiting for videos, {1 - wait:.0%} computing; decoding alone ",
        end="",
    )
    print(f"would take {decode:.0%} of it")


if __name__ == "__main__":
    main()
