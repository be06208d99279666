import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from srvp_fd_jax import FeatureStatistics
from srvp_fd_jax.distances.jedi import jedi, jedi_unbiased


def test_the_oracle_prints_what_the_original_prints():
    x = np.arange(1, 10).reshape(3, 3)
    y = np.array([[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
    assert f"{oracles.mmd_poly(x, y):.1f}" == "270.7"
    # Noted there beside a call with degree=3 and coef0=1, which does not print it.
    assert f"{oracles.mmd_poly(x, y, gamma=1):.1f}" == "2436.5"
    s1, s2 = (FeatureStatistics.from_features(np.float32(f)) for f in (x, y))
    assert float(jedi(s1, s2)) == pytest.approx(100 * oracles.mmd_poly(x, y), rel=1e-6)


def test_an_offset_of_both_sets_costs_no_digits():
    x, y = np.random.default_rng(0).normal(size=(2, 60, 5)).astype(np.float32)
    x, y = x + np.float32(300), y + np.float32(300)
    s1, s2 = map(FeatureStatistics.from_features, (x, y))
    assert float(jedi(s1, s2)) == pytest.approx(oracles.jedi(x, y), rel=1e-5)


def kernel_of_gaussians(
    x: np.ndarray, x_variances: np.ndarray, y: np.ndarray, y_variances: np.ndarray
) -> np.ndarray:
    """E (uᵀv / d)² of independent points u and v of each pair of components: Tr(Mᵢ Mⱼ) / d²."""
    of_x, of_y = (
        np.einsum("ni,nj->nij", m, m) + np.einsum("ni,ij->nij", v, np.eye(m.shape[1]))
        for m, v in ((np.float64(x), np.float64(x_variances)), (np.float64(y), y_variances))
    )
    return np.einsum("nij,mij->nm", of_x, of_y) / x.shape[1] ** 2


def test_mixtures_are_compared_by_points_of_their_components():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(20, 4)) + 0.5
    v, w = rng.random((30, 4)), 2 * rng.random((20, 4))
    x, y, v, w = (np.float32(f) for f in (x, y, v, w))
    xx, yy, xy = (kernel_of_gaussians(*pair) for pair in ((x, v, x, v), (y, w, y, w), (x, v, y, w)))
    biased = xx.mean() + yy.mean() - 2 * xy.mean()
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    unbiased = sum(within) - 2 * xy.mean()
    made = [FeatureStatistics.from_features(f, None, u) for f, u in ((x, v), (y, w))]
    assert float(jedi(*made)) == pytest.approx(100 * biased, rel=1e-5)
    got = float(jedi_unbiased(x, y, None, None, v, w))
    assert got == pytest.approx(100 * unbiased, rel=1e-5)


def test_the_unbiased_form_is_zero_on_average_for_one_distribution():
    def both(key: jax.Array) -> jax.Array:
        x, y = jax.random.normal(key, (2, 20, 6)) + 1
        s1, s2 = map(FeatureStatistics.from_features, (x, y))
        return jnp.stack([jedi(s1, s2), jedi_unbiased(x, y)])

    biased, unbiased = np.asarray(jax.lax.map(both, jax.random.split(jax.random.key(0), 500))).T
    assert abs(unbiased.mean()) < 4 * unbiased.std() / np.sqrt(500)
    assert biased.mean() > 20 * biased.std() / np.sqrt(500)
