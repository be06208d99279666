"""A network of one's own: one class and one entry in the registry, and everything works with it."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from clips import moving, write_video
from flax import nnx

import srvp_fd_jax
from srvp_fd_jax import NETWORKS, PROTOCOLS, Protocol, cli
from srvp_fd_jax.networks.base import Architecture, Network, Output, Weights


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
    weights = Weights("colours", Colours(), ARRAYS, {}, "0" * 64)
    entry = Network(Colours, find=lambda: Path("nowhere"), read=lambda path: weights)
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
    calculator = srvp_fd_jax.Calculator("colours")
    clips = np.random.default_rng(0).random((40, 5, 16, 16, 3), np.float32)
    statistics = calculator.statistics([clips[:15], clips[15:]])
    assert {output: int(s.count) for output, s in statistics.items()} == {"mean": 40, "change": 200}
    features = calculator.features(clips)
    expected = clips.mean(axis=(1, 2, 3)) @ ARRAYS["kernel"]
    np.testing.assert_allclose(features["mean"], expected, rtol=1e-5)
    np.testing.assert_allclose(statistics["mean"].mean, expected.mean(axis=0), rtol=1e-5)
    assert features["change"].shape == (40, 5, 4)


def test_compute(folders):
    result = srvp_fd_jax.compute(*folders, "own")
    assert float(result) == pytest.approx(expected_distance(folders), rel=1e-4)


def test_commands(folders, tmp_path, capsys):
    real, fake = map(str, folders)
    outputs = [str(tmp_path / f"{side}.safetensors") for side in ("real", "fake")]
    commands = [
        ["compute", real, fake, "--protocol", "own", "--json"],
        ["stats", real, "--protocol", "own", "-o", outputs[0]],
        ["stats", fake, "--protocol", "own", "-o", outputs[1], "--fake"],
        ["compare", *outputs, "--json"],
        ["report", real, fake, "--protocol", "own", "-o", str(tmp_path / "own.html"), "--json"],
    ]
    printed = []
    for command in commands:
        assert cli.main(command) == 0
        printed.append(capsys.readouterr().out)
    distances = [json.loads(printed[i])["results"][0]["distance"] for i in (0, 3, 4)]
    assert distances == pytest.approx([expected_distance(folders)] * 3, rel=1e-4)
    assert "own" in (tmp_path / "own.html").read_text()


def test_weights_are_kept_and_read(tmp_path):
    from srvp_fd_jax import weights

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
    assert [first.real.cached, second.real.cached] == [False, False]
