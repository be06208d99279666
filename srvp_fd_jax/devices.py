"""Where arrays are: which values can be read, and how samples are divided over devices."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped

AnyArray = Array | np.ndarray

Shards = tuple[jax.sharding.Mesh | jax.sharding.AbstractMesh, Any]
"""A mesh, and those of its axes that the samples are sharded over."""

Division = Shards | int
"""How the first axis of samples is divided over devices.

Either the shards, where they are known, or the number of equal parts such that no part crosses the
boundary of a shard. One part is samples that are not divided.
"""


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="sharding")
def zeros(
    shape: tuple[int, ...], dtype: DTypeLike, *, sharding: jax.sharding.Sharding | None = None
) -> Shaped[Array, "..."]:
    """An array of zeros, without the transfer of a zero that `jnp.zeros` makes."""
    return jnp.zeros(shape, dtype, device=sharding)


def is_tracing() -> bool:
    """Whether a function is being traced, so that what is computed now has no values yet."""
    return isinstance(zeros((), jnp.float32), jax.core.Tracer)


def values(x: Any) -> np.ndarray | None:
    """The values of an array on the host, or None where this process cannot read them.

    Reading an array of a device waits until it is computed.

    Args:
        x: A JAX array, traced or not, or anything that `np.asarray` takes.

    Returns:
        A NumPy array; None for a traced array, and for one that other processes hold parts of.
    """
    if isinstance(x, jax.core.Tracer):
        return None
    if isinstance(x, jax.Array):
        if not (x.is_fully_addressable or x.is_fully_replicated):
            return None
        return np.asarray(jax.device_get(x))  # an explicit transfer, which every guard allows
    return np.asarray(x)


def own(x: Shaped[AnyArray, "..."]) -> Shaped[AnyArray, "..."]:
    """An array that nobody else changes, a copy if it is NumPy's.

    JAX may read NumPy's memory after a call has returned, and a generator may fill it again.
    """
    return np.array(x) if isinstance(x, np.ndarray) else x


def on_host(x: Shaped[AnyArray, "..."]) -> bool:
    """Whether an array lies in the memory of the host, where NumPy works on it without a copy."""
    if not isinstance(x, jax.Array):
        return True
    if isinstance(x, jax.core.Tracer):
        return False
    devices: list[Any] = list(x.devices())
    return len(devices) == 1 and devices[0].platform == "cpu"


def find_division(samples: Shaped[AnyArray, "n *sample"]) -> Division:
    """How the first axis of samples is divided over devices.

    The type of a traced array tells the axes of explicit meshes only. Where it tells none, the
    compiler may still divide the samples over as many devices as there are: the parts are then so
    many that none of them crosses a boundary, whatever the sharding turns out to be.

    Args:
        samples: Frames, clips or features, concrete or traced.

    Returns:
        The mesh with the axes that the samples are sharded over, or a number of parts.
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
    manual = jax.sharding.get_abstract_mesh().manual_axes  # a shard of its own, in `shard_map`
    return 1 if manual else math.gcd(n, jax.device_count())


def resharded(x: Shaped[Array, "n ..."], shards: Shards) -> Shaped[Array, "n ..."]:
    """The same array with its first axis sharded as said, and no other.

    Explicit meshes want that said before `jax.shard_map`; on others it is done there.
    """
    mesh, axes = shards
    names = axes if isinstance(axes, tuple) else (axes,)
    if not set(mesh.explicit_axes) & set(names):
        return x
    return jax.reshard(x, NamedSharding(mesh, P(axes)))


def replicated(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """The same array whole on every device, where its type says that the first axis is sharded."""
    division = find_division(x)
    if isinstance(division, int) or not division[0].explicit_axes:
        return x
    return jax.reshard(x, NamedSharding(division[0], P()))


def varying(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """The same array, typed inside `jax.shard_map` as one that may differ between devices.

    There a loop must carry what it was given the type of, and what is computed from a device's own
    samples differs from device to device.
    """
    axes = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.pcast(x, axes, to="varying") if axes else x


def varying_axes(x: Shaped[Array, "..."]) -> frozenset[Any]:
    """Axes of `jax.shard_map` that an array may differ along, none where it does not track them."""
    manual = getattr(jax.typeof(x), "manual_axis_type", None)
    return frozenset(manual.varying) if manual is not None else frozenset()
