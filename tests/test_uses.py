"""The library in every place that JAX code lives, each time against one number of NumPy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uses

RELATIVE_ERROR = 1e-4


def expected(name: str, place: str) -> float:
    computation = uses.COMPUTATIONS[name]
    if "grad" in place:
        return computation.slope()
    return computation.expected(computation.real, computation.fake)


@pytest.mark.filterwarnings("ignore:.*leave the covariance singular")
@pytest.mark.parametrize("closed_over", [True, False], ids=["closed over", "argument"])
@pytest.mark.parametrize("place", uses.PLACES)
@pytest.mark.parametrize("name", uses.COMPUTATIONS)
def test_one_device(name: str, place: str, closed_over: bool):
    got = float(uses.run(name, place, closed_over))
    assert got == pytest.approx(expected(name, place), rel=RELATIVE_ERROR)


def test_eight_devices():
    environment = {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(Path(uses.__file__).parent),
    }
    result = subprocess.run(
        [sys.executable, uses.__file__],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    numbers = json.loads(result.stdout)
    assert len(numbers) > 110
    for use, got in numbers.items():
        name, place, *_ = use.split(", ")
        name = name if name in uses.COMPUTATIONS else "call"
        assert got == pytest.approx(expected(name, place), rel=RELATIVE_ERROR), use
