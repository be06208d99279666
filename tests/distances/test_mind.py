import jax
import numpy as np
import oracles
import pytest

from srvp_fd_jax.distances.mind import mind, unit_directions


def sets(n: int, m: int, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)), 1.5 * rng.normal(size=(m, d)) + 0.5
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (12, 8), (30, 7), (48, 64)])
def test_sets_of_different_numbers_are_matched_by_quantiles(n: int, m: int):
    """As sets of one size are in which each sample comes several times."""
    x, y = sets(n, m)
    several = (np.repeat(f, k, axis=0) for f, k in ((x, m), (y, n)))
    assert float(mind(x, y)) == pytest.approx(oracles.mind(*several), rel=1e-5)


def test_an_offset_of_both_sets_costs_no_digits():
    x, y = (f + np.float32(100) for f in sets(50, 50))
    assert float(mind(x, y)) == pytest.approx(oracles.mind(x, y), rel=1e-5)


def test_shifted_gaussians():
    """For a shift of 1 in each of d dimensions, the limit is 3 d (the paper, section 4)."""
    x = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    assert float(mind(x, x + 1, directions=4000)) == pytest.approx(3 * 64, rel=0.05)
    assert float(mind(x, x)) == 0


def test_directions_are_uniform_on_the_sphere():
    units = np.asarray(unit_directions(4000, 5))
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(units.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(units.T @ units / 4000, np.eye(5) / 5, atol=0.02)


def test_rows_that_do_not_count_may_hold_anything():
    x, y = sets(20, 30)
    padded = np.concatenate([x, np.full((5, 8), np.nan, np.float32)])
    counting = np.arange(25) < 20
    assert float(mind(padded, y, counting)) == pytest.approx(float(mind(x, y)), rel=1e-6)
    gradient = jax.grad(lambda x: mind(x, y, counting))(padded)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[20:] == 0).all()


def test_no_samples_are_nan():
    x, y = sets(4, 4)
    assert np.isnan(mind(x, y, np.zeros(4, bool)))


@pytest.mark.parametrize(
    ("n", "m"),
    [(65_535, 65_534), (65_536, 65_536), (65_537, 65_536), (70_001, 3), (100_000, 80_000)],
)
def test_steps_of_large_sets_are_whole_numbers(n: int, m: int):
    """Of which there are n m, with those below, at and above 2³²."""
    x, y = sets(n, m, d=1)
    expected = oracles_of_one_dimension(x[:, 0], y[:, 0])
    assert float(mind(x, y, directions=1)) == pytest.approx(expected, rel=1e-5)


def test_rows_of_large_sets_may_not_count():
    x, y = sets(70_000, 66_000, d=1)
    counting = np.arange(70_000) < 65_537
    expected = oracles_of_one_dimension(x[:65_537, 0], y[:, 0])
    assert float(mind(x, y, counting, directions=1)) == pytest.approx(expected, rel=1e-5)


def oracles_of_one_dimension(x: np.ndarray, y: np.ndarray) -> float:
    """3 W₂² on a line, by sums over the steps of both quantile functions in float64."""
    x, y = np.sort(np.float64(x)), np.sort(np.float64(y))
    ends = np.unique(np.concatenate([np.arange(1, len(f) + 1) / len(f) for f in (x, y)]))
    middles = ends - np.diff(ends, prepend=0) / 2
    i, j = (np.minimum((middles * len(f)).astype(int), len(f) - 1) for f in (x, y))
    return 3 * np.sum(np.diff(ends, prepend=0) * (x[i] - y[j]) ** 2)
