"""Finds out which arrays can be read, and how samples are divided over devices."""

import functools
import math
from collections.abc import Hashable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped

AnyArray = Array | np.ndarray

_T = TypeVar("_T")

Shards = tuple[jax.sharding.Mesh | jax.sharding.AbstractMesh, Any]
"""A mesh, and the axes of it over which the samples are sharded."""

Division = Shards | int
"""How the first axis of samples is divided over devices.

Either the shards, if they are known, or a number of equal parts of which none crosses the boundary
of a shard. Samples that are not divided are one part.
"""


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="sharding")
def zeros(
    shape: tuple[int, ...], dtype: DTypeLike, *, sharding: jax.sharding.Sharding | None = None
) -> Shaped[Array, "..."]:
    """Makes an array of zeros without the transfer of a zero that `jnp.zeros` makes."""
    return jnp.zeros(shape, dtype, device=sharding)


def is_tracing() -> bool:
    """Whether a function is being traced, so that results have no values yet."""
    return isinstance(zeros((), jnp.float32), jax.core.Tracer)


def values(x: Any) -> np.ndarray | None:
    """Reads the values of an array, which waits until they are computed.

    Args:
        x: A JAX array, traced or not, or anything that `np.asarray` takes.

    Returns:
        A NumPy array; None if `x` is traced or if other processes hold parts of it.
    """
    if isinstance(x, jax.core.Tracer):
        return None
    if isinstance(x, jax.Array):
        if not (x.is_fully_addressable or x.is_fully_replicated):
            return None
        return np.asarray(jax.device_get(x))  # explicit, so that transfer guards allow it
    return np.asarray(x)


def own(x: Shaped[AnyArray, "..."]) -> Shaped[AnyArray, "..."]:
    """Copies a NumPy array, so that nobody else changes it; returns a JAX array as it is.

    JAX may read a NumPy array after a call has returned, when a generator may already refill it.
    """
    return np.array(x) if isinstance(x, np.ndarray) else x


def on_host(x: Shaped[AnyArray, "..."]) -> bool:
    """Whether an array is in the memory of the host, where NumPy reads it without a copy."""
    if not isinstance(x, jax.Array):
        return True
    if isinstance(x, jax.core.Tracer):
        return False
    devices: list[Any] = list(x.devices())
    return len(devices) == 1 and devices[0].platform == "cpu"


def shard_like(
    samples: Shaped[Array, "n *sample"], x: Shaped[Array, "n *other"]
) -> Shaped[Array, "n *other"]:
    """Shards the first axis of `x` as that of `samples` is, if that is over explicit axes."""
    sharding = jax.typeof(samples).sharding
    if sharding.spec[0] is None:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, P(sharding.spec[0])))


def find_division(samples: Shaped[AnyArray, "n *sample"]) -> Division:
    """Finds out how the first axis of samples is divided over devices.

    The type of a traced array shows the axes of explicit meshes only. For other traced arrays, the
    compiler may still divide the samples over up to all devices. The parts are then so many that
    none of them crosses a boundary, whatever the sharding.

    Args:
        samples: Frames, clips or features, concrete or traced.

    Returns:
        The mesh and the axes over which the samples are sharded, or the number of parts.
    """
    if isinstance(samples, np.ndarray):
        return 1
    traced = isinstance(samples, jax.core.Tracer)
    sharding = jax.typeof(samples).sharding if traced else samples.sharding
    if isinstance(sharding, NamedSharding) and len(sharding.spec) and sharding.spec[0] is not None:
        return sharding.mesh, sharding.spec[0]
    n: Any = samples.shape[0]
    if not isinstance(n, int):  # a symbolic dimension of `jax.export`
        return 1
    if not traced:
        return math.gcd(n, len(sharding.device_set))
    manual = jax.sharding.get_abstract_mesh().manual_axes  # one shard, inside of `shard_map`
    return 1 if manual else math.gcd(n, jax.device_count())


def resharded(x: Shaped[Array, "n ..."], shards: Shards) -> Shaped[Array, "n ..."]:
    """Shards the first axis of an array as `shards` says, and no other axis.

    `jax.shard_map` requires this on explicit meshes; on other meshes it does this itself.
    """
    mesh, axes = shards
    names = axes if isinstance(axes, tuple) else (axes,)
    if not set(mesh.explicit_axes) & set(names):
        return x
    return jax.reshard(x, NamedSharding(mesh, P(axes)))


def sharded_by_sample(x: Any) -> Any:
    """Shards samples over the first axis alone, if they are sharded over another one.

    Convolutions of frames that lie on several devices would exchange borders in every layer, for
    which the devices of a CPU wait for each other without end. Samples whose number no device count
    divides are replicated. The sharding of traced arrays on automatic meshes is unknown: they are
    returned as they are, as is what is no JAX array.
    """
    if not isinstance(x, jax.Array):
        return x
    traced = isinstance(x, jax.core.Tracer)
    sharding = jax.typeof(x).sharding if traced else x.sharding
    if not isinstance(sharding, NamedSharding) or not any(sharding.spec[1:]):
        return x
    mesh = sharding.mesh
    spec = P(mesh.axis_names) if len(x) % mesh.size == 0 else P()
    if traced:
        return jax.reshard(x, NamedSharding(mesh, spec))
    return jax.device_put(x, NamedSharding(mesh, spec))


def replicated(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Replicates an array on every device if its type says that its first axis is sharded."""
    division = find_division(x)
    if isinstance(division, int) or not division[0].explicit_axes:
        return x
    return jax.reshard(x, NamedSharding(division[0], P()))


def everywhere(x: Shaped[Array, "n ..."], division: Division) -> Shaped[Array, "n ..."]:
    """Replicates a traced array that is divided over devices, see `find_division`."""
    if isinstance(division, int):  # the compiler sees to it
        return x
    mesh = division[0]
    if mesh.explicit_axes:
        return jax.reshard(x, NamedSharding(mesh, P()))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))


def gathered(x: Shaped[AnyArray, "n ..."]) -> Shaped[AnyArray, "n ..."]:
    """Replicates an array that is sharded over devices; others are returned as they are."""
    if not isinstance(x, jax.Array):
        return x
    if isinstance(x, jax.core.Tracer):
        return replicated(x)
    if not isinstance(x.sharding, NamedSharding) or x.sharding.is_fully_replicated:
        return x
    everywhere = NamedSharding(x.sharding.mesh, P())
    if x.sharding.mesh.explicit_axes:
        return jax.reshard(x, everywhere)
    return _identity(everywhere)(x)


@functools.cache
def _identity(sharding: NamedSharding) -> Any:
    return jax.jit(lambda x: x, out_shardings=sharding)


def gather(state: _T, axis_name: Hashable | tuple[Hashable, ...]) -> _T:
    """Stacks the states of all devices along axes of `jax.shard_map` (or `jax.vmap`).

    Raises:
        ValueError: If the states are equal on all devices of an axis, so that samples would be
            counted several times. `jax.shard_map` detects this unless `check_vma=False`.
    """
    # `shard_map` infers that the result of a `psum` is replicated, but not that of a gather.
    place, places = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
    varying = frozenset().union(*map(varying_axes, jax.tree.leaves(state)))
    same = varying_axes(place) - varying
    if same:
        raise ValueError(
            f"axis_name: got {axis_name!r}, but the statistics are the same along "
            f"{', '.join(map(repr, sorted(same)))}: each sample would be counted several times"
        )

    def stacked(x: Shaped[Array, "..."]) -> Shaped[Array, "places ..."]:
        own = jnp.arange(places).reshape(-1, *[1] * x.ndim) == place
        return jax.lax.psum(jnp.where(own, x[None], jnp.zeros((), x.dtype)), axis_name)

    return jax.tree.map(stacked, state)


def varying(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Types an array inside `jax.shard_map` as one that may differ between devices.

    A loop must carry one type throughout, and what is computed from a device's own samples varies.
    """
    axes = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.pcast(x, axes, to="varying") if axes else x


def varying_axes(x: Shaped[Array, "..."]) -> frozenset[Any]:
    """Axes of `jax.shard_map` along which an array may differ; none if JAX does not track them."""
    manual = getattr(jax.typeof(x), "manual_axis_type", None)
    return frozenset(manual.varying) if manual is not None else frozenset()
