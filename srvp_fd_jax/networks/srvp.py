"""SRVP: its inference networks, which compute the features, and their published weights.

SRVP (Franceschi et al., Stochastic Latent Residual Video Prediction, ICML 2020, arXiv 2002.09219)
encodes every frame with a convolutional network. From the encodings it infers a content variable w
and a Gaussian over the initial state y₀. This module follows the authors' code
(https://github.com/edouardelasalles/srvp, Apache-2.0) for these three networks; the decoder and the
residual dynamics are in `srvp_model`.

The outputs are those of the PyTorch package srvp-fd 0.4.1:

- "frame": the encoding of a single frame, which represents appearance.
- "static_content": the content variable w, inferred from the last nt_inf frames of a clip, which
  represents what does not change over time.
- "dynamics": the Gaussian over the initial state, inferred from the first nt_inf frames of a clip,
  which represents motion. Each clip is one component of a Gaussian mixture.

`precision` applies to the convolutions only; linear layers always run in float32 ("highest").
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from srvp_fd_jax.checkpoint import check_arrays, check_written_out, read_state_dict
from srvp_fd_jax.files import cache_folder, file_sha256, open_file
from srvp_fd_jax.networks import hub
from srvp_fd_jax.networks.base import (
    CONFIG_LIMIT,
    Architecture,
    Network,
    Output,
    Weights,
    parameter_shapes,
    parse_config,
)
from srvp_fd_jax.networks.kernels import convolution, gradients
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.kernels.pooling import max_pool_2x2

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

OWN = "own"
"""Name of all SRVP models that users train themselves, see the folder training/."""

DATASETS = (*HUB_FOLDERS, "digits", OWN)
"""Names of the SRVP models: the authors' five, the small one in this package, and one's own."""

TORCH_PARTS = ("encoder.", "w_proj.", "w_inf.", "q_y.")
"""Prefixes of the inference networks' keys in the authors' state dicts."""

_MODEL = "model.pt"
_COUNTER = "num_batches_tracked"

# Limits far above any model's values, and low enough that the shapes of the layers are computed in
# a moment. The weights are checked against these shapes before anything else.
_LARGEST_SIZE, _LARGEST_DEPTH = 1 << 16, 100

ComparisonType = Literal["frame", "static_content", "dynamics"]
"""Features to compare: the encodings, w or y₀."""

COMPARISON_TYPES: tuple[ComparisonType, ...] = get_args(ComparisonType)

_Conv = functools.partial(nnx.Conv, use_bias=False)  # only holds the kernel for `ConvBlock`
Linear = functools.partial(nnx.Linear, precision="highest")  # in float32 on every backend
_leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


@dataclasses.dataclass(frozen=True)
class SRVPArchitecture(Architecture):
    """Architecture of the inference networks, with the field names of a checkpoint's config.json.

    Attributes:
        archi: Type of the encoder, "dcgan" or "vgg".
        nx: Height and width of a frame, 64 for both encoders.
        nc: Number of channels of a frame.
        nf: Number of filters of the first convolution.
        nhx: Dimension of a frame's encoding.
        ny: Dimension of the state y.
        nt_inf: Number of frames from which w and the initial state are inferred.
        nh_inf: Dimension of w and of the hidden layers in the MLP that infers the initial state.
        nlayers_inf: Number of linear layers in that MLP.
        skipco: Whether the model was trained with skip connections from the encoder to the decoder,
            through which detail bypasses the encoding.
    """

    family = "srvp"
    size = 64
    torch_parts: ClassVar[tuple[str, ...]] = TORCH_PARTS

    archi: Literal["dcgan", "vgg"]
    nx: int
    nc: int
    nf: int
    nhx: int
    ny: int
    nt_inf: int
    nh_inf: int
    nlayers_inf: int
    skipco: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SRVPArchitecture":
        """See `Architecture.from_config`; fields of the decoder and the dynamics are ignored."""
        values = {}
        for field in dataclasses.fields(cls):
            if field.name not in config:
                raise ValueError(f"config: no field {field.name!r}, got {sorted(config)!s:.400}")
            values[field.name] = value = config[field.name]
            came = f"config: {field.name} is {value!r:.80}"
            largest = _LARGEST_DEPTH if field.name.startswith("nlayers") else _LARGEST_SIZE
            if field.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{came}, expected a positive integer")
            if field.type is int and value > largest:
                raise ValueError(f"{came}, expected at most {largest}")
            if field.type is bool and type(value) is not bool:
                raise ValueError(f"{came}, expected true or false")
        if values["archi"] not in ("dcgan", "vgg"):
            came = f"config: archi is {values['archi']!r:.80}"
            raise ValueError(f"{came}, allowed are 'dcgan', 'vgg'")
        if values["nx"] != cls.size:
            raise ValueError(f"config: nx is {values['nx']}, both encoders need {cls.size}")
        return cls(**values)

    @property
    def channels(self) -> int:
        """Number of channels of a frame."""
        return self.nc

    @functools.cached_property
    def outputs(self) -> Mapping[str, Output]:
        """The outputs "frame", "static_content" and "dynamics"."""
        return {
            "frame": Output(self.nhx, per_frame=True),
            "static_content": Output(self.nh_inf, frames=self.nt_inf, looks_at="last"),
            "dynamics": Output(
                self.ny, frames=self.nt_inf, looks_at="first", gaussian=gaussian_from_raw
            ),
        }

    @property
    def caution(self) -> str | None:
        """Predicate of a warning about skip connections, or None."""
        if not self.skipco:
            return None
        return (
            "was trained with skip connections (skipco), which let detail bypass the encoder: its "
            "features may capture less than those of a model without skip connections"
        )

    @functools.cached_property
    def torch_layers(self) -> Mapping[str, str]:
        """Names of the layers to the authors' keys, in which * stands for the parameter."""
        return _encoder_layers(self.archi) | {
            "content.projection": "w_proj.0.*",
            "content.output": "w_inf.0.*",
            **mlp_layers("initial_state", "q_y", self.nlayers_inf),
        }

    def module(self, precision: Precision, rngs: nnx.Rngs) -> "SRVP":
        """Makes the inference networks with random weights."""
        network = SRVP(self, rngs=rngs)
        # Linear layers have an attribute of the same name, which stays "highest".
        network.set_attributes(ConvBlock, precision=precision)
        return network

    def features(
        self, module: "SRVP", clips: Float[Array, "n t h w c"], outputs: tuple[str, ...]
    ) -> Mapping[str, Float[Array, "n k _"]]:
        """Computes encodings, w, and means with raw scales of q(y₀); encodes each frame once."""
        encodings = _encodings(module.encoder, clips, 4 * self.frames_at_once())

        def features_of(output: str) -> Float[Array, "n k _"]:
            match output:
                case "frame":
                    return encodings
                case "static_content":
                    return module.content(encodings[:, -self.nt_inf :])[:, None]
                case _:
                    return module.initial_state(encodings[:, : self.nt_inf])[:, None]

        return {output: features_of(output) for output in outputs}

    def windows(
        self, module: "SRVP", clips: Float[Array, "n t h w c"], outputs: tuple[str, ...]
    ) -> Mapping[str, Float[Array, "n k _"]]:
        """See `Architecture.windows`; encodes each frame once."""
        encodings = _encodings(module.encoder, clips, 4 * self.frames_at_once())
        n, t = clips.shape[:2]
        heads = {"static_content": module.content, "dynamics": module.initial_state}

        def at_places(output: str) -> Float[Array, "n k _"]:
            if output == "frame":
                return encodings
            starts = jnp.arange(t - self.nt_inf + 1)
            windows = encodings[:, starts[:, None] + jnp.arange(self.nt_inf)]
            flat = windows.reshape(-1, *windows.shape[2:])
            return heads[output](flat).reshape(n, len(starts), -1)

        return {output: at_places(output) for output in outputs}


def _encodings(
    encoder: Callable[[Array], Array], clips: Float[Array, "n t h w c"], most: int
) -> Float[Array, "n t nhx"]:
    """Encodes the frames of clips, about `most` at a time to bound the memory."""

    def encode(part: Float[Array, "n s h w c"]) -> Float[Array, "n s nhx"]:
        return encoder(part.reshape(-1, *part.shape[2:])).reshape(*part.shape[:2], -1)

    n, t = clips.shape[:2]
    length = -(-t // max(1, n * t // most))
    if length == t:
        return encode(clips)
    steps = -(-t // length)
    padded = jnp.pad(clips, ((0, 0), (0, steps * length - t), *[(0, 0)] * 3))
    parts = padded.reshape(n, steps, length, *clips.shape[2:]).swapaxes(0, 1)
    encodings = jax.lax.map(encode, parts).swapaxes(0, 1)
    return encodings.reshape(n, steps * length, -1)[:, :t]


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation as PyTorch's, with a momentum of 0.1 in its terms.

    In training mode (`train()` of a module around it) it normalises with the batch's mean and
    biased variance, and moves the running variance towards the unbiased one, where Flax takes the
    biased one. Raises a `ValueError` if that has no value.
    """

    scale: nnx.Param[Array]
    bias: nnx.Param[Array]

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:  # type: ignore[override]
        """Normalises images over all but the last axis."""
        if self.use_running_average:
            return super().__call__(x)
        count, old = x.size // x.shape[-1], self.momentum
        if count < 2:
            raise ValueError("x: got one value per channel, training needs at least 2")
        mean = jax.lax.stop_gradient(x).mean((0, 1, 2))
        var = jnp.square(jax.lax.stop_gradient(x) - mean).mean((0, 1, 2))
        self.mean[...] = old * self.mean[...] + (1 - old) * mean
        self.var[...] = old * self.var[...] + (1 - old) * var * (count / (count - 1))
        deviation = jnp.sqrt(var + self.epsilon)
        return gradients.normalise(x, mean, deviation, self.scale[...], self.bias[...])


class ConvBlock(nnx.Module):
    """Convolution or transposed convolution, batch normalisation, activation.

    The normalisation takes the statistics from training, and those of the batch after `train()`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        rngs: nnx.Rngs,
        strides: int = 1,
        padding: int = 1,
        transposed: bool = False,
        normalise: bool = True,
        activation: Callable[[Array], Array] = _leaky_relu,
    ):
        """Makes the layers with random weights."""
        # A transposed convolution has the kernel of the convolution that it transposes.
        sizes = (out_features, in_features) if transposed else (in_features, out_features)
        self.conv = _Conv(*sizes, (kernel_size, kernel_size), rngs=rngs)
        self.strides, self.padding, self.transposed = strides, padding, transposed
        self.precision: Precision = "float32"
        self.use_running_average = True  # which `train()` and `eval()` set
        self.norm = (
            BatchNorm(out_features, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)
            if normalise
            else None
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Applies the block."""
        module = convolution if self.use_running_average else gradients
        x = (module.transposed_convolution if self.transposed else module.convolution)(
            x,
            self.conv.kernel[...],
            strides=self.strides,
            padding=self.padding,
            precision=self.precision,
        )
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


def _last_conv(config: SRVPArchitecture, rngs: nnx.Rngs) -> ConvBlock:
    return ConvBlock(8 * config.nf, config.nhx, 4, padding=0, activation=jnp.tanh, rngs=rngs)


class DCGAN64Encoder(nnx.Module):
    """Five convolutions (Radford et al. 2016) from 64×64 frames to vectors in [-1, 1]."""

    def __init__(self, config: SRVPArchitecture, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        nf = config.nf
        widths = [config.nc, nf, 2 * nf, 4 * nf, 8 * nf]
        self.conv = nnx.List(
            ConvBlock(widths[i], widths[i + 1], 4, strides=2, normalise=i > 0, rngs=rngs)
            for i in range(4)
        )
        self.last_conv = _last_conv(config, rngs)

    def with_skips(
        self, frames: Float[Array, "n 64 64 c"]
    ) -> tuple[Float[Array, "n nhx"], list[Float[Array, "n _ _ _"]]]:
        """Encodes frames; also returns the outputs of all convolutions but the last."""
        skips, x = [], frames
        for block in self.conv:
            x = block(x)
            skips.append(x)
        return self.last_conv(x)[:, 0, 0], skips

    def __call__(self, frames: Float[Array, "n 64 64 c"]) -> Float[Array, "n nhx"]:
        """Encodes frames."""
        return self.with_skips(frames)[0]


class VGG64Encoder(nnx.Module):
    """Four stages of 3×3 convolutions (Simonyan & Zisserman 2015), each before max pooling."""

    def __init__(self, config: SRVPArchitecture, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        nf = config.nf
        stages = [[nf] * 2, [2 * nf] * 2, [4 * nf] * 3, [8 * nf] * 3]
        width = config.nc
        self.conv: nnx.List[nnx.List[ConvBlock]] = nnx.List()
        for stage in stages:
            blocks: nnx.List[ConvBlock] = nnx.List()
            for out in stage:
                blocks.append(ConvBlock(width, out, 3, rngs=rngs))
                width = out
            self.conv.append(blocks)
        self.last_conv = _last_conv(config, rngs)

    def with_skips(
        self, frames: Float[Array, "n 64 64 c"]
    ) -> tuple[Float[Array, "n nhx"], list[Float[Array, "n _ _ _"]]]:
        """Encodes frames; also returns the outputs of the stages before max pooling."""
        skips, x = [], frames
        for stage in self.conv:
            for block in stage:
                x = block(x)
            skips.append(x)
            x = max_pool_2x2(x)
        return self.last_conv(x)[:, 0, 0], skips

    def __call__(self, frames: Float[Array, "n 64 64 c"]) -> Float[Array, "n nhx"]:
        """Encodes frames."""
        return self.with_skips(frames)[0]


class Content(nnx.Module):
    """Infers the content variable w, a permutation-invariant function of a clip's encodings."""

    def __init__(self, config: SRVPArchitecture, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        self.projection = Linear(config.nhx, config.nh_inf, rngs=rngs)
        self.output = Linear(config.nh_inf, config.nh_inf, rngs=rngs)

    def __call__(self, encodings: Float[Array, "n t nhx"]) -> Float[Array, "n nh_inf"]:
        """Computes w with values in [-1, 1]."""
        return jnp.tanh(self.output(jax.nn.relu(self.projection(encodings)).sum(axis=1)))


class MLP(nnx.Module):
    """Linear layers with a ReLU before every layer but the first."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int, layers: int, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        sizes = [n_in, *[n_hidden] * (layers - 1), n_out]
        self.layers = nnx.List(Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes))

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d2"]:
        """Applies the layers."""
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else jax.nn.relu(x))
        return x


class InitialState(MLP):
    """Infers the Gaussian q(y₀) over the initial state from a clip's encodings, in time order."""

    def __init__(self, config: SRVPArchitecture, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        n_in = config.nt_inf * config.nhx
        super().__init__(n_in, config.nh_inf, 2 * config.ny, config.nlayers_inf, rngs=rngs)

    def __call__(self, encodings: Float[Array, "n nt_inf nhx"]) -> Float[Array, "n two_ny"]:
        """Computes the mean and the raw scale of q(y₀), concatenated."""
        return super().__call__(encodings.reshape(encodings.shape[0], -1))


class SRVP(nnx.Module):
    """The inference networks of one SRVP model.

    Attributes:
        architecture: Architecture of the networks.
        encoder: Maps frames [n, 64, 64, nc], float32 in [0, 1], to encodings [n, nhx].
        content: Maps encodings [n, t, nhx] to w [n, nh_inf].
        initial_state: Maps encodings [n, nt_inf, nhx] to mean and raw scale of q(y₀) [n, 2 ny].
    """

    def __init__(self, config: SRVPArchitecture, *, rngs: nnx.Rngs):
        """Makes the networks with random weights."""
        encoder = DCGAN64Encoder if config.archi == "dcgan" else VGG64Encoder
        self.architecture = config
        self.encoder = encoder(config, rngs=rngs)
        self.content = Content(config, rngs=rngs)
        self.initial_state = InitialState(config, rngs=rngs)


def normal_from_raw(
    raw: Float[Array, "*n two_d"],
) -> tuple[Float[Array, "*n d"], Float[Array, "*n d"]]:
    """Computes the means and standard deviations of diagonal Gaussians.

    Args:
        raw: Mean and raw scale, concatenated. The standard deviation is softplus(raw scale) + 1e-8,
            as in the authors' code.
    """
    mean, raw_scale = jnp.split(raw, 2, axis=-1)
    return mean, jax.nn.softplus(raw_scale) + 1e-8


def gaussian_from_raw(
    raw: Float[Array, "*n two_ny"],
) -> tuple[Float[Array, "*n ny"], Float[Array, "*n ny"]]:
    """Computes the means and variances of the Gaussians q(y₀), see `normal_from_raw`.

    Args:
        raw: Mean and raw scale from `SRVP.initial_state`, concatenated.
    """
    mean, deviation = normal_from_raw(raw)
    return mean, deviation**2


def read_checkpoint(
    path: str | os.PathLike[str], kind: type[SRVPArchitecture] = SRVPArchitecture
) -> Weights:
    """Reads a checkpoint folder (config.json and model.pt) without PyTorch.

    Args:
        path: Path of the folder, or of the model.pt in it, which srvp-fd takes too. The name of the
            folder becomes the name of the model ("mmnist_stochastic" for "mmnist/stochastic").
        kind: Networks to read: the inference networks, or `srvp_model.SRVPModelArchitecture` for
            the whole model.

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


def _encoder_layers(archi: str) -> dict[str, str]:
    if archi == "dcgan":
        blocks = {f"encoder.conv.{i}": f"encoder.conv.{i}" for i in range(4)}
        blocks["encoder.last_conv"] = "encoder.last_conv"
    else:  # in the authors' numbering, every stage but the first begins with the max pooling
        blocks = {
            f"encoder.conv.{stage}.{block}": f"encoder.conv.{stage}.{block + (stage > 0)}"
            for stage in range(4)
            for block in range(3)
        }
        blocks["encoder.last_conv"] = "encoder.last_conv.1"
    return block_layers(blocks)


def block_layers(blocks: Mapping[str, str]) -> dict[str, str]:
    """Keys of the layers in `ConvBlock`s, from the authors' names of the blocks."""
    return {
        f"{flax}.{layer}": f"{torch}.{i}.*"
        for flax, torch in blocks.items()
        for i, layer in enumerate(("conv", "norm"))
    }


def mlp_layers(flax: str, torch: str, layers: int) -> dict[str, str]:
    """Keys of the layers in an `MLP`; every layer but the first follows an activation."""
    return {f"{flax}.layers.{i}": f"{torch}.module.{i}.{int(i > 0)}.*" for i in range(layers)}


def _name_of(folder: Path) -> str:
    """Name of the model in a folder that is laid out as on the hub or has the model's name."""
    resolved = folder.resolve().as_posix()
    for dataset, hub_folder in HUB_FOLDERS.items():
        if resolved.endswith(f"/{hub_folder}"):
            return dataset
    return folder.resolve().name


_ATTRIBUTIONS = {
    **dict.fromkeys(
        HUB_FOLDERS,
        "SRVP, Franceschi, Delasalles, Chen, Lamprier, Gallinari, ICML 2020, arXiv 2002.09219, "
        "https://github.com/edouardelasalles/srvp",
    ),
    "digits": "srvp-fd-jax; trained on the UCI handwritten digits of E. Alpaydin and C. Kaynak "
    "(CC BY 4.0); not the SRVP authors' weights",
    OWN: "trained with srvp-fd-jax; not the SRVP authors' weights",
}

NETWORKS = {
    name: Network(
        SRVPArchitecture,
        find=None if name == OWN else functools.partial(download, name),
        read=read_checkpoint,
        published=True,
        attribution=attribution,
        licence="chosen by who trained it" if name == OWN else "Apache-2.0",
    )
    for name, attribution in _ATTRIBUTIONS.items()
}
