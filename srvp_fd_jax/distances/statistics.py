"""Mean and covariance of features, which are updated and merged without loss of digits.

The state holds a triangular factor R of the scatter matrix, RᵀR = Σ (xᵢ − m)(xᵢ − m)ᵀ. The sum of
outer products would square the condition number, and cancel if the mean is large. A batch Z of k
rows with mean z is added by one QR decomposition (Chan, Golub & LeVeque 1983 for the means,
tall-skinny QR of Demmel et al. 2012 for the factor):

    R ← qr([R; Z − z; √(n k / (n + k)) (z − m)]),  m ← m + (z − m) k / (n + k),  n ← n + k.

Two statistics merge by the same formula with the other's R in place of Z − z, so batches, devices,
hosts and files are combined by the same operation.
"""

import dataclasses
import functools
import os
from collections.abc import Hashable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt32
from numpy.typing import ArrayLike

from srvp_fd_jax.devices import (
    AnyArray,
    gather,
    gathered,
    own,
    replicated,
    values,
    varying,
    zeros,
)
from srvp_fd_jax.distances import saved
from srvp_fd_jax.distances.batches import centred, check_floating, check_values, two_sum
from srvp_fd_jax.distances.counts import add_counts, as_float, exact
from srvp_fd_jax.distances.factors import add_diagonal, triangular_factor
from srvp_fd_jax.distances.provenance import (
    Source,
    VideoCounts,
    check_comparable,
    join_ranges,
    unseen,
)
from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.files.inputs import as_array, as_count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """What is known of a set of clips; a pytree for `jit`, `scan` and the like.

    These are the mean and the covariance of the features, and, if asked for, a random sample of the
    clips with their features. For a mixture of diagonal Gaussians N(μᵢ, σᵢ²), one Gaussian per
    sample, the features are the means μᵢ, and the sum of the variances σᵢ² is stored too. The
    mixture has the mean μ̄ and the covariance cov(μᵢ) + diag(mean σᵢ²).

    `jax.vmap` and gathering make stacked statistics, whose arrays have an additional leading axis;
    `reduce` merges them. Optimisers do not take statistics in an `nnx.Module` for parameters.

    Attributes:
        count_limbs: Lower and upper 32 bits of the number of samples, uint32 [2]; see `count`.
        mean: Mean [d] of the samples.
        mean_error: Rounding error of the mean [d]. `mean + mean_error` has twice the digits
            (Dekker 1971), so a common offset costs no digits of the difference of two means.
        factor: Upper triangular R [d, d], where RᵀR is the scatter matrix about the mean.
        variance_sum: Sum of the component variances [d] of a mixture, else None.
        value_range: Smallest and largest value of the clips that the features come from, in the
            unit of floats in [0, 1]; the first is the larger one if none is known, as of features.
        sample: Random sample of the clips; None if no distance or test needs one.
        videos: What became of the videos, if the clips are those of stored videos.
        source: Where the features come from, as (name, value) pairs such as ("network", "kth");
            empty if unknown. Statistics of different sources cannot be merged or compared.

    Example:
        >>> import numpy as np
        >>> from srvp_fd_jax import FeatureStatistics
        >>> features = np.random.default_rng(0).normal(5, 1, (300, 4)).astype(np.float32)
        >>> first = FeatureStatistics.empty(4).update(features[:100])
        >>> together = first.merge(FeatureStatistics.from_features(features[100:]))
        >>> int(together.count)
        300
        >>> np.testing.assert_allclose(together.covariance(), np.cov(features.T), atol=1e-5)
    """

    count_limbs: UInt32[Array, "*stack 2"]
    mean: Float[Array, "*stack d"]
    mean_error: Float[Array, "*stack d"]
    factor: Float[Array, "*stack d d"]
    variance_sum: Float[Array, "*stack d"] | None = None
    value_range: Float[Array, "*stack 2"] = dataclasses.field(default_factory=unseen)
    sample: FeatureSample | None = None
    videos: VideoCounts = dataclasses.field(default=VideoCounts(), metadata={"static": True})
    source: Source = dataclasses.field(default=(), metadata={"static": True})

    @property
    def count(self) -> Int[np.ndarray | np.int64, "*stack"] | Float[Array, "*stack"]:
        """Exact number of samples as an int64, for which the call waits for the device.

        For traced statistics the number is a float of their dtype, exact up to 2²⁴ in float32.
        """
        found = exact(self.count_limbs)
        return self._count() if found is None else found

    @property
    def dim(self) -> int:
        """Feature dimension d. Raises a `ValueError` if the statistics are stacked."""
        if self.mean.ndim != 1:
            raise ValueError(
                f"statistics: got stacked ones of shape {self.mean.shape[:-1]}: use `jax.vmap`, "
                "or merge them with `reduce`"
            )
        return self.mean.shape[0]

    @property
    def ddof(self) -> int:
        """Scatter matrices are divided by count − ddof; 1 if `source` has no "ddof"."""
        return int(dict(self.source).get("ddof", 1))

    @classmethod
    def empty(
        cls,
        dim: int,
        *,
        mixture: bool = False,
        sample: int = 0,
        vectors: int = 1,
        source: Source = (),
        dtype: DTypeLike = jnp.float32,
    ) -> "FeatureStatistics":
        """Makes statistics of no samples.

        Inside `jax.shard_map` their type is varying over all axes, so a loop over a device's own
        samples can carry them.

        Args:
            dim: Feature dimension d.
            mixture: Whether the samples are diagonal Gaussians, with variances.
            sample: Largest number of clips in the random sample; 0 for none.
            vectors: Number of feature vectors of each clip in the sample.
            source: Where the features come from.
            dtype: Type of the arrays, float32 or float64.

        Raises:
            ValueError: If `dtype` is neither float32 nor float64, or a number is not allowed.
        """
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype: got {np.dtype(dtype)}, allowed are float32 and float64")
        d, size = as_count(dim, "dim", least=1), as_count(sample, "sample", least=0)
        v = as_count(vectors, "vectors", least=1)
        empty = jax.tree.map(varying, of_nothing(d, mixture, size, v, dtype))
        return dataclasses.replace(empty, source=tuple(sorted(source)))

    @classmethod
    def from_features(
        cls,
        features: ArrayLike,
        mask: ArrayLike | None = None,
        variances: ArrayLike | None = None,
        *,
        sample: int = 0,
    ) -> "FeatureStatistics":
        """Computes the statistics of one batch of features.

        For the arguments and errors see `update` and `empty`; `variances` make the statistics of a
        mixture. The statistics are float32, or float64 for float64 features if JAX has x64 enabled.
        """
        array = as_array(features, "features")
        if array.ndim != 2:
            raise ValueError(f"features: got shape {array.shape}, expected [n, d]")
        check_floating("features", array)
        # At least float32, and float64 only if JAX has x64 enabled.
        wide = np.float64 if array.dtype == np.float64 else np.float32
        dtype = jax.dtypes.canonicalize_dtype(wide)
        size = as_count(sample, "sample", least=0)
        empty = of_nothing(array.shape[1], variances is not None, size, dtype=dtype)
        return empty.update(array, mask, variances)

    def update(
        self,
        features: ArrayLike,
        mask: ArrayLike | None = None,
        variances: ArrayLike | None = None,
    ) -> "FeatureStatistics":
        """Adds a batch of samples.

        This takes about 2(d + n)d² operations, so prefer batches of at least d samples. The call
        does not wait for the device. If JAX arrays contain values that are not finite or negative
        variances, the statistics become nan, and computing a distance raises an error. Features
        that are sharded over devices are gathered.

        Args:
            features: Features [n, d] with one sample per row, float, from JAX, NumPy or PyTorch.
            mask: False for rows to ignore, such as padding, bool [n]. None counts all rows.
            variances: Component variances σᵢ² [n, d] for a mixture, else None.

        Returns:
            New statistics; the old ones are unchanged.

        Raises:
            ValueError: If a shape or type is wrong, if variances are missing for a mixture or given
                for other statistics, or if a NumPy array has an unmasked value that is not finite
                or an unmasked negative variance.
        """
        dim = self.dim
        features = as_array(features, "features")
        if features.ndim != 2 or features.shape[1] != dim:
            expected = f"[n, {dim}]"
            raise ValueError(f"features: got shape {features.shape}, expected {expected}")
        check_floating("features", features)
        if (variances is None) != (self.variance_sum is None):
            got, expected = (
                ("None", "those of the mixture's components")
                if variances is None
                else ("an array", "None for statistics without a mixture")
            )
            raise ValueError(f"variances: got {got}, expected {expected}")
        if mask is not None:
            mask = as_array(mask, "mask")
            if mask.shape != features.shape[:1] or mask.dtype != bool:
                expected = f"bool of shape {features.shape[:1]}"
                raise ValueError(
                    f"mask: got {mask.dtype} of shape {mask.shape}, expected {expected}"
                )
        check_values("features", features, mask)
        if variances is not None:
            variances = as_array(variances, "variances")
            if variances.shape != features.shape:
                expected = f"{features.shape} like the features"
                raise ValueError(f"variances: got shape {variances.shape}, expected {expected}")
            check_floating("variances", variances)
            check_values("variances", variances, mask, least=0.0)
        given = {"features": features} | ({} if variances is None else {"variances": variances})
        moments = {name: own(gathered(x))[:, None] for name, x in given.items()}
        return self.fold(moments, None if mask is None else own(gathered(mask)))

    def fold(
        self,
        moments: Mapping[str, Float[AnyArray, "n v d"]],
        mask: Bool[AnyArray, " n"] | None = None,
        keys: UInt32[AnyArray, "n 2"] | None = None,
        seen: Float[AnyArray, "2"] | None = None,
        along: Mapping[str, Float[AnyArray, "n w d"]] | None = None,
    ) -> "FeatureStatistics":
        """Adds a batch of clips without the checks of `update`.

        Args:
            moments: "features" of the clips, v vectors of each, and "variances" of a mixture.
            mask: False for clips to ignore. None counts all clips.
            keys: Keys of the clips in the sample, see `sample.name_keys`.
            seen: Smallest and largest value of the clips.
            along: Moments at all time steps of the clips, for the sample; None to sample `moments`.
        """
        sampled = moments if along is None else along
        offset, features = None, moments["features"]
        is_double = isinstance(features, np.ndarray) and features.dtype == np.float64
        if is_double and self.mean.dtype == jnp.float32:
            # The mean is subtracted in float64, so that a large one costs the samples no digits.
            counts = None if mask is None else values(mask)
            counting = features if counts is None else features[counts]
            mean = counting.mean(axis=(0, 1)) if len(counting) else np.zeros(features.shape[2])
            high = mean.astype(np.float32)
            offset = high, (mean - high).astype(np.float32)
            moments = {**moments, "features": (features - mean).astype(np.float32)}
        folded = _fold_batch(self, moments, mask, seen, offset)
        if self.sample is None:
            return folded
        if is_double:
            sampled = {name: np.asarray(x, np.float32) for name, x in sampled.items()}
        return dataclasses.replace(folded, sample=self.sample.offer(sampled, keys, mask))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Returns the statistics of both sets of samples together; commutative up to rounding.

        The means are merged after Chan, Golub & LeVeque 1983, the factors after Demmel et al. 2012.
        The new `source` has the entries of both sources. The sample has the size of the smaller
        sample; there is none if one of the sets has none.

        Raises:
            ValueError: If the dimensions or sources disagree, or only one of the sets is a mixture.
        """
        check_comparable(self, other, same_side=True)
        vectors = [one.sample.vectors for one in (self, other) if one.sample]
        if len(set(vectors)) > 1:
            raise ValueError(f"statistics: got samples of {vectors} vectors per clip")
        merged = _merged(self.bare(), other.bare())
        both = dict(self.source) | dict(other.source)
        return dataclasses.replace(
            merged, videos=self.videos + other.videos, source=tuple(sorted(both.items()))
        )

    def bare(self) -> "FeatureStatistics":
        """The arrays alone, for functions that are compiled once for sets of any videos."""
        return dataclasses.replace(self, videos=VideoCounts(), source=())

    def _fold(
        self,
        count_limbs: UInt32[Array, "2"],
        mean: Float[Array, " d"],
        mean_error: Float[Array, " d"],
        rows: Float[Array, "n d"],
        variance_sum: Float[Array, " d"] | None,
    ) -> "FeatureStatistics":
        total = add_counts(jnp.stack([self.count_limbs, count_limbs]))
        dtype = rows.dtype
        share = as_float(count_limbs, dtype) / jnp.maximum(as_float(total, dtype), 1)
        step, step_error = two_sum(mean, -self.mean)
        step_error += mean_error - self.mean_error
        between = jnp.sqrt(self._count() * share) * (step + step_error)
        new_mean, new_error = two_sum(self.mean, step * share)
        return dataclasses.replace(
            self,
            count_limbs=total,
            mean=new_mean,
            mean_error=self.mean_error + step_error * share + new_error,
            factor=triangular_factor(jnp.vstack([self.factor, rows, between])),
            variance_sum=jax.tree.map(jnp.add, self.variance_sum, variance_sum),
        )

    def _count(self) -> Float[Array, "*stack"]:
        return as_float(self.count_limbs, self.mean.dtype)

    def reduce(self) -> "FeatureStatistics":
        """Merges statistics that are stacked along a leading axis.

        For the statistics of several processes, use
        `multihost_utils.process_allgather(statistics).reduce()`; for devices see `all_reduce`.

        Raises:
            ValueError: If the statistics are not stacked along one axis.
        """
        if self.mean.ndim != 2:
            raise ValueError(
                f"statistics: got {self.mean.ndim - 1} leading axes, expected one to reduce"
            )
        return jax.tree.map(replicated, self)._reduce()

    def _reduce(self) -> "FeatureStatistics":
        k, d = self.mean.shape
        counts = self._count()
        total = add_counts(self.count_limbs)
        shares = counts[:, None] / jnp.maximum(as_float(total, counts.dtype), 1)
        # Means are relative to the one of the most samples, which is near the mean of all samples.
        most = jnp.argmax(counts)
        steps, step_errors = two_sum(self.mean, jnp.broadcast_to(-self.mean[most], (k, d)))
        step_errors += self.mean_error - self.mean_error[most][None]
        step, step_error = jnp.sum(shares * steps, 0), jnp.sum(shares * step_errors, 0)
        mean, rounded = two_sum(self.mean[most], step)
        between = jnp.sqrt(counts)[:, None] * (
            (steps - step[None]) + (step_errors - step_error[None])
        )
        rows = jnp.concatenate([self.factor.reshape(k * d, d), between])
        variance_sum = self.variance_sum
        return dataclasses.replace(
            self,
            count_limbs=total,
            mean=mean,
            mean_error=self.mean_error[most] + step_error + rounded,
            factor=triangular_factor(rows),
            variance_sum=None if variance_sum is None else variance_sum.sum(axis=0),
            value_range=join_ranges(self.value_range),
            sample=self.sample and self.sample.reduce(),
        )

    def all_reduce(self, axis_name: Hashable | tuple[Hashable, ...]) -> "FeatureStatistics":
        """Merges the statistics of all devices along axes of `jax.shard_map` (or `jax.vmap`).

        Never apply `jax.lax.psum` or `pmean` to statistics: a sum of factors and means is no
        statistics, and distances of it are wrong.

        Args:
            axis_name: Name of an axis, or a tuple of names.

        Returns:
            Statistics of all samples, replicated over the axes, so that a `jax.shard_map` can
            return them with `out_specs=P()`.

        Raises:
            ValueError: If the statistics are equal on all devices of an axis, so that samples would
                be counted several times. `jax.shard_map` detects this unless `check_vma=False`.
        """
        self.dim  # noqa: B018 (raises)
        return gather(self, axis_name).reduce()

    def covariance(self, ddof: int | None = None) -> Float[Array, "d d"]:
        """Computes the covariance; for a mixture it includes the mean component variances.

        Args:
            ddof: The scatter matrix is divided by count − ddof. None takes the attribute `ddof`.

        Returns:
            Symmetric positive semi-definite matrix with the dtype of the statistics.

        Raises:
            ValueError: If `ddof` is negative or (outside of `jit`) not below the count.
        """
        return _square(self.covariance_factor(ddof))

    def covariance_factor(self, ddof: int | None = None) -> Float[Array, "d d"]:
        """Computes an upper triangular A with AᵀA = covariance(ddof), without that product.

        For `ddof` and errors see `covariance`.
        """
        self.dim  # noqa: B018 (raises)
        divisor = as_count(self.ddof if ddof is None else ddof, "ddof", least=0)
        self.check_divisor(divisor)
        return divided_factor(self, divisor)

    def check_divisor(self, ddof: int, name: str | None = None) -> None:
        """Raises a `ValueError` if the count is known and not above `ddof`.

        The message blames the statistics called `name`, or the argument `ddof` if `name` is None.
        """
        if values(self.count_limbs) is None or self.count > ddof:
            return
        if name is None:
            raise ValueError(f"ddof: got {ddof}, expected less than the {self.count} samples")
        raise ValueError(f"{name}: got {self.count} samples for a divisor of n - {ddof}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes unstacked statistics to a safetensors file, atomically; replaces an old file."""
        saved.save(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "FeatureStatistics":
        """Reads a file that `save` wrote.

        Raises:
            OSError: If the file is missing or cannot be read.
            ValueError: If the file is damaged, or has another format or format version.
        """
        return load_with_metadata(path)[0]


nnx.register_data_type(FeatureStatistics)


def load_with_metadata(
    path: str | os.PathLike[str],
) -> tuple[FeatureStatistics, dict[str, str]]:
    """Reads statistics as `FeatureStatistics.load` does, and all metadata of the file."""
    return saved.load(Path(path), of_nothing, VideoCounts)


def of_nothing(
    dim: int, mixture: bool, sample: int = 0, vectors: int = 1, dtype: DTypeLike = jnp.float32
) -> FeatureStatistics:
    """Makes statistics of no samples, whose type inside `jax.shard_map` is varying over no axis.

    After an update the type varies over the same axes as the samples. For the arguments see
    `FeatureStatistics.empty`.
    """
    # Each field has its own array, so that all of them can be donated.
    return FeatureStatistics(
        count_limbs=zeros((2,), jnp.uint32),
        mean=zeros((dim,), dtype),
        mean_error=zeros((dim,), dtype),
        factor=zeros((dim, dim), dtype),
        variance_sum=zeros((dim,), dtype) if mixture else None,
        sample=FeatureSample.empty(sample, dim, vectors=vectors, mixture=mixture)
        if sample
        else None,
    )


@jax.jit
def _merged(s1: FeatureStatistics, s2: FeatureStatistics) -> FeatureStatistics:
    both = s1._fold(s2.count_limbs, s2.mean, s2.mean_error, s2.factor, s2.variance_sum)
    return dataclasses.replace(
        both,
        value_range=join_ranges(jnp.stack([s1.value_range, s2.value_range])),
        sample=s1.sample and s2.sample and s1.sample.merge(s2.sample),
    )


@jax.jit
def _fold_batch(
    statistics: FeatureStatistics,
    moments: Mapping[str, Float[Array, "n v d"]],
    mask: Bool[Array, " n"] | None,
    seen: Float[Array, "2"] | None,
    offset: tuple[Float[Array, " d"], Float[Array, " d"]] | None,
) -> FeatureStatistics:
    n, vectors, dim = moments["features"].shape
    rows = {name: replicated(x).reshape(n * vectors, dim) for name, x in moments.items()}
    if mask is not None:
        mask = jnp.repeat(replicated(mask), vectors, total_repeat_length=n * vectors)
    dtype = statistics.mean.dtype
    folded = statistics._fold(
        *centred(dtype, rows["features"], mask, rows.get("variances"), offset)
    )
    if seen is None:
        return folded
    seen = join_ranges(jnp.stack([statistics.value_range, seen]))
    return dataclasses.replace(folded, value_range=seen)


@functools.partial(jax.jit, static_argnames="ddof")
def divided_factor(statistics: FeatureStatistics, ddof: int) -> Float[Array, "d d"]:
    """`FeatureStatistics.covariance_factor` without its checks."""
    count = statistics._count()
    factor = statistics.factor / jnp.sqrt(count - ddof)
    if statistics.variance_sum is None:
        return factor
    return add_diagonal(factor, statistics.variance_sum / count)


@jax.jit
def _square(factor: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return jnp.matmul(factor.T, factor, precision="highest")
