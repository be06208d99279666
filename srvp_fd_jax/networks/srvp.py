"""The inference networks of SRVP that features are taken from.

SRVP (Franceschi et al., Stochastic Latent Residual Video Prediction, ICML 2020, arXiv 2002.09219)
encodes every frame with a convolutional network, and infers from the encodings a content variable
w and a Gaussian over the initial state y₀. These three are restated here after the authors' code
(https://github.com/edouardelasalles/srvp, Apache-2.0) for inference; the decoder and the residual
dynamics are not needed.

Convolutions and matrix products run in float32 on every backend ("highest" precision), unless
another `precision` is set for the convolutions, as `load_network` does.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from srvp_fd_jax.networks.convolution import Precision, convolution

FRAME_SIZE = 64

# Far above those of any model, and small enough that the layers' shapes are found in a moment: the
# weights are held to those before anything is made of them.
_LARGEST_SIZE, _LARGEST_DEPTH = 1 << 16, 100

ComparisonType = Literal["frame", "static_content", "dynamics"]
"""Whose features are compared: of the encodings, of w or of y₀."""

COMPARISON_TYPES: tuple[ComparisonType, ...] = get_args(ComparisonType)

_Conv = functools.partial(nnx.Conv, use_bias=False)  # holds the kernel, `ConvBlock` applies it
_Linear = functools.partial(nnx.Linear, precision="highest")
_leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


@dataclasses.dataclass(frozen=True)
class SRVPConfig:
    """Architecture of the inference networks, under the names of a checkpoint's config.json.

    Attributes:
        archi: Encoder, "dcgan" or "vgg".
        nx: Height and width of a frame; both encoders need 64.
        nc: Channels of a frame.
        nf: Filters of the first convolution.
        nhx: Size of a frame's encoding.
        ny: Size of the state y.
        nt_inf: Number of frames that content and initial state are inferred from.
        nh_inf: Size of the content variable w and of the hidden layers of the initial state's MLP.
        nlayers_inf: Number of linear layers in that MLP.
        skipco: Whether the model was trained with skip connections from encoder to decoder, which
            let detail bypass the encoding.
    """

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
    def from_dict(cls, config: Mapping[str, Any]) -> "SRVPConfig":
        """Reads the fields from a parsed config.json; other fields are of the parts not used.

        Args:
            config: Values by field.

        Returns:
            The architecture.

        Raises:
            ValueError: If a field is missing or its value is not allowed.
        """
        values = {}
        for field in dataclasses.fields(cls):
            if field.name not in config:
                raise ValueError(f"config: no field {field.name!r}, got {sorted(config)!s:.400}")
            values[field.name] = value = config[field.name]
            came = f"config: {field.name} is {value!r:.80}"
            largest = _LARGEST_DEPTH if field.name == "nlayers_inf" else _LARGEST_SIZE
            if field.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{came}, expected a positive integer")
            if field.type is int and value > largest:
                raise ValueError(f"{came}, expected at most {largest}")
            if field.type is bool and type(value) is not bool:
                raise ValueError(f"{came}, expected true or false")
        if values["archi"] not in ("dcgan", "vgg"):
            came = f"config: archi is {values['archi']!r:.80}"
            raise ValueError(f"{came}, allowed are 'dcgan', 'vgg'")
        if values["nx"] != FRAME_SIZE:
            raise ValueError(f"config: nx is {values['nx']}, both encoders need {FRAME_SIZE}")
        return cls(**values)


class ConvBlock(nnx.Module):
    """Convolution, batch normalisation with the statistics of training, activation."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        rngs: nnx.Rngs,
        strides: int = 1,
        padding: int = 1,
        normalise: bool = True,
        activation: Callable[[Array], Array] = _leaky_relu,
    ):
        """Makes the layers, for square kernels."""
        self.conv = _Conv(in_features, out_features, (kernel_size, kernel_size), rngs=rngs)
        self.strides, self.padding = strides, padding
        self.precision: Precision = "float32"
        self.norm = (
            nnx.BatchNorm(out_features, use_running_average=True, epsilon=1e-5, rngs=rngs)
            if normalise
            else None
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Applies the block."""
        x = convolution(
            x,
            self.conv.kernel[...],
            strides=self.strides,
            padding=self.padding,
            precision=self.precision,
        )
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


def _last_conv(config: SRVPConfig, rngs: nnx.Rngs) -> ConvBlock:
    return ConvBlock(8 * config.nf, config.nhx, 4, padding=0, activation=jnp.tanh, rngs=rngs)


class DCGAN64Encoder(nnx.Module):
    """Five strided convolutions (Radford et al. 2016), 64×64 frames to vectors in [-1, 1]."""

    def __init__(self, config: SRVPConfig, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        nf = config.nf
        widths = [config.nc, nf, 2 * nf, 4 * nf, 8 * nf]
        self.conv = nnx.List(
            ConvBlock(widths[i], widths[i + 1], 4, strides=2, normalise=i > 0, rngs=rngs)
            for i in range(4)
        )
        self.last_conv = _last_conv(config, rngs)

    def __call__(self, frames: Float[Array, "n 64 64 c"]) -> Float[Array, "n nhx"]:
        """Encodes frames."""
        x = frames
        for block in self.conv:
            x = block(x)
        return self.last_conv(x)[:, 0, 0]


class VGG64Encoder(nnx.Module):
    """Four stages of 3×3 convolutions (Simonyan & Zisserman 2015) with max pooling between."""

    def __init__(self, config: SRVPConfig, *, rngs: nnx.Rngs):
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

    def __call__(self, frames: Float[Array, "n 64 64 c"]) -> Float[Array, "n nhx"]:
        """Encodes frames."""
        x = frames
        for stage in self.conv:
            for block in stage:
                x = block(x)
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        return self.last_conv(x)[:, 0, 0]


class Content(nnx.Module):
    """The content variable w, a permutation-invariant function of a clip's encodings."""

    def __init__(self, config: SRVPConfig, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        self.projection = _Linear(config.nhx, config.nh_inf, rngs=rngs)
        self.output = _Linear(config.nh_inf, config.nh_inf, rngs=rngs)

    def __call__(self, encodings: Float[Array, "n t nhx"]) -> Float[Array, "n nh_inf"]:
        """Infers w, in [-1, 1]."""
        return jnp.tanh(self.output(jax.nn.relu(self.projection(encodings)).sum(axis=1)))


class InitialState(nnx.Module):
    """The Gaussian q(y₀) over the initial state, from a clip's encodings in the order of time."""

    def __init__(self, config: SRVPConfig, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        hidden = [config.nh_inf] * (config.nlayers_inf - 1)
        sizes = [config.nt_inf * config.nhx, *hidden, 2 * config.ny]
        self.layers = nnx.List(
            _Linear(n_in, n_out, rngs=rngs) for n_in, n_out in itertools.pairwise(sizes)
        )

    def __call__(self, encodings: Float[Array, "n nt_inf nhx"]) -> Float[Array, "n two_ny"]:
        """Infers the mean and the raw scale of q(y₀), side by side."""
        x = encodings.reshape(encodings.shape[0], -1)
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else jax.nn.relu(x))
        return x


class SRVP(nnx.Module):
    """The inference networks of one SRVP model.

    Attributes:
        config: The architecture.
        encoder: Frames [n, 64, 64, nc], float32 in [0, 1], to encodings [n, nhx].
        content: Encodings [n, t, nhx] to w [n, nh_inf].
        initial_state: Encodings [n, nt_inf, nhx] to mean and raw scale of q(y₀) [n, 2 ny].
        precision: Of the encoder's convolutions.
    """

    def __init__(self, config: SRVPConfig, *, rngs: nnx.Rngs):
        """Makes the networks with random weights; `weights.Weights.network` with given ones."""
        encoder = {"dcgan": DCGAN64Encoder, "vgg": VGG64Encoder}[config.archi]
        self.config = config
        self.precision: Precision = "float32"
        self.encoder = encoder(config, rngs=rngs)
        self.content = Content(config, rngs=rngs)
        self.initial_state = InitialState(config, rngs=rngs)


def gaussian_from_raw(
    raw: Float[Array, "*n two_ny"],
) -> tuple[Float[Array, "*n ny"], Float[Array, "*n ny"]]:
    """Gaussians q(y₀) from what `InitialState` gives.

    Args:
        raw: Mean and raw scale side by side. The standard deviation is softplus(raw scale) + 1e-8,
            as in the authors' code.

    Returns:
        Means and variances.
    """
    mean, raw_scale = jnp.split(raw, 2, axis=-1)
    return mean, (jax.nn.softplus(raw_scale) + 1e-8) ** 2
