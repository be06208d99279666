"""Models of one's own training, written for the authors' code."""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import SMALL

from convert.__main__ import main
from srvp_fd_jax.networks.srvp import read_checkpoint
from srvp_fd_jax.networks.srvp_model import SRVPModelArchitecture
from srvp_fd_jax.training import checkpoints
from srvp_fd_jax.training.recipes import RECIPES, change
from srvp_fd_jax.training.step import start


def test_a_run_becomes_a_checkpoint_of_the_authors_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = change(RECIPES["digits"], **{k: v for k, v in SMALL.items() if k != "nx"})
    with checkpoints.manager(tmp_path / "model.run") as opened:
        state = start(recipe)
        checkpoints.save(opened, state, {"recipe": recipe.described()}, 20.0)
    assert main([str(tmp_path / "model.run")]) == 0
    written = tmp_path / "model.torch"
    assert f"wrote {written}" in capsys.readouterr().out
    assert json.loads((written / "config.json").read_text()) == SMALL
    read = read_checkpoint(written, SRVPModelArchitecture)
    assert read.arrays.keys() == state.arrays.keys()
    for name, array in read.arrays.items():
        np.testing.assert_array_equal(array, state.arrays[name])
    assert main([str(tmp_path / "model.run")]) == 1
    assert "holds a checkpoint already; --force replaces it" in capsys.readouterr().err
    assert main([str(tmp_path / "model.run"), "--force"]) == 0
