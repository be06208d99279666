"""A uniform random sample of clips with their features, of fixed size for any number of clips.

Every clip gets a random 64-bit key, which is a hash of its name or of its index, and the sample
holds the clips with the smallest keys (bottom-k sampling; Cohen & Kaplan 2007, PODC). The sample
depends on the set of clips only: neither on their order nor on how they are divided into batches,
devices, hosts and files. The samples of two disjoint sets merge into the sample of their union.
"""

import dataclasses
import hashlib
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32
from numpy.typing import ArrayLike

from srvp_fd_jax.devices import AnyArray, Division, own, replicated, zeros
from srvp_fd_jax.distances import states
from srvp_fd_jax.distances.counts import add_counts, as_float, exact, limbs_of
from srvp_fd_jax.distances.states import Source
from srvp_fd_jax.inputs import as_array, as_count, as_mask

SAMPLE_SIZE = 2048
"""Number of clips that are kept of each side of an evaluation, the number of FVD's protocol."""

_NO_KEY = np.uint32(0xFFFFFFFF)
"""Both halves of the key of a place that holds no clip, which sorts behind all clips."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureSample:
    """A random sample of at most k clips with their features; a pytree of arrays of fixed shapes.

    Samples that are stacked along a leading axis, as gathering makes them, merge by `reduce`.

    Attributes:
        keys: Upper and lower halves of the clips' keys, rising, uint32 [k, 2].
        features: Features [k, v, d] of the clips, v vectors per clip; zero in empty places.
        variances: Component variances [k, v, d] if the vectors are Gaussians, else None.
        count_limbs: Lower and upper 32 bits of the number of clips that were seen, uint32 [2].
        value_range: Smallest and largest value of the clips, see `FeatureStatistics`.
        source: Where the features come from, see `FeatureStatistics`.

    Example:
        >>> import numpy as np
        >>> from srvp_fd_jax import FeatureSample
        >>> features = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
        >>> names = [f"{i}.mp4" for i in range(1000)]
        >>> sample = FeatureSample.empty(100, 4).update(features, names=names)
        >>> int(sample.count), sample.moments()["features"].shape
        (1000, (100, 1, 4))
    """

    keys: UInt32[Array, "*stack k 2"]
    features: Float[Array, "*stack k v d"]
    variances: Float[Array, "*stack k v d"] | None
    count_limbs: UInt32[Array, "*stack 2"]
    value_range: Float[Array, "*stack 2"] = dataclasses.field(default_factory=states.unseen)
    source: Source = dataclasses.field(default=(), metadata={"static": True})

    @property
    def count(self) -> Int[np.ndarray | np.int64, "*stack"] | Float[Array, "*stack"]:
        """Exact number of clips that were seen as an int64; a float32 while tracing."""
        found = exact(self.count_limbs)
        return as_float(self.count_limbs, jnp.float32) if found is None else found

    @property
    def size(self) -> int:
        """Largest number k of clips that the sample holds."""
        return self.keys.shape[-2]

    @property
    def dim(self) -> int:
        """Feature dimension d."""
        return self.features.shape[-1]

    @property
    def held(self) -> Bool[Array, "*stack k"]:
        """Whether each place holds a clip; the places that do are the first ones."""
        return self.keys[..., 0] < _NO_KEY

    @classmethod
    def empty(
        cls,
        size: int,
        dim: int,
        *,
        vectors: int = 1,
        mixture: bool = False,
        source: Source = (),
    ) -> "FeatureSample":
        """Makes a sample of no clips.

        Args:
            size: Largest number k of clips that the sample holds.
            dim: Feature dimension d.
            vectors: Number v of feature vectors per clip.
            mixture: Whether the vectors are diagonal Gaussians, with variances.
            source: Where the features come from.

        Raises:
            ValueError: If a number is not a positive integer.
        """
        k, d = as_count(size, "size", least=1), as_count(dim, "dim", least=1)
        v = as_count(vectors, "vectors", least=1)
        return cls(
            keys=zeros((k, 2), jnp.uint32) + _NO_KEY,
            features=zeros((k, v, d), jnp.float32),
            variances=zeros((k, v, d), jnp.float32) if mixture else None,
            count_limbs=zeros((2,), jnp.uint32),
            source=tuple(sorted(source)),
        )

    def update(
        self,
        features: ArrayLike,
        variances: ArrayLike | None = None,
        *,
        names: Sequence[str] | None = None,
        mask: ArrayLike | None = None,
    ) -> "FeatureSample":
        """Offers clips to the sample.

        Args:
            features: Features [n, v, d] of n clips, or [n, d] if there is one vector per clip.
            variances: Component variances of the shape of `features` for a mixture, else None.
            names: Names of the clips, which give them their keys. A name must come only once. By
                default the keys follow from the places of the clips in the order of all updates.
                Samples that are to be merged then need distinct names instead.
            mask: False for clips to ignore, such as padding, bool [n]. None offers all clips.

        Returns:
            New sample; the old one is unchanged.

        Raises:
            ValueError: If a shape is wrong, or variances are missing for a mixture or given for
                points.
        """
        _, v, d = self.features.shape
        given = {"features": as_array(features, "features")}
        if (variances is None) != (self.variances is None):
            expected = "None for points" if self.variances is None else "those of the mixture"
            got = "None" if variances is None else "an array"
            raise ValueError(f"variances: got {got}, expected {expected}")
        if variances is not None:
            given["variances"] = as_array(variances, "variances")
        n = len(given["features"]) if given["features"].ndim else 0
        shapes = [(n, v, d), (n, d)] if v == 1 else [(n, v, d)]
        for name, array in given.items():
            if array.shape not in shapes or not jnp.issubdtype(array.dtype, jnp.floating):
                expected = f"floats [n, {v}, {d}]" + (f" or [n, {d}]" if v == 1 else "")
                raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected {expected}")
        if names is not None and len(names) != n:
            raise ValueError(f"names: got {len(names)}, expected one for each of {n} clips")
        if mask is not None:
            mask = as_mask(mask, "mask", n)
        rows = {name: own(array).reshape(n, v, d) for name, array in given.items()}
        return self.offer(rows, None if names is None else name_keys(names), mask)

    def offer(
        self,
        moments: Mapping[str, Float[AnyArray, "n v d"]],
        keys: UInt32[AnyArray, "n 2"] | None,
        mask: Bool[AnyArray, " n"] | None,
    ) -> "FeatureSample":
        """Offers clips without the checks of `update`; `keys` are `name_keys` of their names."""
        return _offered(self, moments, keys, mask)

    def fold(
        self,
        features: Float[AnyArray, "n d"],
        mask: Bool[AnyArray, " n"] | None,
        variances: Float[AnyArray, "n d"] | None,
        division: Division,
    ) -> "FeatureSample":
        """Offers rows as clips of one vector each, see `State.fold`; `division` is ignored."""
        given = {"features": features, "variances": variances}
        rows = {name: f[:, None] for name, f in given.items() if f is not None}
        return self.offer(rows, None, mask)

    @jax.jit
    def merge(self, other: "FeatureSample") -> "FeatureSample":
        """Returns the sample of both sets of clips together, of the size of the smaller sample.

        Raises:
            ValueError: If the dimensions, the numbers of vectors or the sources disagree.
        """
        states.check_comparable(self, other, same_side=True)
        vectors = self.features.shape[1], other.features.shape[1]
        if vectors[0] != vectors[1]:
            raise ValueError(f"sample: got {vectors[0]} and {vectors[1]} vectors per clip")
        # Of the larger sample, clips beyond the smaller size may be missing in the other one.
        both = _joined([self, other], min(self.size, other.size))
        return states.mark(both, **dict(other.source))

    def reduce(self) -> "FeatureSample":
        """Merges samples that are stacked along a leading axis, see `FeatureStatistics.reduce`.

        Raises:
            ValueError: If the samples are not stacked along one axis.
        """
        if self.keys.ndim != 3:
            raise ValueError(
                f"sample: got {self.keys.ndim - 2} leading axes, expected one to reduce"
            )
        return _reduced(jax.tree.map(replicated, self))

    def all_reduce(self, axis_name: Hashable | tuple[Hashable, ...]) -> "FeatureSample":
        """Merges the samples of all devices, see `FeatureStatistics.all_reduce`; never use `psum`.

        The clips must have names, since places are counted on each device from zero.
        """
        return states.gather(self, axis_name).reduce()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sample as a state of its own to a file that `load_statistics` reads."""
        states.save(self, Path(path))

    def moments(self) -> dict[str, Float[Array, "m v d"]]:
        """The "features" of the m clips in the sample, and "variances" of a mixture, by rising key.

        The number m is the smaller one of `size` and `count`, which must be known.
        """
        held = min(self.size, int(self.count))
        given = {"features": self.features, "variances": self.variances}
        return {name: array[:held] for name, array in given.items() if array is not None}


nnx.register_data_type(FeatureSample)


def name_keys(names: Sequence[str]) -> UInt32[np.ndarray, "n 2"]:
    """Keys of clips by their names: the first 64 bits of SHA-256, never the key of no clip."""
    digests = (hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names)
    halves = [(int.from_bytes(d[:4], "big"), int.from_bytes(d[4:8], "big")) for d in digests]
    return np.minimum(np.array(halves, np.uint32).reshape(-1, 2), [[_NO_KEY - 1, _NO_KEY]])


def load_sample(path: str | os.PathLike[str]) -> FeatureSample | None:
    """Reads the sample of clips from a file of statistics.

    Args:
        path: Path of a file that `srvp-fd-jax stats` wrote.

    Returns:
        The sample; None if the file holds none, which only `stats --sample` keeps.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If the file is damaged or has another format.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> statistics = srvp_fd_jax.FeatureStatistics.from_features(np.eye(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     statistics.save(f"{folder}/real.safetensors")
        ...     print(srvp_fd_jax.load_sample(f"{folder}/real.safetensors"))
        None
    """
    arrays, source = states.load_sample_arrays(Path(path))
    if not arrays:
        return None
    sample = from_arrays(arrays, source)
    if sample is None:
        text = "the arrays of its sample have unexpected names, shapes or types"
        raise ValueError(f"{os.fspath(path)}: {text}")
    return sample


def from_arrays(arrays: Mapping[str, np.ndarray], source: Source) -> FeatureSample | None:
    """The sample with arrays from a file, or None if names, shapes or types are not a sample's."""
    shape = arrays["features"].shape if "features" in arrays else ()
    if len(shape) != 3 or 0 in shape:
        return None
    size, vectors, dim = shape
    empty = FeatureSample.empty(
        size, dim, vectors=vectors, mixture="variances" in arrays, source=source
    )
    expected = {name: (x.shape, x.dtype) for name, x in states.arrays_of(empty).items()}
    got = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    if got != {k: x for k, x in expected.items() if k in got or not states.is_range_name(k)}:
        return None
    read: dict[str, Any] = {name: jnp.asarray(array) for name, array in arrays.items()}
    return dataclasses.replace(empty, **read)


@jax.jit
def _offered(
    sample: FeatureSample,
    moments: Mapping[str, Float[AnyArray, "n v d"]],
    keys: UInt32[AnyArray, "n 2"] | None,
    mask: Bool[AnyArray, " n"] | None,
) -> FeatureSample:
    whole = {name: replicated(jnp.asarray(x)) for name, x in moments.items()}
    n = len(whole["features"])
    counting = jnp.ones(n, bool) if mask is None else replicated(jnp.asarray(mask))
    of_clips = _place_keys(sample.count_limbs, counting) if keys is None else jnp.asarray(keys)

    def offered(name: str) -> Float[Array, "n v d"]:
        return jnp.where(counting[:, None, None], whole[name], 0).astype(jnp.float32)

    batch = FeatureSample(
        keys=jnp.where(counting[:, None], of_clips, _NO_KEY),
        features=offered("features"),
        variances=offered("variances") if "variances" in whole else None,
        count_limbs=limbs_of(jnp.sum(counting, dtype=jnp.uint32)),
        source=sample.source,
    )
    return _joined([sample, batch], sample.size)


def _place_keys(before: UInt32[Array, "2"], counting: Bool[Array, " n"]) -> UInt32[Array, "n 2"]:
    """Keys of clips by their places, where `before` clips were counted already."""
    low = before[0] + jnp.cumsum(counting, dtype=jnp.uint32) - 1
    high = before[1] + (low < before[0])

    def key(high: UInt32[Array, ""], low: UInt32[Array, ""]) -> UInt32[Array, "2"]:
        seed = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), high), low)
        return jax.random.bits(seed, (2,), jnp.uint32)

    return jax.vmap(key)(high, low).at[:, 0].min(_NO_KEY - 1)


def _joined(samples: Sequence[FeatureSample], size: int) -> FeatureSample:
    """The clips with the `size` smallest keys of several samples."""
    rows = [(one.keys, one.features, one.variances) for one in samples]
    counts = jnp.stack([one.count_limbs for one in samples])
    seen = jnp.stack([one.value_range for one in samples])
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    return _smallest(joined, counts, seen, size, samples[0])


def _smallest(
    rows: tuple[Array, Array, Array | None],
    counts: UInt32[Array, "m 2"],
    seen: Float[Array, "m 2"],
    size: int,
    like: FeatureSample,
) -> FeatureSample:
    keys = rows[0]
    places = jnp.arange(len(keys))
    *_, order = jax.lax.sort((keys[:, 0], keys[:, 1], places), num_keys=2)
    keys, features, variances = jax.tree.map(lambda x: x[order[:size]], rows)
    total, value_range = add_counts(counts), states.join_ranges(seen)
    return FeatureSample(keys, features, variances, total, value_range, like.source)


@jax.jit
def _reduced(stacked: FeatureSample) -> FeatureSample:
    rows = stacked.keys, stacked.features, stacked.variances
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    return _smallest(flat, stacked.count_limbs, stacked.value_range, stacked.size, stacked)
