import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats

from srvp_fd_jax import DISTANCES, FeatureStatistics
from srvp_fd_jax.distances import points
from srvp_fd_jax.distances.kvd import kernel_distance
from srvp_fd_jax.distances.mind import mind
from srvp_fd_jax.distances.points import PointDistance
from srvp_fd_jax.distances.prdc import prdc


def mean_difference(x, y, x_counts, y_counts):
    means = (jnp.mean(f, axis=0, where=c[:, None]) for f, c in ((x, x_counts), (y, y_counts)))
    return jnp.sum(jnp.subtract(*means) ** 2)


MEANS = PointDistance(mean_difference, least=1, size=500)


def statistics(features, variances=None, size=500) -> FeatureStatistics:
    return FeatureStatistics.from_features(features, None, variances, sample=size)


def test_of_more_samples_than_its_size_it_compares_a_random_sample():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2)).astype(np.float32)
    x[:, 0] += np.linspace(-1, 1, 20_000)  # a sample of the first or last ones would show
    zero = statistics(np.zeros((5, 2), np.float32))
    for size in (500, 1000):  # of the statistics
        s = FeatureStatistics.empty(2, sample=size)
        for start in range(0, 20_000, 1000):
            s = s.update(x[start : start + 1000])
        assert int(s.count) == 20_000
        compared = s.sample.single_vectors(500)
        assert int(compared.held.sum()) == 500
        of_sample = float(MEANS.between({"x": s, "y": zero}))
        assert of_sample < 16 * x.var(axis=0).sum() / 500  # within 4 standard errors
        mean = np.asarray(compared.features)[:, 0].mean(axis=0)
        assert of_sample == pytest.approx(np.sum(np.float64(mean) ** 2), rel=1e-4)


def test_of_a_mixture_it_compares_points_of_the_components():
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(500, 3)), np.array([0.01, 1, 25]) * np.ones((500, 1))
    means, variances = means.astype(np.float32), variances.astype(np.float32)
    s = statistics(means, variances).sample
    of_sides = [np.asarray(points._points(s, jax.random.key(side))) for side in (0, 1)]
    noise = [(f - np.asarray(s.features)[:, 0]) / np.sqrt([0.01, 1, 25]) for f in of_sides]
    for of_side in noise:
        assert np.abs(of_side.mean(axis=0)).max() < 0.2
        np.testing.assert_allclose(of_side.std(axis=0), 1, atol=0.15)
    # The two sides have independent noise, also for clips of equal keys.
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def test_points_follow_from_the_sample():
    means = np.zeros((40, 3), np.float32)
    s = statistics(means, means + 1)
    streamed = FeatureStatistics.empty(3, mixture=True, sample=500)
    for start in (0, 15, 30):
        of_batch = means[start : start + 15]
        streamed = streamed.update(of_batch, variances=of_batch + 1)
    of_both = (points._points(each.sample, jax.random.key(0)) for each in (s, streamed))
    np.testing.assert_array_equal(*of_both)


def test_distances_of_a_mixture_tell_means_and_variances_apart():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(500, 3)).astype(np.float32)
    distance = dataclasses.replace(DISTANCES["kvd"], size=512)

    def state(shift: float, variance: float):
        return statistics(means + np.float32(shift), np.full_like(means, variance), 512)

    plain = state(0, 0.1)
    same, moved, wider = (
        float(distance.between({"x": plain, "y": other}))
        for other in (plain, state(1, 0.1), state(0, 9))
    )
    assert abs(same) < min(moved, wider) / 10


@pytest.mark.parametrize("clips", [100, 1000])
def test_of_clips_of_several_vectors_it_compares_single_ones(clips: int):
    x = np.random.default_rng(0).normal(size=(clips, 3, 2)).astype(np.float32)
    s = FeatureStatistics.empty(2, sample=1000, vectors=3).fold({"features": x})
    assert (int(s.count), s.sample.vectors) == (3 * clips, 3)
    of_sample = float(MEANS.between({"x": s, "y": statistics(np.zeros((5, 2), np.float32))}))
    if 3 * clips <= 500:
        expected = np.sum(np.float64(x).mean(axis=(0, 1)) ** 2)
        assert of_sample == pytest.approx(expected, rel=1e-4)
    chosen = np.asarray(s.sample.single_vectors(500).moments()["features"])[:, 0]
    rows = {tuple(row): i for i, row in enumerate(x.reshape(-1, 2).tolist())}
    places = [rows[tuple(row)] for row in chosen.tolist()]
    assert len({*places}) == min(3 * clips, 500)
    assert stats.chisquare(np.bincount(np.array(places) % 3)).pvalue > 0.01


ARRAYS = {
    "kernel_distance": kernel_distance,
    "mind": mind,
    "prdc": prdc,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_all_kinds(name: str):
    x, y = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    function = ARRAYS[name]
    expected = np.ravel(function(x, y))
    assert expected.dtype == np.float32
    counting = np.ones(30, bool)
    for a, b, *masks in (
        (np.float64(x), np.float64(y)),
        (x.tolist(), y.tolist()),
        (jnp.asarray(x), torch.tensor(y)),
        (x, y, counting, counting.tolist()),
    ):
        np.testing.assert_allclose(np.ravel(function(a, b, *masks)), expected, rtol=1e-6)
    half = np.ravel(function(np.float16(100 * x), np.float16(100 * y)))
    assert half.dtype == np.float32
    assert np.isfinite(half).all()
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.ravel(function(x, y)), expected, rtol=1e-6)
        np.testing.assert_allclose(
            np.ravel(function(jnp.float64(x), jnp.float64(y))), expected, rtol=1e-6
        )


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_points(name: str, without_type_checks):
    x = np.ones((30, 4), np.float32)
    first, second = ("real", "fake") if name == "prdc" else ("x", "y")
    for wrong in (np.ones((30, 4), int), np.ones((30, 4), bool), np.ones((30, 4), complex)):
        with pytest.raises(
            ValueError, match=rf"{first}: got {wrong.dtype} \(30, 4\), expected float"
        ):
            ARRAYS[name](wrong, x)
    with pytest.raises(
        ValueError, match=rf"{second}: got float32 \(30,\), expected floats \[n, d\]"
    ):
        ARRAYS[name](x, x[:, 0])
    with pytest.raises(ValueError, match=f"{second}: got 3 dimensions, expected 4 as {first}"):
        ARRAYS[name](x, x[:, :3])
    for mask in (np.ones(30, int), np.ones(29, bool)):
        with pytest.raises(ValueError, match=rf"{second}_counts: got {mask.dtype} \("):
            ARRAYS[name](x, x, None, mask)


def test_wrong_distances_are_refused(without_type_checks):
    with pytest.raises(ValueError, match="kind: got 'score', allowed are distance, estimate"):
        PointDistance(mean_difference, least=2, kind="score")
    with pytest.raises(ValueError, match="size: got 10, expected at least 20"):
        PointDistance(mean_difference, least=20, size=10)
    with pytest.raises(ValueError, match="directions: got 0, expected at least 1"):
        mind(np.ones((3, 2)), np.ones((3, 2)), directions=0)
    with pytest.raises(ValueError, match="neighbours: got 0, expected at least 1"):
        prdc(np.ones((3, 2)), np.ones((3, 2)), neighbours=0)


def test_few_points_for_the_neighbours_are_nan():
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    assert np.isfinite(prdc(x, x)).all()
    assert np.isnan(prdc(x[:5], x)).all()
    assert np.isnan(prdc(x, x, np.arange(6) < 5)).all()


def test_a_random_sample_is_told():
    assert MEANS.caution(500, 2) is None
    assert MEANS.caution(501, 2) == "of 501 samples, 500 random ones are compared"
