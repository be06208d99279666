"""The architecture of SRVP's inference networks: what they compute, and the names of their weights.

SRVP (Franceschi et al., Stochastic Latent Residual Video Prediction, ICML 2020, arXiv 2002.09219)
encodes every frame with a convolutional network. From the encodings it infers a content variable w
and a Gaussian over the initial state y₀. The outputs are those of the PyTorch package srvp-fd
0.4.1:

- "frame": the encoding of a single frame, which represents appearance.
- "static_content": the content variable w, inferred from the last nt_inf frames of a clip, which
  represents what does not change over time.
- "dynamics": the Gaussian over the initial state, inferred from the first nt_inf frames of a clip,
  which represents motion. Each clip is one component of a Gaussian mixture.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from srvp_fd_jax.networks.base import Architecture, Output
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.srvp.modules import (
    Content,
    ConvBlock,
    DCGAN64Encoder,
    InitialState,
    VGG64Encoder,
    gaussian_from_raw,
)

TORCH_PARTS = ("encoder.", "w_proj.", "w_inf.", "q_y.")
"""Prefixes of the inference networks' keys in the authors' state dicts."""

# Limits far above any model's values, and low enough that the shapes of the layers are computed in
# a moment. The weights are checked against these shapes before anything else.
_LARGEST_SIZE, _LARGEST_DEPTH = 1 << 16, 100


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
        first, last = encodings[:, : self.nt_inf], encodings[:, -self.nt_inf :]
        of_clips = {
            "static_content": lambda: module.content(last)[:, None],
            "dynamics": lambda: module.initial_state(first)[:, None],
        }
        return {o: encodings if o == "frame" else of_clips[o]() for o in outputs}

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
    encoder: Callable[[Array], Array], clips: Float[Array, "n t h w c"], at_once: int
) -> Float[Array, "n t nhx"]:
    """Encodes the frames of clips, about `at_once` of them at a time to bound the memory."""

    def encode(part: Float[Array, "n s h w c"]) -> Float[Array, "n s nhx"]:
        return encoder(part.reshape(-1, *part.shape[2:])).reshape(*part.shape[:2], -1)

    n, t = clips.shape[:2]
    length = -(-t // max(1, n * t // at_once))
    if length == t:
        return encode(clips)
    steps = -(-t // length)
    padded = jnp.pad(clips, ((0, 0), (0, steps * length - t), *[(0, 0)] * 3))
    parts = padded.reshape(n, steps, length, *clips.shape[2:]).swapaxes(0, 1)
    encodings = jax.lax.map(encode, parts).swapaxes(0, 1)
    return encodings.reshape(n, steps * length, -1)[:, :t]


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
        self.encoder = encoder(config.nc, config.nf, config.nhx, rngs=rngs)
        self.content = Content(config.nhx, config.nh_inf, rngs=rngs)
        n_in, n_out = config.nt_inf * config.nhx, 2 * config.ny
        self.initial_state = InitialState(n_in, config.nh_inf, n_out, config.nlayers_inf, rngs=rngs)


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
