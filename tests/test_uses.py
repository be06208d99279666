"""The library in every place that JAX code lives, each time against one number of NumPy."""

import pytest
import uses


@pytest.mark.filterwarnings("ignore:.*leave the covariance singular")
@pytest.mark.parametrize("closed_over", [True, False], ids=["closed over", "argument"])
@pytest.mark.parametrize("place", uses.PLACES)
@pytest.mark.parametrize("name", uses.COMPUTATIONS)
def test_one_device(name: str, place: str, closed_over: bool):
    got = float(uses.run(name, place, closed_over))
    assert got == pytest.approx(uses.expected(name, place), rel=1e-4)
