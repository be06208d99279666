"""What holds for every distance in the registry."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import ORACLES

from srvp_fd_jax import DISTANCES, FeatureStatistics
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.base import Distance, check_counts
from srvp_fd_jax.distances.points import PointDistance
from srvp_fd_jax.distances.provenance import mark
from srvp_fd_jax.distances.statistics import of_nothing

SMOOTH = ["frechet", "jedi", "jedi_unbiased", "kvd", "mind"]

pytestmark = pytest.mark.filterwarnings("ignore:.*leave the covariance singular")


@pytest.fixture(scope="module")
def features(digits) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features of real clips and of darker other ones."""
    rng = np.random.default_rng(0)
    real, fake = (moving_digits(rng, n=300, length=5) for _ in range(2))
    both = [digits.features(c) for c in (real, (fake * 0.9).astype(np.uint8))]
    outputs = {"frame": lambda f: f[:, 0], "static_content": lambda f: f}
    return {
        output: tuple(np.asarray(of(f[output])) for f in both) for output, of in outputs.items()
    }


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 6))
    return x.astype(np.float32), (1.2 * y + 0.3).astype(np.float32)


@functools.cache
def small_samples(name: str) -> Distance:
    """The distance of at most 64 points, if it takes points, so that it is fast."""
    distance = DISTANCES[name]
    is_of_points = isinstance(distance, PointDistance)
    return dataclasses.replace(distance, size=64) if is_of_points else distance


def state(distance: Distance, x: Any, mask: Any = None, variances: Any = None) -> FeatureStatistics:
    given = {"features": x} | ({} if variances is None else {"variances": variances})
    nothing = of_nothing(x.shape[1], variances is not None, distance.size)
    return nothing.fold({name: f[:, None] for name, f in given.items()}, mask)


def between(distance: Distance, x: Any, y: Any) -> Any:
    return distance.between({"x": state(distance, x), "y": state(distance, y)})


def test_every_distance_has_an_oracle():
    assert set(ORACLES) == set(DISTANCES) - {"frechet_eigh"}  # which is held to `frechet`


@pytest.mark.parametrize("output", ["frame", "static_content"])
@pytest.mark.parametrize("name", ORACLES)
def test_real_features_give_the_oracles_number(features, name: str, output: str):
    x, y = features[output]
    got = between(DISTANCES[name], x, y)
    assert got.shape == ()
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(ORACLES[name](x, y), rel=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_streams_merges_and_masks_are_alike(small, name: str):
    x, y = small
    distance = small_samples(name)
    of_y = state(distance, y)
    whole = float(distance.between({"x": state(distance, x), "y": of_y}))
    padded = np.full((64, 6), np.nan, np.float32)
    padded[5:45] = x
    counting = (np.arange(64) >= 5) & (np.arange(64) < 45)
    streamed = state(distance, x[:7])
    for start in range(7, 40, 11):
        streamed = jax.jit(FeatureStatistics.update)(streamed, x[start : start + 11])
    stacked = jax.vmap(lambda f: state(distance, f))(x.reshape(4, 10, 6))
    alike = {
        "streamed": streamed,
        "merged": state(distance, x[:13]).merge(state(distance, x[13:])),
        "reduced": stacked.reduce(),
        "masked": state(distance, padded, counting),
        "turned round": state(distance, x[::-1].copy()),
    }
    for how, of_x in alike.items():
        assert int(of_x.count) == 40, how
        got = float(distance.between({"x": of_x, "y": of_y}))
        assert got == pytest.approx(whole, rel=2e-4 if name == "frechet_eigh" else 1e-5), how


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_differences_of_the_oracle(small, name: str):
    x, y = small
    distance = small_samples(name)
    step = np.random.default_rng(1).normal(size=x.shape)
    gradient = jax.jit(jax.grad(lambda x: between(distance, x, y)))(x)
    h = 1e-5
    ahead, behind = (ORACLES[name](x + s * h * step, np.float64(y)) for s in (1, -1))
    expected = (ahead - behind) / (2 * h)
    assert np.sum(np.asarray(gradient) * step) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_finite_at_equal_sets_and_few_samples(small, name: str):
    x = small[0][:3]
    distance = small_samples(name)
    assert np.isfinite(jax.grad(lambda y: between(distance, x, y))(x)).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_kinds(small, name: str):
    """A distance is 0 for equal sets, an estimate is about 0, and a similarity falls."""
    x, y = small
    distance = small_samples(name)
    same, other = float(between(distance, x, x)), float(between(distance, x, y + 3))
    if distance.kind == "similarity":
        assert other < same
    elif distance.kind == "distance":
        assert 0 <= same < 1e-2 * other
    else:
        assert same < 1e-1 * other
        others = (between(distance, x[i : i + 20], x[20 - i : 40 - i]) for i in (0, 20))
        assert min(map(float, others)) < other / 10


@pytest.mark.parametrize("name", DISTANCES)
def test_bad_input(small, name: str):
    x, y = small
    distance = small_samples(name)
    of_x, narrow = state(distance, x), state(distance, y[:, :5])
    with pytest.raises(ValueError, match="got feature dimensions 6 and 5"):
        distance.between({"x": of_x, "y": narrow})
    other = mark(of_x, network="kth"), mark(of_x, network="bair")
    with pytest.raises(ValueError, match="network is 'kth' of one and 'bair' of the other"):
        distance.between(dict(zip("xy", other, strict=True)))
    with pytest.raises(ValueError, match="a Gaussian mixture and the other is not"):
        distance.between({"x": of_x, "y": state(distance, y, None, y**2)})
    with pytest.raises(ValueError, match="y: holds values that are not finite"):
        distance.between({"x": of_x, "y": state(distance, jnp.asarray(y).at[0, 0].set(jnp.nan))})
    with pytest.raises(
        ValueError, match=rf"y: got {distance.least - 1} samples, .* {distance.least}"
    ):
        check_counts(distance, {"x": 50, "y": distance.least - 1}, 6)


@pytest.mark.parametrize("name", [name for name, of in DISTANCES.items() if of.size])
def test_statistics_without_a_sample_are_told(small, name: str):
    with_sample, without = (FeatureStatistics.from_features(small[0], sample=k) for k in (64, 0))
    with pytest.raises(ValueError, match="y: got statistics without a sample of the clips"):
        DISTANCES[name].between({"x": with_sample, "y": without})


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_beyond_float32_are_errors(small, name: str):
    large, larger = (np.float32(1e25) * f for f in small)
    with pytest.raises(ValueError, match=r"got (inf|nan) from values of up to|not finite"):
        between(small_samples(name), large, larger)
