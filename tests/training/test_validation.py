"""Validation: the best of several predictions, and the distances of a set of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import clips_of, ours, tiny

from srvp_fd_jax import FrechetDistanceCalculator
from srvp_fd_jax.networks.weights import save
from srvp_fd_jax.training import checkpoints
from srvp_fd_jax.training.model import evaluation_draws
from srvp_fd_jax.training.recipes import Recipe
from srvp_fd_jax.training.step import model_of
from srvp_fd_jax.training.validation import baselines, predict, validate


@functools.cache
def arrays_of(recipe: Recipe) -> dict[str, jax.Array]:
    return ours(tiny())[1].arrays


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """PSNR in dB of each frame and channel, averaged over both."""
    errors = ((frames.astype(np.float64) - truth) ** 2).mean((2, 3))
    return (10 * np.log10(1 / errors)).mean((1, 2))


@pytest.mark.parametrize("samples", [1, 12])
def test_the_best_prediction_is_the_closest_of_all(samples: int):
    recipe = tiny(samples=samples)
    clips, key = clips_of(9, recipe), jax.random.key(3)
    arrays = arrays_of(recipe)
    found, best, first = predict(arrays, clips, key, recipe)
    truth = clips / 255.0
    model, frames = model_of(arrays, recipe), []
    for one in jax.random.split(key, samples):
        draws = evaluation_draws(one, recipe.architecture, clips=8, given=3, frames=6)
        given = jnp.asarray(truth[:, :3], jnp.float32)
        frames.append(np.asarray(model(given, draws).frames))
    chosen = np.argmax([psnr(f, truth) for f in frames], axis=0)
    expected = np.stack([frames[s][i] for i, s in enumerate(chosen)])
    np.testing.assert_allclose(found, psnr(expected[:, 3:], truth[:, 3:]), rtol=1e-5)
    assert np.abs(np.asarray(best, int) - np.round(255 * expected)).max() <= 1
    assert np.abs(np.asarray(first, int) - np.round(255 * frames[0])).max() <= 1


def test_baselines_are_predictions_of_the_same_frames():
    clips = clips_of(0, tiny())
    truth, given = clips / 255.0, clips[:, :3] / 255.0
    blank = np.broadcast_to(given.mean((1, 2, 3), keepdims=True), truth[:, 3:].shape)
    last = np.broadcast_to(given[:, 2:], truth[:, 3:].shape)
    found = baselines(clips, 3)
    assert found["a blank frame"] == pytest.approx(psnr(blank, truth[:, 3:]).mean(), rel=1e-5)
    assert found["the last frame"] == pytest.approx(psnr(last, truth[:, 3:]).mean(), rel=1e-5)


def test_clips_in_parts_are_averaged(monkeypatch: pytest.MonkeyPatch):
    recipe = tiny(samples=1)
    clips = np.concatenate([clips_of(i, recipe) for i in range(3)])[:21]
    found = validate(arrays_of(recipe), clips, recipe)
    assert found.best.shape == found.first.shape == clips.shape
    np.testing.assert_array_equal(found.best, found.first)
    whole = psnr(found.first[:, 3:] / 255, clips[:, 3:] / 255)
    assert found.psnr == pytest.approx(whole.mean(), rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*samples:UserWarning")
def test_distances_are_those_of_the_written_weights(tmp_path):
    recipe = tiny(samples=1)
    clips = np.concatenate([clips_of(i, recipe) for i in range(3)])
    state = ours(tiny())[1]
    # So large that frames differ in their features by far more than rounding.
    state = state._replace(parameters={k: 3 * a for k, a in state.parameters.items()})
    found = validate(state.arrays, clips, recipe)
    save(checkpoints.features_of(state, recipe, {}), tmp_path / "own.safetensors")
    calculator = FrechetDistanceCalculator("own", weights=tmp_path / "own.safetensors")
    expected = calculator.distances(clips[:, 3:], found.first[:, 3:])
    assert found.distances.keys() == {"frame", "static_content", "dynamics"}
    for name, distance in expected.items():
        assert found.distances[name] == pytest.approx(float(distance), rel=1e-5)
        assert found.distances[name] > 0


def test_one_clip_has_no_distances():
    recipe = tiny(samples=1)
    assert validate(arrays_of(recipe), clips_of(0, recipe)[:1], recipe).distances == {}
