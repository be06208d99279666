"""Trains an SRVP model on videos, and writes weights that score videos.

A run is a loop around `train_step`. Its folder holds checkpoints, from which it continues after a
kill with the same bits, a table of its progress, TensorBoard's events and pictures of predictions.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt8

import srvp_fd_jax
from srvp_fd_jax.files.atomic import write_atomically
from srvp_fd_jax.files.inputs import warn
from srvp_fd_jax.networks import weights
from srvp_fd_jax.training import checkpoints, plan
from srvp_fd_jax.training.clips import Split, batches, check_batch, held_out_clips, split
from srvp_fd_jax.training.clock import Clock
from srvp_fd_jax.training.objective import Objective
from srvp_fd_jax.training.recipes import Recipe
from srvp_fd_jax.training.records import TERMS, Write, records, save_picture
from srvp_fd_jax.training.step import State, learning_rate, start, train_step
from srvp_fd_jax.training.validation import baselines, validate
from srvp_fd_jax.videos.sources import as_videos

_NEW: dict[str, Any] = {"seconds": 0.0, "best": None}
_ADVICE = "resume from the last checkpoint, or begin again, with a smaller learning_rate"
_STEPS_A_ROW = 20


class Moment(NamedTuple):
    """Where a run is, for those who watch it.

    Attributes:
        step: Number of steps that are done.
        share: Share of the run that is over, 0 to 1.
        terms: The loss and its terms, averaged over the last steps; empty before them.
        psnr: PSNR of the last validation in dB; None before it.
        seconds_left: Time until the run is over; None before its second step.
    """

    step: int
    share: float
    terms: dict[str, float]
    psnr: float | None
    seconds_left: float | None


class Trained(NamedTuple):
    """What a run has made.

    Attributes:
        output: File of the weights of the best validation, for `weights=`.
        run: Folder of the run.
        step: Number of steps that are done.
        psnr: PSNR of the best validation in dB.
        clips: Number of held-out clips with which the PSNR was computed.
        baselines: PSNR in dB of "a blank frame" and of "the last frame" repeated, on these clips.
    """

    output: Path
    run: Path
    step: int
    psnr: float
    clips: int
    baselines: dict[str, float]

    @property
    def is_better(self) -> bool:
        """Whether the model predicts the held-out clips better than each of the baselines."""
        return self.psnr > max(self.baselines.values())


def train(
    videos: Any,
    output: str | os.PathLike[str],
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    on_survey: Callable[[int, int], None] = lambda done, total: None,
    on_fitted: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[Moment], None] = lambda moment: None,
) -> Trained:
    """Trains an SRVP model on videos.

    The videos are split into those to train on and 5 % that are held out for validation. Beside the
    file of weights, such as model.safetensors, a folder model.run gets the table metrics.csv,
    TensorBoard's events, pictures of predictions, the list of the videos and checkpoints.

    With several devices each of them works on a part of every batch, and with `jax.distributed` so
    do all processes, which must see the same videos and the same folder.

    Args:
        videos: Videos in any of the forms that `compute` takes, except statistics.
        output: File for the weights of the best validation, with the suffix .safetensors.
        recipe: How the model is trained. One of `RECIPES`, or a change of it, see `recipes.change`,
            is used as it is. Values by name are chosen values of the recipe "own", whose batch,
            number of filters and validations are otherwise fitted to the videos, the device and
            the time, or changes of the recipe of the run to resume. By default nothing is chosen.
        steps: Number of steps, to which the recipe's schedule is scaled; by default the recipe's.
        minutes: Time after which the run ends, if its steps are not done before; the time before
            an interruption counts too. The learning rate then follows the time, so that such a run
            does not give the same bits again.
        resume: Whether to continue from the last checkpoint of the run; without `steps` and
            `minutes` to the end that it had.
        on_survey: Called with the numbers of videos that were looked at and of all videos.
        on_fitted: Called with one line about a recipe that was fitted.
        on_progress: Called after every step.

    Returns:
        What the run has made.

    Raises:
        FileNotFoundError: If a path does not exist, or there is no checkpoint to resume.
        FileExistsError: If the file or its run exists and `resume` is False.
        ModuleNotFoundError: If the extra "train" is not installed.
        OSError: If something cannot be written. The last checkpoint stays.
        ValueError: If fewer videos than a batch can be used, if the run to resume had another
            recipe or other videos, if the loss is not finite, or if an argument is not valid.
        KeyboardInterrupt: If the run is interrupted, after a checkpoint.
    """
    begun, output = time.monotonic(), Path(output)
    folder = output.with_suffix(".run")
    plan.check_arguments(output, folder, steps, minutes, resume)
    saved = checkpoints.last_about(folder) if resume else _NEW
    plan.check_longer(saved, steps, minutes)
    if resume and steps is None and minutes is None:
        minutes = saved["minutes"]
    recipe, to_fit = plan.choose_recipe(recipe, saved, steps)
    found, fitted = split(as_videos(videos, "videos"), recipe, on_survey), saved.get("fitted")
    if to_fit is not None:
        recipe, fitted = plan.fit_recipe(recipe, to_fit, found, steps, minutes)
    check_batch(found, recipe)
    names = plan.hash_of_names(found, saved, folder)
    if fitted:
        on_fitted(fitted)
    held_out = held_out_clips(found.held_out, recipe)
    about = _about(recipe, found, held_out, fitted=fitted, names=names, minutes=minutes)
    clock = Clock(recipe.steps, minutes, begun - saved["seconds"])
    run = _Run(recipe, output, folder, about, held_out, on_progress, clock)
    return _open(run, found, saved)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same while a model trains."""

    recipe: Recipe
    output: Path
    folder: Path
    about: dict[str, Any]
    held_out: UInt8[np.ndarray, "n t 64 64 c"]
    on_progress: Callable[[Moment], None]
    clock: Clock


def _about(
    recipe: Recipe, videos: Split, held_out: UInt8[np.ndarray, "n t 64 64 c"], **more: Any
) -> dict[str, Any]:
    """What the checkpoints and the weights say about their run."""
    return {
        "version": srvp_fd_jax.__version__,
        "recipe": recipe.described(),
        "videos": {"training": len(videos.training), "held_out": len(videos.held_out)},
        "baselines": baselines(held_out, recipe.given),
        **more,
    }


def _open(run: _Run, videos: Split, saved: Mapping[str, Any]) -> Trained:
    """Opens the files of a run, and trains from its last checkpoint or from the start."""
    recipe = run.recipe
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    replicated = NamedSharding(mesh, P())
    with checkpoints.manager(run.folder) as opened:
        if "recipe" in saved:
            state = checkpoints.restore(opened, recipe, sharding=replicated)
        else:
            state = jax.tree.map(functools.partial(_placed, replicated), start(recipe))
        _write_names(run.folder, videos)
        clips = batches(videos.training, recipe, first=int(state.step))
        with records(run.folder, int(state.step)) as write, contextlib.closing(clips):
            save = functools.partial(_save, run, opened)
            return _follow(run, save, write, state, clips, saved["best"], mesh)


def _follow(
    run: _Run,
    save: Callable[..., None],
    write: Write,
    state: State,
    clips: Iterator[Any],
    best: float | None,
    mesh: jax.sharding.Mesh,
) -> Trained:
    """Trains until the run is over."""
    recipe, clock, step, terms, psnr = run.recipe, run.clock, int(state.step), {}, None
    by_batch = NamedSharding(mesh, P("data") if mesh.size > 1 else P())
    pending: list[Objective] = []
    share, _ = clock.look(step)
    try:
        while share < 1 or best is None:  # a run has at least one step and one validation
            batch = _placed(by_batch, next(clips))
            share, is_due = clock.look(step + 1)
            at = time.monotonic()
            state, objective = train_step(state, batch, np.float32(share), recipe)
            pending.append(objective)
            step += 1
            jax.block_until_ready(pending[-2:-1])  # so that one step is in flight
            clock.stepped(step, at)
            is_due |= share == 1 or step % recipe.validate_every == 0
            row: dict[str, int | float] = {}
            if is_due or step % _STEPS_A_ROW == 0:
                terms, pending = _mean(pending, step), []
                rate = float(learning_rate(jnp.float32(share), recipe))
                row = {"step": step, "seconds": clock.seconds, "learning_rate": rate, **terms}
            at = time.monotonic()
            if is_due:
                found = _validated(run, state, best)
                psnr = found["psnr"]
                best = psnr if best is None else max(psnr, best)
                row |= found
            if row:
                write(row)
            if is_due:  # after the row, which would be missing if a kill came in between
                save(state, psnr, best)
                clock.validated(at)
            run.on_progress(Moment(step, share, terms, psnr, clock.left(step)))
    except KeyboardInterrupt:
        if jax.process_count() == 1:  # others may be at another step
            save(state, None, best)
            warn(
                f"{run.folder}: saved at step {int(state.step)}, resume the run (--resume) to go on"
            )
        raise
    return Trained(run.output, run.folder, step, best, len(run.held_out), run.about["baselines"])


def _validated(run: _Run, state: State, best: float | None) -> dict[str, float]:
    """Validates a state and writes its weights if no earlier PSNR is higher."""
    state = jax.tree.map(lambda x: x.addressable_data(0), state)  # on one device of this process
    try:
        found = validate(state.arrays, run.held_out, run.recipe)
    except FloatingPointError as error:
        raise ValueError(f"{error} after step {int(state.step)}: {_ADVICE}") from error
    if jax.process_index() == 0:
        save_picture(run.folder, int(state.step), run.held_out, found, run.recipe.given)
        if best is None or found.psnr > best:
            about = run.about | {"step": int(state.step), "psnr": found.psnr}
            weights.save(checkpoints.features_of(state, run.recipe, about), run.output)
    return {"psnr": found.psnr, **found.distances}


def _save(run: _Run, opened: Any, state: State, psnr: float | None, best: float | None) -> None:
    about = run.about | {"step": int(state.step), "seconds": run.clock.seconds, "best": best}
    checkpoints.save(opened, state, about, psnr)


def _mean(objectives: list[Objective], step: int) -> dict[str, float]:
    """Means of the loss and its terms over the last steps."""
    each = jax.device_get(objectives)
    mean = {name: float(np.mean([getattr(o, name) for o in each])) for name in TERMS}
    if not math.isfinite(mean["loss"]):
        raise ValueError(f"the loss is {mean['loss']} at step {step}: {_ADVICE}")
    return mean


def _placed(sharding: NamedSharding, x: Array | np.ndarray) -> Array:
    """Puts what each process has of an array, or all of a replicated one, on the devices."""
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))


def _write_names(folder: Path, videos: Split) -> None:
    if jax.process_index() == 0:
        names = {
            "training": [video.name for video in videos.training],
            "held_out": [video.name for video in videos.held_out],
            "too_short": videos.too_short,
            "unreadable": videos.unreadable,
        }
        write_atomically(folder / plan.NAMES, json.dumps(names, indent=1).encode())
