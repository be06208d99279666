"""The whole SRVP model against PyTorch, its weights, and what is random in it."""

import json
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import FLOATS, PUBLISHED, assert_same_arrays
from flax import nnx
from rounding import assert_as_exact
from srvp_oracle import (
    DCGAN,
    DCGAN_SKIPS,
    VGG,
    VGG_SKIPS,
    Oracle,
    architecture_of,
    model_of,
    moving_clips,
    numpy_state,
    random_draws,
    random_oracle,
    to_torch_clips,
)

from srvp_fd_jax.networks.base import Weights, arrays_of, parameter_shapes
from srvp_fd_jax.networks.srvp import checkpoint
from srvp_fd_jax.networks.srvp.architecture import SRVPArchitecture
from srvp_fd_jax.networks.srvp.checkpoint import from_torch, read_checkpoint, to_torch
from srvp_fd_jax.networks.srvp.modules import BatchNorm
from srvp_fd_jax.training.model import (
    Draws,
    Prediction,
    SRVPModel,
    SRVPModelArchitecture,
    evaluation_draws,
    training_draws,
)
from srvp_fd_jax.training.step import initialise

CONFIGS = {"dcgan": DCGAN, "dcgan_skips": DCGAN_SKIPS, "vgg": VGG, "vgg_skips": VGG_SKIPS}
COUNTERS = "num_batches_tracked"


def without_counters(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in state_dict.items() if not key.endswith(COUNTERS)}


# Passes through the model.


def ours_as_torchs(prediction: Prediction) -> dict[str, np.ndarray]:
    """Time before batch, channels before pixels, and the Euler steps of all frames in a row."""
    made = {name: np.asarray(value) for name, value in prediction._asdict().items()}
    for name in made.keys() - {"content", "q_y"}:
        made[name] = made[name].swapaxes(0, 1)
    made["frames"] = made["frames"].transpose(0, 1, 4, 2, 3)
    residuals = made["residuals"].swapaxes(1, 2)
    made["residuals"] = residuals.reshape(-1, *residuals.shape[2:])
    return made


Arrays = dict[str, np.ndarray]


def torchs(oracle: Oracle, clips: np.ndarray, draws: Draws, euler_steps: int) -> Arrays:
    """The pass of the oracle in its own type."""
    x = to_torch_clips(clips).to(oracle.w_inf[0].weight.dtype)
    with torch.no_grad():
        return {name: made.numpy() for name, made in oracle(x, draws, euler_steps).items()}


def assert_same(ours: Prediction, theirs: Arrays, exact: Arrays) -> None:
    for expected in exact.values():
        assert expected.std(-1).mean() > 0.01
    assert_as_exact(ours_as_torchs(ours), theirs, exact)


@pytest.mark.parametrize(("name", "euler_steps"), [*zip(CONFIGS, (1, 2, 3, 1), strict=True)])
def test_a_training_pass_is_pytorchs(name: str, euler_steps: int):
    config = CONFIGS[name]
    oracle = random_oracle(config)
    model = model_of(oracle, config)
    model.train()
    clips, draws = moving_clips(4, 5, config["nc"]), random_draws(config, 4, 5, 5)

    @nnx.jit
    def reconstruct(model: SRVPModel, clips: jax.Array, draws: Draws) -> Prediction:
        return model(clips, draws, euler_steps=euler_steps)

    ours = reconstruct(model, jnp.asarray(clips), draws)
    before = numpy_state(oracle)
    oracles = [random_oracle(config).to(dtype) for dtype in FLOATS]
    assert_same(ours, *(torchs(oracle, clips, draws, euler_steps) for oracle in oracles))

    # The running statistics moved as PyTorch's did.
    arrays = jax.tree.map(np.asarray, arrays_of(model))
    states = to_torch(arrays, architecture_of(config)), *map(numpy_state, oracles)
    moved = [{key: state[key] for key in before if "running" in key} for state in states]
    for key, exact in moved[-1].items():
        assert np.abs(exact - before[key]).max() > 1e-3
    assert_as_exact(*moved)


@pytest.mark.parametrize("name", ["dcgan", "vgg_skips"])
def test_a_prediction_is_pytorchs(name: str):
    config = CONFIGS[name]
    model = model_of(random_oracle(config), config)
    clips = moving_clips(3, 4, config["nc"])
    draws = evaluation_draws(jax.random.key(0), architecture_of(config), clips=3, given=4, frames=7)
    ours = jax.jit(lambda *arguments: model(*arguments, euler_steps=2))(jnp.asarray(clips), draws)
    assert ours.frames.shape == (3, 7, 64, 64, config["nc"])
    assert ours.q_z.shape[1] == 3
    oracles = (random_oracle(config).eval().to(dtype) for dtype in FLOATS)
    assert_same(ours, *(torchs(oracle, clips, draws, 2) for oracle in oracles))


def test_fewer_frames_than_are_given_are_the_first_of_them():
    oracle = random_oracle(DCGAN).eval()
    model = model_of(oracle, DCGAN)
    clips, draws = jnp.asarray(moving_clips(2, 5, 1)), random_draws(DCGAN, 2, 5, 5)
    reconstruct = jax.jit(model.__call__)
    all_of_them = reconstruct(clips, draws)
    some = reconstruct(clips, draws._replace(z=draws.z[:, :2]))
    chex.assert_trees_all_close(some.frames, all_of_them.frames[:, :3], atol=1e-6)
    chex.assert_trees_all_close(some.p_z, all_of_them.p_z[:, :2], atol=1e-6)


# Everything random.


def test_training_draws():
    architecture = architecture_of(DCGAN | {"nt_inf": 3})
    draws = training_draws(jax.random.key(0), architecture, clips=4000, frames=6)
    chex.assert_shape(draws, [(4000, 3), (4000,), (4000, 3), (4000, 5, 4)])
    frames = np.asarray(draws.content_frames)
    assert all(len(set(of_clip)) == 3 for of_clip in frames.tolist())
    for column in (*frames.T, np.asarray(draws.skip_frames)):
        counts = np.bincount(column, minlength=6)
        assert counts.size == 6
        assert np.abs(counts / 4000 - 1 / 6).max() < 0.03  # 5 standard deviations
    for noise in (draws.y, draws.z):
        assert jnp.abs(noise.mean(0)).max() < 0.08
        assert jnp.abs(noise.std(0) - 1).max() < 0.06
    assert np.abs(np.corrcoef(draws.y[:, 0], draws.z[:, 0, 0])[0, 1]) < 0.08


def test_evaluation_draws_take_the_last_frames_that_are_given():
    architecture = architecture_of(DCGAN | {"nt_inf": 3})
    draws = evaluation_draws(jax.random.key(0), architecture, clips=2, given=5, frames=9)
    chex.assert_shape(draws, [(2, 3), (2,), (2, 3), (2, 8, 4)])
    chex.assert_trees_all_equal(draws.content_frames, jnp.array([[2, 3, 4]] * 2))
    chex.assert_trees_all_equal(draws.skip_frames, jnp.array([4, 4]))
    assert np.unique(np.concatenate([draws.y.ravel(), draws.z.ravel()])).size == 6 + 64


def test_what_cannot_be_is_told():
    architecture, key = architecture_of(DCGAN | {"nt_inf": 3}), jax.random.key(0)
    with pytest.raises(ValueError, match="frames: got 2 frames, expected at least the 3 of nt_inf"):
        training_draws(key, architecture, clips=2, frames=2)
    with pytest.raises(ValueError, match="given: got 2 frames, expected at least the 3 of nt_inf"):
        evaluation_draws(key, architecture, clips=2, given=2, frames=5)
    with pytest.raises(ValueError, match="frames: got 4, expected at least the 5 given"):
        evaluation_draws(key, architecture, clips=2, given=5, frames=4)
    model = nnx.eval_shape(lambda: SRVPModel(architecture, rngs=nnx.Rngs(0)))
    draws = random_draws(DCGAN | {"nt_inf": 3}, 2, 5, 5)
    with pytest.raises(ValueError, match="clips: got 2 frames, expected at least the 3 of nt_inf"):
        model(jnp.zeros((2, 2, 64, 64, 1)), draws)
    with pytest.raises(ValueError, match="euler_steps: got 0, expected at least 1"):
        model(jnp.zeros((2, 5, 64, 64, 1)), draws, euler_steps=0)
    norm = BatchNorm(2, use_running_average=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="x: got one value per channel, training needs"):
        norm(jnp.zeros((1, 1, 1, 2)))


# Weights.


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_every_published_model_has_pytorchs_parameters(dataset: str):
    architecture = architecture_of(PUBLISHED[dataset])
    ours = {
        checkpoint._torch_key(name, architecture): checkpoint._torch_shape(shape)
        for name, shape in parameter_shapes(architecture).items()
    }
    with torch.device("meta"):
        theirs = Oracle(**PUBLISHED[dataset]).state_dict()
    assert ours == {k: (*v.shape,) for k, v in theirs.items() if not k.endswith(COUNTERS)}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_state_dict_comes_back_as_it_went(name: str):
    config = CONFIGS[name]
    oracle = random_oracle(config)
    state_dict = numpy_state(oracle)
    architecture = architecture_of(config)
    back = to_torch(from_torch(state_dict, architecture), architecture)
    assert back.keys() == state_dict.keys()
    assert_same_arrays(without_counters(back), {k: state_dict[k] for k in without_counters(back)})
    fresh = Oracle(**config)
    fresh.load_state_dict({key: torch.from_numpy(array) for key, array in back.items()})
    assert_same_arrays(without_counters(numpy_state(fresh)), without_counters(state_dict))


def test_parameters_that_do_not_fit_are_named():
    architecture = architecture_of(DCGAN)
    arrays = from_torch(numpy_state(random_oracle(DCGAN)), architecture)
    del arrays["posterior.input.bias"]
    with pytest.raises(ValueError, match=r"^missing posterior.input.bias$"):
        to_torch(arrays, architecture)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    (tmp_path / "config.json").write_text(json.dumps(VGG_SKIPS))
    torch.save(random_oracle(VGG_SKIPS).state_dict(), tmp_path / "model.pt")
    return tmp_path


def test_a_whole_checkpoint_is_read(folder: Path):
    weights = read_checkpoint(folder, SRVPModelArchitecture)
    assert weights.architecture == architecture_of(VGG_SKIPS)
    expected = from_torch(numpy_state(random_oracle(VGG_SKIPS)), architecture_of(VGG_SKIPS))
    assert_same_arrays(weights.arrays, expected)
    assert isinstance(weights.frozen().module(), SRVPModel)
    # The inference networks are those that compute features.
    inference = read_checkpoint(folder).arrays
    assert_same_arrays({name: weights.arrays[name] for name in inference}, inference)


def test_a_whole_model_computes_the_features_of_its_inference_networks(folder: Path):
    clips = jnp.asarray(moving_clips(2, 4, 3))
    frozen: list[Weights] = [
        read_checkpoint(folder, kind) for kind in (SRVPModelArchitecture, SRVPArchitecture)
    ]
    whole, part = (weights.frozen().features(clips, ("dynamics",)) for weights in frozen)
    chex.assert_trees_all_close(whole, part, rtol=1e-6)


def test_parts_that_are_missing_are_named(folder: Path):
    state_dict = random_oracle(VGG_SKIPS).state_dict()
    del state_dict["inf_z.weight_hh_l0"], state_dict["decoder.conv.3.1.weight"]
    torch.save(state_dict, folder / "model.pt")
    with pytest.raises(ValueError, match=r"missing decoder.conv.3.1.weight; .*weight_hh_l0$"):
        read_checkpoint(folder, SRVPModelArchitecture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nz": 0}, "nz is 0, expected a positive integer"),
        ({"nlayers_res": 101}, "nlayers_res is 101, expected at most 100"),
        ({"nh_res": None}, "nh_res is None, expected a positive integer"),
    ],
)
def test_fields_of_the_dynamics_are_checked(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        SRVPModelArchitecture.from_config(DCGAN | change)
    with pytest.raises(ValueError, match=f"no field '{next(iter(change))}'"):
        SRVPModelArchitecture.from_config({k: v for k, v in DCGAN.items() if k not in change})


def test_initial_weights_are_the_authors():
    config = DCGAN | {"nf": 8, "nh_res": 32, "nh_inf": 24}
    key = jax.random.key(0)
    model = initialise(key, architecture_of(config), res_gain=1.2)
    arrays = jax.tree.map(np.asarray, arrays_of(model))
    convolutions = [name for name in arrays if name.startswith(("encoder.", "decoder."))]
    by_parameter = {
        parameter: np.concatenate(
            [arrays[name].ravel() for name in convolutions if name.endswith(f".{parameter}")]
        )
        for parameter in ("kernel", "scale", "bias", "mean", "var")
    }
    assert by_parameter["kernel"].mean() == pytest.approx(0, abs=5e-4)
    assert by_parameter["kernel"].std() == pytest.approx(0.02, rel=0.02)
    assert by_parameter["scale"].mean() == pytest.approx(1, abs=0.005)
    assert by_parameter["scale"].std() == pytest.approx(0.02, rel=0.2)
    assert not by_parameter["bias"].any()
    assert not by_parameter["mean"].any()
    assert (by_parameter["var"] == 1).all()

    for i in range(3):
        kernel = arrays[f"residual.layers.{i}.kernel"]
        kernel = kernel if kernel.shape[0] < kernel.shape[1] else kernel.T
        chex.assert_trees_all_close(kernel @ kernel.T, 1.44 * np.eye(len(kernel)), atol=1e-5)
        assert not arrays[f"residual.layers.{i}.bias"].any()

    # PyTorch's own, whose bounds the largest values come near to.
    theirs = from_torch(numpy_state(Oracle(**config)), architecture_of(config))
    others = [n for n in arrays if not n.startswith(("encoder.", "decoder.", "residual."))]
    assert len(others) == 2 * (2 + 3 + 3 + 3)
    for name in others:
        layer, _ = name.rsplit(".", 1)
        fan_in = 24 if layer == "posterior.input" else arrays[f"{layer}.kernel"].shape[0]
        for values in (arrays[name], theirs[name]):
            assert 0.6 < np.abs(values).max() * np.sqrt(fan_in) <= 1 + 1e-6
            assert np.abs(values.mean()) * np.sqrt(fan_in * values.size) < 2.5


def test_initial_weights_differ_from_each_other():
    first, second = (
        jax.tree.leaves(nnx.state(initialise(jax.random.key(seed), architecture_of(DCGAN))))
        for seed in (0, 1)
    )
    same = sum(bool((a == b).all()) for a, b in zip(first, second, strict=True))
    norms, residual_biases = 4 + 4, 3
    assert same == 3 * norms + residual_biases
