"""A network of one's own: one class and one entry in the registry, and everything works with it."""

import dataclasses
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clips import moving, write_video
from flax import nnx

import srvp_fd_jax
from srvp_fd_jax import NETWORKS, PROTOCOLS, Calculator, Protocol, load_network
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.base import (
    Architecture,
    FrozenNetwork,
    Network,
    Output,
    Weights,
    arrays_of,
)


@dataclasses.dataclass(frozen=True)
class Colours(Architecture):
    """The mean colour of a clip, and how it differs from frame to frame, through a linear layer."""

    family = "colours"
    size, channels = 16, 3
    outputs = {"mean": Output(4), "change": Output(4, frames=2, per_frame=True)}  # noqa: RUF012

    @classmethod
    def from_config(cls, config):
        return cls()

    def module(self, precision, rngs):
        return nnx.Linear(3, 4, rngs=rngs)

    def features(self, module, clips, outputs):
        colours = clips.mean(axis=(2, 3))
        changes = colours - jnp.roll(colours, 1, axis=1)
        inputs = {"mean": colours.mean(axis=1, keepdims=True), "change": changes}
        return {output: module(inputs[output]) for output in outputs}


ARRAYS = {"kernel": np.float32(np.arange(12).reshape(3, 4) % 5), "bias": np.zeros(4, np.float32)}


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    of_colours = Weights("colours", Colours(), ARRAYS, {}, "0" * 64)
    entry = Network(Colours, find=lambda: Path("nowhere"), read=lambda path: of_colours)
    monkeypatch.setitem(NETWORKS, "colours", entry)
    own = Protocol(name="own", network="colours", output="mean", resize="bilinear", ddof=1)
    monkeypatch.setitem(PROTOCOLS, "own", own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Videos of moving squares, real ones and brighter ones, and their frames as decoded."""
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for side, add in (("real", 0), ("fake", 40)):
        for i in range(8):
            frames = moving(5, 16, 16, seed=i).astype(int) // 2 + add + rng.integers(0, 30, 3)
            write_video(root / side / f"{i}.mp4", frames.clip(0, 255).astype(np.uint8))
    return root / "real", root / "fake"


def expected_distance(folders):
    """The distance of the means of colours, by NumPy in float64."""
    from clips import decode
    from reference import frechet_distance_float64

    clips = ([decode(p) / 255 for p in sorted(folder.glob("*.mp4"))] for folder in folders)
    features = ([clip.mean(axis=(0, 1, 2)) @ ARRAYS["kernel"] for clip in of] for of in clips)
    return frechet_distance_float64(*map(np.array, features))


def test_calculator(folders):
    calculator = Calculator("colours")
    clips = np.random.default_rng(0).random((40, 5, 16, 16, 3), np.float32)
    statistics = calculator.statistics([clips[:15], clips[15:]])
    assert {output: int(s.count) for output, s in statistics.items()} == {"mean": 40, "change": 200}
    features = calculator.features(clips)
    expected = clips.mean(axis=(1, 2, 3)) @ ARRAYS["kernel"]
    np.testing.assert_allclose(features["mean"], expected, rtol=1e-5)
    np.testing.assert_allclose(statistics["mean"].mean, expected.mean(axis=0), rtol=1e-5)
    assert features["change"].shape == (40, 5, 4)


def test_a_network_in_memory_needs_no_entry(folders, monkeypatch):
    registered = Calculator("colours", distance="kvd")
    monkeypatch.delitem(NETWORKS, "colours")
    network = FrozenNetwork(jax.tree.map(jnp.asarray, ARRAYS), Colours(), "colours")
    made = Calculator(network, distance="kvd")
    assert made.protocols == registered.protocols
    x, y = np.random.default_rng(0).random((2, 9, 5, 16, 16, 3), np.float32)
    chex.assert_trees_all_equal(made.statistics([x]), registered.statistics([x]))
    chex.assert_trees_all_equal(made.distances(x, y), registered.distances(x, y))


@pytest.mark.filterwarnings("ignore:.*leave the covariance singular:UserWarning")
def test_a_network_in_memory_is_known_by_its_weights(tmp_path):
    digits = load_network("digits")
    module = digits.module()
    module.content.projection.kernel[...] *= 1.5  # in place of training
    trained = FrozenNetwork(arrays_of(module), digits.architecture, "own")
    arrays = {name: np.asarray(array) for name, array in trained.arrays.items()}
    path = tmp_path / "own.safetensors"
    bundled = weights.load_weights("digits")
    weights.save(dataclasses.replace(bundled, name="own", arrays=arrays), path)
    x, y = (moving_digits(np.random.default_rng(i), n=10, length=5) for i in range(2))
    made, saved = (
        Calculator(of).only("static_content") for of in (trained, load_network("own", path))
    )
    statistics = made.statistics([x])["static_content"]
    chex.assert_trees_all_equal(statistics, saved.statistics([x])["static_content"])
    other = Calculator(digits).statistics([x])["static_content"]
    with pytest.raises(ValueError, match=r"^statistics: "):
        made.distance(statistics, other)
    inside = jax.jit(lambda network: Calculator(network).distances(x, y))(trained)
    of_file = saved.distances(x, y)["static_content"]
    assert float(inside["static_content"]) == pytest.approx(float(of_file), rel=1e-4)


def test_a_network_in_memory_has_its_weights_and_precision():
    network = load_network("digits", precision="bfloat16")
    assert Calculator(network).network.precision == "bfloat16"
    assert Calculator(network, precision="float32").network.precision == "float32"
    with pytest.raises(ValueError, match=r"^weights: "):
        Calculator(network, weights="digits.safetensors")
    with pytest.raises(ValueError, match="missing encoder"):
        Calculator(dataclasses.replace(network, arrays={}))


def test_compute(folders):
    result = srvp_fd_jax.compute(*folders, "own")
    assert float(result) == pytest.approx(expected_distance(folders), rel=1e-4)


def test_jobs(folders, tmp_path):
    paths = [tmp_path / f"{side}.safetensors" for side in ("real", "fake")]
    for side, folder, path in zip(("real", "fake"), folders, paths, strict=True):
        srvp_fd_jax.statistics(folder, "own", side=side).save(path)
    compared = float(srvp_fd_jax.compare(*paths))
    (found,) = srvp_fd_jax.report(*folders, "own", tmp_path / "own.html")
    assert [compared, found.distance] == pytest.approx([expected_distance(folders)] * 2, rel=1e-4)
    assert "own" in (tmp_path / "own.html").read_text()


def test_weights_are_kept_and_read(tmp_path):
    path = tmp_path / "colours.safetensors"
    weights.save(weights.load_weights("colours"), path)
    found = weights.load_weights("colours", path)
    assert found.architecture == Colours()
    with pytest.raises(ValueError, match="holds the model 'colours', but 'digits' was asked for"):
        weights.load_weights("digits", path)


def test_nothing_of_it_is_cached(folders, monkeypatch):
    """Its weights and its code may change from one run to the next."""
    first = srvp_fd_jax.compute(*folders, "own", cache=Path("cache"))
    changed = Weights("colours", Colours(), ARRAYS | {"kernel": 2 * ARRAYS["kernel"]}, {}, "0" * 64)
    entry = Network(Colours, find=lambda: Path("nowhere"), read=lambda path: changed)
    monkeypatch.setitem(NETWORKS, "colours", entry)
    second = srvp_fd_jax.compute(*folders, "own", cache=Path("cache"))
    assert float(second) == pytest.approx(4 * float(first), rel=1e-4)
    assert [first.real.videos.cached, second.real.videos.cached] == [False, False]
