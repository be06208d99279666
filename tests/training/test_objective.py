"""The objective, its gradients and the first steps of training, against PyTorch."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import srvp_oracle
import torch
from flax import nnx
from srvp_oracle import (
    DCGAN,
    VGG_SKIPS,
    Oracle,
    architecture_of,
    model_of,
    moving_clips,
    numpy_state,
    random_draws,
    to_torch_clips,
    untrained_oracle,
)

from srvp_fd_jax.networks.srvp.checkpoint import to_torch
from srvp_fd_jax.training.model import Draws, Prediction
from srvp_fd_jax.training.objective import Objective, objective

STEPS, CLIPS, FRAMES = 20, 3, 4
WEIGHTS = {"obs_scale": 0.7, "beta_z": 2.0}
CONFIGS = {"dcgan": DCGAN, "vgg_skips": VGG_SKIPS}


def arrays_of(*states: nnx.State) -> dict[str, np.ndarray]:
    return {
        ".".join(map(str, path)): np.asarray(variable[...])
        for state in states
        for path, variable in nnx.to_flat_state(state)
    }


Gradient = Callable[..., tuple[nnx.State, tuple[Objective, nnx.State]]]


def start(
    oracle: Oracle, config: dict[str, Any], euler_steps: int
) -> tuple[nnx.State, nnx.State, Gradient]:
    """Our parameters and statistics, and the function from them to gradients and the rest."""
    model = model_of(oracle, config)
    model.train()
    graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)

    def loss(
        parameters: nnx.State, statistics: nnx.State, clips: jax.Array, draws: Draws
    ) -> tuple[jax.Array, tuple[Objective, nnx.State]]:
        model = nnx.merge(graph, parameters, statistics, copy=True)
        terms = objective(model(clips, draws, euler_steps=euler_steps), clips, **WEIGHTS)
        return terms.loss, (terms, nnx.state(model, nnx.BatchStat))

    return parameters, statistics, jax.jit(jax.grad(loss, has_aux=True))


def torch_step(
    oracle: Oracle, optimiser: torch.optim.Optimizer, x: torch.Tensor, draws: Draws, k: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Makes a step and returns the terms and the gradients under the authors' keys."""
    terms = srvp_oracle.objective(oracle(x, draws, k), x, **WEIGHTS)
    optimiser.zero_grad()
    terms["loss"].backward()
    gradients = {
        name: parameter.grad.numpy().copy() for name, parameter in oracle.named_parameters()
    }
    optimiser.step()
    return {name: term.item() for name, term in terms.items()}, gradients


def assert_same_gradients(
    slopes: nnx.State, statistics: nnx.State, theirs: dict[str, np.ndarray], config, rtol: float
) -> None:
    ours = to_torch(arrays_of(slopes, statistics), architecture_of(config))
    for name, expected in theirs.items():
        largest = np.abs(expected).max()
        assert largest > 1e-4
        chex.assert_trees_all_close(ours[name], expected, rtol=0, atol=rtol * largest)


@pytest.mark.parametrize(("name", "euler_steps"), [("dcgan", 1), ("vgg_skips", 2)])
def test_terms_and_gradients_are_pytorchs(name: str, euler_steps: int):
    config = CONFIGS[name]
    oracle = untrained_oracle(config)
    parameters, statistics, gradient = start(oracle, config, euler_steps)
    clips = moving_clips(CLIPS, FRAMES, config["nc"])
    # On constant areas PyTorch's own gradients in float32 are 3e-4 off those in float64.
    clips += 0.2 * np.random.default_rng(1).random(clips.shape, np.float32)
    draws = random_draws(config, CLIPS, FRAMES, FRAMES)
    slopes, (terms, statistics) = gradient(parameters, statistics, jnp.asarray(clips), draws)
    expected, gradients = torch_step(
        oracle, torch.optim.Adam(oracle.parameters()), to_torch_clips(clips), draws, euler_steps
    )
    chex.assert_trees_all_close(terms._asdict(), expected, rtol=1e-5)
    assert_same_gradients(slopes, statistics, gradients, config, rtol=1e-4)


@pytest.mark.parametrize("euler_steps", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_training_is_pytorchs(name: str, euler_steps: int):
    """In float64: in float32 both leave the exact path after a few steps, at kinks of the loss."""
    config = CONFIGS[name]
    with jax.enable_x64(True):
        oracle = untrained_oracle(config).double()
        parameters, statistics, gradient = start(oracle, config, euler_steps)
        adam = optax.flatten(optax.adam(3e-4))  # which compiles faster
        state, update = adam.init(parameters), jax.jit(adam.update)
        theirs = torch.optim.Adam(oracle.parameters(), lr=3e-4)
        before = numpy_state(oracle)
        for i in range(STEPS):
            clips = moving_clips(CLIPS, FRAMES, config["nc"], seed=i).astype(np.float64)
            draws = random_draws(config, CLIPS, FRAMES, FRAMES, seed=i)
            slopes, (terms, statistics) = gradient(
                parameters, statistics, jnp.asarray(clips), draws
            )
            updates, state = update(slopes, state)
            parameters = optax.apply_updates(parameters, updates)
            expected, gradients = torch_step(
                oracle, theirs, to_torch_clips(clips), draws, euler_steps
            )
            chex.assert_trees_all_close(terms._asdict(), expected, rtol=1e-9)
            assert_same_gradients(slopes, statistics, gradients, config, rtol=1e-8)
        ours = to_torch(arrays_of(parameters, statistics), architecture_of(config))
    for key, expected in numpy_state(oracle).items():
        if not key.endswith("num_batches_tracked"):
            assert np.abs(expected - before[key]).max() > 1e-3
            chex.assert_trees_all_close(ours[key], expected, rtol=0, atol=1e-9)


# The terms alone.


def prediction_of(**values: Any) -> Prediction:
    """Two clips of three frames, where nothing differs from anything."""
    unit = np.log(np.expm1(1))  # raw scale of a standard deviation of 1
    q_y, q_z = (jnp.concatenate([jnp.zeros(s), jnp.full(s, unit)], -1) for s in ((2, 4), (2, 2, 5)))
    ordinary = Prediction(
        frames=jnp.full((2, 3, 64, 64, 1), 0.5),
        content=jnp.zeros((2, 8)),
        states=jnp.zeros((2, 3, 4)),
        q_y=q_y,
        q_z=q_z,
        p_z=q_z,
        residuals=jnp.zeros((2, 2, 1, 4)),
    )
    return ordinary._replace(**values)


@pytest.mark.parametrize("obs_scale", [0.5, 1.0, 2.0])
def test_nothing_remains_of_a_perfect_prediction_but_the_constant(obs_scale: float):
    clips = jnp.full((2, 3, 64, 64, 1), 0.5)
    terms = objective(prediction_of(), clips, obs_scale=obs_scale)
    constant = 3 * 64 * 64 * np.log(obs_scale * np.sqrt(2 * np.pi))
    chex.assert_trees_all_close(terms, Objective(constant, constant, 0.0, 0.0, 0.0), atol=1e-5)


def test_each_term_has_its_weight_and_is_per_clip():
    clips = jnp.full((2, 3, 64, 64, 1), 0.5)
    prediction = prediction_of()
    moved = prediction_of(
        frames=prediction.frames.at[0, 1, 2, 3, 0].set(0.9),
        q_y=prediction.q_y.at[0, 0].set(3.0),
        q_z=prediction.q_z.at[1, 0, 1].set(4.0),
        residuals=prediction.residuals.at[1, 0, 0, 2:].set(jnp.array([3.0, 4.0])),
    )
    plain = objective(prediction, clips, obs_scale=0.5)
    weights = {"beta_y": 3.0, "beta_z": 5.0, "l2_res": 7.0}
    terms = objective(moved, clips, obs_scale=0.5, **weights)
    difference = jax.tree.map(lambda a, b: float(a - b), terms, plain)
    expected = Objective(0.16 + 3 * 2.25 + 5 * 4 + 7 * 2.5, 0.16, 2.25, 4.0, 2.5)
    chex.assert_trees_all_close(difference, expected, atol=2e-3)


def test_residuals_of_zero_have_a_gradient_of_zero():
    clips = jnp.full((2, 3, 64, 64, 1), 0.5)

    def norm(residuals: jax.Array) -> jax.Array:
        return objective(prediction_of(residuals=residuals), clips).residuals

    one = jnp.zeros((2, 2, 1, 4)).at[0, 0, 0].set(2.0)
    chex.assert_trees_all_close(jax.grad(norm)(one), one / 8, atol=1e-6)


def test_a_prediction_of_other_frames_is_refused():
    clips = jnp.zeros((2, 4, 64, 64, 1))
    with pytest.raises(
        ValueError, match=r"prediction: has frames of shape \(2, 3, 64, 64, 1\), .*4"
    ):
        objective(prediction_of(), clips)
