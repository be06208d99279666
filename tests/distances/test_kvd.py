import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from srvp_fd_jax.distances.kvd import kernel_distance


def sets(
    seed: int, n: int, m: int, d: int = 8, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + shift
    return x.astype(np.float32), y.astype(np.float32)


def u_statistic(x: np.ndarray, y: np.ndarray) -> float:
    """By its definition, in float64."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (np.float64(a) @ np.float64(b).T / a.shape[1] + 1) ** 3

    within = [k[~np.eye(len(k), dtype=bool)].mean() for k in (kernel(x, x), kernel(y, y))]
    return sum(within) - 2 * kernel(x, y).mean()


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 30), (64, 50)])
def test_sets_of_different_numbers(n: int, m: int):
    x, y = sets(n, n, m, shift=0.5)
    assert float(kernel_distance(x, y).distance) == pytest.approx(u_statistic(x, y), rel=1e-5)


def test_an_offset_of_both_sets_costs_no_digits():
    """The three means of the kernel are 27,000 times the distance here."""
    x, y = (f + np.float32(10) for f in sets(0, 300, 300, shift=0.1))
    assert float(kernel_distance(x, y).distance) == pytest.approx(u_statistic(x, y), rel=1e-5)


def test_subsets_of_torch_fidelity_scatter_around_the_distance():
    x, y = sets(0, 300, 300, shift=0.3)
    found = oracles.torch_fidelity_kid(x, y, kid_subsets=200, kid_subset_size=100)
    mean, std = (found[f"kernel_inception_distance_{what}"] for what in ("mean", "std"))
    got = kernel_distance(x, y)
    assert abs(float(got.distance) - mean) < 4 * std / np.sqrt(200)
    assert got.standard_error < std  # which is that of 100 samples


def test_standard_error_is_the_delete_one_jackknife():
    x, y = sets(1, 12, 9, shift=0.5)
    without = (
        np.array([u_statistic(np.delete(x, i, axis=0), y) for i in range(12)]),
        np.array([u_statistic(x, np.delete(y, i, axis=0)) for i in range(9)]),
    )
    variances = [(len(w) - 1) * w.var() for w in without]
    got = kernel_distance(x, y).standard_error
    assert float(got) == pytest.approx(np.sqrt(sum(variances)), rel=1e-5)


def test_standard_error_is_that_of_repeated_draws():
    draws = [kernel_distance(*sets(seed, 60, 80, shift=0.5)) for seed in range(300)]
    distances, errors = np.array(draws).T
    # The standard deviation of 300 draws scatters by 4 %.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(distances.std(), rel=0.15)
    assert abs(np.mean(distances) - u_statistic(*sets(0, 4000, 4000, shift=0.5))) < 0.05 * np.mean(
        distances
    )


def test_rows_that_do_not_count_may_hold_anything():
    x, y = sets(2, 20, 20, shift=0.2)
    padded = np.concatenate([x, np.full((5, 8), np.nan, np.float32)])
    counting = np.arange(25) < 20
    for got, expected in zip(
        kernel_distance(padded, y, counting), kernel_distance(x, y), strict=True
    ):
        assert float(got) == pytest.approx(float(expected), rel=1e-5)
    gradient = jax.grad(lambda x: kernel_distance(x, y, counting).distance)(padded)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[20:] == 0).all()


def test_too_few_samples_are_nan():
    x, y = sets(3, 2, 2)
    assert np.isfinite(kernel_distance(x, y).distance)
    assert np.isnan(kernel_distance(x, y).standard_error)
    assert jnp.isnan(kernel_distance(x[:1], y).distance)
