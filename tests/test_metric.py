import numpy as np
import pytest
from flax import nnx

import srvp_fd_jax
from srvp_fd_jax.demo.moving_digits import moving_digits


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    return [moving_digits(rng, n=48, length=5) for _ in range(2)]


@pytest.fixture(scope="module")
def dynamics(digits):
    return digits.only("dynamics")


@pytest.fixture
def metric(dynamics, clips):
    return srvp_fd_jax.DistanceMetric(dynamics, dynamics.statistics([clips[0]]))


def test_batches_give_the_distance_of_all_clips(metric, dynamics, clips):
    real, fake = clips
    for batch in np.split(fake, 3):
        metric.update(clips=batch)
    expected = dynamics.distances(real, fake)["dynamics"]
    assert float(metric.compute()["dynamics"]) == pytest.approx(float(expected), rel=1e-4)


def test_reset_forgets_what_came_before(metric, clips):
    metric.update(clips=clips[0])
    metric.reset()
    metric.update(clips=clips[1])
    once = float(metric.compute()["dynamics"])
    metric.reset()
    metric.update(clips=clips[1])
    assert float(metric.compute()["dynamics"]) == once


def test_among_other_metrics_in_a_jitted_step(metric, dynamics, clips):
    real, fake = clips
    metrics = nnx.MultiMetric(distance=metric, loss=nnx.metrics.Average("loss"))

    @nnx.jit
    def step(metrics, batch):
        metrics.update(clips=batch, loss=batch.mean())

    for batch in np.split(fake, 3):
        step(metrics, batch)
    computed = nnx.jit(lambda metrics: metrics.compute())(metrics)
    expected = dynamics.distances(real, fake)["dynamics"]
    assert float(computed["distance"]["dynamics"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(computed["loss"]) == pytest.approx(fake.mean(), rel=1e-4)
    metrics.reset()
    step(metrics, fake)
    again = metrics.compute()["distance"]["dynamics"]
    assert float(again) == pytest.approx(float(expected), rel=1e-4)


def test_an_optimiser_sees_no_parameters_in_it(metric):
    assert not nnx.state(metric, nnx.Param)


def test_wrong_use_is_told(metric, clips):
    with pytest.raises(ValueError, match=r"clips: got \['frames'\], but not 'clips'"):
        metric.update(frames=clips[0])
    with pytest.raises(ValueError, match="fake: got 0 samples, a distance needs at least 2"):
        metric.compute()
    with pytest.raises(ValueError, match="clips: got clips with 4 frames, but 'dynamics'"):
        metric.update(clips=clips[0][:, :4])


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (np.zeros((3, 5)), "real: got a ndarray, expected the statistics of dynamics"),
        ({"frame": 1}, "real: got frame, expected the statistics of dynamics"),
    ],
)
def test_other_statistics_are_refused(dynamics, real, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        srvp_fd_jax.DistanceMetric(dynamics, real)
