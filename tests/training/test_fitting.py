"""The recipe "own", fitted to videos, devices and time."""

from typing import Any

import pytest

from srvp_fd_jax.training.fitting import Circumstances, Machine, described, fit
from srvp_fd_jax.training.recipes import RECIPES, Recipe

OWN = RECIPES["own"]
CPU = Machine("cpu", devices=1, cores=2, speed=1.0)
GPU = Machine("gpu", devices=1, cores=16, speed=1.0)


def fitted(machine: Machine = CPU, videos: int = 1000, changes: Any = (), **limits: Any) -> Recipe:
    held_out = max(1, round(0.05 * videos))
    given = Circumstances(videos - held_out, held_out, machine, **limits)
    return fit(OWN, dict(changes), given)


def sizes(recipe: Recipe) -> tuple[int, int]:
    return recipe.architecture.nf, recipe.batch_size


@pytest.mark.parametrize(
    ("machine", "minutes", "expected"),
    [
        (CPU, 0.5, (8, 8)),
        (CPU, 3.0, (8, 8)),
        (CPU, 60.0, (16, 16)),
        (CPU, 24 * 60.0, (64, 16)),
        (CPU._replace(speed=2.0), 60.0, (32, 16)),
        (CPU._replace(speed=0.1), 60.0, (8, 8)),
        (GPU, 3.0, (64, 128)),
    ],
)
def test_more_time_and_faster_machines_get_larger_networks(
    machine: Machine, minutes: float, expected: tuple[int, int]
):
    assert sizes(fitted(machine, minutes=minutes)) == expected


@pytest.mark.parametrize(
    ("machine", "videos", "batch"),
    [
        (CPU, 5, 4),
        (CPU, 2, 1),
        (GPU, 60, 57),
        (GPU._replace(devices=8), 60, 56),
        (GPU._replace(devices=8), 5, 8),  # which is then refused
    ],
)
def test_a_batch_has_no_more_clips_than_there_are_videos(machine: Machine, videos: int, batch: int):
    assert fitted(machine, videos, minutes=3.0).batch_size == batch


def test_without_a_limit_a_cpu_takes_fewer_steps():
    assert fitted().steps == 40_000
    assert sizes(fitted()) == (16, 16)
    assert fitted(GPU).steps == OWN.steps


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("videos", [5, 60, 20_000])
@pytest.mark.parametrize("steps", [20, 1_000, 50_000])
def test_validations_take_at_most_a_tenth_of_the_steps(machine: Machine, videos: int, steps: int):
    recipe = fitted(machine, videos, steps=steps)
    assert recipe.steps == steps
    clips = min(recipe.validation_clips, max(1, round(0.05 * videos)))
    cost = (steps // recipe.validate_every) * clips * recipe.samples
    assert cost <= 0.1 * steps * recipe.batch_size
    assert recipe.validate_every >= steps // 10


def test_chosen_values_stay():
    changes = {"nf": 48, "batch_size": 3, "samples": 7, "validate_every": 2, "archi": "vgg"}
    recipe = fitted(changes=changes, minutes=3.0, steps=10)
    assert sizes(recipe) == (48, 3)
    assert (recipe.samples, recipe.validate_every, recipe.architecture.archi) == (7, 2, "vgg")
    assert fitted(videos=8, changes={"accumulate": 4}, minutes=3.0).batch_size == 4


def test_a_line_says_what_was_fitted_to_what():
    given = Circumstances(57, 3, CPU, minutes=3.0)
    assert described(fit(OWN, {}, given), given) == (
        "recipe own: batch 8, 8 filters, 3 validation clips: fitted to 60 videos, 2 CPU cores, "
        "3 minutes"
    )
