import numpy as np
import pytest

from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.extrapolation import Curve, distance_curve, extrapolate

UNBIASED, BIASED = Measure("frechet", 1), Measure("frechet", 0)
DIM, SCALES = 24, np.arange(1, 25) ** -0.5


def gaussian(seed: int, n: int, *, shift: float = 0, spread: float = 1) -> dict[str, np.ndarray]:
    """Clips of one sample each, whose true distance from the standard ones is known."""
    x = np.random.default_rng(seed).standard_normal((n, 1, DIM))
    return {"features": ((spread * x + shift) * SCALES).astype(np.float32)}


def whole_distance(real, fake, ddof=1) -> float:
    sides = (
        FeatureStatistics.from_features(**{name: np.concatenate(f) for name, f in side.items()})
        for side in (real, fake)
    )
    return float(frechet_distance_from_statistics(*sides, ddof=ddof))


def test_line_in_one_over_n_is_found():
    sizes = np.array([10, 20, 30, 40, 60])
    bent = np.array([5.0, 0, 0, 0, 0])  # of the smallest, which is not fitted
    distances = (3 + 20 / sizes + bent)[:, None] + [-0.1, 0.1]
    limit = extrapolate(Curve(sizes, distances))
    assert (limit.infinity, limit.slope) == (pytest.approx(3), pytest.approx(20))
    assert limit.fitted_from == 30


@pytest.mark.parametrize("shift", [0, 0.5])
def test_infinity_is_closer_to_the_true_distance(shift):
    true = (SCALES**2).sum() * (shift**2 + 0.2**2)
    errors, errors_at_infinity = [], []
    for seed in range(6):
        real, fake = gaussian(2 * seed, 150), gaussian(2 * seed + 1, 120, shift=shift, spread=1.2)
        curve = distance_curve(real, fake, np.random.default_rng(seed), UNBIASED)
        errors.append(curve.distances[-1].mean() - true)
        errors_at_infinity.append(extrapolate(curve).infinity - true)
    assert abs(np.mean(errors_at_infinity)) < 0.25 * np.mean(errors)


def test_draws_are_of_clips_with_all_their_samples():
    rng = np.random.default_rng(0)
    real, fake = (
        {
            "features": rng.standard_normal((n, 3, 4)).astype(np.float32),
            "variances": rng.random((n, 3, 4)).astype(np.float32),
        }
        for n in (7, 5)
    )
    curve = distance_curve(real, fake, rng, BIASED)
    assert curve.sizes.tolist() == [2, 3, 4, 5]
    # All five of one side against five of seven.
    subsets = (np.delete(np.arange(7), [i, j]) for i in range(7) for j in range(i))
    possible = [whole_distance({k: f[s] for k, f in real.items()}, fake, 0) for s in subsets]
    off = np.abs(curve.distances[-1][:, None] - possible).min(axis=1)
    np.testing.assert_allclose(off, 0, atol=1e-5)
    assert np.ptp(curve.distances[-1]) > 0


def test_too_few_clips():
    with pytest.raises(ValueError, match="fake: got 3 clips, expected at least 4"):
        distance_curve(gaussian(0, 4), gaussian(1, 3), np.random.default_rng(0), UNBIASED)
