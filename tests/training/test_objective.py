"""The objective and its gradients, against PyTorch."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import srvp_oracle
from flax import nnx
from srvp_oracle import (
    DCGAN,
    VGG_SKIPS,
    architecture_of,
    model_of,
    moving_clips,
    random_draws,
    to_torch_clips,
    untrained_oracle,
)

from srvp_fd_jax.networks.base import arrays_of
from srvp_fd_jax.networks.srvp.checkpoint import to_torch
from srvp_fd_jax.training.model import Prediction
from srvp_fd_jax.training.objective import Objective, objective

CLIPS, FRAMES = 3, 4
WEIGHTS = {"obs_scale": 0.7, "beta_z": 2.0}
CONFIGS = {"dcgan": DCGAN, "vgg_skips": VGG_SKIPS}


@pytest.mark.parametrize(("name", "euler_steps"), [("dcgan", 1), ("vgg_skips", 2)])
def test_terms_and_gradients_are_pytorchs(name: str, euler_steps: int):
    """In float64: PyTorch's own gradients in float32 are 3e-4 off those on constant areas."""
    config = CONFIGS[name]
    with jax.enable_x64(True):
        oracle = untrained_oracle(config).double()
        model = model_of(oracle, config)
        model.train()
        graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        clips = moving_clips(CLIPS, FRAMES, config["nc"]).astype(np.float64)
        x, draws = jnp.asarray(clips), random_draws(config, CLIPS, FRAMES, FRAMES)

        @functools.partial(jax.grad, has_aux=True)
        def gradient(parameters: nnx.State) -> tuple[jax.Array, tuple[Objective, nnx.State]]:
            model = nnx.merge(graph, parameters, statistics, copy=True)
            terms = objective(model(x, draws, euler_steps=euler_steps), x, **WEIGHTS)
            return terms.loss, (terms, nnx.state(model, nnx.BatchStat))

        slopes, (terms, statistics) = jax.jit(gradient)(parameters)
        arrays = arrays_of(nnx.merge(graph, slopes, statistics))
        ours = to_torch(jax.tree.map(np.asarray, arrays), architecture_of(config))
        tensors = to_torch_clips(clips)
        expected = srvp_oracle.objective(oracle(tensors, draws, euler_steps), tensors, **WEIGHTS)
    expected["loss"].backward()
    theirs = {name: term.item() for name, term in expected.items()}
    chex.assert_trees_all_close(terms._asdict(), theirs, rtol=1e-9)
    for name, parameter in oracle.named_parameters():
        largest = float(parameter.grad.abs().max())
        assert largest > 1e-4
        chex.assert_trees_all_close(ours[name], parameter.grad.numpy(), rtol=0, atol=1e-8 * largest)


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
