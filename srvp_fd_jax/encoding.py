"""From samples to features and their statistics: jitted, in batches, over devices.

What is computed of a batch is an `Extract`, a function bound to its network. As a pytree it is an
argument of the jitted functions here, the network's weights among its leaves.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from srvp_fd_jax.statistics import AnyArray, FeatureStatistics

_T = TypeVar("_T")

Moments = dict[str, Float[Array, "n _ _"]]
"""Of n samples k feature vectors each under "features", of mixtures "variances" beside."""

Extract = jax.tree_util.Partial
"""Maps samples [n, ...] to a pytree of arrays [n, k, d]; for statistics to a tuple of moments."""

Statistics = tuple[FeatureStatistics, ...]
"""As many as there are moments."""

Shards = tuple[jax.sharding.Mesh | jax.sharding.AbstractMesh, Any]
"""A mesh, and those of its axes that the samples are sharded over."""


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
        return cls

    return register


def find_shards(samples: Shaped[AnyArray, "..."]) -> Shards | None:
    """How the first axis is sharded, if it is; of traced arrays only explicit sharding is known."""
    if isinstance(samples, jax.core.Tracer):
        sharding = jax.typeof(samples).sharding
    else:
        sharding = getattr(samples, "sharding", None)
    if isinstance(sharding, NamedSharding) and len(sharding.spec) and sharding.spec[0] is not None:
        return sharding.mesh, sharding.spec[0]
    return None


@functools.partial(jax.jit, static_argnames=("batch_size", "shards"))
def encode(
    extract: Extract, samples: Shaped[Array, "n *sample"], batch_size: int, shards: Shards | None
) -> PyTree[Float[Array, "n _ _"]]:
    """What is extracted from samples; each device encodes its own.

    Args:
        extract: What to compute.
        samples: Frames or clips.
        batch_size: How many are encoded at a time, of each device.
        shards: How the samples are sharded, see `find_shards`.

    Returns:
        What `extract` gives, of all samples in their order and sharded as they are.
    """

    def of_shard(
        extract: Extract, samples: Shaped[Array, "n *sample"]
    ) -> PyTree[Float[Array, "n _ _"]]:
        return _map_batches(extract, samples, batch_size)

    if shards is None:
        return of_shard(extract, samples)
    return _shard_map(of_shard, shards, P(shards[1]))(extract, samples)


@functools.partial(jax.jit, static_argnames=("batch_size", "shards"))
def _encode_statistics(
    extract: Extract, samples: Shaped[Array, "n *sample"], batch_size: int, shards: Shards | None
) -> Statistics:
    """Statistics of samples; each device makes its own, and those are merged."""

    def of_shard(extract: Extract, samples: Shaped[Array, "n *sample"]) -> Statistics:
        moments = _map_batches(extract, samples, batch_size)
        return tuple(FeatureStatistics.from_features(**rows(m)) for m in moments)

    def merged(extract: Extract, samples: Shaped[Array, "n *sample"]) -> Statistics:
        gathered = jax.lax.all_gather(of_shard(extract, samples), axis_name)
        return tuple(s.reduce() for s in gathered)

    if shards is None:
        return of_shard(extract, samples)
    axis_name = shards[1]
    return _shard_map(merged, shards, P())(extract, samples)


def _shard_map(function: Callable[..., _T], shards: Shards, out_specs: P) -> Callable[..., _T]:
    mesh, axes = shards
    return jax.shard_map(
        function, mesh=mesh, in_specs=(P(), P(axes)), out_specs=out_specs, check_vma=False
    )


def statistics(
    extract: Extract, samples: Shaped[AnyArray, "n *sample"], batch_size: int, empty: Statistics
) -> Statistics:
    """Statistics of one set of samples.

    What is on the host is streamed, but for constants of a function that is being traced.

    Args:
        extract: What to compute, a tuple of moments.
        samples: Frames or clips, on the host or on any devices.
        batch_size: How many are encoded at a time.
        empty: Statistics of no samples, one for each of the moments.

    Returns:
        Statistics in the form of `empty` and with its marks.
    """
    batch_size = min(batch_size, samples.shape[0])
    if not isinstance(samples, jax.Array) and not _is_tracing():
        return stream(extract, [samples], batch_size, empty)
    made = _encode_statistics(extract, samples, batch_size, find_shards(samples))
    return tuple(
        dataclasses.replace(of_samples, source=own.source)
        for of_samples, own in zip(made, empty, strict=True)
    )


def stream(
    extract: Extract,
    batches: Iterable[Shaped[AnyArray, "..."]],
    batch_size: int,
    empty: Statistics,
) -> Statistics:
    """Statistics of batches of any lengths and number, in a fixed amount of memory.

    Of a function that is being traced all batches are part in any case: they are taken as one.

    Args:
        extract: What to compute, a tuple of moments.
        batches: Frames or clips.
        batch_size: How many are encoded at a time.
        empty: Statistics of no samples, one for each of the moments.

    Returns:
        Statistics of all of them, in the form of `empty` and with its marks.
    """
    if _is_tracing():
        present = [batch for batch in batches if len(batch)]
        return (
            statistics(extract, jnp.concatenate(present), batch_size, empty) if present else empty
        )
    state = empty
    for samples, count in blocks(batches, _batches_a_block() * batch_size):
        before = state
        moments = _encode_block(extract, samples, count, batch_size)
        state = update(before, moments, np.arange(len(samples)) < count)
        jax.block_until_ready(before)  # one block waits on the device, never more
    return state


def _batches_a_block() -> int:
    """How many batches are encoded in one call.

    They share what a call costs whatever it encodes, on a CPU pages of memory of its own and the
    transforms of kernels, and one QR of their rows. Batches on other devices are larger.
    """
    return 16 if jax.default_backend() == "cpu" else 4


@functools.partial(jax.jit, static_argnames="batch_size")
def _encode_block(
    extract: Extract,
    samples: Shaped[AnyArray, "size *sample"],
    count: int | Int[Array, ""],
    batch_size: int,
) -> tuple[Moments, ...]:
    """Moments of a block, by one program for any number of samples that count.

    Batches of which none does are left out.
    """
    batches = jnp.reshape(samples, (-1, batch_size, *samples.shape[1:]))

    def encode_next(
        i: Int[Array, ""], moments: PyTree[Float[Array, "b n _ _"]]
    ) -> PyTree[Float[Array, "b n _ _"]]:
        return jax.tree.map(lambda f, new: f.at[i].set(new), moments, extract(batches[i]))

    zeros = jax.tree.map(
        lambda f: jnp.zeros((len(batches), *f.shape), f.dtype),
        jax.eval_shape(extract, batches[0]),
    )
    moments = jax.lax.fori_loop(0, -(-count // batch_size), encode_next, zeros)
    return jax.tree.map(jnp.concatenate, moments)


@jax.jit
def update(
    statistics: Statistics, moments: tuple[Moments, ...], counting: Bool[AnyArray, " n"]
) -> Statistics:
    """Statistics with those samples of a block folded in that count."""
    return tuple(
        own.update(**rows(new, counting)) for own, new in zip(statistics, moments, strict=True)
    )


def rows(moments: Moments, counting: Bool[AnyArray, " n"] | None = None) -> dict[str, Any]:
    """Arguments of `FeatureStatistics.update`: the vectors of all samples, of those that count."""
    k = moments["features"].shape[1]
    mask = None if counting is None else jnp.repeat(counting, k)
    return {"mask": mask} | {name: f.reshape(-1, f.shape[-1]) for name, f in moments.items()}


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
    """The batch size or its default; a `ValueError` if it is below 1."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    return batch_size or default


def blocks(
    batches: Iterable[Shaped[AnyArray, "..."]], size: int
) -> Iterator[tuple[Shaped[AnyArray, "size *sample"], int]]:
    """Cuts batches of any lengths into blocks of one, the last padded, with how much counts."""
    rest: Any = ()
    for batch in batches:
        xp = jnp if isinstance(batch, jax.Array) else np  # what is on a device stays there
        rest = xp.concatenate([rest, batch]) if len(rest) else batch
        while len(rest) >= size:
            yield rest[:size], size
            rest = rest[size:]
    if len(rest):
        yield xp.pad(rest, [(0, size - len(rest)), *[(0, 0)] * (rest.ndim - 1)]), len(rest)


def _map_batches(
    extract: Extract, samples: Shaped[Array, "n *sample"], batch_size: int
) -> PyTree[Float[Array, "n _ _"]]:
    """Applies a function to batches one after the other, one compilation for all.

    Sample i goes to batch i mod the number of batches, so that every batch has samples from all
    over the array: where its first axis is sharded over devices, all of them work on each batch.
    """
    n = samples.shape[0]
    if n <= batch_size:
        return extract(samples)
    steps = -(-n // batch_size)
    batch_size = -(-n // steps)  # no larger than it takes: fewer samples are padding
    padded = jnp.pad(samples, ((0, steps * batch_size - n), *[(0, 0)] * (samples.ndim - 1)))
    batches = padded.reshape(batch_size, steps, *samples.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(
        lambda f: f.swapaxes(0, 1).reshape(steps * batch_size, *f.shape[2:])[:n],
        jax.lax.map(extract, batches),
    )


def _is_tracing() -> bool:
    return isinstance(jnp.zeros(()), jax.core.Tracer)
