"""Trains an SRVP model on videos, and writes weights that score videos.

A run is a loop around `train_step`. Its folder keeps checkpoints from which it goes on after a kill
with the same bits, a table of its progress, TensorBoard's events and pictures of predictions.
"""

import contextlib
import dataclasses
import functools
import hashlib
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
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt8

import srvp_fd_jax
from srvp_fd_jax.files import check_writable, write_atomically
from srvp_fd_jax.inputs import warn
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.srvp import OWN
from srvp_fd_jax.training import checkpoints
from srvp_fd_jax.training.clips import Split, batches, check_batch, held_out_clips, split
from srvp_fd_jax.training.fitting import VALIDATION_SHARE, described, find_machine, fit
from srvp_fd_jax.training.objective import Objective
from srvp_fd_jax.training.recipes import RECIPES, Recipe, change
from srvp_fd_jax.training.records import TERMS, Write, records, save_picture
from srvp_fd_jax.training.step import State, learning_rate, start, train_step
from srvp_fd_jax.training.validation import baselines, validate
from srvp_fd_jax.videos.sources import as_videos, local_names

_NAMES = "videos.json"
_SUFFIX = ".safetensors"
_SCHEDULE = ("burn_in", "decay", "learning_rate", "validate_every")
_NOTHING: dict[str, Any] = {"seconds": 0.0, "best": None}
_ADVICE = "resume from the last checkpoint, or begin again, with a smaller learning_rate"
_DIFFERENT = "videos: the processes see different ones"
_STEPS_A_ROW = 20
_VALIDATIONS = 10  # at most, in a run whose time is limited


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
        resume: Whether to go on from the last checkpoint of the run, without `steps` and `minutes`
            to the end that it had.
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
    folder = folder_of(output)
    _check_arguments(output, folder, steps, minutes, resume)
    kept = checkpoints.last_about(folder) if resume else _NOTHING
    _check_longer(kept, steps, minutes)
    if resume and steps is None and minutes is None:
        minutes = kept["minutes"]
    changes = {} if recipe is None or isinstance(recipe, Recipe) else recipe
    if isinstance(recipe, Recipe):
        fits, recipe = False, recipe if steps is None else recipe.shortened(steps)
    elif resume:
        fits, recipe = False, _changed(kept, changes, steps)
    else:
        fits, recipe = True, change(RECIPES[OWN], **changes)
    if resume:
        _check_same(Recipe.from_described(kept["recipe"]), recipe)
    if not fits:
        _check_devices(recipe)
    videos, fitted = split(as_videos(videos, "videos"), recipe, on_survey), kept.get("fitted")
    if fits:
        circumstances: Any = {
            "training": len(videos.training),
            "held_out": len(videos.held_out),
            "machine": find_machine(),
            "steps": steps,
            "minutes": minutes,
        }
        recipe = fit(recipe, changes, **circumstances)
        fitted = described(recipe, **circumstances)
        _check_devices(recipe)
    check_batch(videos, recipe)
    names = _hash(videos)
    if resume and names != kept["names"]:
        raise ValueError(
            f"videos: are not those of the run to resume, which {folder / _NAMES} names"
        )
    if fitted:
        on_fitted(fitted)
    held_out = held_out_clips(videos.held_out, recipe)
    about = {
        "version": srvp_fd_jax.__version__,
        "recipe": recipe.described(),
        "fitted": fitted,
        "videos": {"training": len(videos.training), "held_out": len(videos.held_out)},
        "names": names,
        "minutes": minutes,
        "baselines": baselines(held_out, recipe.given),
    }
    if jax.process_count() > 1:
        multihost_utils.assert_equal(np.frombuffer(names.encode(), np.uint8), _DIFFERENT)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    replicated = NamedSharding(mesh, P())
    with checkpoints.manager(folder) as opened:
        if resume:
            state = checkpoints.restore(opened, recipe, sharding=replicated)
        else:
            state = jax.tree.map(functools.partial(_placed, replicated), start(recipe))
        _write_names(folder, videos)
        with records(folder, int(state.step)) as write:
            run = _Run(
                recipe=recipe,
                output=output,
                folder=folder,
                about=about,
                held_out=held_out,
                opened=opened,
                write=write,
                on_progress=on_progress,
                clock=_Clock(recipe.steps, minutes, begun - kept["seconds"]),
            )
            clips = batches(videos.training, recipe, first=int(state.step))
            with contextlib.closing(clips):
                return _follow(run, state, clips, kept["best"], mesh)


def folder_of(output: str | os.PathLike[str]) -> Path:
    """The folder of the run that writes a file of weights."""
    return Path(output).with_suffix(".run")


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same while a model trains."""

    recipe: Recipe
    output: Path
    folder: Path
    about: dict[str, Any]
    held_out: UInt8[np.ndarray, "n t 64 64 c"]
    opened: Any
    write: Write
    on_progress: Callable[[Moment], None]
    clock: "_Clock"


class _Clock:
    """The time of a run: its share that is over, what validations took, and what is left.

    Attributes:
        begun: When the run would have begun if it had not been interrupted.
        validation: Seconds that the next validation may take.
    """

    def __init__(self, steps: int, minutes: float | None, begun: float):
        self.steps, self.minutes, self.begun = steps, minutes, begun
        self.validation = 0.0
        self._validations = self._share = 0.0
        self._here = time.monotonic()
        self._first: tuple[int, float] | None = None

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with the time before it was resumed."""
        return time.monotonic() - self.begun

    def look(self, step: int) -> tuple[float, bool]:
        """Share of the run that is over at the end of a step, and whether a validation is due.

        Both are the same in all processes. Validations are due by the clock only where the time is
        limited: up to ten, as long as they take a tenth of it at most.
        """
        share, is_due = step / self.steps, False
        if self.minutes is not None:
            over, whole = self.seconds, 60 * self.minutes - self.validation  # with one at the end
            share = max(share, self._share, over / whole if over < whole else 1.0)
            spent = self._validations + self.validation
            is_due = spent <= VALIDATION_SHARE * (time.monotonic() - self._here)
            is_due &= int(_VALIDATIONS * share) > int(_VALIDATIONS * self._share)
            if jax.process_count() > 1:
                both = multihost_utils.broadcast_one_to_all(np.array([share, is_due], np.float32))
                share, is_due = float(both[0]), bool(both[1])
        self._share = min(1.0, share)
        return self._share, is_due

    def stepped(self, step: int, begun: float) -> None:
        """Notes the end of a step, the first of which takes time to compile."""
        if self._first is None:
            self._first = step, time.monotonic()
            self.validation = time.monotonic() - begun  # of which a validation takes as much

    def validated(self, begun: float) -> None:
        """Notes the end of a validation."""
        self.validation = time.monotonic() - begun
        self._validations += self.validation

    def left(self, step: int) -> float | None:
        """Seconds that are left, in which the steps go on as fast as on average."""
        if self._first is None or step == self._first[0]:
            return None
        before, then = self._first
        left = (self.steps - step) * (time.monotonic() - then) / (step - before)
        if self.minutes is None:
            return left
        return min(left, max(0.0, 60 * self.minutes - self.seconds))


def _follow(
    run: _Run, state: State, clips: Iterator[Any], best: float | None, mesh: jax.sharding.Mesh
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
                run.write(row)
            if is_due:  # after the row, which would be missing if a kill came in between
                _keep(run, state, psnr, best)
                clock.validated(at)
            run.on_progress(Moment(step, share, terms, psnr, clock.left(step)))
    except KeyboardInterrupt:
        if jax.process_count() == 1:  # others may be at another step
            _keep(run, state, None, best)
            warn(
                f"{run.folder}: kept at step {int(state.step)}, resume the run (--resume) to go on"
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


def _keep(run: _Run, state: State, psnr: float | None, best: float | None) -> None:
    about = run.about | {"step": int(state.step), "seconds": run.clock.seconds, "best": best}
    checkpoints.save(run.opened, state, about, psnr)


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


def _check_arguments(
    output: Path, folder: Path, steps: int | None, minutes: float | None, resume: bool
) -> None:
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
    check_writable(folder / _NAMES)


def _check_longer(kept: Mapping[str, Any], steps: int | None, minutes: float | None) -> None:
    """Raises a `ValueError` if a run has done more already than it is meant to do."""
    done = kept.get("step", 0)
    if steps is not None and steps < done:
        raise ValueError(f"steps: got {steps}, but the run to resume has done {done} already")
    took = kept["seconds"] / 60
    if minutes is not None and minutes != kept.get("minutes") and minutes < took:
        raise ValueError(f"minutes: got {minutes:g}, but the run to resume has taken {took:.3g}")


def _changed(kept: Mapping[str, Any], changes: Mapping[str, Any], steps: int | None) -> Recipe:
    """The recipe of the run to resume, with another number of steps and other changes."""
    recipe = before = Recipe.from_described(kept["recipe"])
    if steps not in (None, before.steps):
        recipe = before.shortened(steps)
        if kept.get("fitted"):  # to as few validations as there is time for
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
        told = ", ".join(f"{name} {old[name]} (not {new[name]})" for name in changed)
        raise ValueError(f"recipe: the run to resume has {told}; only the schedule may change")


def _flat(recipe: Recipe) -> dict[str, Any]:
    values = recipe.described()
    return values.pop("architecture") | values


def _write_names(folder: Path, videos: Split) -> None:
    if jax.process_index() == 0:
        names = {
            "training": [video.name for video in videos.training],
            "held_out": [video.name for video in videos.held_out],
            "too_short": videos.too_short,
            "unreadable": videos.unreadable,
        }
        write_atomically(folder / _NAMES, json.dumps(names, indent=1).encode())


def _hash(videos: Split) -> str:
    names = [local_names(part) for part in (videos.training, videos.held_out)]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()
