"""How each tool brings frames of any size to the 224×224 of I3D.

All are bilinear and none agree: in where a pixel's centre is, in whether shrinking averages (anti-
aliasing), and in whether the aspect is kept. Values are floats in [0, 1] before and after.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SIZE = 224

Resize = Literal["bilinear_tf1", "bilinear", "shorter_side", "cd_fvd"]

Clips = Float[Array, "n t h w c"]
Resized = Float[Array, "n t h2 w2 c"]


def resize(clips: Clips, rule: Resize) -> Float[Array, "n t 224 224 c"]:
    """Resizes the frames of clips to 224×224.

    Args:
        clips: Floats in [0, 1].
        rule: "bilinear_tf1": `tf.image.resize_bilinear` of TensorFlow 1, whose pixel i lies at
            i and not at i + ½ (google-research's FVD). "bilinear": pixel centres at i + ½
            (`torch.nn.functional.interpolate`; StyleGAN-V). "shorter_side": the same at the scale
            that brings the shorter side to 224, then the centre (common_metrics). "cd_fvd": the
            shorter side to 128 with antialiasing, the centre, stored as bytes, then "bilinear".
    """
    match rule:
        case "bilinear_tf1":
            return _bilinear_tf1(_bilinear_tf1(clips, axis=2), axis=3)
        case "bilinear":
            return _bilinear(clips, (SIZE, SIZE))
        case "shorter_side":
            return _shorter_side(clips, SIZE)
        case "cd_fvd":
            small = _shorter_side(clips, 128, antialias=True)
            return _bilinear(jnp.floor(jnp.clip(small, 0, 1) * 255) / 255, (SIZE, SIZE))


def _bilinear(clips: Clips, size: tuple[int, int], *, antialias: bool = False) -> Resized:
    shape = (*clips.shape[:2], *size, clips.shape[-1])
    return jax.image.resize(clips, shape, "bilinear", antialias=antialias)


def _shorter_side(clips: Clips, size: int, *, antialias: bool = False) -> Resized:
    """The centre square of frames whose shorter side is resized to `size`."""
    h, w = clips.shape[2:4]
    scale = size / min(h, w)
    height, width = (size, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), size)
    resized = _bilinear(clips, (height, width), antialias=antialias)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[:, :, top : top + size, left : left + size]


def _bilinear_tf1(clips: Clips, axis: int) -> Resized:
    """Along one axis, output pixel i at the input's i · (old size / new size)."""
    size = clips.shape[axis]
    position = jnp.arange(SIZE) * jnp.float32(size / SIZE)
    lower = jnp.minimum(jnp.floor(position).astype(jnp.int32), size - 1)
    share = (position - lower).reshape(-1, *[1] * (clips.ndim - 1 - axis))
    below = jnp.take(clips, lower, axis)
    above = jnp.take(clips, jnp.minimum(lower + 1, size - 1), axis)
    return below + (above - below) * share
