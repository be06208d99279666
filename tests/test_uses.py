"""The library in every place that JAX code lives, each time against one number of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import uses

from srvp_fd_jax import encoding


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
        monkeypatch.setattr(encoding, "on_host", lambda _: False)
        got = MASKED[name](*map(jnp.asarray, arrays))
    elif place == "jit":
        got = jax.jit(MASKED[name])(*arrays)
    else:
        x, *rest = arrays
        got = jax.jit(lambda x: MASKED[name](x, *rest))(x)
    assert float(got) == pytest.approx(uses.expected("call", "eager"), rel=1e-4)


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
