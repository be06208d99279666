"""Random samples of the clips of a set, for distances and tests that no sums of features give.

Each clip has a random key of 64 bits, and a sample has the clips with the smallest keys. So it is
the same however the clips are divided into batches, devices, processes and files, and samples merge
by their keys alone.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32

from srvp_fd_jax.devices import AnyArray, replicated, zeros
from srvp_fd_jax.distances.counts import add_counts, as_float, exact, limbs_of

SAMPLE_SIZE = 2048
"""Largest number of clips in the sample of an evaluation, the number of FVD's protocol."""

NO_KEY = np.uint32(0xFFFFFFFF)
"""Both halves of the key of a place that holds no clip, which sorts behind all clips."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureSample:
    """A random sample of at most k clips with their features; a pytree of arrays of fixed shapes.

    Attributes:
        keys: Upper and lower halves of the clips' keys, rising, uint32 [k, 2].
        features: Features [k, v, d] of the clips, v vectors per clip; zero in empty places.
        variances: Component variances [k, v, d] if the vectors are Gaussians, else None.
        count_limbs: Lower and upper 32 bits of the number of clips that were offered, uint32 [2].
    """

    keys: UInt32[Array, "*stack k 2"]
    features: Float[Array, "*stack k v d"]
    variances: Float[Array, "*stack k v d"] | None
    count_limbs: UInt32[Array, "*stack 2"]

    @property
    def count(self) -> Int[np.ndarray | np.int64, "*stack"] | Float[Array, "*stack"]:
        """Exact number of clips that were offered as an int64; a float32 while tracing."""
        found = exact(self.count_limbs)
        return as_float(self.count_limbs, jnp.float32) if found is None else found

    @property
    def size(self) -> int:
        """Largest number k of clips that the sample holds."""
        return self.keys.shape[-2]

    @property
    def vectors(self) -> int:
        """Number v of feature vectors per clip."""
        return self.features.shape[-2]

    @property
    def held(self) -> Bool[Array, "*stack k"]:
        """Whether each place holds a clip; the places that do are the first ones."""
        return self.keys[..., 0] < NO_KEY

    @classmethod
    def empty(cls, size: int, dim: int, *, vectors: int = 1, mixture: bool) -> "FeatureSample":
        """Makes a sample of no clips, see the attributes."""
        return cls(
            keys=zeros((size, 2), jnp.uint32) + NO_KEY,
            features=zeros((size, vectors, dim), jnp.float32),
            variances=zeros((size, vectors, dim), jnp.float32) if mixture else None,
            count_limbs=zeros((2,), jnp.uint32),
        )

    def offer(
        self,
        moments: Mapping[str, Float[AnyArray, "n v d"]],
        keys: UInt32[AnyArray, "n 2"] | None = None,
        mask: Bool[AnyArray, " n"] | None = None,
    ) -> "FeatureSample":
        """Offers clips to the sample.

        Args:
            moments: "features" of the clips, and "variances" of a mixture. A sample of one vector
                per clip takes each vector of several as a clip of its own.
            keys: Keys of the clips, see `name_keys`. By default they follow from the places of the
                clips in the order of all calls.
            mask: False for clips to ignore. None offers all clips.
        """
        return _offered(self, moments, keys, mask)

    def merge(self, other: "FeatureSample") -> "FeatureSample":
        """Returns the sample of both sets of clips together, of the size of the smaller sample."""
        # Of the larger sample, clips beyond the smaller size may be missing in the other one.
        return _joined([self, other], min(self.size, other.size))

    def reduce(self) -> "FeatureSample":
        """Merges samples that are stacked along a leading axis."""
        rows = self.keys, self.features, self.variances
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
        return _smallest(flat, self.count_limbs, self.size)

    def moments(self) -> dict[str, Float[Array, "m v d"]]:
        """The "features" of the m clips in the sample, and "variances" of a mixture, by rising key.

        The number m is the smaller one of `size` and `count`, which must be known.
        """
        held = min(self.size, int(self.count))
        return {name: array[:held] for name, array in self._moments().items()}

    def single_vectors(self, size: int) -> "FeatureSample":
        """A random sample of at most `size` of the vectors, each as a clip of one vector."""
        empty = FeatureSample.empty(
            min(size, self.size * self.vectors),
            self.features.shape[-1],
            mixture=self.variances is not None,
        )
        return empty.offer(self._moments(), None, self.held)

    def _moments(self) -> dict[str, Float[Array, "*stack k v d"]]:
        given = {"features": self.features, "variances": self.variances}
        return {name: array for name, array in given.items() if array is not None}


nnx.register_data_type(FeatureSample)


def name_keys(names: Sequence[str]) -> UInt32[np.ndarray, "n 2"]:
    """Keys of clips by their names: the first 64 bits of SHA-256, never the key of no clip."""
    digests = (hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names)
    halves = [(int.from_bytes(d[:4], "big"), int.from_bytes(d[4:8], "big")) for d in digests]
    return np.minimum(np.array(halves, np.uint32).reshape(-1, 2), [[NO_KEY - 1, NO_KEY]])


def in_order(
    moments: Mapping[str, Float[Array, "n v d"]], counting: Bool[Array, " n"] | None = None
) -> FeatureSample:
    """A sample of all clips in their order, of which those that count are the first ones."""
    n = len(moments["features"])
    counting = jnp.ones(n, bool) if counting is None else counting
    places = jnp.arange(n, dtype=jnp.uint32)
    keys = jnp.stack([jnp.zeros_like(places), places], axis=1)
    return FeatureSample(
        keys=jnp.where(counting[:, None], keys, NO_KEY),
        features=moments["features"],
        variances=moments.get("variances"),
        count_limbs=limbs_of(jnp.sum(counting, dtype=jnp.uint32)),
    )


@jax.jit
def _offered(
    sample: FeatureSample,
    moments: Mapping[str, Float[AnyArray, "n v d"]],
    keys: UInt32[AnyArray, "n 2"] | None,
    mask: Bool[AnyArray, " n"] | None,
) -> FeatureSample:
    whole = {name: replicated(jnp.asarray(x)) for name, x in moments.items()}
    n, vectors, dim = whole["features"].shape
    counting = jnp.ones(n, bool) if mask is None else replicated(jnp.asarray(mask))
    if sample.vectors == 1 < vectors:
        whole = {name: x.reshape(n * vectors, 1, dim) for name, x in whole.items()}
        counting = jnp.repeat(counting, vectors, total_repeat_length=n * vectors)
        keys = None
    of_clips = _place_keys(sample.count_limbs, counting) if keys is None else jnp.asarray(keys)

    def offered(name: str) -> Float[Array, "n v d"]:
        return jnp.where(counting[:, None, None], whole[name], 0).astype(jnp.float32)

    batch = FeatureSample(
        keys=jnp.where(counting[:, None], of_clips, NO_KEY),
        features=offered("features"),
        variances=offered("variances") if "variances" in whole else None,
        count_limbs=limbs_of(jnp.sum(counting, dtype=jnp.uint32)),
    )
    return _joined([sample, batch], sample.size)


def _place_keys(before: UInt32[Array, "2"], counting: Bool[Array, " n"]) -> UInt32[Array, "n 2"]:
    """Keys of clips by their places, where `before` clips were counted already."""
    low = before[0] + jnp.cumsum(counting, dtype=jnp.uint32) - 1
    high = before[1] + (low < before[0])

    def key(high: UInt32[Array, ""], low: UInt32[Array, ""]) -> UInt32[Array, "2"]:
        seed = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), high), low)
        return jax.random.bits(seed, (2,), jnp.uint32)

    return jax.vmap(key)(high, low).at[:, 0].min(NO_KEY - 1)


def _joined(samples: Sequence[FeatureSample], size: int) -> FeatureSample:
    """The clips with the `size` smallest keys of several samples."""
    rows = [(one.keys, one.features, one.variances) for one in samples]
    counts = jnp.stack([one.count_limbs for one in samples])
    return _smallest(jax.tree.map(lambda *x: jnp.concatenate(x), *rows), counts, size)


def _smallest(
    rows: tuple[Array, Array, Array | None], counts: UInt32[Array, "m 2"], size: int
) -> FeatureSample:
    keys = rows[0]
    places = jnp.arange(len(keys))
    *_, order = jax.lax.sort((keys[:, 0], keys[:, 1], places), num_keys=2)
    keys, features, variances = jax.tree.map(lambda x: x[order[:size]], rows)
    return FeatureSample(keys, features, variances, add_counts(counts))
