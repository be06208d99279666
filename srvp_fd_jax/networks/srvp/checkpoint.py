"""Reads the authors' checkpoints of SRVP, and maps their names to those of the Flax parameters."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from srvp_fd_jax.files.atomic import cache_folder, file_sha256, open_file
from srvp_fd_jax.files.checkpoint import check_arrays, check_written_out, read_state_dict
from srvp_fd_jax.networks import hub
from srvp_fd_jax.networks.base import CONFIG_LIMIT, Weights, parameter_shapes, parse_config
from srvp_fd_jax.networks.srvp.architecture import SRVPArchitecture

HUB_REPOSITORY = "nkiyohara/srvp-pretrained-model-mirror"

HUB_REVISION = "main"
"""Branch, tag or commit of the hub repository to download."""

HUB_FOLDERS = {
    "mmnist_stochastic": "mmnist/stochastic",
    "mmnist_deterministic": "mmnist/deterministic",
    "bair": "bair",
    "kth": "kth",
    "human": "human",
}
"""Folders of the published checkpoints in the hub repository, by the names of the models."""

_MODEL = "model.pt"
_COUNTER = "num_batches_tracked"


def read_checkpoint(
    path: str | os.PathLike[str], kind: type[SRVPArchitecture] = SRVPArchitecture
) -> Weights:
    """Reads a checkpoint folder (config.json and model.pt) without PyTorch.

    Args:
        path: Path of the folder, or of the model.pt in it, which srvp-fd takes too. The name of the
            folder becomes the name of the model ("mmnist_stochastic" for "mmnist/stochastic").
        kind: Networks to read: the inference networks, or those of a whole model, see
            `training.model.SRVPModelArchitecture`.

    Returns:
        The weights, all float32.

    Raises:
        OSError: If one of the two files is missing or cannot be read.
        ValueError: If a file is damaged or has another format, or if the two files do not fit each
            other; the message names the missing, unexpected and mis-shaped keys.
    """
    folder = Path(path)
    if folder.name == _MODEL:
        folder = folder.parent
    if folder.is_file():
        raise ValueError(
            f"{folder}: neither a converted file nor the folder of a checkpoint, which holds "
            "config.json and model.pt"
        )
    config_path, model_path = folder / "config.json", folder / _MODEL
    for file_path in (config_path, model_path):
        if not file_path.exists():
            raise FileNotFoundError(
                f"{file_path}: no such file; a checkpoint folder holds config.json and model.pt"
            )
    with open_file(config_path) as file:
        text = file.read(CONFIG_LIMIT + 1)
    try:
        config = parse_config(text)
        architecture = kind.from_config(config)
    except ValueError as error:
        raise ValueError(f"{config_path}: {error}") from error
    state_dict = read_state_dict(model_path)
    try:
        used = _used(state_dict, architecture)
        # Checked before any copy, because an expanded tensor in a small file can have any size.
        check_written_out(used.values(), model_path)
        arrays = from_torch(used, architecture)
    except ValueError as error:
        raise ValueError(f"{model_path} does not fit {config_path}: {error}") from error
    return Weights(_name_of(folder), architecture, arrays, config, file_sha256(model_path))


def download(name: str) -> Path:
    """Finds the folder of a published checkpoint in the hub's cache or downloads it.

    Raises:
        FileNotFoundError: If the hub cannot be reached and a file is not in its cache.
        DamagedError: If a file is damaged, see `hub.fetch`.
    """
    files = [f"{HUB_FOLDERS[name]}/{file}" for file in ("config.json", _MODEL)]
    try:
        paths = [hub.fetch(HUB_REPOSITORY, file, HUB_REVISION) for file in files]
    except hub.DamagedError:
        raise
    except Exception as error:
        cached = cache_folder() / f"{name}.safetensors"
        raise FileNotFoundError(
            f"the weights of {name!r} are not in {cached} and could not be downloaded from "
            f"huggingface.co/{HUB_REPOSITORY} ({hub.reason(error)}); on a machine with a network, "
            f"run `srvp-fd-jax convert {name} {name}.safetensors`, then pass that file as weights= "
            "(or --weights)"
        ) from error
    return paths[-1].parent


def from_torch(
    state_dict: Mapping[str, np.ndarray], config: SRVPArchitecture
) -> dict[str, np.ndarray]:
    """Maps a PyTorch state dict of a whole SRVP model to the Flax parameters of an architecture.

    Kernels go from [out, in, height, width] to [height, width, in, out], matrices from [out, in]
    to [in, out]. Raises a `ValueError` if arrays of the architecture's networks do not fit
    `config`.
    """
    used = _used(state_dict, config)
    expected = parameter_shapes(config)
    keys = {name: _torch_key(name, config) for name in expected}
    check_arrays(used, {keys[name]: _torch_shape(expected[name]) for name in expected})
    return {
        name: np.ascontiguousarray(_to_flax_layout(used[key]), np.float32)
        for name, key in keys.items()
    }


def to_torch(
    arrays: Mapping[str, Float[np.ndarray, "..."]], config: SRVPArchitecture
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Maps Flax parameters to the PyTorch state dict of the same networks; inverts `from_torch`.

    The counters of batches, which PyTorch keeps beside the statistics of batch normalisation and
    does not use with these models' momentum, are 0.

    Args:
        arrays: Parameters under their dotted paths, see `Weights`.
        config: Architecture that the parameters belong to.

    Returns:
        Copies of the arrays under the authors' keys. `torch.from_numpy` of each gives what
        `load_state_dict` of `srvp_fd.srvp_model.StochasticLatentResidualVideoPredictor` takes.

    Raises:
        ValueError: If the arrays do not fit the architecture.
    """
    check_arrays(arrays, parameter_shapes(config))
    state_dict = {}
    for name, array in arrays.items():
        key = _torch_key(name, config)
        state_dict[key] = np.array(_to_torch_layout(array), order="C")
        if key.endswith(".running_var"):
            counter = key.replace("running_var", _COUNTER)
            state_dict[counter] = np.zeros((), np.int64)
    return state_dict


def _used(state_dict: Mapping[str, np.ndarray], config: SRVPArchitecture) -> dict[str, np.ndarray]:
    return {
        key: array
        for key, array in state_dict.items()
        if key.startswith(config.torch_parts) and not key.endswith(f".{_COUNTER}")
    }


def _to_flax_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _torch_key(name: str, config: SRVPArchitecture) -> str:
    """The authors' name, e.g. "encoder.conv.1.1.running_mean" for "encoder.conv.1.norm.mean"."""
    layer, parameter = name.rsplit(".", 1)
    parameters = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
    parameter = (parameters | {"var": "running_var"}).get(parameter, parameter)
    return config.torch_layers[layer].replace("*", parameter)


def _name_of(folder: Path) -> str:
    """Name of the model in a folder that is laid out as on the hub or has the model's name."""
    resolved = folder.resolve().as_posix()
    for dataset, hub_folder in HUB_FOLDERS.items():
        if resolved.endswith(f"/{hub_folder}"):
            return dataset
    return folder.resolve().name
