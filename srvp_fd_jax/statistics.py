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
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from srvp_fd_jax import frechet
from srvp_fd_jax.files import printable, read_safetensors, write_safetensors

AnyArray = Array | np.ndarray

FORMAT_VERSION = 1
_FORMAT = "srvp-fd-jax statistics"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """First two moments of a set of features; a pytree, so it can be jitted, scanned and carried.

    For a mixture of diagonal Gaussians N(μᵢ, σᵢ²), one a sample, the features are the means μᵢ and
    the variances σᵢ² are summed beside them: the mixture has mean μ̄ and covariance
    cov(μᵢ) + diag(mean σᵢ²).

    Gathering makes statistics whose arrays have further axes in front; `reduce` merges them.

    Attributes:
        count: Number of samples, int32 scalar.
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

    count: Int[Array, "*stack"]
    mean: Float[Array, "*stack d"]
    mean_error: Float[Array, "*stack d"]
    factor: Float[Array, "*stack d d"]
    variance_sum: Float[Array, "*stack d"] | None = None
    source: tuple[tuple[str, str], ...] = dataclasses.field(default=(), metadata={"static": True})

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

        Args:
            dim: Feature dimension d.
            mixture: Whether the samples are diagonal Gaussians, with variances.
            source: What the features are.
            dtype: Floating type of the state.

        Returns:
            Statistics of count 0, which `update` and `merge` add to.
        """
        zeros = jnp.zeros(dim, dtype)
        return cls(
            count=jnp.zeros((), jnp.int32),
            mean=zeros,
            mean_error=zeros,
            factor=jnp.zeros((dim, dim), dtype),
            variance_sum=zeros if mixture else None,
            source=tuple(sorted(source)),
        )

    @classmethod
    def from_features(
        cls,
        features: Float[AnyArray, "n d"],
        mask: Bool[AnyArray, " n"] | None = None,
        variances: Float[AnyArray, "n d"] | None = None,
    ) -> "FeatureStatistics":
        """Statistics of one batch of features.

        Args:
            features: One sample a row, float.
            mask: False for rows that do not count.
            variances: Component variances σᵢ², which make the statistics those of a mixture.

        Returns:
            Statistics in float32, or in float64 where the features are and JAX has x64 enabled.

        Raises:
            ValueError: As `update`.
        """
        if features.ndim != 2:
            raise ValueError(f"features: got shape {features.shape}, expected [n, d]")
        # At least float32, and float64 where JAX has it.
        dtype = jax.dtypes.canonicalize_dtype(jnp.promote_types(features.dtype, jnp.float32))
        empty = cls.empty(features.shape[1], mixture=variances is not None, dtype=dtype)
        return empty.update(features, mask, variances)

    def update(
        self,
        features: Float[AnyArray, "n d"],
        mask: Bool[AnyArray, " n"] | None = None,
        variances: Float[AnyArray, "n d"] | None = None,
    ) -> "FeatureStatistics":
        """Folds a batch in. It costs about 2(d + n)d² operations: fold batches of d or more.

        Args:
            features: One sample a row.
            mask: False for rows that do not count, such as the padding of a last batch.
            variances: Component variances σᵢ², for the statistics of a mixture only.

        Returns:
            New statistics; the old ones are unchanged.

        Raises:
            ValueError: If the dimensions disagree, the type is not floating, one of the two is a
                mixture and the other is not, or (on concrete arrays) a value that counts is not
                finite or a variance is negative.
        """
        if features.ndim != 2 or features.shape[1] != self.mean.shape[0]:
            expected = f"[n, {self.mean.shape[0]}]"
            raise ValueError(f"features: got shape {features.shape}, expected {expected}")
        if not jnp.issubdtype(features.dtype, jnp.floating):
            raise ValueError(f"features: got dtype {features.dtype}, expected floats")
        if (variances is None) != (self.variance_sum is None):
            got, expected = ("no ", "some") if variances is None else ("", "none")
            raise ValueError(f"variances: got {got}variances, expected {expected}")
        if mask is None:
            mask = np.ones(features.shape[0], bool)
        _check_values("features", features, mask)
        if variances is not None:
            _check_values("variances", variances, mask, least=0.0)
        return _update(self, features, mask, variances)

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
            other.count, other.mean, other.mean_error, other.factor, other.variance_sum
        )
        return mark(both, **dict(other.source))

    def _fold(
        self,
        count: Int[Array, ""],
        mean: Float[Array, " d"],
        mean_error: Float[Array, " d"],
        rows: Float[Array, "n d"],
        variance_sum: Float[Array, " d"] | None,
    ) -> "FeatureStatistics":
        total = self.count + count
        # Counts take the features' type before they are divided or rooted, to lose no digits of it.
        share = count.astype(rows.dtype) / jnp.maximum(total, 1)
        step, step_error = _two_sum(mean, -self.mean)
        step_error += mean_error - self.mean_error
        between = jnp.sqrt(self.count * share) * (step + step_error)
        new_mean, new_error = _two_sum(self.mean, step * share)
        return dataclasses.replace(
            self,
            count=total,
            mean=new_mean,
            mean_error=self.mean_error + step_error * share + new_error,
            factor=frechet.triangular_factor(jnp.vstack([self.factor, rows, between])),
            variance_sum=jax.tree.map(jnp.add, self.variance_sum, variance_sum),
        )

    def reduce(self) -> "FeatureStatistics":
        """Merges statistics that are stacked along a leading axis, as gathering makes them.

        Over the devices of a mesh, inside `jax.shard_map`:
        `jax.lax.all_gather(statistics, axis_name).reduce()`. Over processes:
        `multihost_utils.process_allgather(statistics).reduce()`.

        Returns:
            One statistics of all the samples, each counted once.
        """
        first = jax.tree.map(lambda x: x[0], self)
        rest = jax.tree.map(lambda x: x[1:], self)
        return jax.lax.scan(lambda merged, other: (merged.merge(other), None), first, rest)[0]

    def covariance(self, ddof: int = 1) -> Float[Array, "d d"]:
        """Covariance of the samples, the mean component variances of a mixture included.

        Args:
            ddof: The scatter matrix is divided by count − ddof.

        Returns:
            Symmetric positive semi-definite matrix, in the type of the state.
        """
        scatter = jnp.matmul(self.factor.T, self.factor, precision="highest")
        covariance = scatter / (self.count - ddof)
        if self.variance_sum is None:
            return covariance
        return covariance + jnp.diag(self.variance_sum / self.count)

    def covariance_factor(self, ddof: int = 1) -> Float[Array, "d d"]:
        """Factor A of the covariance, AᵀA = covariance(ddof), not formed from it.

        Args:
            ddof: The scatter matrix is divided by count − ddof.

        Returns:
            Upper triangular matrix, in the type of the state.
        """
        factor = self.factor / jnp.sqrt((self.count - ddof).astype(self.factor.dtype))
        if self.variance_sum is None:
            return factor
        spread = jnp.diag(jnp.sqrt(self.variance_sum / self.count))
        return frechet.triangular_factor(jnp.vstack([factor, spread]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, which appears whole or not at all.

        Args:
            path: Of the file; what is there is replaced.
        """
        arrays = {
            field.name: np.asarray(value)
            for field in dataclasses.fields(self)
            if field.name != "source" and (value := getattr(self, field.name)) is not None
        }
        metadata = {"format": _FORMAT, "format_version": str(FORMAT_VERSION)}
        metadata |= {f"source.{name}": value for name, value in self.source}
        write_safetensors(Path(path), arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "FeatureStatistics":
        """Reads what `save` wrote.

        Args:
            path: Of the file.

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
        state = {name: jnp.asarray(array) for name, array in arrays.items()}
        return cls(**state, source=tuple(sorted(source.items())))


@jax.jit
def _update(
    statistics: FeatureStatistics,
    features: Float[Array, "n d"],
    mask: Bool[Array, " n"],
    variances: Float[Array, "n d"] | None,
) -> FeatureStatistics:
    features = features.astype(statistics.mean.dtype)
    count = jnp.sum(mask, dtype=jnp.int32)
    counts = mask[:, None]

    def masked_mean(rows: Float[Array, "n d"]) -> Float[Array, " d"]:
        # Divided before the sum: a division after it XLA repeats where the mean is subtracted, with
        # another rounding, and the second mean would correct a first one that is not the one kept.
        return jnp.sum(rows / jnp.maximum(count, 1).astype(rows.dtype), axis=0, where=counts)

    # The second mean corrects the rounding of the first, whatever the features' offset.
    mean = masked_mean(features)
    mean_error = masked_mean(features - mean)
    rows = jnp.where(counts, features - mean - mean_error, 0)
    variance_sum = None if variances is None else jnp.sum(variances, axis=0, where=counts)
    return statistics._fold(count, mean, mean_error, rows, variance_sum)


def _check_values(
    name: str, values: AnyArray, mask: Bool[AnyArray, " n"], least: float = -np.inf
) -> None:
    """Of concrete arrays: that those that count are finite, and not below the least."""
    if isinstance(values, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    xp = jnp if isinstance(values, jax.Array) else np
    allowed = xp.isfinite(values) & (values >= least)
    if not allowed.all(axis=1, where=mask[:, None]).all():
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


def _two_sum(
    a: Float[Array, " d"], b: Float[Array, " d"]
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
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
    d1, d2 = s1.mean.shape[0], s2.mean.shape[0]
    if d1 != d2:
        raise ValueError(f"statistics: got feature dimensions {d1} and {d2}, which must be equal")
    if (s1.variance_sum is None) != (s2.variance_sum is None):
        raise ValueError("statistics: one is of a Gaussian mixture and the other is not")
    source1, source2 = dict(s1.source), dict(s2.source)
    both = source1.keys() & source2.keys()
    for name in sorted(both if same_side else both - {"side"}):
        if source1[name] != source2[name]:
            raise ValueError(
                f"statistics: {name} is {source1[name]!r} of one and {source2[name]!r} of the other"
            )


def check_counts(counts: Mapping[str, int], dim: int, *, stacklevel: int = 4) -> None:
    """Raises a `ValueError` below two samples, and warns of no more than there are dimensions."""
    for name, count in counts.items():
        _check_count(name, count)
        if count <= dim:
            warnings.warn(f"{name}: {_singular_covariance(count, dim)}", stacklevel=stacklevel)


def _check_count(name: str, count: int) -> None:
    if count < 2:
        raise ValueError(f"{name}: got {count} samples, a covariance needs at least 2")


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
    ddof: int = 1,
) -> Float[Array, ""]:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    Heusel et al. 2017, arXiv 1706.08500, with the distance of Dowson & Landau 1982. Works under
    `jit` and `grad`; the gradient is exact and finite for rank-deficient covariances and for
    s1 = s2 (method "procrustes").

    Args:
        s1: Statistics of the first set.
        s2: Statistics of the second set.
        method: "procrustes" or "eigh", see `frechet.frechet_distance_from_factors`.
        ddof: Covariances are divided by count − ddof: 1 for unbiased ones, 0 as StyleGAN-V's FVD.

    Returns:
        Non-negative scalar of the statistics' dtype; nan under `jit` where a count is below 2.

    Raises:
        ValueError: If the dimensions or sources disagree, one is a mixture and the other is not,
            or (on concrete statistics) one has fewer than two samples or holds values that are
            not finite.

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
    check_comparable(s1, s2)
    named = {"s1": s1, "s2": s2}
    for name, s in named.items():
        if not isinstance(s.count, jax.core.Tracer):
            _check_count(name, int(s.count))
    distance = _distance(s1, s2, method, ddof)
    if not isinstance(distance, jax.core.Tracer) and not np.isfinite(distance):
        for name, s in named.items():
            if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(s)):
                raise ValueError(f"{name}: holds values that are not finite")
    return distance


@functools.partial(jax.jit, static_argnames=("method", "ddof"))
def _distance(
    s1: FeatureStatistics, s2: FeatureStatistics, method: frechet.Method, ddof: int
) -> Float[Array, ""]:
    mean_difference = (s1.mean - s2.mean) + (s1.mean_error - s2.mean_error)
    factors = s1.covariance_factor(ddof), s2.covariance_factor(ddof)
    return frechet.frechet_distance_from_factors(mean_difference, *factors, method)
