"""Checkpoints of a run, and the weights that come out of it.

Orbax writes a checkpoint under a temporary name and renames it, so an interrupted write leaves the
earlier ones. The last checkpoint stays, and the one of the best validation.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srvp_fd_jax.files.atomic import arrays_sha256
from srvp_fd_jax.networks.base import Weights
from srvp_fd_jax.networks.srvp import OWN
from srvp_fd_jax.training.model import SRVPModel
from srvp_fd_jax.training.recipes import Recipe
from srvp_fd_jax.training.step import Arrays, State, model_of, start
from srvp_fd_jax.training.validation import inference_network

FOLDER = "checkpoints"
"""Name of the folder of checkpoints in the folder of a run."""

_PSNR = "psnr"
_UNKNOWN = -1e9  # PSNR of a checkpoint without validation, which is never the best


def exist(run: Path) -> bool:
    """Whether a folder holds checkpoints of a run."""
    # The folders of finished checkpoints have the numbers of their steps as names.
    return any(path.name.isdecimal() for path in (run / FOLDER).glob("*"))


@contextlib.contextmanager
def manager(run: Path) -> Iterator[Any]:
    """Opens the checkpoints of a run as an `orbax.checkpoint.CheckpointManager`."""
    import orbax.checkpoint as ocp

    policies = ocp.checkpoint_managers.preservation_policy
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics[_PSNR],
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(1), policies.BestN(get_metric_fn=lambda m: m[_PSNR], n=1)]
        ),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
    )
    with ocp.CheckpointManager(run.absolute() / FOLDER, options=options) as opened:
        yield opened


def save(opened: Any, state: State, about: Mapping[str, Any], psnr: float | None) -> None:
    """Saves a checkpoint, and removes those that are neither the last nor the best.

    Args:
        opened: From `manager`.
        state: State of the run.
        about: The recipe and whatever else the run needs to go on, as values for JSON.
        psnr: PSNR of the validation of this state in dB; None without a validation.

    Raises:
        OSError: If it cannot be written, such as on a full disk. The earlier checkpoints stay.
    """
    import orbax.checkpoint as ocp

    step = int(state.step)
    if opened.latest_step() == step:
        return
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(dict(about))
    )
    try:
        opened.save(step, args=items, metrics={_PSNR: _UNKNOWN if psnr is None else psnr})
    except ValueError as error:  # in which TensorStore hides errors of the file system
        if number := re.search(r"os_error_code='(\d+)'", str(error)):
            reason = os.strerror(int(number[1]))
            raise OSError(f"{opened.directory}: no checkpoint of step {step}: {reason}") from error
        raise


def restore(
    opened: Any,
    recipe: Recipe,
    step: int | None = None,
    *,
    sharding: jax.sharding.Sharding | None = None,
) -> State:
    """Restores the state of the last checkpoint, or of that of a step, by default on one device."""
    import orbax.checkpoint as ocp

    place = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(lambda: start(recipe)),
    )
    item = ocp.args.StandardRestore(like)
    return opened.restore(step, args=ocp.args.Composite(state=item))["state"]


def last_about(run: Path) -> dict[str, Any]:
    """What was saved about the last checkpoint of a run.

    Raises:
        FileNotFoundError: If the folder holds no checkpoint.
    """
    _check_exists(run)
    with manager(run) as opened:
        return _about(opened, opened.latest_step())


def load_best(run: str | os.PathLike[str]) -> tuple[Recipe, Arrays]:
    """Loads the recipe of a run and the whole model of its best validation.

    Args:
        run: Folder of the run.

    Returns:
        The recipe, and the weights under the dotted names of the Flax parameters, which
        `networks.srvp.checkpoint.to_torch` maps to a state dict of the authors' code.

    Raises:
        FileNotFoundError: If the folder holds no checkpoint.
    """
    _check_exists(Path(run))
    with manager(Path(run)) as opened:
        step = opened.best_step()
        recipe = Recipe.from_described(_about(opened, step)["recipe"])
        return recipe, restore(opened, recipe, step).arrays


def load_model(run: str | os.PathLike[str]) -> SRVPModel:
    """Loads the model of the best validation of a run, in evaluation mode; see `load_best`."""
    recipe, arrays = load_best(run)
    return model_of(arrays, recipe)


def features_of(state: State, recipe: Recipe, about: Mapping[str, Any]) -> Weights:
    """The weights that compute features, as a converted file has them.

    Args:
        state: State of the run.
        recipe: How the model is trained.
        about: What the file says about the run, as values for JSON.
    """
    network = inference_network(state.arrays, recipe)
    whole = {name: np.asarray(array) for name, array in state.arrays.items()}
    config = dataclasses.asdict(recipe.architecture) | {"training": dict(about)}
    arrays = {name: whole[name] for name in network.arrays}
    return Weights(OWN, network.architecture, arrays, config, arrays_sha256(whole))


def _check_exists(run: Path) -> None:
    if not exist(run):
        raise FileNotFoundError(f"{run}: no such run, or it has no checkpoint")


def _about(opened: Any, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    return opened.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
