"""Checks frames, clips and features that users pass, and gives warnings.

Arrays may have channels first or last, uint8 from 0 to 255 or floats in [0, 1], and come from JAX,
NumPy, PyTorch or anything that `np.asarray` takes. Shapes and types are always checked, also under
`jit`. The values of NumPy arrays are always checked as well; those of JAX arrays only while no
function is traced, and the check waits for them.
"""

import difflib
import operator
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8
from numpy.typing import ArrayLike

from srvp_fd_jax.devices import AnyArray, is_tracing, values

# Floats outside [0, 1] are used with a warning, as srvp-fd does: its own example passes normally
# distributed numbers, and decoders overshoot. Values beyond this limit were not divided by 255.
_LARGEST = 16.0
_ROUNDING = 1e-3


def as_clips(
    x: ArrayLike,
    name: str,
    *,
    frames_allowed: bool = False,
    range_told: bool = False,
    mask: Bool[AnyArray, " n"] | None = None,
) -> Shaped[AnyArray, "n t h w c"]:
    """Checks clips of any frame size, grey or RGB, and moves the channels last.

    The shape shows where the channels are, because frames are larger than 3 pixels.

    Args:
        x: Clips [N, T, H, W, C] or [N, T, C, H, W].
        name: Name of the argument in messages.
        frames_allowed: Whether frames without a time axis are accepted as clips of one frame.
        range_told: Whether the caller warns of floats outside [0, 1], see `range_caution`.
        mask: False for clips whose values are ignored. None checks all clips.

    Returns:
        The same values with channels last, in a JAX array if `x` is one, else in a NumPy array.

    Raises:
        ValueError: If the rank, the channels, the type or the values are not allowed.
    """
    array = as_array(x, name)
    if array.dtype != np.uint8 and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name}: got dtype {array.dtype}, allowed are uint8 (0 to 255) and floats (0 to 1)"
        )
    is_frames = frames_allowed and array.ndim == 4
    if not (array.ndim == 5 or is_frames) or not {1, 3} & {array.shape[-3], array.shape[-1]}:
        of_frames = "[N, H, W, C], [N, C, H, W], " if frames_allowed else ""
        raise ValueError(
            f"{name}: got shape {array.shape}, expected {of_frames}[N, T, H, W, C] or "
            f"[N, T, C, H, W] with 1 or 3 channels{_mended(array.shape)}"
        )
    if 0 in array.shape[1:]:
        raise ValueError(f"{name}: got shape {array.shape}, expected frames with pixels")
    _check_values(array, name, range_told, mask)
    if array.shape[-1] not in (1, 3):
        array = array.transpose(*range(array.ndim - 3), -2, -1, -3)
    if not is_frames:
        return array
    return jnp.expand_dims(array, 1) if isinstance(array, jax.Array) else array[:, None]


def _mended(shape: tuple[int, ...]) -> str:
    """How to mend clips whose channels come before time; empty for any other shape."""
    if len(shape) != 5 or shape[1] not in (1, 3):
        return ""
    return "; these look like [N, C, T, H, W], which .swapaxes(1, 2) mends"


def not_allowed(name: str, got: object, allowed: Iterable[str], of: str = "") -> ValueError:
    """The error for a name that is not one of those allowed, with the nearest of these.

    Args:
        name: Name of the argument.
        got: Value of the argument.
        allowed: Values that are allowed.
        of: What they belong to, such as " of 'kth'", for the message.
    """
    names = list(allowed)
    near = nearest(str(got), names)
    hint = f"; did you mean {near!r}?" if near else ""
    return ValueError(f"{name}: got {got!r}{of}, allowed are {', '.join(names)}{hint}")


def nearest(got: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that is spelled most like the given one, or None if none is like it."""
    lower = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(got.lower(), lower, n=1)
    return lower[near[0]] if near else None


def missing_extra(error: ModuleNotFoundError, what: str, extra: str) -> str:
    """Message for a missing package: what needs it, and the command that installs it."""
    install = f'pip install ".[{extra}]" in a clone of srvp-fd-jax'
    return f'{error}: {what} needs the extra "{extra}": {install}'


def as_array(x: Any, name: str) -> Shaped[AnyArray, "..."]:
    """Returns JAX arrays as they are, and converts anything else to NumPy arrays that JAX takes.

    Args:
        x: A JAX array, a PyTorch tensor (of any device or type, with a gradient or without), or
            anything that `np.asarray` takes.
        name: Name of the argument in messages.

    Raises:
        ValueError: If `x` is not an array, such as a list of rows of different lengths.
    """
    if isinstance(x, jax.Array):
        return x
    if hasattr(x, "detach"):  # a PyTorch tensor, recognised without importing PyTorch
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x  # NumPy itself has no bfloat16
    try:
        array = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got a {type(x).__name__}, expected an array: {error}") from error
    # JAX takes no other order of bytes than the machine's.
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_mask(mask: Any, name: str, rows: int) -> Bool[AnyArray, " n"]:
    """Checks which of a number of rows count, see `as_array`.

    Raises:
        ValueError: If `mask` is no bool [rows].
    """
    array = as_array(mask, name)
    if array.shape != (rows,) or array.dtype != bool:
        raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected bool ({rows},)")
    return array


PointSets = tuple[
    Float[AnyArray, "n d"],
    Float[AnyArray, "m d"],
    Bool[AnyArray, " n"] | None,
    Bool[AnyArray, " m"] | None,
]
"""Two sets of points, one per row, and for each of them which rows count, or None for all."""


def as_point_sets(
    x: Any, y: Any, x_counts: Any, y_counts: Any, names: tuple[str, str] = ("x", "y")
) -> PointSets:
    """Checks two sets of points and returns them in float32.

    The counts are called "x_counts" and "y_counts" in messages, if `names` are "x" and "y".

    Raises:
        ValueError: If the points are no floats [n, d] and [m, d], or the counts no bool [n] and
            [m].
    """
    sets, counts = [], []
    for name, points, counting in zip(names, (x, y), (x_counts, y_counts), strict=True):
        points = as_array(points, name)
        if points.ndim != 2 or not jnp.issubdtype(points.dtype, jnp.floating):
            raise ValueError(f"{name}: got {points.dtype} {points.shape}, expected floats [n, d]")
        sets.append(points.astype(np.float32))
        counts.append(
            None if counting is None else as_mask(counting, f"{name}_counts", len(points))
        )
    dims = [points.shape[1] for points in sets]
    if dims[0] != dims[1]:
        raise ValueError(f"{names[1]}: got {dims[1]} dimensions, expected {dims[0]} as {names[0]}")
    return sets[0], sets[1], counts[0], counts[1]


def as_count(value: Any, name: str, *, least: int) -> int:
    """Converts an integer of Python or NumPy to int.

    Raises:
        ValueError: If `value` is not an integer, or is below `least`. The message begins with
            `name`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError("a bool is not a number")
        number = operator.index(value)
    except TypeError as error:
        got = f"got {value!r} of type {type(value).__name__}"
        raise ValueError(f"{name}: {got}, expected an integer") from error
    if number < least:
        raise ValueError(f"{name}: got {number}, expected at least {least}")
    return number


def _check_values(
    array: Shaped[AnyArray, "n ..."],
    name: str,
    range_told: bool,
    mask: Bool[AnyArray, " n"] | None,
) -> None:
    if isinstance(array, jax.core.Tracer) or array.dtype == np.uint8:
        return
    counting = None if mask is None else values(mask)
    if mask is not None and (counting is None or not counting.any()):
        return
    if array.size == 0:
        return
    if isinstance(array, jax.Array):
        if is_tracing():
            return
        low, high = map(float, jax.device_get(_range(array, jax.device_put(counting))))
    else:
        # NumPy's minimum and maximum are NaN where one of the values is.
        counted = array if counting is None else array[counting]
        low, high = float(counted.min()), float(counted.max())
    check_range(low, high, name)
    if not range_told and (caution := range_caution(low, high)):
        warn(f"{name}: {caution}")


def check_range(low: float, high: float, name: str) -> None:
    """Raises a `ValueError` if values from `low` to `high` cannot be those of clips."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name}: got values that are not finite, expected floats in [0, 1]")
    if max(-low, high) > _LARGEST:
        got = f"{name}: got values from {low:.3g} to {high:.3g}, expected floats in [0, 1]"
        raise ValueError(f"{got}; divide by 255 or pass uint8")


def dark_caution(high: float) -> str | None:
    """Warning text if `high` is too small for the largest value of a whole set, else None."""
    if high > (1 + _ROUNDING) / 255:
        return None
    return (
        f"the largest value of all clips is {high:.3g} of 1, as of floats that were divided by 255 "
        "twice or uint8 that holds 0 and 1 only"
    )


def range_caution(low: float, high: float) -> str | None:
    """Warning text if floats from `low` to `high` are outside [0, 1], else None."""
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return None
    return (
        f"got values from {low:.3g} to {high:.3g}, expected floats in [0, 1]; they are used as "
        "they are (scale values from -1 to 1 by (x + 1) / 2)"
    )


def warn(text: str) -> None:
    """Gives a warning at the line that called the package."""
    package, _, _ = __name__.partition(".")
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


@jax.jit
def _range(
    x: Float[Array, "n ..."], mask: Bool[Array, " n"] | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    # Finiteness is checked separately, since XLA's minimum and maximum ignore NaN on a CPU.
    counting = None if mask is None else mask.reshape(-1, *[1] * (x.ndim - 1))
    finite = jnp.isfinite(x).all(where=counting)
    low, high = x.min(initial=jnp.inf, where=counting), x.max(initial=-jnp.inf, where=counting)
    return jnp.where(finite, low, jnp.nan), jnp.where(finite, high, jnp.nan)


def to_unit_range(x: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """Converts to float32 in [0, 1]: uint8 is divided by 255, floats keep their values."""
    scaled = x.astype(jnp.float32)
    return scaled / 255 if x.dtype == jnp.uint8 else scaled


def to_bytes(x: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Rounds floats in [0, 1] to 0 to 255; others are clipped."""
    return jnp.round(255 * jnp.clip(x, 0, 1)).astype(jnp.uint8)
