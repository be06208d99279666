"""Checkpoints: what is kept, what comes back, and disks that are full."""

import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import clips_of, ours, tiny

from srvp_fd_jax.networks import weights
from srvp_fd_jax.training import checkpoints
from srvp_fd_jax.training.model import evaluation_draws
from srvp_fd_jax.training.step import State, model_of, start

RECIPE = tiny()
ABOUT = {"recipe": RECIPE.described(), "best": 21.5}


def at(step: int) -> State:
    return start(RECIPE)._replace(step=np.int32(step))


def test_a_state_comes_back_bit_by_bit(tmp_path: Path):
    state = ours(RECIPE)[1]
    with checkpoints.manager(tmp_path) as opened:
        checkpoints.save(opened, state, ABOUT, 20.0)
    with checkpoints.manager(tmp_path) as opened:
        kept = checkpoints.restore(opened, RECIPE)
    chex.assert_trees_all_equal(kept, state)
    assert checkpoints.last_about(tmp_path) == ABOUT


def test_the_last_and_the_best_checkpoint_are_kept(tmp_path: Path):
    with checkpoints.manager(tmp_path) as opened:
        for step, psnr in ((1, 20.0), (2, 25.0), (3, 21.0), (4, None)):
            checkpoints.save(opened, at(step), ABOUT | {"step": step}, psnr)
        checkpoints.save(opened, at(4), ABOUT, None)  # kept already
        assert opened.all_steps() == [2, 4]
        assert opened.best_step() == 2
    assert checkpoints.last_about(tmp_path)["step"] == 4


def test_the_model_of_the_best_validation_is_loaded(tmp_path: Path):
    state = ours(RECIPE)[1]
    with checkpoints.manager(tmp_path) as opened:
        checkpoints.save(opened, state, ABOUT, 25.0)
        checkpoints.save(opened, at(9), ABOUT, 21.0)
    clips = clips_of(1, RECIPE)[:2].astype(np.float32) / 255
    key = jax.random.key(0)
    draws = evaluation_draws(key, RECIPE.architecture, clips=2, given=3, frames=6)
    clips = jnp.asarray(clips)
    found = checkpoints.load_model(tmp_path)(clips[:, :3], draws)
    expected = model_of(state.arrays, RECIPE)(clips[:, :3], draws)
    chex.assert_trees_all_equal(found, expected)


# In a process of its own, since Orbax leaves failed threads and coroutines behind.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from test_checkpoints import ABOUT, RECIPE, at, checkpoints

with checkpoints.manager(Path(sys.argv[1])) as opened:
    checkpoints.save(opened, at(1), ABOUT, 20.0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        checkpoints.save(opened, at(2), ABOUT, 25.0)
    except OSError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path):
    folders = os.pathsep.join(map(str, [Path(__file__).parent, Path(__file__).parents[1]]))
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": folders},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=100,
    )
    assert run.stdout == f"{tmp_path}/checkpoints: no checkpoint of step 2: File too large\n"
    with checkpoints.manager(tmp_path) as opened:
        assert opened.all_steps() == [1]
        chex.assert_trees_all_equal(checkpoints.restore(opened, RECIPE), at(1))


def test_folders_without_a_checkpoint_are_told(tmp_path: Path):
    (tmp_path / checkpoints.FOLDER / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not checkpoints.exist(tmp_path)
    for load in (checkpoints.load_model, checkpoints.last_about):
        with pytest.raises(FileNotFoundError, match="no such run, or it has no checkpoint"):
            load(tmp_path)


def test_written_weights_are_those_of_the_inference_networks(tmp_path: Path):
    state = ours(RECIPE)[1]
    made = checkpoints.features_of(state, RECIPE, {"psnr": 20.5})
    weights.save(made, tmp_path / "own.safetensors")
    found = weights.load_weights("own", tmp_path / "own.safetensors")
    assert found.config["training"] == {"psnr": 20.5}
    assert {name.split(".")[0] for name in found.arrays} == {"encoder", "content", "initial_state"}
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array, state.arrays[name])
    # They serve under the name of any SRVP model, such as one whose protocols they were made for.
    assert (
        weights.load_weights("kth", tmp_path / "own.safetensors").arrays.keys()
        == found.arrays.keys()
    )
