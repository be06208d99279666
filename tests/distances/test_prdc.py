import jax
import numpy as np
import oracles
import pytest

from srvp_fd_jax.distances.prdc import prdc


def sets(n: int, m: int, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)), 0.8 * rng.normal(size=(m, d)) + 0.3
    return x.astype(np.float32), y.astype(np.float32)


def assert_equals_prdc(x: np.ndarray, y: np.ndarray) -> None:
    expected = oracles.prdc_of(x, y)
    for name, got in prdc(x, y)._asdict().items():
        assert float(got) == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize(("n", "m"), [(7, 8), (40, 90), (300, 200)])
def test_sets_of_different_numbers(n: int, m: int):
    assert_equals_prdc(*sets(n, m))


def test_an_offset_of_both_sets_moves_no_sample_across_a_boundary():
    x, y = (np.round(f * 1024) / 1024 for f in sets(200, 200))  # whose sums with 64 are exact
    assert_equals_prdc(x + np.float32(64), y + np.float32(64))
    assert prdc(x + np.float32(64), y + np.float32(64)) == prdc(x, y)


def test_copies():
    """Distances of zero, of which a sample may have more than it has neighbours."""
    x, y = sets(60, 60)
    assert_equals_prdc(x, x)
    assert_equals_prdc(np.repeat(x[:10], 8, axis=0), y)
    assert_equals_prdc(x, np.concatenate([x[:30], y[:30]]))


def test_rows_that_do_not_count_may_hold_anything():
    x, y = sets(40, 50)
    padded = np.concatenate([np.full((9, 8), np.nan, np.float32), x])
    counting = np.arange(49) >= 9
    assert prdc(padded, y, counting) == prdc(x, y)
    assert prdc(y, padded, None, counting) == prdc(y, x)


def test_values_that_are_not_finite_are_told():
    x, y = sets(40, 50)
    y[3, 2] = np.inf
    assert np.isnan(prdc(x, y)).all()


def test_other_numbers_of_neighbours():
    x, y = sets(80, 80)
    expected = oracles.prdc.compute_prdc(np.float64(x), np.float64(y), nearest_k=1)
    for name, got in prdc(x, y, neighbours=1)._asdict().items():
        assert float(got) == pytest.approx(expected[name], rel=1e-6), name


def test_gradients_are_zero():
    x, y = sets(40, 40)
    assert (np.asarray(jax.grad(lambda y: prdc(x, y).density)(y)) == 0).all()
