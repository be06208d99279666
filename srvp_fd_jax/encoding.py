"""From frames and clips to features and their statistics: jitted, in batches, over devices."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Shaped

from srvp_fd_jax.inputs import to_unit_range
from srvp_fd_jax.networks.srvp import SRVP, gaussian_from_raw
from srvp_fd_jax.statistics import AnyArray, FeatureStatistics

ComparisonType = Literal["frame", "static_content", "dynamics"]

Shards = tuple[jax.sharding.Mesh | jax.sharding.AbstractMesh, Any]
"""A mesh, and those of its axes that the samples are sharded over."""


def find_shards(samples: Shaped[AnyArray, "..."]) -> Shards | None:
    """How the first axis is sharded, if it is; of traced arrays only explicit sharding is known."""
    if isinstance(samples, jax.core.Tracer):
        sharding = jax.typeof(samples).sharding
    else:
        sharding = getattr(samples, "sharding", None)
    if isinstance(sharding, NamedSharding) and len(sharding.spec) and sharding.spec[0] is not None:
        return sharding.mesh, sharding.spec[0]
    return None


@functools.partial(jax.jit, static_argnames=("comparison_type", "batch_size", "shards"))
def encode(
    network: SRVP,
    samples: Shaped[Array, "n *sample"],
    comparison_type: ComparisonType,
    batch_size: int,
    shards: Shards | None,
) -> Float[Array, "n d"]:
    """Features of frames, or of clips of the frames that count; each device encodes its own."""

    def encode_shard(network: SRVP, samples: Shaped[Array, "n *sample"]) -> Float[Array, "n d"]:
        function = functools.partial(_encode_batch, network, comparison_type=comparison_type)
        return _map_batches(function, samples, batch_size)

    if shards is None:
        return encode_shard(network, samples)
    mesh, axes = shards
    return jax.shard_map(
        encode_shard, mesh=mesh, in_specs=(P(), P(axes)), out_specs=P(axes), check_vma=False
    )(network, samples)


@functools.partial(jax.jit, static_argnames=("comparison_type", "batch_size", "shards"))
def encode_statistics(
    network: SRVP,
    samples: Shaped[Array, "n *sample"],
    comparison_type: ComparisonType,
    batch_size: int,
    shards: Shards | None,
) -> FeatureStatistics:
    """Statistics of frames or clips; each device makes its own, and those are merged."""

    def encode_shard(network: SRVP, samples: Shaped[Array, "n *sample"]) -> FeatureStatistics:
        features = encode(network, samples, comparison_type, batch_size, None)
        return FeatureStatistics.from_features(**_moments(features, comparison_type))

    if shards is None:
        return encode_shard(network, samples)
    mesh, axes = shards
    return jax.shard_map(
        lambda *shard: jax.lax.all_gather(encode_shard(*shard), axes).reduce(),
        mesh=mesh,
        in_specs=(P(), P(axes)),
        out_specs=P(),
        check_vma=False,
    )(network, samples)


@functools.partial(jax.jit, static_argnames="comparison_type")
def fold(
    network: SRVP,
    state: FeatureStatistics,
    samples: Shaped[Array, "n *sample"],
    mask: Bool[Array, " n"],
    comparison_type: ComparisonType,
) -> FeatureStatistics:
    """Folds one padded batch into the statistics."""
    features = _encode_batch(network, samples, comparison_type)
    return state.update(mask=mask, **_moments(features, comparison_type))


def _encode_batch(
    network: SRVP, samples: Shaped[Array, "n *sample"], comparison_type: ComparisonType
) -> Float[Array, "n d"]:
    frames = to_unit_range(samples.reshape(-1, *samples.shape[-3:]))
    encodings = network.encoder(frames)
    if comparison_type == "frame":
        return encodings
    head = network.content if comparison_type == "static_content" else network.initial_state
    return head(encodings.reshape(*samples.shape[:2], -1))


def _moments(
    features: Float[Array, "n d"], comparison_type: ComparisonType
) -> dict[str, Float[Array, "n d2"]]:
    """What `FeatureStatistics` takes of features: of "dynamics", those of a mixture."""
    if comparison_type != "dynamics":
        return {"features": features}
    mean, variance = gaussian_from_raw(features)
    return {"features": mean, "variances": variance}


def blocks(
    batches: Iterable[Shaped[AnyArray, "..."]], size: int
) -> Iterator[tuple[Shaped[AnyArray, "size *sample"], int]]:
    """Cuts batches of any lengths into blocks of one, the last padded, with how much counts."""
    rest: Any = ()
    for batch in batches:
        rest = np.concatenate([rest, batch]) if len(rest) else batch
        while len(rest) >= size:
            yield rest[:size], size
            rest = rest[size:]
    if len(rest):
        yield np.pad(rest, [(0, size - len(rest)), *[(0, 0)] * (rest.ndim - 1)]), len(rest)


def _map_batches(
    function: Callable[[Shaped[Array, "b *sample"]], Float[Array, "b d"]],
    samples: Shaped[Array, "n *sample"],
    batch_size: int,
) -> Float[Array, "n d"]:
    """Applies a function to batches one after the other, one compilation for all.

    Sample i goes to batch i mod the number of batches, so that every batch has samples from all
    over the array: where its first axis is sharded over devices, all of them work on each batch.
    """
    n = samples.shape[0]
    if n <= batch_size:
        return function(samples)
    steps = -(-n // batch_size)
    padded = jnp.pad(samples, ((0, steps * batch_size - n), *[(0, 0)] * (samples.ndim - 1)))
    batches = padded.reshape(batch_size, steps, *samples.shape[1:]).swapaxes(0, 1)
    features = jax.lax.map(function, batches)
    return features.swapaxes(0, 1).reshape(steps * batch_size, -1)[:n]
