import itertools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from srvp_fd_jax.significance import null_distribution
from srvp_fd_jax.significance.along import corrected, distances_along
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.extrapolation import distance_curve
from srvp_fd_jax.significance.interval import distance_interval
from srvp_fd_jax.significance.null_distribution import find_floor
from srvp_fd_jax.significance.units import Units, deletions, find_units, orders, videos

MEASURE = Measure("frechet", 1)
N, DIM, RUNS = 20, 2, 300
PAIRS = list(range(N))
GROUPS = [f"real {i // 2}" for i in PAIRS], [f"fake {i // 2}" for i in PAIRS]


def draws(labels: tuple[list, list], r: float, runs: int = RUNS, shift: float = 0) -> np.ndarray:
    """Runs of pooled clips, of which those of one label have the correlation r."""
    rng = np.random.default_rng(0)
    pooled = [*labels[0], *labels[1]]
    numbers = {label: i for i, label in enumerate(dict.fromkeys(pooled))}
    common = rng.standard_normal((runs, len(numbers), 1, DIM))[:, [numbers[one] for one in pooled]]
    drawn = np.sqrt(r) * common + np.sqrt(1 - r) * rng.standard_normal(common.shape)
    drawn[:, N:] += shift
    return drawn.astype(np.float32)


@jax.jit
@jax.vmap
def distances(clips: np.ndarray, order: np.ndarray) -> jax.Array:
    return null_distribution._divided({"features": clips}, N, order, MEASURE)


def p_values(clips: np.ndarray, units: Units) -> np.ndarray:
    found = np.asarray(distances(clips, np.broadcast_to(orders(units), (RUNS, 200, 2 * N)))).T
    return null_distribution.p_values(found[0], found[1:], MEASURE)


def clips_of(pooled: np.ndarray, n: int = N) -> tuple[dict, dict]:
    return {"features": pooled[:n]}, {"features": pooled[n:]}


def check_uniform(p: np.ndarray) -> None:
    # Counts of p-values below a level are binomial; these bounds fail once in 1,000 times.
    for level in (0.05, 0.5):
        low, high = stats.binom.ppf([0.0005, 0.9995], len(p), level)
        assert low <= (p <= level).sum() <= high
    assert (p <= 0.01).sum() <= stats.binom.ppf(0.999, len(p), 0.01)


CASES = {
    "pairs": ((PAIRS, PAIRS), 0.8, False),
    "some pairs": ((PAIRS, [*PAIRS[:12], *"abcdefgh"]), 0.8, False),
    "groups": (GROUPS, 0.8, True),
    "copies": (GROUPS, 1.0, True),
    "groups in both sets": (([i // 2 for i in PAIRS],) * 2, 0.8, True),
}


@pytest.mark.parametrize("name", CASES)
def test_p_values_of_units_are_uniform_under_equality(name: str):
    labels, r, grouped = CASES[name]
    check_uniform(p_values(draws(labels, r), find_units(*labels, grouped=grouped)))


def test_single_clips_are_wrong_units_of_pairs_and_groups():
    of_pairs = p_values(draws((PAIRS, PAIRS), 0.8), videos(N, N))
    assert of_pairs.mean() > 0.8
    of_groups = p_values(draws(GROUPS, 0.8), videos(N, N))
    assert (of_groups <= 0.01).mean() > 0.05


def test_pairs_show_a_shift_that_independent_clips_do_not():
    units = find_units(PAIRS, PAIRS)
    found = {
        r: (p_values(draws((PAIRS, PAIRS), r, shift=0.5), units) <= 0.01).mean() for r in (0, 0.8)
    }
    assert found[0.8] > 0.6 > 0.4 > found[0]


def test_single_futures_of_several_are_compared_with_their_clips():
    futures = [i for i in PAIRS for _ in range(3)]
    units = find_units(PAIRS, futures, grouped=True)
    assert (units.unit, units.number) == ("group", N)
    np.testing.assert_array_equal(units.fake, np.arange(0, 3 * N, 3))
    check_uniform(p_values(draws((PAIRS, PAIRS), 0.8), units))


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        ("abcd", "abcd"),
        ("abcdef", "abxyz"),
        ("aabbccdd", "wwxxyyzz"),
        ("aabbccdde", "aabbxxyz"),
        ("abbcccdddd", "wxxyyyzzzz"),
    ],
)
def test_units_move_as_a_whole_and_sets_keep_their_sizes(real: str, fake: str):
    units = find_units(real, fake)
    n, parts = len(units.real), units.parts
    pooled = [*(real[i] for i in units.real), *(fake[i] for i in units.fake)]
    assert len({*zip(pooled, units.labels.tolist(), strict=True)}) == len({*pooled})
    found = orders(units)
    np.testing.assert_array_equal(found[0], np.arange(len(pooled)))
    np.testing.assert_array_equal(np.sort(found, axis=1)[-1], np.arange(len(pooled)))
    for order in found:
        in_real = np.isin(np.arange(len(pooled)), order[:n])
        for part in np.unique(parts):
            assert len({*in_real[parts == part]}) == 1
        for both in set(real) & set(fake):
            of_label = np.array(pooled) == both
            assert in_real[of_label].sum() * 2 == of_label.sum()


def test_all_permutations_are_as_likely():
    # A pair, and two single clips in each set: 2 · 6 divisions.
    units = find_units("abcde", "abcxy")
    found = [frozenset(order[:5].tolist()) for order in orders(units)[1:]]
    counts = np.array([found.count(one) for one in {*found}])
    assert len(counts) == 8 * 6
    assert stats.chisquare(counts).pvalue > 0.001
    assert units.number, units.singles == (3, 4)


def test_sizes_are_matched_by_rank():
    # Sizes 5, 3, 1, 1 against 4, 4, 4, 2: the smaller of each rank.
    units = find_units("aaaaabbbcd", "vvvvwwwwxxxxyy")
    counts = [
        sorted(np.unique(of, return_counts=True)[1].tolist())
        for of in np.split(units.labels, [len(units.real)])
    ]
    assert counts == [[1, 1, 3, 4]] * 2
    # Of 8 parts against 4, two each have the rank of one.
    units = find_units("aaabbbcd", [f"{i}" for i in "eeeffgghijjjjjkkll"])
    counts = [
        sorted(np.unique(of, return_counts=True)[1].tolist())
        for of in np.split(units.labels, [len(units.real)])
    ]
    assert counts == [[1, 1, 2, 3], [1, 1, 1, 1, 2, 2, 3, 3]]


@pytest.mark.parametrize(
    ("real", "fake", "divisions"),
    [("abcd", "wxyz", math.comb(8, 4) / 2), ("abcd", "abcd", 2**3), ("abcde", "abxyz", 4 * 20 / 2)],
)
def test_no_p_value_is_smaller_than_divisions_allow(real: str, fake: str, divisions: float):
    units = find_units(real, fake)
    assert units.smallest_p(symmetric=True) == pytest.approx(1 / divisions)
    assert units.smallest_p(symmetric=False) == pytest.approx(1 / divisions / 2)
    far = np.random.default_rng(0).normal(size=(len(real) * 2, 1, DIM)).astype(np.float32)
    far[len(real) :] += 99
    found = find_floor(*clips_of(far, len(real)), MEASURE, units)
    assert found.p_value >= found.smallest_p == pytest.approx(1 / divisions)
    assert "smallest possible p = 0." in found.described()


def test_units_are_named():
    found = [
        find_floor(*clips_of(draws((PAIRS, PAIRS), 0, 1)[0]), MEASURE, find_units(*labels, **how))
        for labels, how in (
            ((PAIRS, PAIRS), {}),
            ((PAIRS, [*PAIRS[:15], *"abcde"]), {}),
            (GROUPS, {"grouped": True}),
        )
    ]
    assert [(one.unit, one.units, one.singles) for one in found] == [
        ("pair", 20, 0),
        ("pair", 15, 10),
        ("group", 20, 0),
    ]
    assert found[1].described().endswith("the two videos of each of 15 pairs and 10 single videos")
    assert find_floor(*clips_of(draws((PAIRS, PAIRS), 0, 1)[0]), MEASURE).units == 40


def test_too_few_groups():
    with pytest.raises(ValueError, match="groups: got 3 groups of fake clips, expected at least 4"):
        find_units("abcd", "xxyyzz", grouped=True)


def test_whole_units_are_deleted_once():
    units = find_units([*"aabbccdd", *range(60)], [*"aabbccdd", *range(50), *"vwxyz"])
    kinds = deletions(units, np.random.default_rng(0))
    assert [len(groups) for groups in kinds] == [10, 5, 40]
    deleted = [group.tolist() for groups in kinds for group in groups]
    assert sorted(itertools.chain(*deleted)) == list(range(len(units.labels)))
    of_groups = [set(units.labels[group].tolist()) for group in deleted]
    assert sum(map(len, of_groups)) == len(set(units.labels.tolist()))


@pytest.mark.parametrize(("labels", "r"), [((PAIRS, PAIRS), 0.8), (GROUPS, 0.8), (GROUPS, 1.0)])
def test_interval_has_the_variance_of_dependent_clips(labels, r: float):
    order = np.arange(2 * N)[None]
    # A distance of far sets is nearly normal, so the interval must be as wide as its scatter.
    sets = draws(labels, r, 2 * RUNS, shift=3)
    one = jax.jit(
        jax.vmap(lambda x: null_distribution._divided({"features": x}, N, order, MEASURE)[0])
    )
    scatter = np.asarray(one(sets)).std()
    rng = np.random.default_rng(0)
    units = find_units(*labels, grouped=labels is GROUPS)
    widths = [np.diff(distance_interval(*clips_of(x), rng, MEASURE, units)) for x in sets[:12]]
    # 19 or 9 + 9 degrees of freedom, hence 2.1 standard errors.
    assert np.mean(widths) / (2 * 2.1 * scatter) == pytest.approx(1, abs=0.25)


def test_subsets_of_pairs_hold_both_videos():
    real, fake = clips_of(draws((PAIRS, PAIRS), 1.0, 1)[0])
    curve = distance_curve(real, fake, np.random.default_rng(0), MEASURE, find_units(PAIRS, PAIRS))
    np.testing.assert_allclose(curve.distances, 0, atol=1e-5)


def by_definition(values: np.ndarray) -> np.ndarray:
    """Westfall & Young's p-values, one place after the other."""
    scores = (values - values.mean(axis=0)) / values.std(axis=0)
    found, before = np.empty(values.shape[1]), 0.0
    falling = list(np.argsort(-scores[0]))
    while falling:
        largest = scores[:, falling].max(axis=1)
        before = max(before, (largest >= scores[0, falling[0]]).mean())
        found[falling.pop(0)] = before
    return found


def test_corrected_p_values_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.gamma(2, size=(60, 7)) * rng.uniform(0.1, 9, 7)
        values[0] += rng.uniform(0, 3, 7)
        np.testing.assert_allclose(corrected(values), by_definition(values))


def test_false_claims_along_the_clip_are_as_rare_as_one_test_allows():
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((2000, 200, 16)).cumsum(axis=2) / np.sqrt(np.arange(1, 17))
    values = np.exp(walk)
    single = (values[:, :1] <= values).mean(axis=1) <= 0.01
    assert single.any(axis=1).mean() > 0.03
    any_named = np.array([(corrected(one) <= 0.01).any() for one in values])
    low, high = stats.binom.ppf([0.0005, 0.9995], len(values), 0.01)
    assert low <= any_named.sum() <= high


def test_equal_frames_do_not_disturb_the_others():
    clips = draws((PAIRS, PAIRS), 0.8, 4)[..., 0, :].transpose(1, 0, 2)
    clips[N:, :2] = clips[:N, :2]  # conditioning frames, which a prediction repeats
    clips[N:, 2:] += 2
    found = distances_along(*clips_of(clips), MEASURE, find_units(PAIRS, PAIRS))
    np.testing.assert_array_equal(found.p_values, [1, 1, 0.005, 0.005])
