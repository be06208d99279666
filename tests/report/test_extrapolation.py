import numpy as np
import pytest

from srvp_fd_jax import FeatureStatistics, find_protocol, frechet_distance_from_statistics
from srvp_fd_jax.report.extrapolation import (
    Curve,
    distance_curve,
    distance_over_time,
    extrapolate,
    jackknife_interval,
)

UNBIASED, BIASED = find_protocol("tensorflow"), find_protocol("cd_fvd")  # divisors n - 1 and n
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


def test_interval_covers_the_expected_distance():
    pairs = [(gaussian(2 * i, 40), gaussian(2 * i + 1, 30, shift=0.6)) for i in range(30)]
    distances = [whole_distance(*pair) for pair in pairs]
    rng = np.random.default_rng(0)
    intervals = np.array([jackknife_interval(*pair, rng, UNBIASED) for pair in pairs])
    low, high = intervals.T
    covered = (low <= np.mean(distances)) & (np.mean(distances) <= high)
    assert covered.mean() >= 0.87
    assert np.mean(high - low) < 1.3 * 2 * 1.96 * np.std(distances)
    np.testing.assert_allclose(intervals.mean(axis=1), distances, rtol=1e-5)


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


def test_over_time_rises_where_frames_differ():
    frames = np.random.default_rng(0).standard_normal((50, 6, 8), np.float32)
    np.testing.assert_allclose(distance_over_time(frames, frames, UNBIASED), 0, atol=1e-8)
    changed = frames.copy()
    changed[:, 4:] += np.array([[1], [2]], np.float32)
    expected = [0, 0, 0, 0, 8, 32]
    got = distance_over_time(frames, changed[::-1], UNBIASED)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("function", [distance_curve, jackknife_interval])
def test_too_few_clips(function):
    with pytest.raises(ValueError, match="fake: got 3 clips, expected at least 4"):
        function(gaussian(0, 4), gaussian(1, 3), np.random.default_rng(0), UNBIASED)
