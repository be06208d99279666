"""A distance of one's own: one state, one function of two, one entry in the registry."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import srvp_fd_jax
from srvp_fd_jax import DISTANCES, cli, load_statistics
from srvp_fd_jax.demo.moving_digits import moving_digits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """The number of samples and the sum of their features."""

    number: Float[Array, "*stack"]
    total: Float[Array, "*stack d"]
    source: tuple[tuple[str, str], ...] = dataclasses.field(default=(), metadata={"static": True})

    dim = property(lambda self: self.total.shape[-1])
    count = property(lambda self: self.number)

    def fold(self, features, mask, variances, division):
        counts = jnp.ones(len(features)) if mask is None else jnp.float32(mask)
        return self._plus(counts.sum(), counts @ features)

    def merge(self, other):
        return self._plus(other.number, other.total)

    def reduce(self):
        return dataclasses.replace(self, number=self.number.sum(0), total=self.total.sum(0))

    def _plus(self, number, total):
        return dataclasses.replace(self, number=self.number + number, total=self.total + total)


@dataclasses.dataclass(frozen=True)
class MeanDistance:
    """The squared distance between means."""

    least = 1
    kind = "distance"

    def empty(self, dim, mixture, most=None):
        return Sums(jnp.zeros(()), jnp.zeros(dim))

    def caution(self, count, dim):
        return "one sample has no spread" if count == 1 else None

    def between(self, named):
        s1, s2 = named.values()
        return jnp.sum((s1.total / s1.number - s2.total / s2.number) ** 2)


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    monkeypatch.setitem(DISTANCES, "means", MeanDistance())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    real, fake = (moving_digits(rng, n=24, length=5) for _ in range(2))
    return real, fake // 2


def expected(digits, clips):
    """From features of the network, by NumPy in float64."""
    means = (np.float64(digits.extract_features(c.reshape(-1, 64, 64, 1))).mean(0) for c in clips)
    return float(np.sum(np.subtract(*means) ** 2))


def test_calculator(digits, clips):
    calculator = srvp_fd_jax.Calculator("digits", distance="means").only("frame")
    real, fake = clips
    assert float(calculator.distances(real, fake)["frame"]) == pytest.approx(
        expected(digits, clips), rel=1e-4
    )
    statistics = calculator.statistics([fake[:10]])
    statistics = jax.jit(calculator.update)(statistics, fake[10:])
    distance = calculator.distance(calculator.statistics([real])["frame"], statistics["frame"])
    assert float(distance) == pytest.approx(expected(digits, clips), rel=1e-4)


def test_commands(digits, clips, tmp_path, capsys):
    sides = [str(tmp_path / f"{side}.npy") for side in ("real", "fake")]
    outputs = [str(tmp_path / f"{side}.safetensors") for side in ("real", "fake")]
    for path, side in zip(sides, clips, strict=True):
        np.save(path, side)
    options = ["--protocol", "srvp:digits:frame+distance=means"]
    commands = [
        ["compute", *sides, *options, "--json"],
        ["statistics", sides[0], *options, "-o", outputs[0]],
        ["statistics", sides[1], *options, "-o", outputs[1], "--generated"],
        ["compare", *outputs, "--distance", "means", "--json"],
        ["report", *sides, *options, "-o", str(tmp_path / "report.html"), "--json"],
    ]
    printed = []
    for command in commands:
        assert cli.main(command) == 0
        printed.append(capsys.readouterr().out)
    distances = [json.loads(printed[i])["results"][0]["distance"] for i in (0, 3, 4)]
    assert distances == pytest.approx([expected(digits, clips)] * 3, rel=1e-4)
    assert isinstance(load_statistics(outputs[0]), Sums)
    assert cli.main(["compare", *outputs]) == 1
    assert "Sums" in capsys.readouterr().err
