"""Writes models of one's own training for the authors' PyTorch code."""

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from srvp_fd.srvp_model import StochasticLatentResidualVideoPredictor

from srvp_fd_jax.files import write_atomically
from srvp_fd_jax.networks.srvp import to_torch
from srvp_fd_jax.training.checkpoints import load_best


def write_checkpoint(run: str | os.PathLike[str], folder: Path) -> None:
    """Writes the best model of a run as the published checkpoints are, config.json and model.pt.

    Args:
        run: Folder of the run, see `srvp_fd_jax.training.trainer.train`.
        folder: Folder for the two files; it is made if it does not exist.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
        OSError: If the files cannot be written.
    """
    recipe, arrays = load_best(run)
    on_host = {name: np.asarray(array) for name, array in arrays.items()}
    config = dataclasses.asdict(recipe.architecture)
    model = StochasticLatentResidualVideoPredictor(**config)
    state = to_torch(on_host, recipe.architecture).items()
    # PyTorch's own class refuses missing, unexpected and mis-shaped arrays.
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state})
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    write_atomically(folder / "model.pt", content.getvalue())
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")
