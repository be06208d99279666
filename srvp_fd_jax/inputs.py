"""What is accepted as frames, clips and features, and how a wrong use is told.

Both memory layouts are taken, uint8 from 0 to 255 and floats in [0, 1], from JAX, NumPy, PyTorch or
anything that `np.asarray` takes. Shapes and types are always checked, also under `jit`. The values
of NumPy arrays are always checked too, on the host; those of JAX arrays only where no function is
being traced, which waits for the arrays.
"""

import operator
import warnings
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from numpy.typing import ArrayLike

from srvp_fd_jax.devices import AnyArray, is_tracing

DataFormat = Literal["auto", "channels_last", "channels_first"]

# Floats beyond [0, 1] are scored as srvp-fd scores them, with a warning: its own example passes
# normally distributed numbers, and the output of a decoder overshoots. Further than this go only
# videos that were not divided by 255.
_LARGEST = 16.0
_ROUNDING = 1e-3


def as_frames(
    x: ArrayLike,
    name: str,
    *,
    ndim: Literal[4, 5],
    size: int,
    channels: int,
    data_format: DataFormat = "auto",
) -> Shaped[AnyArray, "..."]:
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
    array = _as_images(x, name)
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


def as_clips(x: ArrayLike, name: str) -> Shaped[AnyArray, "n t h w c"]:
    """Checks clips of any frame size, grey or RGB, and moves the channels last.

    Args:
        x: Clips [N, T, H, W, C] or [N, T, C, H, W].
        name: What the caller calls `x`, for the messages.

    Returns:
        The same values with channels last: a JAX array stays one, all else becomes NumPy's.

    Raises:
        ValueError: If the rank, channels, type or values are not what is described here.
    """
    array = _as_images(x, name)
    if array.ndim != 5 or not {1, 3} & {array.shape[2], array.shape[4]}:
        raise ValueError(
            f"{name}: got shape {array.shape}, expected [N, T, H, W, C] or [N, T, C, H, W] with "
            "1 or 3 channels"
        )
    if 0 in array.shape[1:]:
        raise ValueError(f"{name}: got shape {array.shape}, expected frames with pixels")
    _check_values(array, name)
    return array if array.shape[4] in (1, 3) else _channels_last(array)


def as_array(x: Any, name: str) -> Shaped[AnyArray, "..."]:
    """Takes an array from whatever library it comes from.

    Args:
        x: A JAX array, a PyTorch tensor (of any device or type, with a gradient or without), or
            anything that `np.asarray` takes.
        name: What the caller calls `x`, for the messages.

    Returns:
        A JAX array as it is, all else as a NumPy array.

    Raises:
        ValueError: If `x` is no array, such as a list of rows of different lengths.
    """
    if isinstance(x, jax.Array):
        return x
    if hasattr(x, "detach"):  # PyTorch, which is not imported to find out
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x  # NumPy itself has no bfloat16
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got a {type(x).__name__}, expected an array: {error}") from error


def as_count(value: Any, name: str, *, least: int) -> int:
    """Checks a whole number.

    Args:
        value: An int, or an integer of NumPy.
        name: What the caller calls it, for the messages.
        least: The smallest that is allowed.

    Returns:
        The number.

    Raises:
        ValueError: If it is no integer, or is below `least`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError("a truth value is no number")
        number = operator.index(value)
    except TypeError as error:
        got = f"got {value!r} of type {type(value).__name__}"
        raise ValueError(f"{name}: {got}, expected an integer") from error
    if number < least:
        raise ValueError(f"{name}: got {number}, expected at least {least}")
    return number


def _as_images(x: ArrayLike, name: str) -> Shaped[AnyArray, "..."]:
    array = as_array(x, name)
    if array.dtype != np.uint8 and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name}: got dtype {array.dtype}, allowed are uint8 (0 to 255) and floats (0 to 1)"
        )
    return array


def _check_values(array: Shaped[AnyArray, "..."], name: str) -> None:
    if isinstance(array, jax.core.Tracer) or array.dtype == np.uint8 or array.size == 0:
        return
    if isinstance(array, jax.Array):
        if is_tracing():
            return
        low, high = map(float, jax.device_get(_range(array)))
    else:
        # NumPy's minimum and maximum are NaN where one of the values is.
        low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name}: got values that are not finite, expected floats in [0, 1]")
    got = f"{name}: got values from {low:.3g} to {high:.3g}, expected floats in [0, 1]"
    if max(-low, high) > _LARGEST:
        raise ValueError(f"{got}; divide by 255 or pass uint8")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        warnings.warn(f"{got}: they are scored as they are", stacklevel=5)


@jax.jit
def _range(x: Float[Array, "..."]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    # Asked for by itself, since XLA's minimum and maximum pass over NaN on the CPU.
    finite = jnp.isfinite(x).all()
    return jnp.where(finite, x.min(), jnp.nan), jnp.where(finite, x.max(), jnp.nan)


def _channels_last(x: Shaped[AnyArray, "..."]) -> Shaped[AnyArray, "..."]:
    return x.transpose(*range(x.ndim - 3), x.ndim - 2, x.ndim - 1, x.ndim - 3)


def to_unit_range(x: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """Float32 in [0, 1]: uint8 is divided by 255, floats are taken as they are."""
    scaled = x.astype(jnp.float32)
    return scaled / 255 if x.dtype == jnp.uint8 else scaled
