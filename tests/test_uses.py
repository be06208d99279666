"""The library in every place that JAX code lives, each time against one number of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import uses

import srvp_fd_jax
from srvp_fd_jax import FeatureStatistics
from srvp_fd_jax.distances.base import range_cautions
from srvp_fd_jax.features import extract


@pytest.mark.filterwarnings("ignore:.*leave the covariance singular")
@pytest.mark.parametrize("closed_over", [True, False], ids=["closed over", "argument"])
@pytest.mark.parametrize("place", uses.PLACES)
@pytest.mark.parametrize("name", uses.COMPUTATIONS)
def test_one_device(name: str, place: str, closed_over: bool):
    got = float(uses.run(name, place, closed_over))
    assert got == pytest.approx(uses.expected(name, place), rel=1e-4)


CALCULATOR = uses.CALCULATOR.only("static_content")
MASKED = {
    "distances": lambda x, x_mask, y, y_mask: CALCULATOR.distances(
        x, y, x_mask=x_mask, y_mask=y_mask
    )["static_content"],
    "statistics": lambda *given: CALCULATOR.distance(
        *(
            CALCULATOR.statistics([(x[:20], mask[:20]), (x[20:], mask[20:])])["static_content"]
            for x, mask in (given[:2], given[2:])
        )
    ),
    "update": lambda *given: CALCULATOR.distance(
        *(
            CALCULATOR.update(CALCULATOR.empty(), x, mask=mask)["static_content"]
            for x, mask in (given[:2], given[2:])
        )
    ),
}


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("place", ["numpy", "device", "jit", "jit of closed over"])
def test_masked_clips_do_not_count(name, place, monkeypatch):
    arrays = [*uses.padded(uses.REAL), *uses.padded(uses.FAKE)]
    if place == "numpy":
        got = MASKED[name](*arrays)
    elif place == "device":
        monkeypatch.setattr(extract, "on_host", lambda _: False)
        got = MASKED[name](*map(jnp.asarray, arrays))
    elif place == "jit":
        got = jax.jit(MASKED[name])(*arrays)
    else:
        x, *rest = arrays
        got = jax.jit(lambda x: MASKED[name](x, *rest))(x)
    assert float(got) == pytest.approx(uses.expected("call", "eager"), rel=1e-4)


def test_padding_of_any_value_has_a_gradient_of_zero():
    x, mask = uses.padded(uses.REAL)
    x = np.where(mask[:, None, None, None, None], np.float32(x), np.nan)

    def distance(x, mask=None):
        return CALCULATOR.distances(x, uses.FAKE, x_mask=mask)["static_content"]

    gradient = np.asarray(jax.grad(distance)(x, mask))
    assert (gradient[~mask] == 0).all()
    np.testing.assert_allclose(gradient[mask], jax.grad(distance)(x[mask]), rtol=1e-3, atol=1e-6)


def test_counts_are_those_of_the_clips_that_count():
    x, mask = uses.padded(uses.REAL)
    assert CALCULATOR.statistics([(x, mask), x[mask]])["static_content"].count == 2 * mask.sum()
    one = np.arange(len(x)) == 1
    with pytest.raises(ValueError, match="y: got 1 samples, a distance needs at least 2"):
        CALCULATOR.distances(x, x, x_mask=mask, y_mask=one)


@pytest.mark.parametrize("mask", [np.ones(47, bool), np.ones(48), np.ones((48, 1), bool)])
def test_wrong_masks_are_told(mask):
    x, _ = uses.padded(uses.REAL)
    with pytest.raises(ValueError, match=r"mask: got .*, expected bool \(48,\)"):
        CALCULATOR.update(CALCULATOR.empty(), x, mask=mask)
    with pytest.raises(ValueError, match=r"y_mask: got .*, expected bool \(48,\)"):
        CALCULATOR.distances(uses.REAL, x, y_mask=mask)


def range_of(statistics):
    return pytest.approx(tuple(np.asarray(statistics["static_content"].value_range)), abs=1e-7)


def test_statistics_carry_the_range_of_their_values(tmp_path):
    x, looked_at = uses.REAL, uses.REAL[:, -2:]  # of static_content, by the stand-in
    whole = looked_at.min(), looked_at.max()
    assert whole == range_of(CALCULATOR.statistics(np.split(x, 4)))
    as_bytes = np.uint8(x * 200)
    expected = as_bytes[:, -2:].min() / 255, as_bytes[:, -2:].max() / 255
    assert expected == range_of(jax.jit(lambda x: CALCULATOR.statistics([x]))(as_bytes))
    first, second = (CALCULATOR.statistics([part])["static_content"] for part in np.split(x, 2))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), first, second)
    for both, of in (
        (first.merge(second), looked_at),
        (stacked.reduce(), looked_at),
        (second.update(np.ones((3, uses.DIM))), looked_at[16:]),  # of features, without a range
    ):
        both.save(tmp_path / "s.safetensors")
        read = srvp_fd_jax.load_statistics(tmp_path / "s.safetensors")
        assert tuple(read.value_range) == pytest.approx((of.min(), of.max()), abs=1e-7)
    for unknown in (
        CALCULATOR.empty()["static_content"],
        FeatureStatistics.from_features(np.eye(3)),
    ):
        assert range_cautions("x", unknown) == []


@pytest.mark.parametrize("dark", [uses.FAKE / 255, np.uint8(uses.FAKE > 0.5)])
@pytest.mark.parametrize("name", MASKED)
def test_sets_without_a_bright_value_are_warned_of(name, dark):
    ones = np.ones(len(dark), bool)
    message = "(y|fake): the largest value of all clips is 0.0039"
    with pytest.warns(UserWarning, match=message) as caught:
        MASKED[name](uses.REAL, ones, dark, ones)
    assert len(caught) == 1


def test_distances_of_statistics_check_their_range():
    made = [
        jax.jit(lambda x: CALCULATOR.statistics([x]))(x)["static_content"]
        for x in (uses.REAL, 2 * uses.FAKE - 1, 255 * uses.FAKE)
    ]
    for function, name in (
        (CALCULATOR.distance, "fake"),
        (srvp_fd_jax.frechet_distance_from_statistics, "s2"),
        (srvp_fd_jax.compute, "fake"),
    ):
        with pytest.warns(UserWarning, match=f"{name}: got values from -"):
            function(made[0], made[1])
        with pytest.raises(ValueError, match=f"{name}: got values from .* to 25"):
            function(made[0], made[2])
