"""What is accepted as frames and clips, and how a wrong use is told.

Both memory layouts are taken, uint8 from 0 to 255 and floats in [0, 1], from JAX, NumPy or anything
that `np.asarray` takes. Shapes and types are checked always, also under `jit`; values are checked
where they are there to be seen, on concrete arrays.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from numpy.typing import ArrayLike

DataFormat = Literal["auto", "channels_last", "channels_first"]

# The unclipped output of a decoder overshoots [0, 1] and is let through; videos scaled to [-1, 1]
# or to [0, 255] go further than this.
_LOWEST, _HIGHEST = -0.5, 1.5


def as_frames(
    x: ArrayLike,
    name: str,
    *,
    ndim: Literal[4, 5],
    size: int,
    channels: int,
    data_format: DataFormat = "auto",
) -> Shaped[Array | np.ndarray, "..."]:
    """Checks frames or clips and moves the channels last.

    Args:
        x: Frames [N, H, W, C] or [N, C, H, W], or clips with a time axis after N.
        name: What the caller calls `x`, for the messages.
        ndim: 4 for frames, 5 for clips.
        size: The height and width that the network takes.
        channels: The number of channels that the network takes.
        data_format: "channels_last", "channels_first", or "auto" to tell by the shape, which is
            never ambiguous since frames are larger than 3 pixels.

    Returns:
        The same values with channels last: a JAX array stays one, all else becomes NumPy's.

    Raises:
        ValueError: If the rank, size, channels, type or values are not what the network takes.
    """
    if data_format not in get_args(DataFormat):
        allowed = ", ".join(map(repr, get_args(DataFormat)))
        raise ValueError(f"data_format: got {data_format!r}, allowed are {allowed}")
    array = _as_array(x, name)
    shapes = {"channels_last": (size, size, channels), "channels_first": (channels, size, size)}
    if data_format != "auto":
        shapes = {data_format: shapes[data_format]}
    matching = [f for f, shape in shapes.items() if array.shape[-3:] == shape]
    if array.ndim != ndim or not matching:
        axes = "N, T" if ndim == 5 else "N"
        expected = " or ".join(f"[{axes}, {h}, {w}, {c}]" for h, w, c in shapes.values())
        raise ValueError(f"{name}: got shape {array.shape}, expected {expected}")
    _check_values(array, name)
    return array if "channels_last" in matching else _channels_last(array)


def as_clips(x: ArrayLike, name: str) -> Shaped[Array | np.ndarray, "n t h w c"]:
    """Checks clips of any frame size, grey or RGB, and moves the channels last.

    Args:
        x: Clips [N, T, H, W, C] or [N, T, C, H, W].
        name: What the caller calls `x`, for the messages.

    Returns:
        The same values with channels last: a JAX array stays one, all else becomes NumPy's.

    Raises:
        ValueError: If the rank, channels, type or values are not what is described here.
    """
    array = _as_array(x, name)
    if array.ndim != 5 or not {1, 3} & {array.shape[2], array.shape[4]}:
        raise ValueError(
            f"{name}: got shape {array.shape}, expected [N, T, H, W, C] or [N, T, C, H, W] with "
            "1 or 3 channels"
        )
    if 0 in array.shape[1:]:
        raise ValueError(f"{name}: got shape {array.shape}, expected frames with pixels")
    _check_values(array, name)
    return array if array.shape[4] in (1, 3) else _channels_last(array)


def _as_array(x: ArrayLike, name: str) -> Shaped[Array | np.ndarray, "..."]:
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    if array.dtype != np.uint8 and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name}: got dtype {array.dtype}, allowed are uint8 (0 to 255) and floats (0 to 1)"
        )
    return array


def _check_values(array: Shaped[Array | np.ndarray, "..."], name: str) -> None:
    if isinstance(array, jax.core.Tracer) or array.dtype == np.uint8 or array.size == 0:
        return
    xp = jnp if isinstance(array, jax.Array) else np
    # Asked for by itself, since XLA's minimum and maximum pass over NaN on the CPU.
    if not xp.isfinite(array).all():
        raise ValueError(f"{name}: got values that are not finite, expected floats in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if low < _LOWEST or high > _HIGHEST:
        hint = "; divide by 255 or pass uint8" if high > 2 else ""
        got = f"values from {low:g} to {high:g}"
        raise ValueError(f"{name}: got {got}, expected floats in [0, 1]{hint}")


def _channels_last(x: Shaped[Array | np.ndarray, "..."]) -> Shaped[Array | np.ndarray, "..."]:
    return x.transpose(*range(x.ndim - 3), x.ndim - 2, x.ndim - 1, x.ndim - 3)


def to_unit_range(x: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """Float32 in [0, 1]: uint8 is divided by 255, floats are taken as they are."""
    scaled = x.astype(jnp.float32)
    return scaled / 255 if x.dtype == jnp.uint8 else scaled
