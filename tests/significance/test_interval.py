from collections.abc import Callable

import jax
import numpy as np
import pytest
from scipy import stats

from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.significance import interval
from srvp_fd_jax.significance.draws import Measure, between, state_of
from srvp_fd_jax.significance.interval import distance_interval

MEASURE = Measure("frechet", 1)
SCALES = (np.arange(1, 4) ** -0.5).astype(np.float32)


def heavy(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Features whose distribution is Student's with 4 degrees of freedom."""
    return (rng.standard_t(4, (*shape, len(SCALES))) * SCALES).astype(np.float32)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal((*shape, len(SCALES))) * SCALES).astype(np.float32)


@jax.jit
@jax.vmap
def distance(real, fake):
    return frechet_distance_from_statistics(*map(FeatureStatistics.from_features, (real, fake)))


def clips(features: np.ndarray) -> dict[str, np.ndarray]:
    """Clips of one vector each."""
    return {"features": features[:, None]}


Draw = Callable[..., np.ndarray]


def simulated(draw: Draw, n: int, m: int, shift: float, times: int) -> tuple[float, float]:
    """Coverage of the mean distance, and mean width relative to the middle 95 % of distances."""
    rng = np.random.default_rng(0)
    moved = np.float32(shift) * SCALES
    found = distance(draw(rng, 10_000, n), draw(rng, 10_000, m) + moved)
    pairs = [(draw(rng, n), draw(rng, m) + moved) for _ in range(times)]
    ends = [distance_interval(*map(clips, pair), rng, MEASURE) for pair in pairs]
    low, high = np.transpose(ends)
    covered = np.mean((low <= found.mean()) & (found.mean() <= high))
    span = np.subtract(*np.quantile(found, [0.975, 0.025]))
    return float(covered), float(np.mean(high - low) / span)


def test_interval_covers_the_mean_distance_of_few_clips_with_heavy_tails():
    # An interval d ± 1.96 s covers 0.80 in the long run and 0.85 here.
    covered, _ = simulated(heavy, 5, 5, 0, 150)
    assert covered >= 0.9


def test_interval_covers_the_mean_distance_and_is_no_wider_than_needed():
    covered, width = simulated(normal, 40, 30, 0.6, 30)
    assert covered >= 0.9
    assert width < 1.3


def test_distance_is_the_geometric_middle():
    rng = np.random.default_rng(0)
    pair = normal(rng, 30), normal(rng, 20) + 1
    low, high = distance_interval(*map(clips, pair), rng, MEASURE)
    expected = float(distance(*(side[None] for side in pair))[0])
    assert low < expected < high
    assert np.sqrt(low * high) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 50), (300, 41)])
def test_distances_are_few(monkeypatch, n: int, m: int):
    rng = np.random.default_rng(0)
    calls = []
    between = interval.between
    monkeypatch.setattr(interval, "between", lambda *a: calls.append(a) or between(*a))
    distance_interval(clips(normal(rng, n)), clips(normal(rng, m)), rng, MEASURE)
    assert len(calls) == min(n, 40) + min(m, 40) + 1


def test_copies_have_a_finite_interval_from_zero():
    features = clips(normal(np.random.default_rng(0), 20))
    low, high = distance_interval(features, features, np.random.default_rng(1), MEASURE)
    assert low == pytest.approx(0, abs=1e-6)
    floor = float(distance(*normal(np.random.default_rng(2), 2, 1, 20))[0])
    assert 0 < high < floor


def test_constant_features_have_an_interval_of_no_width():
    ones = clips(np.ones((6, 3), np.float32))
    assert distance_interval(ones, ones, np.random.default_rng(0), MEASURE) == (0, 0)


def test_margins_are_of_students_distribution():
    one = interval._margin(np.array([4.0]), np.array([9]))
    assert one == pytest.approx(2 * stats.t.ppf(0.975, 9))
    two = interval._margin(np.array([4.0, 4.0]), np.array([9, 9]))
    assert two == pytest.approx(np.sqrt(8) * stats.t.ppf(0.975, 18))


@pytest.mark.parametrize(
    ("margin", "expected"), [(0.999999, np.e), (1.0, np.e), (2.0, 2 * np.e - 1)]
)
def test_upper_end_is_continued_as_a_line(margin: float, expected: float):
    ends = interval._log_interval(1.0, margin)
    assert ends == (pytest.approx(np.exp(-margin), rel=1e-4), pytest.approx(expected, rel=1e-4))


def test_too_few_clips():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="fake: got 3 clips, expected at least 4"):
        distance_interval(clips(normal(rng, 4)), clips(normal(rng, 3)), rng, MEASURE)


@pytest.mark.parametrize("name", ["jedi_unbiased", "kvd", "precision"])
def test_estimates_and_similarities_have_margins_of_both_sides(name: str):
    rng = np.random.default_rng(0)
    sides = clips(normal(rng, 30)), clips(normal(rng, 40))
    low, high = distance_interval(*sides, np.random.default_rng(1), Measure(name, 1))
    s1, s2 = (state_of(side, Measure(name, 1)) for side in sides)
    middle = float(between(s1, s2, Measure(name, 1)))
    assert low < middle < high
    assert (low + high) / 2 == pytest.approx(middle, abs=1e-6)
