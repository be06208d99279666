"""The clips that a report shows, read from their videos once more as the network saw them."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.features.shards import prepared
from srvp_fd_jax.protocols import Side
from srvp_fd_jax.videos.loading import load_clips
from srvp_fd_jax.videos.sources import Video

Frames = Float[np.ndarray, "t size size c"]


def load_shown(
    videos: Sequence[Video], names: Iterable[str], calculator: Calculator, side: Side
) -> dict[str, Frames]:
    """Reads the clips with these names, prepared for the network of a calculator.

    Args:
        videos: All videos of the side, whose order decides where their clips start.
        names: Names of some of the videos.
        calculator: Calculator under whose first protocol the clips are taken.
        side: Whether videos are sampled as "real" or as "fake" ones.

    Raises:
        ValueError: If one of the videos cannot be read any more.
    """
    places = {video.name: i for i, video in enumerate(videos)}
    shown = {}
    for name in dict.fromkeys(names):
        protocols = [calculator.protocols[0]]
        loaded = next(load_clips(videos, protocols, side, numbers=[places[name]]))
        clip = loaded.clips[0]
        if clip is None:
            raise ValueError(f"{name}: {loaded.error or 'has become too short'}")
        shown[name] = np.asarray(prepared(calculator, clip[None])[0])
    return shown
