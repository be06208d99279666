"""Writes example videos for the command: real ones, and those of two imaginary generators."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from srvp_fd_jax.demo.corruptions import freeze
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.files.inputs import missing_extra

_FRAMES = 16


def write_videos(folder: Path, n: int, seed: int) -> None:
    """Writes mp4 files of moving digits, 16 frames each, to the folders real, perfect and still.

    The videos in "perfect" are from the same distribution as those in "real". In "still" every
    frame looks right, but nothing moves.

    Args:
        folder: Parent of the three folders; files of the same names are replaced.
        n: Number of videos per folder.
        seed: Seed of all randomness.

    Raises:
        ModuleNotFoundError: If the extra "video" is not installed.
        OSError: If the folder cannot be written.
    """
    rng = np.random.default_rng(seed)
    real, perfect = (moving_digits(rng, n, _FRAMES) for _ in range(2))
    sets = {"real": real, "perfect": perfect, "still": freeze(perfect, 1)}
    for name, clips in sets.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, clip in enumerate(clips):
            _write(folder / name / f"{i:04}.mp4", clip)


def _write(path: Path, clip: UInt8[np.ndarray, "t h w 1"]) -> None:
    """Writes one clip losslessly: this range of values and form of colours keep every bit."""
    av = _import_av()
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuvj420p"
        for frame in clip[..., 0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def _import_av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_extra(error, "writing videos", "video")) from error
    return av
