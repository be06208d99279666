"""A distance of one's own: one function of two statistics, and one entry in the registry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srvp_fd_jax
from srvp_fd_jax import DISTANCES
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.points import PointDistance


@dataclasses.dataclass(frozen=True)
class MeanDistance:
    """The squared distance between means."""

    least = 1
    kind = "distance"
    size = 0

    def caution(self, count, dim):
        return "one sample has no spread" if count == 1 else None

    def between(self, named):
        s1, s2 = named.values()
        return jnp.sum(((s1.mean - s2.mean) + (s1.mean_error - s2.mean_error)) ** 2)


def of_points(x, y, x_counts, y_counts):
    """The same of points."""
    means = (jnp.mean(f, axis=0, where=c[:, None]) for f, c in ((x, x_counts), (y, y_counts)))
    return jnp.sum(jnp.subtract(*means) ** 2)


OWN = {"means": MeanDistance(), "means_of_points": PointDistance(of_points, least=1)}


@pytest.fixture(params=OWN)
def name(request, monkeypatch):
    monkeypatch.setitem(DISTANCES, request.param, OWN[request.param])
    return request.param


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    real, fake = (moving_digits(rng, n=24, length=5) for _ in range(2))
    return real, fake // 2


@pytest.fixture(scope="module")
def expected(digits, clips):
    """From features of the network, by NumPy in float64."""
    means = (np.float64(digits.extract_features(c.reshape(-1, 64, 64, 1))).mean(0) for c in clips)
    return pytest.approx(float(np.sum(np.subtract(*means) ** 2)), rel=1e-4)


def test_calculator(name, expected, clips):
    calculator = srvp_fd_jax.Calculator("digits", distance=name).only("frame")
    real, fake = clips
    assert float(calculator.distances(real, fake)["frame"]) == expected
    statistics = calculator.statistics([fake[:10]])
    statistics = jax.jit(calculator.update)(statistics, fake[10:])
    distance = calculator.distance(calculator.statistics([real])["frame"], statistics["frame"])
    assert float(distance) == expected


def test_jobs(name, expected, clips, tmp_path):
    protocol = f"srvp:digits:frame+distance={name}"
    assert float(srvp_fd_jax.compute(*clips, protocol)) == expected
    paths = []
    for side, of_side in zip(("real", "fake"), clips, strict=True):
        paths.append(tmp_path / f"{side}.safetensors")
        srvp_fd_jax.statistics(of_side, protocol, side=side).save(paths[-1])
    assert float(srvp_fd_jax.compare(*paths, distance=name)) == expected
    (findings,) = srvp_fd_jax.report(*clips, protocol, tmp_path / "report.html")
    assert findings.distance == expected
    assert findings.floor.p_value == 0.005
