"""Graded corruptions of uint8 clips [N, T, H, W, C], to show what a distance reacts to."""

import numpy as np
from jaxtyping import UInt8

from srvp_fd_jax.significance import corruptions as ruler

Clips = UInt8[np.ndarray, "n t h w c"]


def add_noise(clips: Clips, rng: np.random.Generator, sigma: float) -> Clips:
    """Adds Gaussian noise of standard deviation `sigma` on the scale [0, 1]."""
    return np.stack(ruler.add_noise(list(clips), 255 * sigma, rng))


def blur(clips: Clips, width: int) -> Clips:
    """Applies a box blur of odd `width` in pixels, with edges repeated."""
    x = clips.astype(np.float32)
    for axis in (2, 3):
        padding = [(0, 0)] * 5
        padding[axis] = (width // 2, width // 2)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, padding, mode="edge"), width, axis=axis
        )
        x = windows.mean(axis=-1)
    return x.round().astype(np.uint8)


def freeze(clips: Clips, after: int) -> Clips:
    """Freezes motion: every frame from index `after` on repeats frame `after` - 1."""
    return np.concatenate(
        [clips[:, :after], np.repeat(clips[:, after - 1 : after], clips.shape[1] - after, axis=1)],
        axis=1,
    )


def shuffle_time(clips: Clips, rng: np.random.Generator, share: float) -> Clips:
    """Shuffles the frames within a random `share` (0 to 1) of the clips, each in its own order."""
    order = np.broadcast_to(np.arange(clips.shape[1]), clips.shape[:2]).copy()
    shuffled = rng.random(len(clips)) < share
    order[shuffled] = rng.permuted(order[shuffled], axis=1)
    return np.take_along_axis(clips, order[:, :, None, None, None], axis=1)
