"""Encodes samples and makes their statistics: jitted, in batches and over devices.

What is computed for a batch is an `Extract`, a function that is bound to its network. As a pytree,
whose leaves hold the network's weights, it is an argument of the jitted functions below.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from srvp_fd_jax.devices import (
    AnyArray,
    Division,
    find_division,
    is_tracing,
    on_host,
    own,
    resharded,
    values,
    zeros,
)
from srvp_fd_jax.distances.states import State, join_ranges, unseen, widened
from srvp_fd_jax.inputs import to_unit_range
from srvp_fd_jax.networks.base import Moments, Output

_T = TypeVar("_T")

Extract = jax.tree_util.Partial
"""Maps samples [n, ...] to a pytree of arrays [n, k, d]; for statistics, to a tuple of moments."""

States = tuple[State, ...]
"""One state per element of the tuple of moments."""

Batch = tuple[Shaped[AnyArray, "..."], Bool[AnyArray, "_"] | None]
"""Samples, and which of them count; None if all of them do."""

# Largest block that is encoded in one call, unless a single batch is larger.
BLOCK_BYTES = 64 * 2**20


@functools.partial(jax.jit, static_argnames=("batch_size", "division"))
def encode(
    extract: Extract, samples: Shaped[Array, "n *sample"], batch_size: int, division: Division
) -> PyTree[Float[Array, "n _ _"]]:
    """Encodes samples in batches, each device its own samples.

    Args:
        extract: Function that is applied to each batch.
        samples: Frames or clips.
        batch_size: Number of samples encoded at a time: by each device if `division` names the axes
            over which samples are sharded, else by all devices together.
        division: How the samples are divided over devices, see `devices.find_division`.

    Returns:
        Result of `extract` for all samples, in their order and with their sharding.
    """
    if isinstance(division, int):
        return _map_batches(extract, samples, batch_size, division)
    mesh, axes = division

    def of_shard(
        extract: Extract, samples: Shaped[Array, "n *sample"]
    ) -> PyTree[Float[Array, "n _ _"]]:
        return _map_batches(extract, samples, batch_size, 1)

    sharded = jax.shard_map(of_shard, mesh=mesh, in_specs=(P(), P(axes)), out_specs=P(axes))
    return sharded(extract, resharded(samples, division))


@functools.partial(jax.jit, static_argnames=("batch_size", "division"))
def fold_samples(
    state: States,
    extract: Extract,
    samples: Shaped[Array, "n *sample"],
    batch_size: int,
    division: Division,
    mask: Bool[Array, " n"] | None = None,
) -> States:
    """Folds the samples that count into states, which each device does with its own samples."""
    if mask is not None:  # padding may hold anything, also where a gradient passes
        counting = mask.reshape(-1, *[1] * (samples.ndim - 1))
        samples = jnp.where(counting, samples, jnp.zeros((), samples.dtype))
    made = encode(extract, samples, batch_size, division)
    return update(state, made, mask, division, _seen(samples, mask))


def statistics(extract: Extract, batch: Batch, batch_size: int, empty: States) -> States:
    """Computes the states of one set of samples, see `stream` for the arguments.

    NumPy arrays are streamed, unless a function is being traced.
    """
    if isinstance(batch[0], np.ndarray) and not is_tracing():
        return stream(extract, [selected(batch)], batch_size, empty)
    return _folded(empty, extract, batch, batch_size)


def _folded(state: States, extract: Extract, batch: Batch, batch_size: int) -> States:
    samples, mask = batch
    mask = jax.device_put(mask)  # explicit, so that transfer guards allow it
    return fold_samples(state, extract, samples, batch_size, find_division(samples), mask)


def selected(batch: Batch) -> Batch:
    """The samples that count, if NumPy can select them, so that no others are encoded."""
    samples, mask = batch
    if isinstance(samples, np.ndarray) and isinstance(mask, np.ndarray) and not is_tracing():
        return samples[mask], None
    return batch


def stream(
    extract: Extract,
    batches: Iterable[Batch],
    batch_size: int,
    empty: States,
) -> States:
    """Computes the states of any number of batches of any lengths, in a fixed amount of memory.

    Batches that are sharded over devices are encoded where they are, each by itself; all others are
    joined into blocks of one size. While a function is traced, all batches become part of its
    program in any case, so they are joined into one.

    Args:
        extract: Function from samples to a tuple of moments.
        batches: Frames or clips, on the host or on devices, each with its mask.
        batch_size: Number of samples encoded at a time.
        empty: States of no samples, one per element of the tuple.

    Returns:
        States of all samples, in the form of `empty` and with its marks.
    """
    state = empty
    if is_tracing():
        present = [batch for batch in batches if len(batch[0])]
        if present and all(find_division(samples) == 1 for samples, _ in present):
            present = [_concatenated(present)]
        for batch in present:
            state = _folded(state, extract, batch, batch_size)
        return state
    # The batches of one call share its fixed costs (on a CPU, memory pages and transforms of
    # kernels) and one QR of all their rows. Other devices have larger batches, so they need fewer.
    at_once = 64 if jax.default_backend() == "cpu" else 4
    for samples, count in blocks(batches, batch_size, at_once):
        before = state
        if not isinstance(count, int):
            state = _folded(before, extract, (samples, count), batch_size)
        else:
            counting = np.arange(len(samples)) < count
            block = jax.device_put((samples, counting, np.int32(count)))
            state = _fold_block(before, extract, *block, min(batch_size, len(samples)))
        jax.block_until_ready(before)  # at most one block is in flight
    return state


def _concatenated(batches: Sequence[Batch]) -> Batch:
    samples, masks = zip(*batches, strict=True)
    if all(mask is None for mask in masks):
        return jnp.concatenate(samples), None
    counting = [jnp.ones(len(s), bool) if m is None else jnp.asarray(m) for s, m in batches]
    return jnp.concatenate(samples), jnp.concatenate(counting)


@functools.partial(jax.jit, static_argnames="batch_size")
def _fold_block(
    state: States,
    extract: Extract,
    samples: Shaped[Array, "size *sample"],
    counting: Bool[Array, " size"],
    count: Int[Array, ""],
    batch_size: int,
) -> States:
    """Folds the first `count` samples of a block into states, by one program for all counts."""
    made = encode_block(extract, samples, count, batch_size)
    return update(state, made, counting, seen=_seen(samples, counting))


@functools.partial(jax.jit, static_argnames="batch_size")
def encode_block(
    extract: Extract,
    samples: Shaped[Array, "size *sample"],
    count: Int[Array, ""],
    batch_size: int,
) -> PyTree[Float[Array, "size _ _"]]:
    """Encodes the first `count` samples of a block in batches, by one program for all counts.

    Batches that hold padding only are not encoded: their rows of the result are zero.
    """
    batches = jnp.reshape(samples, (-1, batch_size, *samples.shape[1:]))

    def encode_next(
        i: Int[Array, ""], made: PyTree[Float[Array, "b n _ _"]]
    ) -> PyTree[Float[Array, "b n _ _"]]:
        return jax.tree.map(lambda f, new: f.at[i].set(new), made, extract(batches[i]))

    nothing = jax.tree.map(
        lambda f: jnp.zeros((len(batches), *f.shape), f.dtype),
        jax.eval_shape(extract, batches[0]),
    )
    made = jax.lax.fori_loop(0, -(-count // batch_size), encode_next, nothing)
    return jax.tree.map(jnp.concatenate, made)


@functools.partial(jax.jit, static_argnames="division")
def update(
    states: States,
    moments: tuple[Moments, ...],
    counting: Bool[AnyArray, " n"] | None,
    division: Division = 1,
    seen: Float[AnyArray, "2"] | None = None,
) -> States:
    """Folds samples into states, except for those where `counting` is False.

    `seen` is the smallest and the largest value of the samples.
    """
    folded = (
        state.fold(**rows(new, counting), division=division)
        for state, new in zip(states, moments, strict=True)
    )
    return tuple(state if seen is None else widened(state, seen) for state in folded)


def _seen(
    samples: Shaped[Array, "n *sample"], counting: Bool[Array, " n"] | None
) -> Float[Array, "2"]:
    """The smallest and the largest value of the samples that count; infinite if one is not finite.

    The values are in the unit of floats in [0, 1].
    """
    samples = jax.lax.stop_gradient(samples)
    axes = tuple(range(1, samples.ndim))
    low, high = to_unit_range(samples.min(axes)), to_unit_range(samples.max(axes))
    if samples.dtype != jnp.uint8:  # XLA's minimum and maximum ignore NaN on a CPU
        finite = jnp.isfinite(samples).all(axes)
        low, high = jnp.where(finite, low, -jnp.inf), jnp.where(finite, high, jnp.inf)
    ranges = jnp.stack([low, high], axis=1)
    if counting is not None:
        ranges = jnp.where(counting[:, None], ranges, unseen()[None])
    return join_ranges(ranges)


def range_of_arrays(samples: Sequence[Shaped[np.ndarray, "..."]]) -> Float[np.ndarray, "2"]:
    """The same of arrays on the host, all of which count."""
    low, high = min(x.min() for x in samples), max(x.max() for x in samples)
    divisor = 255 if samples[0].dtype == np.uint8 else 1
    return np.array([low, high], np.float32) / np.float32(divisor)


def rows(moments: Moments, counting: Bool[AnyArray, " n"] | None = None) -> dict[str, Any]:
    """Arguments of `State.fold`: one row per feature vector, masked where `counting` is False."""
    n, k, _ = moments["features"].shape
    mask = None
    if counting is not None:  # by shapes alone, as sharded axes need it
        mask = jnp.broadcast_to(counting[:, None], (n, k)).reshape(-1)
    vectors = {name: f.reshape(-1, f.shape[-1]) for name, f in moments.items()}
    return {"mask": mask, "variances": None} | vectors


def used_frames(
    clips: Shaped[AnyArray, "n t ..."], outputs: Iterable[Output]
) -> Shaped[AnyArray, "n s ..."]:
    """Drops the frames that no output looks at, so that they never go to a device."""
    most = {"all": 0, "first": 0, "last": 0}
    for output in outputs:
        most[output.looks_at] = max(most[output.looks_at], output.frames)
    length, first, last = clips.shape[1], most["first"], most["last"]
    if most["all"] or first + last >= length:
        return clips
    if not last:
        return frames_between(clips, 0, first)
    if not first:
        return frames_between(clips, length - last, length)
    xp = jnp if isinstance(clips, jax.Array) else np
    ends = [frames_between(clips, 0, first), frames_between(clips, length - last, length)]
    return xp.concatenate(ends, axis=1)


def frames_between(
    clips: Shaped[AnyArray, "n t ..."], start: int, end: int
) -> Shaped[AnyArray, "n s ..."]:
    """The frames from `start` up to `end`."""
    if isinstance(clips, jax.Array):
        return jax.lax.slice_in_dim(clips, start, end, axis=1)  # indexing would transfer the bounds
    return clips[:, start:end]


def checked(batches: Iterable[Any], check: Callable[[Any, Any, str], Batch]) -> Iterator[Batch]:
    """Applies `check` to batches, all of which must have samples of one shape and dtype.

    Batches are samples, or tuples of samples and their mask. JAX arrays on the host become NumPy
    arrays, for which nothing is compiled per length.
    """
    expected = None
    for i, given in enumerate(batches):
        is_masked = isinstance(given, tuple) and len(given) == 2 and np.ndim(given[1]) == 1
        batch, mask = given if is_masked else (given, None)
        if isinstance(batch, jax.Array) and on_host(batch) and not is_tracing():
            batch = values(batch)
        samples, mask = selected(check(batch, mask, f"batches[{i}]"))
        got = samples.shape[1:], samples.dtype
        expected = expected or got
        if got != expected:
            raise ValueError(
                f"batches[{i}]: got samples {got[0]} of {got[1]}, expected {expected[0]} of "
                f"{expected[1]} as in batches[0]"
            )
        yield samples, mask


def peek(items: Iterable[_T]) -> tuple[_T | None, Iterable[_T]]:
    """Returns the first item, None if there is none, and an iterable of all items."""
    rest = iter(items)
    first = next(rest, None)
    return first, rest if first is None else itertools.chain([first], rest)


def blocks(
    batches: Iterable[Batch], batch_size: int, most: int
) -> Iterator[tuple[Shaped[AnyArray, "size *sample"], int | Bool[AnyArray, "_"] | None]]:
    """Joins batches of any lengths into blocks of one size, the last of which is padded.

    If fewer than `batch_size` samples arrive, the size is their number rounded up to a power of
    two, so that few programs are compiled.

    Args:
        batches: Frames or clips with their masks.
        batch_size: Number of samples encoded at a time.
        most: Largest size of a block as a multiple of `batch_size`; blocks are smaller if they
            would exceed `BLOCK_BYTES`.

    Yields:
        Blocks, each with the number of samples that are not padding. Batches that are sharded over
        devices, or have a mask, are passed on unchanged.
    """
    for place, group in itertools.groupby(batches, _place):
        if place is None:
            yield from group
        else:
            yield from _joined((samples for samples, _ in group), batch_size, most, place)


_HOST = "host"


def _place(of: Batch) -> jax.sharding.Sharding | str | None:
    """Where a batch is joined to others: on the host, on its device, or nowhere (None).

    NumPy joins batches without compilation; on a device, a small program is compiled per length.
    Batches that are sharded over devices, masked or differentiated are not joined.
    """
    batch, mask = of
    if mask is not None:
        return None
    if on_host(batch):
        return _HOST
    if not isinstance(batch, jax.Array) or isinstance(batch, jax.core.Tracer):
        return None
    return batch.sharding if len(batch.sharding.device_set) == 1 else None


def _joined(
    batches: Iterator[Shaped[AnyArray, "..."]],
    batch_size: int,
    most: int,
    place: jax.sharding.Sharding | str,
) -> Iterator[tuple[Shaped[AnyArray, "size *sample"], int]]:
    put: Callable[..., Any] = _put_on_device
    make: Callable[..., Any] = functools.partial(zeros, sharding=place)
    if place == _HOST:
        put, make = _put_on_host, np.zeros
    first: collections.deque[Shaped[AnyArray, ...]] = collections.deque()
    arrived = 0
    while arrived < batch_size and (batch := next(batches, None)) is not None:
        arrived += len(batch)
        first.append(own(batch) if arrived < batch_size else batch)
    if arrived == 0:
        return
    shape, dtype = first[0].shape[1:], first[0].dtype
    if arrived < batch_size:
        size = min(batch_size, 1 << (arrived - 1).bit_length())
    else:
        fitting = BLOCK_BYTES // (batch_size * math.prod(shape) * dtype.itemsize)
        size = batch_size * max(1, min(most, fitting))
    block, filled = make((size, *shape), dtype), 0
    for batch in itertools.chain((first.popleft() for _ in range(len(first))), batches):
        taken = 0
        while taken < len(batch):
            block = put(block, batch, filled, taken)
            new = min(size - filled, len(batch) - taken)
            filled, taken = filled + new, taken + new
            if filled == size:
                yield block, size
                block, filled = make((size, *shape), dtype), 0
    if filled:
        yield block, filled


def _put_on_host(
    block: Shaped[np.ndarray, "size *sample"],
    batch: Shaped[AnyArray, "n *sample"],
    filled: int,
    taken: int,
) -> Shaped[np.ndarray, "size *sample"]:
    # Always a copy, as a generator may refill its array while the device still reads the block.
    new = np.asarray(values(batch))[taken : taken + len(block) - filled]
    block[filled : filled + len(new)] = new
    return block


def _put_on_device(
    block: Shaped[Array, "size *sample"],
    batch: Shaped[Array, "n *sample"],
    filled: int,
    taken: int,
) -> Shaped[Array, "size *sample"]:
    return _scatter(block, batch, *jax.device_put((np.int32(filled), np.int32(taken))))


@functools.partial(jax.jit, donate_argnums=0)
def _scatter(
    block: Shaped[Array, "size *sample"],
    batch: Shaped[Array, "n *sample"],
    filled: Int[Array, ""],
    taken: Int[Array, ""],
) -> Shaped[Array, "size *sample"]:
    i = jnp.arange(len(batch))
    beyond = len(block)  # `set` drops these rows
    return block.at[jnp.where(i < taken, beyond, filled + i - taken)].set(batch, mode="drop")


def _map_batches(
    extract: Extract, samples: Shaped[Array, "n *sample"], batch_size: int, parts: int
) -> PyTree[Float[Array, "n _ _"]]:
    """Applies a function to one batch after the other, compiled once.

    Each batch takes equally many samples from each part, so that every device works on every batch,
    and only on its own samples.
    """
    n, *sample = samples.shape
    of_part, size = n // parts, max(1, batch_size // parts)
    if of_part <= size:
        return extract(samples)
    steps = -(-of_part // size)
    size = -(-of_part // steps)  # the smallest size has the least padding
    split = samples.reshape(parts, of_part, *sample)
    padding = ((0, 0), (0, steps * size - of_part), *[(0, 0)] * len(sample))
    padded = jnp.pad(split, padding).reshape(parts, steps, size, *sample)
    batches = padded.swapaxes(0, 1).reshape(steps, parts * size, *sample)

    def in_order(f: Float[Array, "steps batch _ _"]) -> Float[Array, "n _ _"]:
        of_parts = f.reshape(steps, parts, size, *f.shape[2:]).swapaxes(0, 1)
        counting = of_parts.reshape(parts, steps * size, *f.shape[2:])[:, :of_part]
        return counting.reshape(n, *f.shape[2:])

    return jax.tree.map(in_order, jax.lax.map(extract, batches))
