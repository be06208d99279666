"""Precision, recall, density and coverage, from the neighbours of samples.

Kynkäänniemi et al. 2019, arXiv 1904.06991 (precision and recall) and Naeem et al. 2020, arXiv
2002.09797 (density and coverage), as the package prdc 0.2 computes them. Each sample has a ball
whose radius is the distance to its k-th nearest neighbour in its own set. Precision is the share of
generated samples in any ball of a real one, recall the share of real samples in any ball of a
generated one, density the number of real balls around a generated sample over k, and coverage the
share of real balls that hold a generated sample.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from srvp_fd_jax.files.inputs import as_count, as_point_sets

NEIGHBOURS = 5
"""Number k of neighbours, that of prdc's example."""


class Prdc(NamedTuple):
    """Precision, recall, density and coverage, float32 scalars; larger ones for closer sets.

    Attributes:
        precision: Share of generated samples that look real, from 0 to 1.
        recall: Share of real samples that could be generated, from 0 to 1.
        density: Like precision, but not fooled by outliers; about 1 for sets of one distribution,
            and above 1 where the generated samples crowd.
        coverage: Like recall, but not fooled by outliers, from 0 to 1.
    """

    precision: Float[Array, ""]
    recall: Float[Array, ""]
    density: Float[Array, ""]
    coverage: Float[Array, ""]


def prdc(
    real: ArrayLike,
    fake: ArrayLike,
    real_counts: ArrayLike | None = None,
    fake_counts: ArrayLike | None = None,
    neighbours: int = NEIGHBOURS,
) -> Prdc:
    """Computes precision, recall, density and coverage of generated samples.

    All four count samples, so their gradients are zero. The function takes memory for n·m, n² and
    m² distances.

    Args:
        real: Real samples [n, d], one per row, float; computed with in float32.
        fake: Generated samples [m, d].
        real_counts: False for rows of `real` to ignore, bool [n]. None counts all rows.
        fake_counts: The same for `fake`.
        neighbours: Number k of neighbours that decides the radius of a ball.

    Returns:
        The four numbers; nan if a set has no more than k samples, or a sample that is not finite.

    Raises:
        ValueError: If a shape or a type is wrong, or `neighbours` is not positive.

    Example:
        >>> import numpy as np
        >>> from srvp_fd_jax.distances.prdc import prdc
        >>> real, fake = np.random.default_rng(0).normal(size=(2, 400, 8)).astype(np.float32)
        >>> narrow = prdc(real, fake / 4)
        >>> bool(narrow.precision > 0.99), bool(narrow.recall < 0.5)
        (True, True)
    """
    k = as_count(neighbours, "neighbours", least=1)
    return _prdc(*as_point_sets(real, fake, real_counts, fake_counts, ("real", "fake")), k)


@functools.partial(jax.jit, static_argnames="neighbours")
def _prdc(
    real: Float[Array, "n d"],
    fake: Float[Array, "m d"],
    real_counts: Bool[Array, " n"] | None,
    fake_counts: Bool[Array, " m"] | None,
    neighbours: int,
) -> Prdc:
    real_radii = _radii(real, real_counts, neighbours)[:, None]
    fake_radii = _radii(fake, fake_counts, neighbours)[None]
    distances = _squared_distances(real, fake)
    counting = _pairs(real_counts, fake_counts)
    in_real = (distances < real_radii) & counting
    in_fake = (distances < fake_radii) & counting
    n = len(real) if real_counts is None else jnp.sum(real_counts)
    m = len(fake) if fake_counts is None else jnp.sum(fake_counts)
    found = Prdc(
        precision=jnp.sum(in_real.any(axis=0)) / m,
        recall=jnp.sum(in_fake.any(axis=1)) / n,
        density=jnp.sum(in_real) / (neighbours * m),
        coverage=jnp.sum(in_real.any(axis=1)) / n,
    )
    # Comparisons with nan count as False, and would hide it.
    valid = jnp.isfinite(jnp.where(counting, distances, 0)).all() & (jnp.minimum(n, m) > neighbours)
    return Prdc(*(jnp.where(valid, number, jnp.nan).astype(jnp.float32) for number in found))


def _one(name: str) -> Callable[..., Float[Array, ""]]:
    def of_sets(
        real: ArrayLike,
        fake: ArrayLike,
        real_counts: ArrayLike | None = None,
        fake_counts: ArrayLike | None = None,
    ) -> Float[Array, ""]:
        return getattr(prdc(real, fake, real_counts, fake_counts), name)

    of_sets.__name__ = name
    return of_sets


PRDC = {name: _one(name) for name in Prdc._fields}
"""Each of the four numbers alone, as a function of two sets of samples."""


def _radii(
    x: Float[Array, "n d"], counts: Bool[Array, " n"] | None, neighbours: int
) -> Float[Array, " n"]:
    """Squared distance of each sample to its k-th nearest neighbour."""
    others = _pairs(counts, counts) & ~jnp.eye(len(x), dtype=bool)
    distances = jnp.where(others, _squared_distances(x, x), jnp.inf)

    def raise_radii(_: Int[Array, ""], radii: Float[Array, " n"]) -> Float[Array, " n"]:
        found = jnp.sum(distances <= radii[:, None], axis=1)
        beyond = jnp.where(distances > radii[:, None], distances, jnp.inf)
        return jnp.where(found < neighbours, jnp.min(beyond, axis=1), radii)

    # On a CPU this takes a hundredth of the time of `jax.lax.top_k`.
    return jax.lax.fori_loop(0, neighbours, raise_radii, jnp.full(len(x), -jnp.inf))


def _pairs(
    real_counts: Bool[Array, " n"] | None, fake_counts: Bool[Array, " m"] | None
) -> Bool[Array, "#n #m"]:
    """Whether both samples of each pair count."""
    rows = jnp.ones((1, 1), bool) if real_counts is None else real_counts[:, None]
    return rows if fake_counts is None else rows & fake_counts[None]


def _squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    # By the differences themselves: ‖x‖² + ‖y‖² − 2 xᵀy has the error of the norms, which is large
    # beside the distance of near neighbours and moves samples across the boundaries of balls.
    def to_all(one: Float[Array, " d"]) -> Float[Array, " m"]:
        return jnp.sum((one[None] - y) ** 2, axis=1)

    return jax.lax.map(to_all, x)
