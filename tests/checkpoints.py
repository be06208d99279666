"""Checkpoints of every published configuration, in the authors' format, with random weights."""

import contextlib
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from srvp_fd.srvp_model import StochasticLatentResidualVideoPredictor

_COMMON = {
    "nx": 64,
    "nf": 64,
    "nhx": 128,
    "nh_inf": 256,
    "nlayers_inf": 3,
    "nh_res": 512,
    "nlayers_res": 4,
}
_MMNIST = _COMMON | {"archi": "dcgan", "nc": 1, "ny": 20, "nz": 20, "nt_inf": 5, "skipco": False}
_VGG = _COMMON | {"archi": "vgg", "ny": 50, "nz": 50, "skipco": True}

FLOATS = torch.float32, torch.float64
"""Types that a model in PyTorch is taken in: the peer's, and that of the exact values."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "mmnist_stochastic": _MMNIST,
    "mmnist_deterministic": _MMNIST,
    "bair": _VGG | {"nc": 3, "nt_inf": 2},
    "kth": _VGG | {"nc": 1, "nt_inf": 3},
    "human": _VGG | {"nc": 3, "nt_inf": 3},
}

SMALL = _MMNIST | {"nf": 4, "nhx": 16, "ny": 3, "nz": 3, "nt_inf": 2, "nh_inf": 8, "nh_res": 8}
"""A model that converts in a moment, with no size in common with the published ones but nx."""


def random_model(config: dict[str, Any], seed: int = 0) -> StochasticLatentResidualVideoPredictor:
    """A model whose features vary from sample to sample as a trained one's do.

    PyTorch's own initialisation lets the activations fade from layer to layer, so that everything
    would agree with everything. Variance is kept by He's scaling, and the normalisation gets
    statistics that are not those of initialisation.
    """
    torch.manual_seed(seed)
    model = StochasticLatentResidualVideoPredictor(**config)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight, a=0.2)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked.fill_(1000)
    return model.eval()


def state_dict_of(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a random model under the authors' keys."""
    return {key: tensor.numpy() for key, tensor in random_model(config, seed).state_dict().items()}


def assert_same_arrays(arrays: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    """Asserts that names, types, shapes and every bit agree."""
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype
        assert array.shape == others[name].shape
        assert array.tobytes() == others[name].tobytes()


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Writes config.json and model.pt of a random model and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(random_model(config, seed).state_dict(), folder / "model.pt")
    return folder


@contextlib.contextmanager
def at_most(memory: int) -> Iterator[None]:
    """Asserts that the block takes no more than so many bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
