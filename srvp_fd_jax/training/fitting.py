"""Fits the recipe "own" to the videos, the device and the time of a run.

The published recipes assume a GPU, thousands of videos and days. On a CPU, a network of fewer
filters and smaller batches make more steps in the same time, which matters more there.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float

from srvp_fd_jax.networks.kernels.convolution import direct
from srvp_fd_jax.training.recipes import Recipe, change

VALIDATION_SHARE = 0.1
"""Largest share of the time of a run that validations take."""

_STEPS = 5_000  # that the time of a run should allow
_STEPS_ON_CPU = 40_000  # without a limit, as for the bundled model "digits"
_SIZES_ON_CPU = ((64, 16), (32, 16), (16, 16), (8, 16), (8, 8))  # filters and batch
_REFERENCE = 0.010  # seconds of `_convolutions` on the 2 cores where `_clip_seconds` was measured

# Number of validations and of predictions per clip, the preferred ones first.
_VALIDATIONS = ((10, 100), (10, 10), (5, 10), (3, 5), (1, 5), (1, 1))
_CLIPS, _CLIPS_ON_CPU, _MIN_CLIPS = 400, 64, 16


class Machine(NamedTuple):
    """What a model is trained on.

    Attributes:
        kind: Kind of the devices: "cpu", "gpu" or "tpu".
        devices: Number of devices of all processes.
        cores: Number of CPU cores of this process.
        speed: Speed of a CPU relative to two cores of 2023; 1 on other devices.
    """

    kind: str
    devices: int
    cores: int
    speed: float


class Circumstances(NamedTuple):
    """What a recipe is fitted to.

    Attributes:
        training: Number of videos to train on.
        held_out: Number of videos that are held out.
        machine: What the model is trained on.
        steps: Number of steps, if they are limited.
        minutes: Time of the run, if it is limited.
    """

    training: int
    held_out: int
    machine: Machine
    steps: int | None = None
    minutes: float | None = None


def find_machine() -> Machine:
    """Finds out what this process trains on, and measures how fast a CPU is at present."""
    kind = jax.default_backend()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    speed = _speed() if kind == "cpu" else 1.0
    if jax.process_count() > 1:
        speed = float(multihost_utils.broadcast_one_to_all(np.float32(speed)))
    return Machine(kind, jax.device_count(), cores or 1, speed)


def fit(recipe: Recipe, changes: Mapping[str, Any], given: Circumstances) -> Recipe:
    """Fits a recipe to the circumstances of a run.

    On a CPU the number of filters and the batch are the largest ones for which the time allows some
    thousands of steps. A batch has no more clips than there are videos. Validations take no more
    than a tenth of the time, as far as that can be foreseen.

    Args:
        recipe: Recipe to fit.
        changes: Values that are chosen already, by name, see `recipes.change`. They stay.
        given: The circumstances.
    """
    training, held_out, machine, steps, minutes = given
    recipe = change(recipe, **changes)
    on_cpu, parts = machine.kind == "cpu", recipe.accumulate * machine.devices
    sizes = [(recipe.architecture.nf, recipe.batch_size)]
    if on_cpu:
        sizes = list(_SIZES_ON_CPU if minutes else [(16, 16)])
    possible = float("inf")
    for nf, batch in sizes:
        batch = max(parts, min(batch, training) // parts * parts)
        recipe = change(recipe, **{"nf": nf, "batch_size": batch, **changes})
        if minutes:
            possible = 60 * minutes / (recipe.batch_size * _clip_seconds(recipe, machine))
        if possible >= max(_STEPS, steps or 0):
            break
    if steps or (on_cpu and not minutes):
        recipe = recipe.shortened(steps or _STEPS_ON_CPU)
    total = min(possible, recipe.steps)
    # A prediction takes no longer than a step takes per clip.
    allowed = int(VALIDATION_SHARE * total * recipe.batch_size)
    largest = min(held_out, _CLIPS_ON_CPU if on_cpu else _CLIPS)
    for validations, samples in _VALIDATIONS:
        clips = min(largest, allowed // (validations * samples))
        if clips >= min(largest, _MIN_CLIPS):
            break
    every = max(1, recipe.steps // (1 if minutes else validations))
    values = {"validate_every": every, "validation_clips": max(1, clips), "samples": samples}
    return change(recipe, **{**values, **changes})


def described(recipe: Recipe, given: Circumstances) -> str:
    """What a recipe was fitted to and what came out, in one line."""
    training, held_out, machine, steps, minutes = given
    limits = [f"{steps:,} steps" if steps else "", f"{minutes:g} minutes" if minutes else ""]
    device = _counted(machine.cores, "CPU core")
    if machine.kind != "cpu":
        device = _counted(machine.devices, machine.kind.upper())
    fitted_to = [_counted(training + held_out, "video"), device, *filter(None, limits)]
    return (
        f"recipe {recipe.preset}: batch {recipe.batch_size}, {recipe.architecture.nf} filters, "
        f"{_counted(min(held_out, recipe.validation_clips), 'validation clip')}: fitted to "
        f"{', '.join(fitted_to)}" + ("" if any(limits) else f"; {recipe.steps:,} steps")
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def _clip_seconds(recipe: Recipe, machine: Machine) -> float:
    """About the time of a step per clip of its batch."""
    if machine.kind != "cpu":
        return 1e-3 / machine.devices
    nf = recipe.architecture.nf
    of_dcgan = 3e-3 + 1.1e-3 * nf + 2e-5 * nf**2
    seconds = of_dcgan * (4 if recipe.architecture.archi == "vgg" else 1)
    return seconds * recipe.frames / 15 / machine.speed


def _speed() -> float:
    """Speed of convolutions, which other programs and limits of a container slow down as well."""
    x, kernel = jnp.ones((64, 32, 32, 16)), jnp.ones((4, 4, 16, 32))
    jax.block_until_ready(_convolutions(x, kernel))
    begun = time.perf_counter()
    for _ in range(20):
        jax.block_until_ready(_convolutions(x, kernel))
    return _REFERENCE * 20 / (time.perf_counter() - begun)


@jax.jit
def _convolutions(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c d"]
) -> tuple[Float[Array, "n h w c"], Float[Array, "k k c d"]]:
    """A convolution and its gradient."""

    def loss(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, ""]:
        return jnp.sum(direct(x, kernel, strides=2, padding=1, precision="default") ** 2)

    return jax.grad(loss, (0, 1))(x, kernel)
