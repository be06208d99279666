"""The recipes: the authors' values, changes, and values that are refused."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import pytest
import torch
from checkpoints import PUBLISHED

from srvp_fd_jax.training.recipes import RECIPES, Recipe, change
from srvp_fd_jax.training.step import learning_rate

# Frames, given frames, batch, Euler steps, obs_scale, res_gain, beta_z, burn-in and decay in
# thousands of steps: from the paper's appendix and the authors' options.
AUTHORS = {
    "mmnist_stochastic": (15, 5, 128, 1, 1.0, 1.41, 2.0, 1000, 100),
    "mmnist_deterministic": (15, 5, 128, 1, 1.0, 1.41, 2.0, 800, 100),
    "bair": (12, 2, 192, 2, 0.71, 1.41, 1.0, 1000, 500),
    "kth": (20, 10, 100, 2, 0.2, 1.2, 1.0, 150, 50),
    "human": (16, 8, 100, 2, 0.2, 1.2, 1.0, 325, 25),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_published_recipes_are_the_authors(name: str):
    recipe = RECIPES[name]
    assert (
        recipe.frames,
        recipe.given,
        recipe.batch_size,
        recipe.euler_steps,
        recipe.obs_scale,
        recipe.res_gain,
        recipe.beta_z,
        recipe.burn_in / 1000,
        recipe.decay / 1000,
    ) == AUTHORS[name]
    assert (recipe.learning_rate, recipe.beta_y, recipe.l2_res) == (3e-4, 1, 1)
    assert dataclasses.asdict(recipe.architecture) == PUBLISHED[name]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_told_as_json_and_read_again(name: str):
    assert Recipe.from_described(json.loads(json.dumps(RECIPES[name].described()))) == RECIPES[name]


def test_the_learning_rate_is_that_of_the_authors_schedule():
    recipe = RECIPES["kth"].shortened(40)
    assert (recipe.burn_in, recipe.decay) == (30, 10)
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=3e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: max(0, (10 - i) / 10))
    for step in range(1, 41):
        ours = float(learning_rate(jnp.float32(step / 40), recipe))
        assert ours == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-5, abs=1e-9)
        optimiser.step()
        if step >= 30:
            schedule.step()


def test_changes_go_to_the_run_or_to_the_architecture():
    changed = change(RECIPES["own"], nf=16, frames=20, skipco=True)
    assert (changed.architecture.nf, changed.frames, changed.architecture.skipco) == (16, 20, True)
    assert changed.protocol.resize == "antialiased"
    assert change(RECIPES["own"]) == RECIPES["own"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": 3}, "recipe: got filters, allowed are accumulate, archi"),
        ({"preset": "kth"}, "recipe: got preset"),
        ({"archi": "resnet"}, "archi is 'resnet', allowed are 'dcgan', 'vgg'"),
        ({"nc": 2}, "nc: got 2, allowed are 1 .grey. and 3"),
        ({"nf": 0}, "nf is 0, expected a positive integer"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        ({"seed": -1}, "seed: got -1, expected at least 0"),
        ({"obs_scale": 0.0}, "obs_scale: got 0.0, expected a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"precision": "float16"}, "precision: got 'float16', allowed are float32, bfloat16"),
        ({"given": 3}, "given: got 3, expected at least the 5 of nt_inf"),
        ({"frames": 9}, "frames: got 9, expected at least 10"),
        ({"accumulate": 3}, "batch_size: got 128, expected a multiple of the 3 parts"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_other_changes_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        change(RECIPES["own"], **changes)
