"""Resizes frames of any size to the size that a network takes, as each tool does it.

The tools differ in where the centre of a pixel is, in whether shrinking averages (antialiasing), in
whether the aspect is kept, and in the kernel. Values are floats in [0, 1] before and after.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from srvp_fd_jax.files.inputs import to_unit_range

Resize = Literal[
    "none",
    "bilinear_tf1",
    "bilinear",
    "shorter_side",
    "antialiased",
    "cd_fvd",
    "srvp_kth",
    "srvp_human",
]

Clips = Float[Array, "n t h w c"]
Resized = Float[Array, "n t h2 w2 c"]


def prepare(
    clips: Shaped[Array, "n t h w c"], rule: Resize, size: int, channels: int
) -> Float[Array, "n t size size channels"]:
    """Converts clips to the size, channels and values that a network takes.

    Args:
        clips: Grey or RGB, uint8 (0 to 255) or floats (0 to 1).
        rule: How frames are resized, see `resize`.
        size: Height and width of the result.
        channels: Number of channels of the result. Grey frames are repeated to 3 channels, and RGB
            frames are converted to luma for 1 channel.

    Returns:
        Clips, float32 in [0, 1].
    """
    resized = resize(to_unit_range(clips), rule, size)
    if channels == 1 and resized.shape[-1] == 3:
        # Luma of ITU-R BT.601. For uint8 it is rounded, so that grey stored as RGB is restored.
        weights = jnp.array([0.299, 0.587, 0.114])
        luma = jnp.tensordot(resized, weights, 1, precision="highest")[..., None]
        return jnp.round(luma * 255) / 255 if clips.dtype == jnp.uint8 else luma
    return jnp.broadcast_to(resized, (*resized.shape[:-1], channels))


def resize(clips: Clips, rule: Resize, size: int = 224) -> Float[Array, "n t size size c"]:
    """Resizes the frames of clips; values stay in [0, 1].

    Args:
        clips: Floats in [0, 1].
        rule: How each tool resizes:

            - "none": frames must have the size already.
            - "bilinear_tf1": `tf.image.resize_bilinear` of TensorFlow 1, where pixel i lies at i
              and not at i + ½ (google-research's FVD).
            - "bilinear": pixel centres at i + ½ (`torch.nn.functional.interpolate`; StyleGAN-V).
            - "shorter_side": "bilinear" to the scale where the shorter side has the size, then the
              centre (common_metrics).
            - "cd_fvd": the shorter side to 128 with antialiasing, the centre, stored as bytes, then
              "bilinear".
            - "srvp_kth" and "srvp_human": what SRVP's authors did to the original videos of KTH
              (FFmpeg's bicubic, aspect ignored) and of Human3.6M (the square from (100, 100) to
              (900, 900), then Lanczos), stored as bytes. Frames that have the size already are not
              changed.
            - "antialiased": the shorter side to the size with antialiasing, then the centre, stored
              as bytes, for models of one's own training. Frames that have the size already are not
              changed.

        size: Height and width of the result.

    Raises:
        ValueError: If the rule does not take frames of that size.
    """
    height, width = clips.shape[2:4]
    check_size(height, width, rule, size)
    match rule:
        case "bilinear_tf1":
            return _bilinear_tf1(_bilinear_tf1(clips, size, axis=2), size, axis=3)
        case "bilinear":
            return _bilinear(clips, (size, size))
        case "shorter_side":
            return _shorter_side(clips, size)
        case "cd_fvd":
            small = _shorter_side(clips, 128, antialias=True)
            return _bilinear(jnp.floor(jnp.clip(small, 0, 1) * 255) / 255, (size, size))
        case _ if (height, width) == (size, size):
            return clips
        case "antialiased":
            return _as_bytes(_shorter_side(clips, size, antialias=True))
        case "srvp_kth":
            # FFmpeg stores the intermediate image in 15 bits, and clips it from above only.
            narrow = jnp.minimum(_bicubic(clips, size, axis=3), (2**15 - 1) / (255 * 2**7))
            return _as_bytes(_bicubic(narrow, size, axis=2))
        case _:
            square = clips[:, :, 100:900, 100:900]
            n, t, side, _, c = square.shape
            # Pillow stores the intermediate image as bytes, too.
            narrow = _as_bytes(jax.image.resize(square, (n, t, side, size, c), "lanczos3"))
            return _as_bytes(jax.image.resize(narrow, (n, t, size, size, c), "lanczos3"))


def check_size(height: int, width: int, rule: Resize, size: int) -> None:
    """Raises a `ValueError` if the rule does not take frames of that height and width."""
    fits = height == width == size or (rule == "srvp_human" and min(height, width) >= 900)
    if rule in ("none", "srvp_human") and not fits:
        expected = f"{size}×{size}" + (" or at least 900×900" if rule == "srvp_human" else "")
        raise ValueError(f"frames of {height}×{width}, expected {expected} (resize rule {rule!r})")


def _bilinear(clips: Clips, size: tuple[int, int], *, antialias: bool = False) -> Resized:
    shape = (*clips.shape[:2], *size, clips.shape[-1])
    return jax.image.resize(clips, shape, "bilinear", antialias=antialias)


def _shorter_side(clips: Clips, size: int, *, antialias: bool = False) -> Resized:
    """Resizes the shorter side of frames to `size` and cuts out the centre square."""
    h, w = clips.shape[2:4]
    scale = size / min(h, w)
    height, width = (size, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), size)
    resized = _bilinear(clips, (height, width), antialias=antialias)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[:, :, top : top + size, left : left + size]


def _bilinear_tf1(clips: Clips, size: int, axis: int) -> Resized:
    """Resizes one axis; output pixel i lies at i · (old size / new size) of the input."""
    old = clips.shape[axis]
    position = jnp.arange(size) * jnp.float32(old / size)
    lower = jnp.minimum(jnp.floor(position).astype(jnp.int32), old - 1)
    share = (position - lower).reshape(-1, *[1] * (clips.ndim - 1 - axis))
    below = jnp.take(clips, lower, axis)
    above = jnp.take(clips, jnp.minimum(lower + 1, old - 1), axis)
    return below + (above - below) * share


def _bicubic(clips: Clips, size: int, axis: int) -> Resized:
    """Resizes one axis with the cubic kernel of FFmpeg's scaler, a = −0.6, widened to shrink.

    The kernel is from Keys 1981; Pillow and `jax.image` use a = −0.5.
    """
    a, old = -0.6, clips.shape[axis]
    scale = old / size
    centres = (np.arange(size)[:, None] + 0.5) * scale - 0.5
    reach = math.ceil(2 * max(1, scale))
    pixels = np.arange(-reach, old + reach)
    x = np.abs(pixels - centres) / max(1, scale)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    taps = np.where(x < 1, near, np.where(x < 2, far, 0))
    # Beyond the edges, the pixels of the edge are repeated.
    weights = taps @ (pixels.clip(0, old - 1)[:, None] == np.arange(old))
    weights /= weights.sum(axis=1, keepdims=True)
    kernel = jnp.asarray(weights, clips.dtype)
    resized = jnp.tensordot(clips, kernel, axes=(axis, 1), precision="highest")
    return jnp.moveaxis(resized, -1, axis)


def _as_bytes(clips: Clips) -> Resized:
    return jnp.round(jnp.clip(clips, 0, 1) * 255) / 255
