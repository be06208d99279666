"""The one way from clips to features and statistics: jitted, in batches and over devices.

What is computed for a batch is an `Extract`, a function that is bound to its network. As a pytree,
whose leaves hold the network's weights, it is an argument of the jitted functions below. The work
of an encoder is divided over the devices that hold the clips. Features are small, and are gathered.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32

from srvp_fd_jax.devices import (
    AnyArray,
    Division,
    everywhere,
    find_division,
    is_tracing,
    on_host,
    own,
    resharded,
    values,
    zeros,
)
from srvp_fd_jax.distances.provenance import join_ranges, unseen
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.files.inputs import to_unit_range
from srvp_fd_jax.networks.base import Moments, Output

_T = TypeVar("_T")

Extract = jax.tree_util.Partial
"""Maps clips [n, ...] to a pytree of arrays [n, k, d]; for statistics, to a tuple of `Encoded`."""

States = tuple[FeatureStatistics, ...]
"""Statistics per element of the tuple of `Encoded`."""


class Encoded(NamedTuple):
    """What one output gives of clips.

    Attributes:
        moments: Moments of the clips.
        along: Moments at all time steps, for the sample; None to sample `moments`.
    """

    moments: Moments
    along: Moments | None = None


class Batch(NamedTuple):
    """Clips of one shape and dtype.

    Attributes:
        clips: Frames or clips, on the host or on devices.
        mask: Which of them count; None if all of them do.
        keys: Their keys in a sample, see `distances.sample.name_keys`; None to number them.
    """

    clips: Shaped[AnyArray, "..."]
    mask: Bool[AnyArray, "_"] | None = None
    keys: UInt32[np.ndarray, "_ 2"] | None = None


# Largest block that is encoded in one call, unless a single batch is larger.
BLOCK_BYTES = 64 * 2**20


@functools.partial(jax.jit, static_argnames=("batch_size", "division"))
def encode(
    extract: Extract, clips: Shaped[Array, "n *clip"], batch_size: int, division: Division
) -> PyTree[Float[Array, "n _ _"]]:
    """Encodes clips in batches, each device its own clips.

    Args:
        extract: Function that is applied to each batch.
        clips: Frames or clips.
        batch_size: Number of clips encoded at a time: by each device if `division` names the axes
            over which clips are sharded, else by all devices together.
        division: How the clips are divided over devices, see `devices.find_division`.

    Returns:
        Result of `extract` for all clips, in their order and with their sharding.
    """
    if isinstance(division, int):
        return _map_batches(extract, clips, batch_size, division)
    mesh, axes = division

    def of_shard(
        extract: Extract, clips: Shaped[Array, "n *clip"]
    ) -> PyTree[Float[Array, "n _ _"]]:
        return _map_batches(extract, clips, batch_size, 1)

    sharded = jax.shard_map(of_shard, mesh=mesh, in_specs=(P(), P(axes)), out_specs=P(axes))
    return sharded(extract, resharded(clips, division))


def fold(states: States, extract: Extract, batch: Batch, batch_size: int) -> States:
    """Adds a batch of clips to statistics, see `stream`.

    NumPy arrays are streamed, unless a function is being traced.
    """
    if isinstance(batch.clips, np.ndarray) and not is_tracing():
        return stream(states, extract, [selected(batch)], batch_size)
    return _fold(states, extract, batch, batch_size)


def _fold(states: States, extract: Extract, batch: Batch, batch_size: int) -> States:
    clips, mask, keys = batch
    mask = jax.device_put(mask)  # explicit, so that transfer guards allow it
    return _fold_divided(states, extract, clips, mask, keys, batch_size, find_division(clips))


@functools.partial(jax.jit, static_argnames=("batch_size", "division"))
def _fold_divided(
    states: States,
    extract: Extract,
    clips: Shaped[Array, "n *clip"],
    mask: Bool[Array, " n"] | None,
    keys: UInt32[Array, "n 2"] | None,
    batch_size: int,
    division: Division,
) -> States:
    if mask is not None:  # padding may hold anything, also where a gradient passes
        counting = mask.reshape(-1, *[1] * (clips.ndim - 1))
        clips = jnp.where(counting, clips, jnp.zeros((), clips.dtype))
    made = encode(extract, clips, batch_size, division)
    seen = _seen(clips, mask)
    made, mask = (jax.tree.map(lambda x: everywhere(x, division), x) for x in (made, mask))
    return _update(states, made, mask, keys, seen)


def selected(batch: Batch) -> Batch:
    """The clips that count, if NumPy can select them, so that no others are encoded."""
    clips, mask, keys = batch
    if isinstance(clips, np.ndarray) and isinstance(mask, np.ndarray) and not is_tracing():
        return Batch(clips[mask], None, None if keys is None else keys[mask])
    return batch


def stream(
    states: States,
    extract: Extract,
    batches: Iterable[Batch],
    batch_size: int,
    most: int | None = None,
) -> States:
    """Adds any number of batches of any lengths to statistics, in a fixed amount of memory.

    Batches that are sharded over devices are encoded where they are, each by itself; all others are
    joined into blocks of one size. While a function is traced, all batches become part of its
    program in any case, so they are joined into one.

    Args:
        states: Statistics, one per element of the tuple that `extract` returns.
        extract: Function from clips to a tuple of `Encoded`.
        batches: Batches of one shape and dtype.
        batch_size: Number of clips encoded at a time.
        most: Largest number of times `batch_size` that will come, if it is known.

    Returns:
        The statistics with all clips, in the form of `states` and with their marks.
    """
    if is_tracing():
        present = [batch for batch in batches if len(batch.clips)]
        if present and all(find_division(batch.clips) == 1 for batch in present):
            present = [_concatenated(present)]
        for batch in present:
            states = _fold(states, extract, batch, batch_size)
        return states
    # The batches of one call share its fixed costs (on a CPU, memory pages and transforms of
    # kernels) and one QR of all their rows. Other devices have larger batches, so they need fewer.
    at_once = 64 if jax.default_backend() == "cpu" else 4
    for batch, count in blocks(batches, batch_size, min(at_once, most or at_once)):
        before = states
        if count is None:
            states = _fold(before, extract, batch, batch_size)
        else:
            counting = np.arange(len(batch.clips)) < count
            block = jax.device_put((batch.clips, counting, np.int32(count), batch.keys))
            size = min(batch_size, len(batch.clips))
            states = _fold_block(before, extract, *block, batch_size=size)
        jax.block_until_ready(before)  # at most one block is in flight
    return states


def _concatenated(batches: Sequence[Batch]) -> Batch:
    clips = jnp.concatenate([batch.clips for batch in batches])
    if all(batch.mask is None for batch in batches):
        return Batch(clips)
    counting = [
        jnp.ones(len(clips), bool) if mask is None else jnp.asarray(mask)
        for clips, mask, _ in batches
    ]
    return Batch(clips, jnp.concatenate(counting))


@functools.partial(jax.jit, static_argnames="batch_size")
def _fold_block(
    states: States,
    extract: Extract,
    clips: Shaped[Array, "size *clip"],
    counting: Bool[Array, " size"],
    count: Int[Array, ""],
    keys: UInt32[Array, "size 2"] | None,
    batch_size: int,
) -> States:
    """Folds the first `count` clips of a block into statistics, by one program for all counts."""
    made = _encode_block(extract, clips, count, batch_size)
    return _update(states, made, counting, keys, _seen(clips, counting))


def _encode_block(
    extract: Extract, clips: Shaped[Array, "size *clip"], count: Int[Array, ""], batch_size: int
) -> PyTree[Float[Array, "size _ _"]]:
    """Encodes the first `count` clips of a block in batches, by one program for all counts.

    Batches that hold padding only are not encoded: their rows of the result are zero.
    """
    batches = jnp.reshape(clips, (-1, batch_size, *clips.shape[1:]))

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


def _update(
    states: States,
    made: tuple[Encoded, ...],
    counting: Bool[Array, " n"] | None,
    keys: UInt32[Array, "n 2"] | None,
    seen: Float[Array, "2"],
) -> States:
    return tuple(
        state.fold(encoded.moments, counting, keys, seen, encoded.along)
        for state, encoded in zip(states, made, strict=True)
    )


def _seen(clips: Shaped[Array, "n *clip"], counting: Bool[Array, " n"] | None) -> Float[Array, "2"]:
    """The smallest and the largest value of the clips that count; infinite if one is not finite.

    The values are in the unit of floats in [0, 1].
    """
    clips = jax.lax.stop_gradient(clips)
    axes = tuple(range(1, clips.ndim))
    low, high = to_unit_range(clips.min(axes)), to_unit_range(clips.max(axes))
    if clips.dtype != jnp.uint8:  # XLA's minimum and maximum ignore NaN on a CPU
        finite = jnp.isfinite(clips).all(axes)
        low, high = jnp.where(finite, low, -jnp.inf), jnp.where(finite, high, jnp.inf)
    ranges = jnp.stack([low, high], axis=1)
    if counting is not None:
        ranges = jnp.where(counting[:, None], ranges, unseen()[None])
    return join_ranges(ranges)


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
    """Applies `check` to batches, all of which must have clips of one shape and dtype.

    Batches are clips, or tuples of clips and their mask. JAX arrays on the host become NumPy
    arrays, for which nothing is compiled per length.
    """
    expected = None
    for i, given in enumerate(batches):
        is_masked = isinstance(given, tuple) and len(given) == 2 and np.ndim(given[1]) == 1
        clips, mask = given if is_masked else (given, None)
        if isinstance(clips, jax.Array) and on_host(clips) and not is_tracing():
            clips = values(clips)
        batch = selected(check(clips, mask, f"batches[{i}]"))
        got = batch.clips.shape[1:], batch.clips.dtype
        expected = expected or got
        if got != expected:
            raise ValueError(
                f"batches[{i}]: got samples {got[0]} of {got[1]}, expected {expected[0]} of "
                f"{expected[1]} as in batches[0]"
            )
        yield batch


def peek(items: Iterable[_T]) -> tuple[_T | None, Iterable[_T]]:
    """Returns the first item, None if there is none, and an iterable of all items."""
    rest = iter(items)
    first = next(rest, None)
    return first, rest if first is None else itertools.chain([first], rest)


def blocks(
    batches: Iterable[Batch], batch_size: int, most: int
) -> Iterator[tuple[Batch, int | None]]:
    """Joins batches of any lengths into blocks of one size, the last of which is padded.

    If fewer than `batch_size` clips arrive, the size is their number rounded up to a power of two,
    so that few programs are compiled.

    Args:
        batches: Frames or clips with their masks and keys.
        batch_size: Number of clips encoded at a time.
        most: Largest size of a block as a multiple of `batch_size`; blocks are smaller if they
            would exceed `BLOCK_BYTES`.

    Yields:
        Blocks, each with the number of clips that are not padding. Batches that are sharded over
        devices, or have a mask, are passed on unchanged, with None.
    """
    for place, group in itertools.groupby(batches, _place):
        if place is None:
            yield from ((batch, None) for batch in group)
        else:
            yield from _joined(group, batch_size, most, place)


_HOST = "host"


def _place(batch: Batch) -> jax.sharding.Sharding | str | None:
    """Where a batch is joined to others: on the host, on its device, or nowhere (None).

    NumPy joins batches without compilation; on a device, a small program is compiled per length.
    Batches that are sharded over devices, masked or differentiated are not joined.
    """
    clips = batch.clips
    if batch.mask is not None:
        return None
    if on_host(clips):
        return _HOST
    if not isinstance(clips, jax.Array) or isinstance(clips, jax.core.Tracer):
        return None
    return clips.sharding if len(clips.sharding.device_set) == 1 else None


def _joined(
    batches: Iterator[Batch], batch_size: int, most: int, place: jax.sharding.Sharding | str
) -> Iterator[tuple[Batch, int]]:
    put: Callable[..., Any] = _put_on_device
    make: Callable[..., Any] = functools.partial(zeros, sharding=place)
    if place == _HOST:
        put, make = _put_on_host, np.zeros
    first: collections.deque[Batch] = collections.deque()
    arrived = 0
    while arrived < batch_size and (batch := next(batches, None)) is not None:
        arrived += len(batch.clips)
        first.append(batch._replace(clips=own(batch.clips)) if arrived < batch_size else batch)
    if arrived == 0:
        return
    shape, dtype, keyed = *_kind(first[0].clips), first[0].keys is not None
    if arrived < batch_size:
        size = min(batch_size, 1 << (arrived - 1).bit_length())
    else:
        fitting = BLOCK_BYTES // (batch_size * math.prod(shape) * dtype.itemsize)
        size = batch_size * max(1, min(most, fitting))

    def new() -> Batch:
        keys = np.zeros((size, 2), np.uint32) if keyed else None
        return Batch(make((size, *shape), dtype), None, keys)

    block, filled = new(), 0
    for batch in itertools.chain((first.popleft() for _ in range(len(first))), batches):
        taken = 0
        while taken < len(batch.clips):
            count = min(size - filled, len(batch.clips) - taken)
            if block.keys is not None and batch.keys is not None:
                block.keys[filled : filled + count] = batch.keys[taken : taken + count]
            block = block._replace(clips=put(block.clips, batch.clips, filled, taken))
            filled, taken = filled + count, taken + count
            if filled == size:
                yield block, size
                block, filled = new(), 0
    if filled:
        yield block, filled


def _kind(clips: Shaped[AnyArray, "n *clip"]) -> tuple[tuple[int, ...], np.dtype]:
    return clips.shape[1:], clips.dtype


def _put_on_host(
    block: Shaped[np.ndarray, "size *clip"],
    batch: Shaped[AnyArray, "n *clip"],
    filled: int,
    taken: int,
) -> Shaped[np.ndarray, "size *clip"]:
    # Always a copy, as a generator may refill its array while the device still reads the block.
    new = np.asarray(values(batch))[taken : taken + len(block) - filled]
    block[filled : filled + len(new)] = new
    return block


def _put_on_device(
    block: Shaped[Array, "size *clip"],
    batch: Shaped[Array, "n *clip"],
    filled: int,
    taken: int,
) -> Shaped[Array, "size *clip"]:
    return _scatter(block, batch, *jax.device_put((np.int32(filled), np.int32(taken))))


@functools.partial(jax.jit, donate_argnums=0)
def _scatter(
    block: Shaped[Array, "size *clip"],
    batch: Shaped[Array, "n *clip"],
    filled: Int[Array, ""],
    taken: Int[Array, ""],
) -> Shaped[Array, "size *clip"]:
    i = jnp.arange(len(batch))
    beyond = len(block)  # `set` drops these rows
    return block.at[jnp.where(i < taken, beyond, filled + i - taken)].set(batch, mode="drop")


def _map_batches(
    extract: Extract, clips: Shaped[Array, "n *clip"], batch_size: int, parts: int
) -> PyTree[Float[Array, "n _ _"]]:
    """Applies a function to one batch after the other, compiled once.

    Each batch takes equally many clips from each part, so that every device works on every batch,
    and only on its own clips.
    """
    n, *clip = clips.shape
    of_part, size = n // parts, max(1, batch_size // parts)
    if of_part <= size:
        return extract(clips)
    steps = -(-of_part // size)
    size = -(-of_part // steps)  # the smallest size has the least padding
    split = clips.reshape(parts, of_part, *clip)
    padding = ((0, 0), (0, steps * size - of_part), *[(0, 0)] * len(clip))
    padded = jnp.pad(split, padding).reshape(parts, steps, size, *clip)
    batches = padded.swapaxes(0, 1).reshape(steps, parts * size, *clip)

    def in_order(f: Float[Array, "steps batch _ _"]) -> Float[Array, "n _ _"]:
        of_parts = f.reshape(steps, parts, size, *f.shape[2:]).swapaxes(0, 1)
        counting = of_parts.reshape(parts, steps * size, *f.shape[2:])[:, :of_part]
        return counting.reshape(n, *f.shape[2:])

    return jax.tree.map(in_order, jax.lax.map(extract, batches))
