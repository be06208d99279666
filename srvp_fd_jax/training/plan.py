"""What is settled before a run: its recipe, and whether it may start or resume."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from srvp_fd_jax.files.atomic import check_writable
from srvp_fd_jax.networks.srvp import OWN
from srvp_fd_jax.training import checkpoints
from srvp_fd_jax.training.clips import Split
from srvp_fd_jax.training.fitting import Circumstances, described, find_machine, fit
from srvp_fd_jax.training.recipes import RECIPES, Recipe, change
from srvp_fd_jax.videos.sources import local_names

NAMES = "videos.json"
"""Name of the file of a run that lists its videos."""

_SUFFIX = ".safetensors"
_SCHEDULE = ("burn_in", "decay", "learning_rate", "validate_every")
_DIFFERENT = "videos: the processes see different ones"


def choose_recipe(
    recipe: Recipe | Mapping[str, Any] | None, saved: Mapping[str, Any], steps: int | None
) -> tuple[Recipe, Mapping[str, Any] | None]:
    """Chooses the recipe of a run.

    Args:
        recipe: Argument of `trainer.train`.
        saved: What the last checkpoint says about the run to resume; no recipe for a new run.
        steps: Number of steps, if they are limited.

    Returns:
        The recipe, and the chosen values if the others are to be fitted, else None.
    """
    if not isinstance(recipe, Recipe) and "recipe" not in saved:
        return change(RECIPES[OWN], **(recipe or {})), recipe or {}
    if not isinstance(recipe, Recipe):
        chosen = _changed(saved, recipe or {}, steps)
    else:
        chosen = recipe if steps is None else recipe.shortened(steps)
    if "recipe" in saved:
        _check_same(Recipe.from_described(saved["recipe"]), chosen)
    _check_devices(chosen)
    return chosen, None


def fit_recipe(
    recipe: Recipe,
    changes: Mapping[str, Any],
    videos: Split,
    steps: int | None,
    minutes: float | None,
) -> tuple[Recipe, str]:
    """Fits the recipe to the videos, the device and the time, and describes that in one line."""
    training, held_out = len(videos.training), len(videos.held_out)
    given = Circumstances(training, held_out, find_machine(), steps, minutes)
    recipe = fit(recipe, changes, given)
    _check_devices(recipe)
    return recipe, described(recipe, given)


def hash_of_names(videos: Split, saved: Mapping[str, Any], folder: Path) -> str:
    """Hash of the names of the videos.

    Raises:
        ValueError: If the run to resume had other videos.
        AssertionError: If the processes see different videos.
    """
    names = [local_names(part) for part in (videos.training, videos.held_out)]
    found = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    if saved.get("names", found) != found:
        raise ValueError(
            f"videos: are not those of the run to resume, which {folder / NAMES} names"
        )
    if jax.process_count() > 1:
        multihost_utils.assert_equal(np.frombuffer(found.encode(), np.uint8), _DIFFERENT)
    return found


def check_arguments(
    output: Path, folder: Path, steps: int | None, minutes: float | None, resume: bool
) -> None:
    """Raises an error if an argument of `trainer.train` is not valid."""
    if output.suffix != _SUFFIX:
        raise ValueError(f"output: got {output}, expected a name that ends in {_SUFFIX}")
    for name, value in (("steps", steps), ("minutes", minutes)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: got {value}, expected a positive number")
    if not resume:
        advice = "remove it or choose another output"
        if checkpoints.exist(folder):
            raise FileExistsError(f"{folder}: holds a run already: resume it (--resume), {advice}")
        if output.exists():
            raise FileExistsError(f"{output}: exists already, without its run: {advice}")
    check_writable(output)
    check_writable(folder / NAMES)


def check_longer(saved: Mapping[str, Any], steps: int | None, minutes: float | None) -> None:
    """Raises a `ValueError` if a run has done more already than it is meant to do."""
    done = saved.get("step", 0)
    if steps is not None and steps < done:
        raise ValueError(f"steps: got {steps}, but the run to resume has done {done} already")
    took = saved["seconds"] / 60
    if minutes is not None and minutes != saved.get("minutes") and minutes < took:
        raise ValueError(f"minutes: got {minutes:g}, but the run to resume has taken {took:.3g}")


def _changed(saved: Mapping[str, Any], changes: Mapping[str, Any], steps: int | None) -> Recipe:
    """The recipe of the run to resume, with another number of steps and other changes."""
    recipe = before = Recipe.from_described(saved["recipe"])
    if steps not in (None, before.steps):
        recipe = before.shortened(steps)
        if saved.get("fitted"):  # to as few validations as there is time for
            every = max(before.validate_every, recipe.validate_every)
            recipe = dataclasses.replace(recipe, validate_every=every)
    return change(recipe, **changes)


def _check_devices(recipe: Recipe) -> None:
    parts = recipe.accumulate * jax.device_count()
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size: got {recipe.batch_size}, expected a multiple of {parts} "
            f"({recipe.accumulate} parts of a batch, each on {jax.device_count()} devices)"
        )


def _check_same(before: Recipe, now: Recipe) -> None:
    """Raises a `ValueError` unless a run may go on with another recipe.

    The schedule may differ, so that a run can be made longer or go on more slowly.
    """
    old, new = (_flat(one) for one in (before, now))
    changed = [name for name in new if old[name] != new[name] and name not in _SCHEDULE]
    if changed:
        values = ", ".join(f"{name} {old[name]} (not {new[name]})" for name in changed)
        raise ValueError(f"recipe: the run to resume has {values}; only the schedule may change")


def _flat(recipe: Recipe) -> dict[str, Any]:
    values = recipe.described()
    return values.pop("architecture") | values
