import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from srvp_fd_jax import DISTANCES, FeatureSample
from srvp_fd_jax.distances import points
from srvp_fd_jax.distances.kvd import kernel_distance
from srvp_fd_jax.distances.mind import mind
from srvp_fd_jax.distances.points import PointDistance
from srvp_fd_jax.distances.prdc import prdc


def mean_difference(x, y, x_counts, y_counts):
    means = (jnp.mean(f, axis=0, where=c[:, None]) for f, c in ((x, x_counts), (y, y_counts)))
    return jnp.sum(jnp.subtract(*means) ** 2)


MEANS = PointDistance(mean_difference, least=1, size=500)


def test_of_more_samples_than_its_size_it_compares_a_random_sample():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2)).astype(np.float32)
    x[:, 0] += np.linspace(-1, 1, 20_000)  # a sample of the first or last ones would show
    s = MEANS.empty(2, False)
    for start in range(0, 20_000, 1000):
        s = s.fold(x[start : start + 1000], None, None, 1)
    assert int(s.count) == 20_000
    assert int(s.held.sum()) == 500
    zero = MEANS.empty(2, False).fold(np.zeros((5, 2), np.float32), None, None, 1)
    of_sample = float(MEANS.between({"x": s, "y": zero}))
    assert of_sample < 16 * x.var(axis=0).sum() / 500  # within 4 standard errors
    mean = np.asarray(s.features)[:, 0].mean(axis=0)
    assert of_sample == pytest.approx(np.sum(np.float64(mean) ** 2), rel=1e-4)


def test_of_a_mixture_it_compares_points_of_the_components():
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(500, 3)), np.array([0.01, 1, 25]) * np.ones((500, 1))
    means, variances = means.astype(np.float32), variances.astype(np.float32)
    s = MEANS.empty(3, True).fold(means, None, variances, 1)
    of_sides = [np.asarray(points._points(s, jax.random.key(side))) for side in (0, 1)]
    noise = [(f - np.asarray(s.features)[:, 0]) / np.sqrt([0.01, 1, 25]) for f in of_sides]
    for of_side in noise:
        assert np.abs(of_side.mean(axis=0)).max() < 0.2
        np.testing.assert_allclose(of_side.std(axis=0), 1, atol=0.15)
    # The two sides have independent noise, also for clips of equal keys.
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def test_points_follow_from_the_sample():
    means = np.zeros((40, 3), np.float32)
    s = MEANS.empty(3, True).fold(means, None, means + 1, 1)
    streamed = MEANS.empty(3, True)
    for start in (0, 15, 30):
        of_batch = means[start : start + 15]
        streamed = streamed.fold(of_batch, None, of_batch + 1, 1)
    of_both = (points._points(each, jax.random.key(0)) for each in (s, streamed))
    np.testing.assert_array_equal(*of_both)


def test_distances_of_a_mixture_tell_means_and_variances_apart():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(500, 3)).astype(np.float32)
    distance = dataclasses.replace(DISTANCES["kvd"], size=512)

    def state(shift: float, variance: float):
        empty = distance.empty(3, True)
        return empty.fold(means + np.float32(shift), None, np.full_like(means, variance), 1)

    plain = state(0, 0.1)
    same, moved, wider = (
        float(distance.between({"x": plain, "y": other}))
        for other in (plain, state(1, 0.1), state(0, 9))
    )
    assert abs(same) < min(moved, wider) / 10


def test_clips_of_several_vectors_are_refused():
    s = FeatureSample.empty(5, 2, vectors=3)
    with pytest.raises(ValueError, match="x: got 3 vectors per clip, expected single ones"):
        MEANS.between({"x": s, "y": s})


def test_own_sizes_are_kept_in_files(tmp_path, monkeypatch):
    from srvp_fd_jax import load_statistics
    from srvp_fd_jax.distances import states

    monkeypatch.setitem(DISTANCES, "means", MEANS)
    s = MEANS.empty(2, False).fold(np.ones((3, 2), np.float32), None, None, 1)
    states.save(s, tmp_path / "s.safetensors")
    assert load_statistics(tmp_path / "s.safetensors").size == 500
    monkeypatch.delitem(DISTANCES, "means")
    with pytest.raises(ValueError, match="unexpected names, shapes or types"):
        load_statistics(tmp_path / "s.safetensors")


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
