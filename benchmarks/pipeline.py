"""Throughput from stored videos to statistics, and of the parts of the evaluation.

    python benchmarks/pipeline.py [--videos 256] [--protocol srvp:digits:dynamics+frames=16]

Makes videos of moving digits (H.264, 64 frames of 64×64) and measures four tasks in turn, several
times each: a plain PyAV loop that decodes all frames; our loader, which decodes the frames that the
protocol asks for; the computation from clips in memory; and the evaluation, which does both.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# As in srvp_fd_jax.cli.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import av
import numpy as np

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.features.shards import load_calculators, statistics_of_videos
from srvp_fd_jax.protocols import find_protocol
from srvp_fd_jax.videos.loading import load_clips
from srvp_fd_jax.videos.sources import as_videos, find_videos

REPEATS = 5


def write_videos(folder: Path, n: int) -> None:
    """Writes videos of moving digits in H.264."""
    for i, clip in enumerate(moving_digits(np.random.default_rng(0), n, 64)):
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
            for frame in clip:
                grey = av.VideoFrame.from_ndarray(frame[..., 0], format="gray")
                container.mux(stream.encode(grey))
            container.mux(stream.encode())


def decode_all(folder: Path) -> None:
    """Decodes all frames in a plain PyAV loop."""
    for path in folder.iterdir():
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")


def timed(function: Callable[[], object]) -> float:
    """Seconds that one call takes."""
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
    calculators = load_calculators([protocol])
    with tempfile.TemporaryDirectory() as name:
        write_videos(Path(name), args.videos)
        videos = find_videos(name)
        clips = [loaded.clips[0] for loaded in load_clips(videos, [protocol], "real")]
        in_memory = as_videos(clips, "clips")
        statistics_of_videos(in_memory[:16], calculators, "fake")  # compiles
        parts: dict[str, Callable[[], object]] = {
            "PyAV loop": lambda: decode_all(Path(name)),
            "our loader": lambda: list(load_clips(videos, [protocol], "real")),
            "computing": lambda: statistics_of_videos(in_memory, calculators, "fake"),
            "evaluation": lambda: statistics_of_videos(videos, calculators, "real"),
        }
        seconds: dict[str, list[float]] = {part: [] for part in parts}
        for _ in range(REPEATS):
            for part, run in parts.items():
                seconds[part].append(timed(run))
    print(f"{args.videos} videos of 64 frames, {protocol.name}, {os.cpu_count()} cores")
    median = {what: statistics.median(times) for what, times in seconds.items()}
    for what, time_ in median.items():
        ratio = median["PyAV loop"] / time_
        print(f"{what:12} {args.videos / time_:8.1f} clips/s   {ratio:5.2f} of the PyAV loop")
    larger = max(median["our loader"], median["computing"])
    print(f"evaluation takes {median['evaluation'] / larger:.2f} of the larger of its two parts")


if __name__ == "__main__":
    main()
