"""From samples to features and their statistics: jitted, in batches, over devices.

What is computed of a batch is an `Extract`, a function bound to its network. As a pytree it is an
argument of the jitted functions here, the network's weights among its leaves.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
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
from srvp_fd_jax.inputs import as_count
from srvp_fd_jax.statistics import FeatureStatistics, fold

_T = TypeVar("_T")

Moments = dict[str, Float[Array, "n _ _"]]
"""Of n samples k feature vectors each under "features", of mixtures "variances" beside."""

Extract = jax.tree_util.Partial
"""Maps samples [n, ...] to a pytree of arrays [n, k, d]; for statistics to a tuple of moments."""

Statistics = tuple[FeatureStatistics, ...]
"""As many as there are moments."""

# Of the samples that are encoded in one call of a stream, unless a single batch is larger.
_BLOCK_BYTES = 64 * 2**20


def network_pytree(*static: str) -> Callable[[type[_T]], type[_T]]:
    """Makes a class a pytree of its attribute `network`; the attributes named are static."""

    def register(cls: type[_T]) -> type[_T]:
        def flatten(instance: Any) -> tuple[Any, Any]:
            network = (jax.tree_util.GetAttrKey("network"), instance.network)
            return (network,), tuple(getattr(instance, name) for name in static)

        def unflatten(values: Any, children: Any) -> _T:
            instance = object.__new__(cls)
            for name, value in zip(("network", *static), (*children, *values), strict=True):
                setattr(instance, name, value)
            return instance

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
        nnx.register_data_type(cls)  # so that a module may have one for an attribute
        return cls

    return register


@functools.partial(jax.jit, static_argnames=("batch_size", "division"))
def encode(
    extract: Extract, samples: Shaped[Array, "n *sample"], batch_size: int, division: Division
) -> PyTree[Float[Array, "n _ _"]]:
    """What is extracted from samples; each device encodes its own.

    Args:
        extract: What to compute.
        samples: Frames or clips.
        batch_size: How many are encoded at a time: by each device where the samples are sharded
            over axes that are known, by all together where they are not.
        division: How the samples are divided over devices, see `devices.find_division`.

    Returns:
        What `extract` gives for all samples, in their order and sharded as they are.
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
def _fold_samples(
    state: Statistics,
    extract: Extract,
    samples: Shaped[Array, "n *sample"],
    batch_size: int,
    division: Division,
) -> Statistics:
    """Statistics with samples folded in, which each device does with its own."""
    return update(state, encode(extract, samples, batch_size, division), None, division)


def statistics(
    extract: Extract, samples: Shaped[AnyArray, "n *sample"], batch_size: int, empty: Statistics
) -> Statistics:
    """Statistics of one set of samples.

    What NumPy holds is streamed, except where a function is being traced.

    Args:
        extract: What to compute, a tuple of moments.
        samples: Frames or clips, on the host or on any devices.
        batch_size: How many are encoded at a time.
        empty: Statistics of no samples, one for each of the moments.

    Returns:
        Statistics in the form of `empty` and with its marks.
    """
    if isinstance(samples, np.ndarray) and not is_tracing():
        return stream(extract, [samples], batch_size, empty)
    return _fold_samples(empty, extract, samples, batch_size, find_division(samples))


def stream(
    extract: Extract,
    batches: Iterable[Shaped[AnyArray, "..."]],
    batch_size: int,
    empty: Statistics,
) -> Statistics:
    """Statistics of batches of any lengths and number, in a fixed amount of memory.

    Batches that are divided over devices are encoded where they are, each by itself; all others are
    joined to blocks of one size. In a function that is being traced all batches are part of the
    program, whatever is done with them: there they are joined to one.

    Args:
        extract: What to compute, a tuple of moments.
        batches: Frames or clips.
        batch_size: How many are encoded at a time.
        empty: Statistics of no samples, one for each of the moments.

    Returns:
        Statistics of all of them, in the form of `empty` and with its marks.
    """
    state = empty
    if is_tracing():
        present = [batch for batch in batches if len(batch)]
        if present and all(find_division(batch) == 1 for batch in present):
            present = [jnp.concatenate(present)]
        for batch in present:
            state = _fold_samples(state, extract, batch, batch_size, find_division(batch))
        return state
    for samples, count in blocks(batches, batch_size, _batches_a_block()):
        before = state
        if count is None:
            state = _fold_samples(before, extract, samples, batch_size, find_division(samples))
        else:
            counting = np.arange(len(samples)) < count
            block = jax.device_put((samples, counting, np.int32(count)))
            state = _fold_block(before, extract, *block, min(batch_size, len(samples)))
        jax.block_until_ready(before)  # one block waits on the device, never more
    return state


def _batches_a_block() -> int:
    """How many batches are encoded in one call.

    They share what a call costs whatever it encodes, on a CPU pages of memory of its own and the
    transforms of kernels, and one QR of their rows. Batches on other devices are larger.
    """
    return 16 if jax.default_backend() == "cpu" else 4


@functools.partial(jax.jit, static_argnames="batch_size")
def _fold_block(
    state: Statistics,
    extract: Extract,
    samples: Shaped[Array, "size *sample"],
    counting: Bool[Array, " size"],
    count: Int[Array, ""],
    batch_size: int,
) -> Statistics:
    """Statistics with a block folded in, by one program for any number of samples that count.

    Batches of which none does are not encoded.
    """
    batches = jnp.reshape(samples, (-1, batch_size, *samples.shape[1:]))

    def encode_next(
        i: Int[Array, ""], moments: PyTree[Float[Array, "b n _ _"]]
    ) -> PyTree[Float[Array, "b n _ _"]]:
        return jax.tree.map(lambda f, new: f.at[i].set(new), moments, extract(batches[i]))

    nothing = jax.tree.map(
        lambda f: jnp.zeros((len(batches), *f.shape), f.dtype),
        jax.eval_shape(extract, batches[0]),
    )
    moments = jax.lax.fori_loop(0, -(-count // batch_size), encode_next, nothing)
    return update(state, jax.tree.map(jnp.concatenate, moments), counting)


@functools.partial(jax.jit, static_argnames="division")
def update(
    statistics: Statistics,
    moments: tuple[Moments, ...],
    counting: Bool[AnyArray, " n"] | None,
    division: Division = 1,
) -> Statistics:
    """Statistics with those samples of a block folded in that count."""
    return tuple(
        fold(own, **rows(new, counting), division=division)
        for own, new in zip(statistics, moments, strict=True)
    )


def rows(moments: Moments, counting: Bool[AnyArray, " n"] | None = None) -> dict[str, Any]:
    """Arguments of `FeatureStatistics.update`: the vectors of all samples, of those that count."""
    k = moments["features"].shape[1]
    mask = None if counting is None else jnp.repeat(counting, k)
    vectors = {name: f.reshape(-1, f.shape[-1]) for name, f in moments.items()}
    return {"mask": mask, "variances": None} | vectors


def checked(
    batches: Iterable[Any], check: Callable[[Any, str], Shaped[AnyArray, "..."]]
) -> Iterator[Shaped[AnyArray, "..."]]:
    """What `check` makes of each batch, all of one shape and type of sample."""
    expected = None
    for i, batch in enumerate(batches):
        samples = check(batch, f"batches[{i}]")
        got = samples.shape[1:], samples.dtype
        expected = expected or got
        if got != expected:
            raise ValueError(
                f"batches[{i}]: got samples {got[0]} of {got[1]}, expected {expected[0]} of "
                f"{expected[1]} as in batches[0]"
            )
        yield samples


def peek(items: Iterable[_T]) -> tuple[_T | None, Iterable[_T]]:
    """The first of some items, None if there are none, and all of them."""
    rest = iter(items)
    first = next(rest, None)
    return first, rest if first is None else itertools.chain([first], rest)


def check_batch_size(batch_size: int | None, default: int) -> int:
    """The batch size or its default; a `ValueError` unless it is a whole number above 0."""
    return default if batch_size is None else as_count(batch_size, "batch_size", least=1)


def blocks(
    batches: Iterable[Shaped[AnyArray, "..."]], batch_size: int, most: int
) -> Iterator[tuple[Shaped[AnyArray, "size *sample"], int | None]]:
    """Joins batches of any lengths to blocks of one size, the last of which is padded.

    Where fewer samples arrive than `batch_size`, the block is no larger than they are, rounded up
    to a power of two, so that few programs serve them all.

    Args:
        batches: Frames or clips.
        batch_size: How many samples are encoded at a time.
        most: Of how many times that a block may be, within the budget of memory.

    Yields:
        Blocks, each with how many of its samples count. A batch that is divided over devices comes
        as it is, with None.
    """
    for place, group in itertools.groupby(batches, _place):
        if place is None:
            yield from ((batch, None) for batch in group)
        else:
            yield from _joined(group, batch_size, most, place)


_HOST = "host"


def _place(batch: Shaped[AnyArray, "..."]) -> jax.sharding.Sharding | str | None:
    """Where a batch is joined to others: on the host, on its device, or nowhere.

    NumPy joins batches without compiling anything. On a device a small program is compiled for each
    length of a batch. What is divided over devices, or differentiated, is not joined.
    """
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
        fitting = _BLOCK_BYTES // (batch_size * math.prod(shape) * dtype.itemsize)
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
    # Always a copy: a generator may fill its array again while the device still reads the block.
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
    beyond = len(block)  # rows there are dropped
    return block.at[jnp.where(i < taken, beyond, filled + i - taken)].set(batch, mode="drop")


def _map_batches(
    extract: Extract, samples: Shaped[Array, "n *sample"], batch_size: int, parts: int
) -> PyTree[Float[Array, "n _ _"]]:
    """Applies a function to batches one after the other, one compilation for all.

    Every batch takes as many samples from each part, so that all devices work on each batch, and on
    no others than their own samples.
    """
    n, *sample = samples.shape
    of_part, size = n // parts, max(1, batch_size // parts)
    if of_part <= size:
        return extract(samples)
    steps = -(-of_part // size)
    size = -(-of_part // steps)  # no larger than it takes: fewer samples are padding
    split = samples.reshape(parts, of_part, *sample)
    padding = ((0, 0), (0, steps * size - of_part), *[(0, 0)] * len(sample))
    padded = jnp.pad(split, padding).reshape(parts, steps, size, *sample)
    batches = padded.swapaxes(0, 1).reshape(steps, parts * size, *sample)

    def in_order(f: Float[Array, "steps batch _ _"]) -> Float[Array, "n _ _"]:
        of_parts = f.reshape(steps, parts, size, *f.shape[2:]).swapaxes(0, 1)
        counting = of_parts.reshape(parts, steps * size, *f.shape[2:])[:, :of_part]
        return counting.reshape(n, *f.shape[2:])

    return jax.tree.map(in_order, jax.lax.map(extract, batches))
