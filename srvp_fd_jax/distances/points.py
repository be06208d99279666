"""Distances between random samples of two sets, for those that no sums of features give."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from srvp_fd_jax.distances.base import Kind, check_finite
from srvp_fd_jax.distances.provenance import check_comparable
from srvp_fd_jax.distances.sample import SAMPLE_SIZE, FeatureSample
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.files.inputs import as_count

OfPoints = Callable[
    [Float[Array, "n d"], Float[Array, "m d"], Bool[Array, " n"], Bool[Array, " m"]],
    Float[Array, ""],
]
"""A function of two sets of points, which ignores the points whose mask is False."""


@dataclasses.dataclass(frozen=True)
class PointDistance:
    """A distance that is a function of two sets of points, on random samples of the features.

    Of more than `size` feature vectors a random sample is compared. Of each component of a Gaussian
    mixture, one random point is drawn.

    Attributes:
        of_points: The function.
        least: Smallest number of samples in each set.
        kind: How values are read, see `base.Kind`.
        size: Largest number of feature vectors that are compared on each side.

    Example:
        MIND on up to 10,000 clips per side, under a name of its own:

        >>> from srvp_fd_jax import DISTANCES
        >>> from srvp_fd_jax.distances.mind import mind
        >>> from srvp_fd_jax.distances.points import PointDistance
        >>> DISTANCES["mind_10k"] = PointDistance(mind, least=2, size=10_000)
        >>> DISTANCES.pop("mind_10k").size
        10000
    """

    of_points: OfPoints
    least: int
    kind: Kind = "distance"
    size: int = SAMPLE_SIZE

    def __post_init__(self) -> None:
        """Raises a `ValueError` if `kind` is unknown, or `size` is too small."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: got {self.kind!r}, allowed are {', '.join(get_args(Kind))}")
        as_count(self.size, "size", least=as_count(self.least, "least", least=1))

    def caution(self, count: int, dim: int) -> str | None:
        """Says that a random sample is compared, if it is one."""
        return sample_caution(count, self.size)

    def between(self, named: Mapping[str, FeatureStatistics]) -> Float[Array, ""]:
        """See `Distance.between`."""
        distance = _between(self.of_points, *single_vectors(named, self.size))
        check_finite(distance, named, getattr(self.of_points, "__name__", "distance"))
        return distance


def sample_caution(count: int, size: int) -> str | None:
    """Warning text if only a random sample of `count` feature vectors is compared."""
    return f"of {count} samples, {size} random ones are compared" if count > size else None


def single_vectors(named: Mapping[str, FeatureStatistics], size: int) -> list[FeatureSample]:
    """Random samples of at most `size` feature vectors of two sets, see `Distance.between`."""
    check_comparable(*named.values())
    samples = []
    for name, statistics in named.items():
        if statistics.sample is None:
            raise ValueError(
                f"{name}: got statistics without a sample of the clips, which the distance "
                "compares: make them with sample=, with a calculator of the distance, or with "
                "`srvp-fd-jax statistics`"
            )
        samples.append(statistics.sample.single_vectors(size))
    return samples


@functools.partial(jax.jit, static_argnums=0)
def _between(of_points: OfPoints, s1: FeatureSample, s2: FeatureSample) -> Float[Array, ""]:
    # The noise of the two sets is independent.
    x, y = (_points(s, jax.random.key(side)) for side, s in enumerate((s1, s2)))
    return of_points(x, y, s1.held, s2.held)


def _points(sample: FeatureSample, key: Array) -> Float[Array, "k d"]:
    """The features of a sample; of Gaussians, random points, which follow from their places."""
    features = sample.features[:, 0]
    if sample.variances is None:
        return features

    def noise(place: Int[Array, ""]) -> Float[Array, " d"]:  # of samples of any size
        return jax.random.normal(jax.random.fold_in(key, place), features.shape[1:], features.dtype)

    drawn = jax.vmap(noise)(jnp.arange(sample.size))
    return features + jnp.sqrt(sample.variances[:, 0]) * drawn
