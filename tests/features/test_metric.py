import copy

import jax
import numpy as np
import orbax.checkpoint
import pytest
import uses
from flax import nnx

import srvp_fd_jax

REAL, FAKE = uses.REAL, uses.FAKE


@pytest.fixture(scope="module")
def calculator():
    """Of a network that compiles at once, and that NumPy computes too."""
    return uses.CALCULATOR.only("static_content")


@pytest.fixture(scope="module")
def real(calculator):
    return calculator.statistics([REAL])


@pytest.fixture
def metric(calculator, real):
    return srvp_fd_jax.DistanceMetric(calculator, real)


def expected(fake=FAKE):
    return pytest.approx(uses.COMPUTATIONS["call"].expected(REAL, fake), rel=1e-4)


def number(metric):
    return float(metric.compute()["static_content"])


def test_batches_give_the_distance_of_all_clips(metric):
    for batch in np.split(FAKE, 4):
        metric.update(clips=batch)
    assert number(metric) == expected()


def test_reset_forgets_what_came_before(metric):
    metric.update(clips=REAL)
    metric.reset()
    metric.update(clips=FAKE)
    assert number(metric) == expected()


def test_among_other_metrics_in_a_jitted_step(metric):
    metrics = nnx.MultiMetric(distance=metric, loss=nnx.metrics.Average("loss"))

    @nnx.jit
    def step(metrics, batch):
        metrics.update(clips=batch, loss=batch.mean())

    for _ in range(2):
        metrics.reset()
        for batch in np.split(FAKE, 4):
            step(metrics, batch)
        computed = nnx.jit(lambda metrics: metrics.compute())(metrics)
        assert float(computed["distance"]["static_content"]) == expected()
        assert float(computed["loss"]) == pytest.approx(FAKE.mean(), rel=1e-4)


@pytest.mark.parametrize("jit", [lambda f: f, nnx.jit], ids=["eager", "jit"])
def test_masked_clips_do_not_count(metric, jit):
    metrics = nnx.MultiMetric(distance=metric, loss=nnx.metrics.Average("loss"))
    clips, mask = uses.padded(FAKE)
    update = jit(lambda metrics, mask, **given: metrics.update(mask=mask, **given))
    for i in (slice(0, 24), slice(24, 48)):
        update(metrics, mask[i], clips=clips[i], loss=np.ones(24, np.float32))
    assert number(metric) == expected()
    assert int(metric.generated["static_content"].count) == mask.sum()


@pytest.mark.parametrize("name", ["masks", "weights", "sample_weight", "where", "is_valid"])
def test_what_seems_to_be_a_mask_is_refused(metric, name):
    with pytest.raises(ValueError, match=f"{name}: .*`mask`"):
        metric.update(clips=FAKE, **{name: np.ones(len(FAKE))})
    metric.update(clips=FAKE, loss=np.ones(len(FAKE)), weight_norm=np.float32(1), weights=None)
    assert number(metric) == expected()


update_in_jit = nnx.jit(lambda metric, clips, mask: metric.update(clips=clips, mask=mask))
ALL = np.ones(len(FAKE), bool)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (2 * FAKE - 1, r"fake: got values from -\S+ to \S+, expected floats in \[0, 1\]"),
        (FAKE / 255, r"fake: the largest value of all clips is 0\.0039"),
    ],
)
def test_ranges_of_traced_clips_are_warned_of(metric, clips, message):
    update_in_jit(metric, clips, ALL)
    with pytest.warns(UserWarning, match=message):
        assert number(metric) == expected(clips)
    metric.reset()
    update_in_jit(metric, FAKE, ALL)
    assert number(metric) == expected()


@pytest.mark.parametrize("value", [255, np.nan, np.inf])
def test_traced_clips_that_are_no_clips_are_refused(metric, value):
    one = FAKE.copy()
    one[3, -1, 2, 2] = value
    update_in_jit(metric, one, np.arange(len(FAKE)) != 3)
    update_in_jit(metric, FAKE[3:4], np.ones(1, bool))
    assert number(metric) == expected()
    update_in_jit(metric, one, ALL)
    with pytest.raises(ValueError, match="fake: got values"):
        metric.compute()


def without_side_effects(metric):
    """An update as a function of the state of Flax, and that state."""
    graph, state = nnx.split(metric)

    def step(state, clips):
        merged = nnx.merge(graph, state)
        merged.update(clips=clips)
        return nnx.state(merged)

    return step, state


@pytest.mark.parametrize("donated", [(), (0,)])
def test_splits_into_a_state_for_jit(metric, donated):
    step, state = without_side_effects(metric)
    jitted = jax.jit(step, donate_argnums=donated)
    for batch in np.split(FAKE, 4):
        state = jitted(state, batch)
    nnx.update(metric, state)
    assert number(metric) == expected()


def test_metrics_of_the_same_statistics_share_a_program(calculator, real):
    traced = []

    @nnx.jit
    def step(metric, clips):
        traced.append(1)
        metric.update(clips=clips)

    for _ in range(3):
        metric = srvp_fd_jax.DistanceMetric(calculator, dict(real))
        step(copy.deepcopy(metric), FAKE)
    assert len(traced) == 1
    step(srvp_fd_jax.DistanceMetric(calculator, calculator.statistics([FAKE])), FAKE)
    assert len(traced) == 2


def test_scan_carries_it(metric):
    step, state = without_side_effects(metric)
    batches = FAKE.reshape(4, -1, *FAKE.shape[1:])
    state, _ = jax.lax.scan(lambda state, batch: (step(state, batch), None), state, batches)
    nnx.update(metric, state)
    assert number(metric) == expected()


def test_donation_leaves_weights_and_real_statistics_alive(calculator):
    real = calculator.statistics([REAL])
    metric = srvp_fd_jax.DistanceMetric(calculator, real)
    update = nnx.jit(lambda metric, clips: metric.update(clips=clips), donate_argnums=0)
    for _ in range(2):
        metric.reset()
        for batch in np.split(FAKE, 4):
            update(metric, batch)
        assert number(metric) == expected()
    assert float(calculator.distances(REAL, FAKE)["static_content"]) == expected()
    for x in jax.tree.leaves(real):
        x.delete()  # which raises an error if it was donated
    assert number(metric) == expected()


def test_a_checkpoint_holds_the_generated_clips_only(
    metric, calculator, real, tmp_path, without_type_checks
):
    other = copy.deepcopy(metric)
    metric.update(clips=FAKE)
    state = nnx.state(metric)
    shapes = [x.shape for x in jax.tree.leaves(state)]
    assert shapes == [x.shape for x in jax.tree.leaves(calculator.empty())]
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "metric", state)
        checkpointer.wait_until_finished()
        nnx.update(other, checkpointer.restore(tmp_path / "metric", nnx.state(other)))
    assert number(other) == expected()
    abstract = nnx.eval_shape(lambda: srvp_fd_jax.DistanceMetric(calculator, real))
    assert [x.shape for x in jax.tree.leaves(nnx.state(abstract))] == shapes


def test_an_optimiser_sees_no_parameters_in_it(metric):
    assert not nnx.state(metric, nnx.Param)


def test_wrong_use_is_told(metric):
    with pytest.raises(ValueError, match=r"clips: got \['frames'\], but not 'clips'"):
        metric.update(frames=FAKE)
    with pytest.raises(ValueError, match="fake: got 0 samples, a distance needs at least 2"):
        metric.compute()
    with pytest.raises(ValueError, match="clips: got clips with 1 frames, but 'static_content'"):
        metric.update(clips=FAKE[:, :1])


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (np.zeros((3, 5)), "real: got a ndarray, expected the statistics of static_content"),
        ({"frame": 1}, "real: got frame, expected the statistics of static_content"),
    ],
)
def test_other_statistics_are_refused(calculator, real, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        srvp_fd_jax.DistanceMetric(calculator, real)
