"""A step of training, against PyTorch's Adam on the authors' model, and on divided batches."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import srvp_oracle
import torch
from srvp_oracle import moving_clips, numpy_state, to_torch_clips

from srvp_fd_jax.networks.srvp.checkpoint import to_torch
from srvp_fd_jax.training import step
from srvp_fd_jax.training.model import Draws, training_draws
from srvp_fd_jax.training.recipes import RECIPES, Recipe, change
from srvp_fd_jax.training.step import State, model_of, start, train_step

STEPS = 4


def tiny(**changes: Any) -> Recipe:
    """A recipe whose programs compile in seconds."""
    sizes = {"nf": 4, "nhx": 16, "ny": 4, "nz": 4, "nt_inf": 2, "nh_inf": 16, "nh_res": 16}
    run = {"frames": 6, "given": 3, "batch_size": 8, "obs_scale": 0.5}
    return change(RECIPES["digits"], **(sizes | run | changes))


def clips_of(step: int, recipe: Recipe) -> np.ndarray:
    clips = moving_clips(recipe.batch_size, recipe.frames, recipe.architecture.nc, seed=step)
    noise = np.random.default_rng(step).random(clips.shape, np.float32)
    return np.round(255 * np.clip(clips + 0.2 * noise, 0, 1)).astype(np.uint8)


def draws_of(step: int, recipe: Recipe) -> Draws:
    """The noise of a step, counted from 1."""
    key = jax.random.fold_in(jax.random.key(recipe.seed), step)
    n, t = recipe.batch_size, recipe.frames
    return training_draws(key, recipe.architecture, clips=n, frames=t)


def oracle_of(state: State, recipe: Recipe) -> srvp_oracle.Oracle:
    """The authors' model in training mode with the weights of a state."""
    config = recipe.described()["architecture"]
    arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
    weights = to_torch(arrays, recipe.architecture)
    oracle = srvp_oracle.Oracle(**config)
    oracle.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()})
    return oracle.train()


@functools.cache
def ours(recipe: Recipe) -> tuple[list[dict[str, float]], State]:
    """The terms of the first steps of a run, and the state after them."""
    return run(start(recipe), recipe)


def run(state: State, recipe: Recipe) -> tuple[list[dict[str, float]], State]:
    terms = []
    for i in range(1, STEPS + 1):
        progress = np.float32(i / STEPS / 2)
        state, objective = train_step(state, clips_of(i, recipe), progress, recipe)
        terms.append({name: float(term) for name, term in objective._asdict().items()})
    return terms, state


def test_steps_are_pytorchs(monkeypatch: pytest.MonkeyPatch):
    """In float64: where a slope is near zero, Adam's first steps go by the sign of its rounding."""
    recipe = tiny(learning_rate=2**-11)  # which float32 holds as well
    state = start(recipe)
    oracle = oracle_of(state, recipe).double()
    monkeypatch.setattr(step, "to_unit_range", lambda clips: clips / np.float64(255))
    with jax.enable_x64(True):
        state = jax.tree.map(
            lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, state
        )
        terms, state = run(state, recipe)
        draws = [draws_of(i, recipe) for i in range(1, STEPS + 1)]
    adam = torch.optim.Adam(oracle.parameters(), lr=recipe.learning_rate)
    for i, (found, of_step) in enumerate(zip(terms, draws, strict=True), 1):
        x = to_torch_clips(clips_of(i, recipe) / np.float64(255))
        expected = srvp_oracle.objective(oracle(x, of_step), x, obs_scale=0.5, beta_z=2.0)
        adam.zero_grad()
        expected["loss"].backward()
        adam.step()
        wanted = {name: term.item() for name, term in expected.items()}
        chex.assert_trees_all_close(found, wanted, rtol=1e-9)
    arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
    made = to_torch(arrays, recipe.architecture)
    theirs = numpy_state(oracle)
    assert made.keys() == theirs.keys()
    for name, array in theirs.items():
        if not name.endswith("num_batches_tracked"):
            chex.assert_trees_all_close(made[name], array, rtol=0, atol=1e-9)


def test_the_weights_move_by_the_learning_rate():
    recipe = tiny()
    before = start(recipe).parameters
    after, _ = train_step(start(recipe), clips_of(1, recipe), np.float32(0.5), recipe)
    # Adam's first step goes by the learning rate against the sign of each slope.
    moves = [np.abs(after.parameters[name] - before[name]) for name in before]
    moved = np.concatenate([move.ravel() for move in moves])
    assert np.median(moved) == pytest.approx(recipe.learning_rate, rel=1e-2)
    assert moved.max() < 1.01 * recipe.learning_rate
    ended, _ = train_step(start(recipe), clips_of(1, recipe), np.float32(1), recipe)
    chex.assert_trees_all_equal(ended.parameters, before)


def test_parts_of_a_batch_give_the_mean_of_their_gradients():
    recipe = tiny(accumulate=2)
    state, terms = train_step(start(recipe), clips_of(1, recipe), np.float32(0), recipe)
    oracle = oracle_of(start(recipe), recipe)
    draws, losses = draws_of(1, recipe), []
    for part in range(2):
        x = to_torch_clips(clips_of(1, recipe)[part::2].astype(np.float32) / 255)
        of_part = Draws(*(d[part::2] for d in draws))
        loss = srvp_oracle.objective(oracle(x, of_part), x, obs_scale=0.5, beta_z=2.0)["loss"]
        (loss / 2).backward()
        losses.append(loss.item())
    assert float(terms.loss) == pytest.approx(np.mean(losses), rel=1e-5)
    # Adam's first moment is a tenth of the gradient.
    slopes = {k: 10 * np.asarray(v) for k, v in state.adam.mu.items()}
    found = to_torch(
        slopes | {k: np.asarray(v) for k, v in state.statistics.items()}, recipe.architecture
    )
    for name, parameter in oracle.named_parameters():
        wanted = parameter.grad.numpy()
        chex.assert_trees_all_close(found[name], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    for name, buffer in oracle.named_buffers():
        if "running" in name:
            chex.assert_trees_all_close(found[name], buffer.numpy(), rtol=1e-4, atol=1e-6)


def test_bfloat16_stays_close_to_float32():
    recipe = tiny(precision="bfloat16")
    terms, state = ours(recipe)
    exact, _ = ours(tiny())
    for found, wanted in zip(terms, exact, strict=True):
        assert found["loss"] != wanted["loss"]
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-2)
    assert {array.dtype for array in state.arrays.values()} == {jnp.dtype("float32")}


def test_a_model_of_the_state_predicts_in_evaluation_mode():
    recipe = tiny()
    model = model_of(ours(recipe)[1].arrays, recipe)
    clips = jnp.asarray(clips_of(1, recipe), jnp.float32) / 255
    both = [
        model(clips[part], Draws(*(d[part] for d in draws_of(1, recipe)))).frames
        for part in (slice(None), slice(0, 1))
    ]
    chex.assert_trees_all_close(both[0][:1], both[1], atol=1e-5)
