import itertools

import numpy as np
import pytest
from scipy import stats

from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.distances.provenance import mark
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.null_distribution import find_floor, floor_of_samples

UNBIASED = Measure("frechet", 1)


def features(seed: int, n: int, dim: int = 3, *, v: int = 1, shift: float = 0) -> dict:
    x = np.random.default_rng(seed).standard_t(4, (n, v, dim)) + shift
    return {"features": x.astype(np.float32)}


def distance(real: np.ndarray, fake: np.ndarray) -> float:
    sides = (FeatureStatistics.from_features(x.reshape(-1, x.shape[-1])) for x in (real, fake))
    return float(frechet_distance_from_statistics(*sides))


def test_p_values_are_uniform_for_equal_distributions():
    found = [
        find_floor(features(2 * i, 12), features(2 * i + 1, 9), UNBIASED).p_value
        for i in range(200)
    ]
    # They are multiples of 1/200, so they lie that much above uniform ones.
    assert stats.kstest(np.array(found) - 1 / 400, "uniform").pvalue > 0.01


def test_power_rises_with_the_number_of_clips():
    found = [
        np.mean(
            [
                find_floor(features(i, n), features(i + 900, n, shift=0.8), UNBIASED).p_value < 0.05
                for i in range(30)
            ]
        )
        for n in (10, 30, 100)
    ]
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.95


def test_agrees_with_all_divisions():
    real, fake = features(0, 4, 2), features(1, 5, 2, shift=3)
    pooled = np.concatenate([real["features"], fake["features"]])
    every = np.array(
        [
            distance(pooled[list(chosen)], np.delete(pooled, chosen, axis=0))
            for chosen in itertools.combinations(range(9), 4)
        ]
    )
    at_hand = distance(real["features"], fake["features"])
    floor = find_floor(real, fake, UNBIASED)
    assert floor.distance == pytest.approx(at_hand, rel=1e-5)
    assert floor.mean == pytest.approx(every.mean(), rel=0.15)
    assert floor.p_value == pytest.approx((every >= at_hand * (1 - 1e-6)).mean(), abs=0.06)
    assert every.min() <= floor.low <= floor.mean <= floor.high <= every.max()


def test_clips_are_divided_and_not_their_frames():
    # Frames of a clip are copies of each other: as single frames they would look significant.
    found = []
    for i in range(40):
        real, fake = features(i, 8, 2), features(i + 500, 8, 2)
        repeated = [{"features": np.repeat(x["features"], 12, axis=1)} for x in (real, fake)]
        found.append(find_floor(*repeated, UNBIASED).p_value)
    assert np.mean(np.array(found) < 0.1) < 0.25


def test_mixtures_and_other_distances():
    real, fake = features(0, 30), features(1, 30)
    for side, scale in ((real, 1.0), (fake, 9.0)):
        side["variances"] = np.full_like(side["features"], scale)
    assert find_floor(real, fake, Measure("frechet_eigh", 0)).p_value == 1 / 200
    del real["variances"], fake["variances"]
    assert find_floor(real, fake, Measure("frechet_eigh", 0)).p_value > 0.01


def test_of_samples():
    real, fake = features(0, 50), features(1, 40, shift=1)
    both = [
        mark(FeatureStatistics.from_features(x["features"][:, 0], sample=30), side=side)
        for side, x in (("real", real), ("fake", fake))
    ]
    floor = floor_of_samples(*both, UNBIASED)
    assert (floor.real, floor.fake) == (30, 30)
    held = [np.asarray(statistics.sample.moments()["features"]) for statistics in both]
    assert floor.distance == pytest.approx(distance(*held), rel=1e-5)
    bair, kth = (mark(both[0], network=name) for name in ("bair", "kth"))
    with pytest.raises(ValueError, match="network is 'bair' of one and 'kth' of the other"):
        floor_of_samples(bair, kth, UNBIASED)
    without = FeatureStatistics.from_features(fake["features"][:, 0])
    with pytest.raises(ValueError, match="fake: got statistics without a sample of clips"):
        floor_of_samples(both[0], without, UNBIASED)


def test_too_few_clips():
    with pytest.raises(ValueError, match="fake: got 3 clips, expected at least 4"):
        find_floor(features(0, 9), features(1, 3), UNBIASED)


@pytest.mark.parametrize("name", ["jedi", "jedi_unbiased", "kvd", "mind", "recall", "coverage"])
def test_every_kind_of_distance_has_a_floor(name: str):
    measure, (real, fake) = Measure(name, 1), (features(seed, 30) for seed in (0, 1))
    apart = find_floor(real, features(1, 30, shift=3), measure)
    assert apart.p_value == 1 / 200
    assert measure.sign * (apart.distance - apart.mean) > 0
    assert find_floor(real, fake, measure).p_value > 0.01


@pytest.mark.parametrize("name", ["kvd", "coverage"])
def test_p_values_of_estimates_and_similarities_are_uniform(name: str):
    found = [
        find_floor(features(2 * i, 12), features(2 * i + 1, 9), Measure(name, 1)).p_value
        for i in range(100)
    ]
    # Values of coverage are often equal, which makes p-values larger, never smaller.
    assert stats.kstest(np.array(found), "uniform", alternative="greater").pvalue > 0.01
