"""Mean and covariance of features, held so that they stream, merge and keep every digit.

The state is not the sum of outer products, which squares the condition number and cancels where
the mean is large, but a triangular factor R of the scatter matrix, RᵀR = Σ (xᵢ − m)(xᵢ − m)ᵀ. A
batch Z of k rows with mean z is folded in by one QR decomposition (Chan, Golub & LeVeque 1983 for
the means, tall-skinny QR of Demmel et al. 2012 for the factor):

    R ← qr([R; Z − z; √(n k / (n + k)) (z − m)]),  m ← m + (z − m) k / (n + k),  n ← n + k.

Two statistics merge by the same formula with the other's R in place of Z − z: batches, devices,
hosts and files are all the same operation.
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Hashable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32
from numpy.typing import ArrayLike

from srvp_fd_jax import frechet
from srvp_fd_jax.devices import (
    AnyArray,
    Division,
    find_division,
    own,
    replicated,
    resharded,
    values,
    varying,
    varying_axes,
    zeros,
)
from srvp_fd_jax.files import printable, read_safetensors, write_safetensors
from srvp_fd_jax.inputs import as_array, as_count

FORMAT_VERSION = 1
_FORMAT = "srvp-fd-jax statistics"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """First two moments of a set of features; a pytree, so it can be jitted, scanned and carried.

    For a mixture of diagonal Gaussians N(μᵢ, σᵢ²), one a sample, the features are the means μᵢ and
    the variances σᵢ² are summed beside them: the mixture has mean μ̄ and covariance
    cov(μᵢ) + diag(mean σᵢ²).

    `jax.vmap` and gathering make stacked statistics, whose arrays have a further axis in front;
    `reduce` merges them.

    Statistics can be an attribute of an `nnx.Module`, where no optimiser takes them for parameters.

    Attributes:
        count_limbs: Number of samples as its lower and its upper 32 bits, uint32 [2]. Read it from
            `count`.
        mean: Their mean [d].
        mean_error: What rounding took from the mean [d]: `mean + mean_error` has twice the digits
            (Dekker 1971), so that a common offset costs the difference of two means nothing.
        factor: Upper triangular R [d, d] with RᵀR the scatter matrix about the mean.
        variance_sum: Sum of the component variances [d] of a mixture, else None.
        source: What the features are, as (name, value) pairs such as ("dataset", "kth"); empty
            where it is not known. Statistics of different sources are not merged or compared.

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
    source: tuple[tuple[str, str], ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def count(self) -> Int[np.ndarray | np.int64, "*stack"] | Float[Array, "*stack"]:
        """Number of samples, an exact int64, which is read from the device and waits for it.

        While the statistics are traced it is a float of their dtype, exact up to 2²⁴ in float32.
        """
        limbs = values(self.count_limbs)
        if limbs is None:
            return self._count()
        return limbs[..., 0].astype(np.int64) + (limbs[..., 1].astype(np.int64) << 32)

    @property
    def ddof(self) -> int:
        """Covariances are divided by count − ddof. It is 1 unless the statistics are marked."""
        return int(dict(self.source).get("ddof", 1))

    @classmethod
    def empty(
        cls,
        dim: int,
        *,
        mixture: bool = False,
        source: tuple[tuple[str, str], ...] = (),
        dtype: DTypeLike = jnp.float32,
    ) -> "FeatureStatistics":
        """Statistics of no samples.

        Inside `jax.shard_map` they are typed as varying over all of its axes, as the statistics
        are that a loop over a device's own samples makes of them.

        Args:
            dim: Feature dimension d.
            mixture: Whether the samples are diagonal Gaussians, with variances.
            source: What the features are.
            dtype: Floating type of the state.

        Returns:
            Statistics of count 0, which `update` and `merge` add to.

        Raises:
            ValueError: If `dtype` is neither float32 nor float64, or `dim` is not positive.
        """
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype: got {np.dtype(dtype)}, allowed are float32 and float64")
        empty = nothing(as_count(dim, "dim", least=1), mixture, dtype)
        return dataclasses.replace(jax.tree.map(varying, empty), source=tuple(sorted(source)))

    @classmethod
    def from_features(
        cls,
        features: ArrayLike,
        mask: ArrayLike | None = None,
        variances: ArrayLike | None = None,
    ) -> "FeatureStatistics":
        """Statistics of one batch of features.

        Args:
            features: One sample per row [n, d], float.
            mask: False for rows that do not count [n], bool.
            variances: Component variances σᵢ² [n, d], for the statistics of a mixture.

        Returns:
            Statistics in float32, or in float64 where the features are and JAX has x64 enabled.

        Raises:
            ValueError: As `update`.
        """
        array = as_array(features, "features")
        if array.ndim != 2:
            raise ValueError(f"features: got shape {array.shape}, expected [n, d]")
        _check_floating("features", array)
        # At least float32, and float64 where JAX has it.
        wide = np.float64 if array.dtype == np.float64 else np.float32
        dtype = jax.dtypes.canonicalize_dtype(wide)
        return nothing(array.shape[1], variances is not None, dtype).update(array, mask, variances)

    def update(
        self,
        features: ArrayLike,
        mask: ArrayLike | None = None,
        variances: ArrayLike | None = None,
    ) -> "FeatureStatistics":
        """Folds a batch in. It costs about 2(d + n)d² operations: fold batches of d or more.

        It waits for no device: values of JAX arrays that are not finite make the statistics nan, as
        do negative variances, and are told where a distance is asked for. Features whose first axis
        is sharded are folded by the devices that hold them, and only factors [d, d] move.

        Args:
            features: One sample per row [n, d], float, from JAX, NumPy or PyTorch.
            mask: False for rows that do not count, such as the padding of a last batch [n], bool.
            variances: Component variances σᵢ² [n, d], for the statistics of a mixture only.

        Returns:
            New statistics; the old ones are unchanged.

        Raises:
            ValueError: If a shape or type is not what is described here, one of the two is a
                mixture and the other is not, or a value of a NumPy array that counts is not finite
                or a variance is negative.
        """
        _check_single(self)
        features = as_array(features, "features")
        if features.ndim != 2 or features.shape[1] != self.mean.shape[0]:
            expected = f"[n, {self.mean.shape[0]}]"
            raise ValueError(f"features: got shape {features.shape}, expected {expected}")
        _check_floating("features", features)
        if (variances is None) != (self.variance_sum is None):
            got, expected = ("no ", "some") if variances is None else ("", "none")
            raise ValueError(f"variances: got {got}variances, expected {expected}")
        if mask is not None:
            mask = as_array(mask, "mask")
            if mask.shape != features.shape[:1] or mask.dtype != bool:
                expected = f"bool of shape {features.shape[:1]}"
                raise ValueError(
                    f"mask: got {mask.dtype} of shape {mask.shape}, expected {expected}"
                )
        _check_values("features", features, mask)
        if variances is not None:
            variances = as_array(variances, "variances")
            if variances.shape != features.shape:
                expected = f"{features.shape} as that of the features"
                raise ValueError(f"variances: got shape {variances.shape}, expected {expected}")
            _check_floating("variances", variances)
            _check_values("variances", variances, mask, least=0.0)
        mask, variances = (None if x is None else own(x) for x in (mask, variances))
        return fold(self, own(features), mask, variances, find_division(features))

    @jax.jit
    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets of samples together; commutative up to rounding.

        Means after Chan, Golub & LeVeque 1983, factors after Demmel et al. 2012: see this
        module's head.

        Args:
            other: Statistics of other samples.

        Returns:
            New statistics, marked with all that is known of either; the old ones are unchanged.

        Raises:
            ValueError: If the dimensions or sources disagree, or one of the two is a mixture and
                the other is not.
        """
        check_comparable(self, other, same_side=True)
        both = self._fold(
            other.count_limbs, other.mean, other.mean_error, other.factor, other.variance_sum
        )
        return mark(both, **dict(other.source))

    def _fold(
        self,
        count_limbs: UInt32[Array, "2"],
        mean: Float[Array, " d"],
        mean_error: Float[Array, " d"],
        rows: Float[Array, "n d"],
        variance_sum: Float[Array, " d"] | None,
    ) -> "FeatureStatistics":
        total = _sum_counts(jnp.stack([self.count_limbs, count_limbs]))
        dtype = rows.dtype
        share = _as_float(count_limbs, dtype) / jnp.maximum(_as_float(total, dtype), 1)
        step, step_error = _two_sum(mean, -self.mean)
        step_error += mean_error - self.mean_error
        between = jnp.sqrt(self._count() * share) * (step + step_error)
        new_mean, new_error = _two_sum(self.mean, step * share)
        return dataclasses.replace(
            self,
            count_limbs=total,
            mean=new_mean,
            mean_error=self.mean_error + step_error * share + new_error,
            factor=frechet.triangular_factor(jnp.vstack([self.factor, rows, between])),
            variance_sum=jax.tree.map(jnp.add, self.variance_sum, variance_sum),
        )

    def _count(self) -> Float[Array, "*stack"]:
        return _as_float(self.count_limbs, self.mean.dtype)

    def reduce(self) -> "FeatureStatistics":
        """Merges statistics that are stacked along a leading axis, as gathering makes them.

        Over processes: `multihost_utils.process_allgather(statistics).reduce()`. Over the devices
        of a mesh see `all_reduce`.

        Returns:
            One statistics of all the samples, each counted once.

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
        total = _sum_counts(self.count_limbs)
        shares = counts[:, None] / jnp.maximum(_as_float(total, counts.dtype), 1)
        # All means are taken from that of the most samples, which is near to that of all.
        most = jnp.argmax(counts)
        steps, step_errors = _two_sum(self.mean, jnp.broadcast_to(-self.mean[most], (k, d)))
        step_errors += self.mean_error - self.mean_error[most][None]
        step, step_error = jnp.sum(shares * steps, 0), jnp.sum(shares * step_errors, 0)
        mean, rounded = _two_sum(self.mean[most], step)
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
            factor=frechet.triangular_factor(rows),
            variance_sum=None if variance_sum is None else variance_sum.sum(axis=0),
        )

    def all_reduce(self, axis_name: Hashable | tuple[Hashable, ...]) -> "FeatureStatistics":
        """Merges the statistics of all devices along axes of `jax.shard_map` (or `jax.vmap`).

        Args:
            axis_name: Name of the axis, or names of several.

        Returns:
            Statistics of all the samples, each counted once, the same on every device and typed as
            such: it can be returned under `out_specs=P()`.

        Raises:
            ValueError: If the statistics are the same along one of the axes, where merging would
                count each sample several times (`jax.shard_map` knows unless `check_vma=False`).
        """
        _check_single(self)
        # A sum of what all devices have put in their own places is what `shard_map` knows to be
        # the same everywhere; of what is gathered it does not know that.
        place, places = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
        same = varying_axes(place) - varying_axes(self.mean)
        if same:
            raise ValueError(
                f"axis_name: got {axis_name!r}, but the statistics are the same along "
                f"{', '.join(map(repr, sorted(same)))}: each sample would be counted several times"
            )

        def gather(x: Shaped[Array, "..."]) -> Shaped[Array, "places ..."]:
            own = jnp.arange(places).reshape(-1, *[1] * x.ndim) == place
            return jax.lax.psum(jnp.where(own, x[None], jnp.zeros((), x.dtype)), axis_name)

        return jax.tree.map(gather, self).reduce()

    def covariance(self, ddof: int | None = None) -> Float[Array, "d d"]:
        """Covariance of the samples, the mean component variances of a mixture included.

        Args:
            ddof: The scatter matrix is divided by count − ddof; by default the statistics' own.

        Returns:
            Symmetric positive semi-definite matrix, in the type of the state.

        Raises:
            ValueError: If `ddof` is negative or (for concrete statistics) not below the count.
        """
        return _square(self.covariance_factor(ddof))

    def covariance_factor(self, ddof: int | None = None) -> Float[Array, "d d"]:
        """Factor A of the covariance, AᵀA = covariance(ddof), not formed from it.

        Args:
            ddof: The scatter matrix is divided by count − ddof; by default the statistics' own.

        Returns:
            Upper triangular matrix, in the type of the state.

        Raises:
            ValueError: As `covariance`.
        """
        _check_single(self)
        divisor = as_count(self.ddof if ddof is None else ddof, "ddof", least=0)
        _check_divisor(self, divisor)
        return _covariance_factor(self, divisor)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, which appears whole or not at all.

        Args:
            path: Path of the file; what is there is replaced.

        Raises:
            ValueError: If the statistics are stacked.
        """
        _check_single(self)
        names = ("count", "mean", "mean_error", "factor", "variance_sum")
        arrays = {
            name: np.asarray(value) for name in names if (value := getattr(self, name)) is not None
        }
        metadata = {"format": _FORMAT, "format_version": str(FORMAT_VERSION)}
        metadata |= {f"source.{name}": value for name, value in self.source}
        write_safetensors(Path(path), arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "FeatureStatistics":
        """Reads what `save` wrote.

        Args:
            path: Path of the file.

        Returns:
            The statistics, with what they are of.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it is a folder, or may not be read.
            ValueError: If it is damaged, foreign, or of another format version.
        """
        try:
            metadata, arrays = read_safetensors(path, _check_metadata)
            _check_arrays(arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        source = {
            name.removeprefix("source."): value
            for name, value in metadata.items()
            if name.startswith("source.")
        }
        count = int(arrays.pop("count"))
        limbs = jnp.array([count & 0xFFFFFFFF, count >> 32], jnp.uint32)
        state = {name: jnp.asarray(array) for name, array in arrays.items()}
        return cls(limbs, **state, source=tuple(sorted(source.items())))


nnx.register_data_type(FeatureStatistics)


def nothing(dim: int, mixture: bool, dtype: DTypeLike = jnp.float32) -> FeatureStatistics:
    """Statistics of no samples, which inside `jax.shard_map` vary over no axis.

    So do not those that samples are folded into, but over the axes that the samples vary over.
    """
    # An array for each field, so that all of them can be donated.
    return FeatureStatistics(
        count_limbs=zeros((2,), jnp.uint32),
        mean=zeros((dim,), dtype),
        mean_error=zeros((dim,), dtype),
        factor=zeros((dim, dim), dtype),
        variance_sum=zeros((dim,), dtype) if mixture else None,
    )


def fold(
    statistics: FeatureStatistics,
    features: Float[AnyArray, "n d"],
    mask: Bool[AnyArray, " n"] | None,
    variances: Float[AnyArray, "n d"] | None,
    division: Division,
) -> FeatureStatistics:
    """Folds a batch in as `FeatureStatistics.update` does, without its checks.

    Args:
        statistics: What to fold it into.
        features: One sample per row.
        mask: False for rows that do not count.
        variances: Component variances, for the statistics of a mixture.
        division: How the rows are divided over devices.

    Returns:
        New statistics.
    """
    offset = None
    is_double = isinstance(features, np.ndarray) and features.dtype == np.float64
    if is_double and statistics.mean.dtype == jnp.float32:
        # What an offset leaves of the samples' own digits is computed before they are rounded.
        counts = None if mask is None else values(mask)
        counting = features if counts is None else features[counts]
        mean = counting.mean(axis=0) if len(counting) else np.zeros(features.shape[1])
        high = mean.astype(np.float32)
        offset = high, (mean - high).astype(np.float32)
        features = (features - mean).astype(np.float32)
    return _fold_batch(statistics, features, mask, variances, offset, division)


@functools.partial(jax.jit, static_argnames="division")
def _fold_batch(
    statistics: FeatureStatistics,
    features: Float[Array, "n d"],
    mask: Bool[Array, " n"] | None,
    variances: Float[Array, "n d"] | None,
    offset: tuple[Float[Array, " d"], Float[Array, " d"]] | None,
    division: Division,
) -> FeatureStatistics:
    batch = (features, mask, variances)
    if division == 1:
        return statistics._fold(*_centred(statistics.mean.dtype, *batch, offset))

    def of_part(
        features: Float[Array, "n d"],
        mask: Bool[Array, " n"] | None,
        variances: Float[Array, "n d"] | None,
    ) -> FeatureStatistics:
        dim, dtype = features.shape[1], statistics.mean.dtype
        empty = nothing(dim, variances is not None, dtype)
        return empty._fold(*_centred(dtype, features, mask, variances, offset))

    if isinstance(division, int):
        split = jax.tree.map(lambda x: x.reshape(division, -1, *x.shape[1:]), batch)
        made = jax.vmap(of_part)(*split).reduce()
    else:
        mesh, axes = division
        made = jax.shard_map(
            lambda *part: of_part(*part).all_reduce(axes),
            mesh=mesh,
            in_specs=P(axes),
            out_specs=P(),
        )(*jax.tree.map(lambda x: resharded(x, division), batch))
    return statistics.merge(made)


def _centred(
    dtype: DTypeLike,
    features: Float[Array, "n d"],
    mask: Bool[Array, " n"] | None,
    variances: Float[Array, "n d"] | None,
    offset: tuple[Float[Array, " d"], Float[Array, " d"]] | None,
) -> tuple[
    UInt32[Array, "2"],
    Float[Array, " d"],
    Float[Array, " d"],
    Float[Array, "n d"],
    Float[Array, " d"] | None,
]:
    """A batch as `_fold` takes it: count, mean and its error, centred rows, sum of variances.

    The offset, given in two parts, is what was subtracted from all samples before.
    """
    features = features.astype(dtype)
    counts = None if mask is None else mask[:, None]
    if mask is None:
        count = jnp.asarray(features.shape[0], jnp.uint32)
    else:
        count = jnp.sum(mask, dtype=jnp.uint32)
    divisor = jnp.maximum(count, 1).astype(features.dtype)

    def masked_mean(rows: Float[Array, "n d"]) -> Float[Array, " d"]:
        # Divided before the sum: a division after it XLA repeats where the mean is subtracted, with
        # another rounding, and the second mean would correct a first one that is not the one kept.
        return jnp.sum(rows / divisor, axis=0, where=counts)

    # The second mean corrects the rounding of the first, whatever the features' offset.
    mean = masked_mean(features)
    mean_error = masked_mean(features - mean[None])
    variance_sum = None
    if variances is not None:
        variances = variances.astype(features.dtype)
        allowed = jnp.where(variances >= 0, variances, jnp.nan)
        variance_sum = jnp.sum(allowed, axis=0, where=counts)
    rows = features - mean[None] - mean_error[None]
    if counts is not None:
        rows = jnp.where(counts, rows, 0)
    if offset is not None:
        mean, rounded = _two_sum(offset[0], mean)
        mean_error = mean_error + offset[1] + rounded
    return jnp.stack([count, jnp.zeros_like(count)]), mean, mean_error, rows, variance_sum


@functools.partial(jax.jit, static_argnames="ddof")
def _covariance_factor(statistics: FeatureStatistics, ddof: int) -> Float[Array, "d d"]:
    count = statistics._count()
    factor = statistics.factor / jnp.sqrt(count - ddof)
    if statistics.variance_sum is None:
        return factor
    return frechet.add_diagonal(factor, statistics.variance_sum / count)


@jax.jit
def _square(factor: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return jnp.matmul(factor.T, factor, precision="highest")


def _sum_counts(limbs: UInt32[Array, "k 2"]) -> UInt32[Array, "2"]:
    """Sum of up to 2¹⁶ counts, in steps of 16 bits: each leaves room for the carries."""
    low = jnp.sum(limbs[:, 0] & 0xFFFF, dtype=jnp.uint32)
    middle = jnp.sum(limbs[:, 0] >> 16, dtype=jnp.uint32) + (low >> 16)
    high = jnp.sum(limbs[:, 1], dtype=jnp.uint32) + (middle >> 16)
    return jnp.stack([(middle << 16) | (low & 0xFFFF), high])


def _as_float(limbs: UInt32[Array, "*stack 2"], dtype: DTypeLike) -> Float[Array, "*stack"]:
    return limbs[..., 1].astype(dtype) * 2.0**32 + limbs[..., 0].astype(dtype)


def _check_single(statistics: FeatureStatistics) -> None:
    if statistics.mean.ndim != 1:
        raise ValueError(
            f"statistics: got stacked ones, of shape {statistics.mean.shape[:-1]}: use `jax.vmap`, "
            "or merge them by `reduce`"
        )


def _check_floating(name: str, array: Shaped[AnyArray, "..."]) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name}: got dtype {array.dtype}, expected floats")


def _check_values(
    name: str, array: AnyArray, mask: Bool[AnyArray, " n"] | None, least: float = -np.inf
) -> None:
    """Checks that the values that count of a NumPy array are finite, and not below the least."""
    if isinstance(array, jax.Array) or isinstance(mask, jax.Array):
        return
    allowed = np.isfinite(array) & (array >= least)
    if not allowed.all(where=True if mask is None else mask[:, None]):
        or_negative = " or negative" if least == 0 else ""
        raise ValueError(f"{name}: got values that are not finite{or_negative}")


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT:
        raise ValueError("not a file of feature statistics")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        came = printable(str(version), 80)
        raise ValueError(f"format version {came}, this release reads {FORMAT_VERSION}")


def _check_arrays(arrays: Mapping[str, np.ndarray]) -> None:
    d = arrays["mean"].size if "mean" in arrays else 0
    shapes = {"count": (), "mean": (d,), "mean_error": (d,), "factor": (d, d)}
    if "variance_sum" in arrays:
        shapes["variance_sum"] = (d,)
    kinds = {name: "i" if name == "count" else "f" for name in shapes}
    if {name: array.shape for name, array in arrays.items()} != shapes or {
        name: array.dtype.kind for name, array in arrays.items()
    } != kinds:
        raise ValueError("not a file of feature statistics: its arrays are not those of one")
    if arrays["count"] < 0:
        raise ValueError(f"not a file of feature statistics: its count is {arrays['count']}")


def _two_sum(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The rounded sum a + b and, exactly, what rounding took from it (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def mark(statistics: FeatureStatistics, **source: object) -> FeatureStatistics:
    """Statistics marked with more of what they are of.

    Args:
        statistics: Of any features.
        **source: Values by name; those that are None are not known and left out.

    Returns:
        The same with these in their `source`, as strings in the order of the names.
    """
    known = {name: str(value) for name, value in source.items() if value is not None}
    both = dict(statistics.source) | known
    return dataclasses.replace(statistics, source=tuple(sorted(both.items())))


def check_comparable(
    s1: FeatureStatistics, s2: FeatureStatistics, *, same_side: bool = False
) -> None:
    """Raises a `ValueError` where two statistics are known to be of different things.

    Args:
        s1: Statistics of any features.
        s2: The others.
        same_side: Whether real ones and fake ones are different things, as they are to a merge.
    """
    for s in (s1, s2):
        _check_single(s)
    source1, source2 = dict(s1.source), dict(s2.source)
    both = source1.keys() & source2.keys()
    for name in sorted(both if same_side else both - {"side"}):
        if source1[name] != source2[name]:
            raise ValueError(
                f"statistics: {name} is {source1[name]!r} of one and {source2[name]!r} of the other"
            )
    if (s1.variance_sum is None) != (s2.variance_sum is None):
        raise ValueError("statistics: one is of a Gaussian mixture and the other is not")
    d1, d2 = s1.mean.shape[0], s2.mean.shape[0]
    if d1 != d2:
        raise ValueError(f"statistics: got feature dimensions {d1} and {d2}, which must be equal")


def check_counts(counts: Mapping[str, int], dim: int, *, stacklevel: int = 4) -> None:
    """Raises a `ValueError` below two samples, and warns of no more than there are dimensions.

    Args:
        counts: Numbers of samples under the names of the arguments.
        dim: Feature dimension.
        stacklevel: As that of `warnings.warn`.
    """
    for name, count in counts.items():
        if count < 2:
            raise ValueError(f"{name}: got {count} samples, a covariance needs at least 2")
        if count <= dim:
            warnings.warn(f"{name}: {_singular_covariance(count, dim)}", stacklevel=stacklevel)


def _singular_covariance(count: int, dim: int) -> str:
    return (
        f"{count} samples for {dim} feature dimensions leave the covariance singular and the "
        "distance strongly biased"
    )


def cautions(real: FeatureStatistics, fake: FeatureStatistics) -> list[str]:
    """What the numbers of samples do to a distance, in words.

    Args:
        real: Statistics of the real samples.
        fake: Statistics of the generated ones.

    Returns:
        Sentences, none where there is nothing to say.
    """
    counts, dim = (int(real.count), int(fake.count)), real.mean.shape[0]
    texts = {
        f"{counts[0]} real and {counts[1]} generated samples: a distance depends on their number": (
            counts[0] != counts[1]
        ),
        _singular_covariance(min(counts), dim): min(counts) <= dim,
    }
    return [text for text, holds in texts.items() if holds]


def frechet_distance_from_statistics(
    s1: FeatureStatistics,
    s2: FeatureStatistics,
    method: frechet.Method = "procrustes",
    *,
    ddof: int | None = None,
) -> Float[Array, ""]:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    Heusel et al. 2017, arXiv 1706.08500, with the distance of Dowson & Landau 1982. Works under
    `jit` and `grad`; the gradient is exact and finite for rank-deficient covariances and for
    s1 = s2 (method "procrustes"). Called on concrete statistics it waits for their values, to check
    them.

    Args:
        s1: Statistics of the first set.
        s2: Statistics of the second set.
        method: "procrustes" or "eigh", see `frechet.frechet_distance_from_factors`.
        ddof: Covariances are divided by count − ddof: 1 for unbiased ones, 0 as StyleGAN-V's FVD.
            By default what the statistics are marked with, 1 where they are not.

    Returns:
        Non-negative scalar of the statistics' dtype; nan under `jit` where a count is below 2.

    Raises:
        ValueError: If the dimensions, sources or divisors disagree, one is a mixture and the other
            is not, or (for concrete statistics) one has fewer than two samples or holds values that
            are not finite.

    Example:
        The same features, once moved by (3, 4):

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> features = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
        >>> moved = features + np.array([3, 4], np.float32)
        >>> s1, s2 = map(srvp_fd_jax.FeatureStatistics.from_features, (features, moved))
        >>> round(float(srvp_fd_jax.frechet_distance_from_statistics(s1, s2)), 3)
        25.0
    """
    named = {"s1": s1, "s2": s2}
    for name, s in named.items():
        if not isinstance(s, FeatureStatistics):
            raise ValueError(f"{name}: got a {type(s).__name__}, expected FeatureStatistics")
    check_comparable(s1, s2)
    known = {name: s for name, s in named.items() if values(s.count_limbs) is not None}
    counts = {name: int(s.count) for name, s in known.items()}
    check_counts(counts, s1.mean.shape[0], stacklevel=3)
    return distance_between(named, method, ddof)


def distance_between(
    named: Mapping[str, FeatureStatistics],
    method: frechet.Method = "procrustes",
    ddof: int | None = None,
) -> Float[Array, ""]:
    """`frechet_distance_from_statistics` without its check of the numbers of samples.

    Args:
        named: Two statistics, under the names that errors give them.
        method: As there.
        ddof: As there.

    Returns:
        As there.

    Raises:
        ValueError: As there.
    """
    s1, s2 = named.values()
    check_comparable(s1, s2)
    divisor = _common_ddof(named, ddof)
    for s in (s1, s2):
        _check_divisor(s, divisor)
    distance = _distance(s1, s2, method, divisor)
    found = values(distance)
    if found is not None and not np.isfinite(found):
        for name, s in named.items():
            arrays = map(values, jax.tree.leaves(s))
            if not all(array is None or np.isfinite(array).all() for array in arrays):
                raise ValueError(f"{name}: holds values that are not finite")
    return distance


def _check_divisor(statistics: FeatureStatistics, ddof: int) -> None:
    if values(statistics.count_limbs) is not None and statistics.count <= ddof:
        count = statistics.count
        raise ValueError(f"ddof: got {ddof}, expected less than the {count} samples")


def _common_ddof(named: Mapping[str, FeatureStatistics], ddof: int | None) -> int:
    marked = {int(mark) for s in named.values() if (mark := dict(s.source).get("ddof")) is not None}
    if ddof is None:
        return marked.pop() if marked else 1  # one at most: the two are comparable
    if marked - {as_count(ddof, "ddof", least=0)}:
        raise ValueError(f"ddof: got {ddof}, the statistics are marked with {marked.pop()}")
    return ddof


@functools.partial(jax.jit, static_argnames=("method", "ddof"))
def _distance(
    s1: FeatureStatistics, s2: FeatureStatistics, method: frechet.Method, ddof: int
) -> Float[Array, ""]:
    mean_difference = (s1.mean - s2.mean) + (s1.mean_error - s2.mean_error)
    factors = _covariance_factor(s1, ddof), _covariance_factor(s2, ddof)
    return frechet.frechet_distance_from_factors(mean_difference, *factors, method)
