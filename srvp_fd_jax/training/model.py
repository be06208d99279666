"""The whole SRVP model: inference, residual dynamics and decoder, for training and prediction.

A clip is encoded frame by frame; its content w, the Gaussian over its first state q(y₀) and, for
every later frame, the Gaussian q(z_t) are inferred from the encodings. The state moves by Euler
steps of a residual network f,

    y ← y + f(y, z_t) / k,   k times from each frame to the next,

and w and y_t are decoded to frame t. Beyond the frames that are given, z_t comes from the prior
p(z_t | y_{t−1}) instead. Everything follows the authors' code
(https://github.com/edouardelasalles/srvp, Apache-2.0).

A pass through the model is a function of the weights, the clips and `Draws`, which hold everything
random. `train()` of the model lets its batch normalisation use the batch's statistics, taken over
clips and time together, and update the running ones. `eval()` lets it use the running ones, as a
new model does.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.srvp.architecture import (
    SRVP,
    TORCH_PARTS,
    SRVPArchitecture,
    block_layers,
    mlp_layers,
)
from srvp_fd_jax.networks.srvp.modules import MLP, ConvBlock, Linear, normal_from_raw

Skips = Sequence[Float[Array, "n _ _ _"]]
"""Outputs of the encoder's stages before max pooling, from the shallowest to the deepest."""


@dataclasses.dataclass(frozen=True)
class SRVPModelArchitecture(SRVPArchitecture):
    """Architecture of a whole SRVP model; for further fields see `SRVPArchitecture`.

    Attributes:
        nz: Dimension of z.
        nh_res: Dimension of the hidden layers in the residual network and in the prior of z.
        nlayers_res: Number of linear layers in each of these two.
    """

    torch_parts = (*TORCH_PARTS, "decoder.", "inf_z.", "q_z.", "p_z.", "dynamics.")

    nz: int
    nh_res: int
    nlayers_res: int

    @functools.cached_property
    def torch_layers(self) -> Mapping[str, str]:
        """See `SRVPArchitecture.torch_layers`."""
        return {
            **super().torch_layers,
            **_decoder_layers(self.archi),
            "posterior.input": "inf_z.*_ih_l0",
            "posterior.recurrent": "inf_z.*_hh_l0",
            "posterior.output": "q_z.*",
            **mlp_layers("prior", "p_z", self.nlayers_res),
            **mlp_layers("residual", "dynamics", self.nlayers_res),
        }

    def module(self, precision: Precision, rngs: nnx.Rngs) -> "SRVPModel":
        """Makes the model with random weights; `initialise` draws them as the authors do."""
        model = SRVPModel(self, rngs=rngs)
        model.set_attributes(ConvBlock, precision=precision)
        return model


class DCGAN64Decoder(nnx.Module):
    """Five transposed convolutions (Radford et al. 2016) from vectors to frames in [0, 1]."""

    def __init__(self, config: SRVPModelArchitecture, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        block = functools.partial(ConvBlock, kernel_size=4, transposed=True, rngs=rngs)
        nf, joined = config.nf, 1 + config.skipco
        self.first = block(config.nh_inf + config.ny, 8 * nf, padding=0)
        self.conv = nnx.List(
            block(joined * a * nf, b * nf, strides=2) for a, b in itertools.pairwise([8, 4, 2, 1])
        )
        output = functools.partial(block, normalise=False, activation=jax.nn.sigmoid)
        self.conv.append(output(joined * nf, config.nc, strides=2))

    def __call__(
        self, codes: Float[Array, "n d"], skips: Skips | None
    ) -> Float[Array, "n 64 64 c"]:
        """Decodes vectors to frames; `skips` is None for models without skip connections."""
        x = self.first(codes[:, None, None])
        for i, block in enumerate(self.conv):
            x = block(_joined(x, skips, i))
        return x


class VGG64Decoder(nnx.Module):
    """Mirror of the VGG encoder, which doubles pixels in place of max pooling."""

    def __init__(self, config: SRVPModelArchitecture, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        block = functools.partial(ConvBlock, rngs=rngs)
        nf, joined = config.nf, 1 + config.skipco
        self.first = block(config.nh_inf + config.ny, 8 * nf, 4, padding=0, transposed=True)
        self.conv: nnx.List[nnx.List[ConvBlock]] = nnx.List()
        for first, *others in [[8, 8, 8, 4], [4, 4, 4, 2], [2, 2, 1], [1, 1]]:
            sizes = itertools.pairwise([joined * first, *others])
            self.conv.append(nnx.List(block(a * nf, b * nf, 3) for a, b in sizes))
        output = functools.partial(block, normalise=False, activation=jax.nn.sigmoid)
        self.conv[-1].append(output(nf, config.nc, 3, transposed=True))

    def __call__(
        self, codes: Float[Array, "n d"], skips: Skips | None
    ) -> Float[Array, "n 64 64 c"]:
        """Decodes vectors to frames; `skips` is None for models without skip connections."""
        x = self.first(codes[:, None, None])
        for i, stage in enumerate(self.conv):
            x = _joined(_doubled(x), skips, i)
            for block in stage:
                x = block(x)
        return x


def _doubled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Doubles pixels in both directions."""
    n, h, w, c = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
    return repeated.reshape(n, 2 * h, 2 * w, c)


def _joined(x: Float[Array, "n h w c"], skips: Skips | None, i: int) -> Float[Array, "n h w c2"]:
    return x if skips is None else jnp.concatenate([x, skips[-1 - i]], axis=-1)


class Posterior(nnx.Module):
    """Infers the Gaussians q(z_t) with an LSTM over the encodings of frames 0 to t.

    The LSTM's layers hold, one after the other as in PyTorch, the input gate, the forget gate, the
    new content of the cell, and the output gate.
    """

    def __init__(self, config: SRVPModelArchitecture, *, rngs: nnx.Rngs):
        """Makes the layers with random weights."""
        self.input = Linear(config.nhx, 4 * config.nh_inf, rngs=rngs)
        self.recurrent = Linear(config.nh_inf, 4 * config.nh_inf, rngs=rngs)
        self.output = Linear(config.nh_inf, 2 * config.nz, rngs=rngs)

    def __call__(self, encodings: Float[Array, "n t nhx"]) -> Float[Array, "n t two_nz"]:
        """Computes the means and the raw scales of q(z_t), concatenated, for every frame t."""

        def step(
            state: tuple[Float[Array, "n h"], Float[Array, "n h"]], x: Float[Array, "n four_h"]
        ) -> tuple[tuple[Float[Array, "n h"], Float[Array, "n h"]], Float[Array, "n h"]]:
            hidden, cell = state
            gates = jnp.split(x + self.recurrent(hidden), 4, axis=-1)
            admitted, retained, shown = (jax.nn.sigmoid(gates[i]) for i in (0, 1, 3))
            cell = retained * cell + admitted * jnp.tanh(gates[2])
            hidden = shown * jnp.tanh(cell)
            return (hidden, cell), hidden

        inputs = self.input(encodings).swapaxes(0, 1)
        zero = jnp.zeros_like(inputs[0, :, : self.recurrent.in_features])  # sharded as the clips
        _, hidden = jax.lax.scan(step, (zero, zero), inputs)
        return self.output(hidden.swapaxes(0, 1))


class Draws(NamedTuple):
    """Everything random in a pass through the model.

    Attributes:
        content_frames: Frames of each clip from which w is inferred.
        skip_frames: Frame of each clip whose skip connections the decoder gets.
        y: Standard normal noise of the first state.
        z: Standard normal noise of z_t for every frame after the first; its length gives the number
            of frames that a pass makes.
    """

    content_frames: Int[Array, "n nt_inf"]
    skip_frames: Int[Array, " n"]
    y: Float[Array, "n ny"]
    z: Float[Array, "n s nz"]


class Prediction(NamedTuple):
    """What a pass through the model computes.

    Gaussians are means and raw scales, concatenated, see `srvp.normal_from_raw`. s is the number of
    frames after the first, r ≤ s the number of those that were given.

    Attributes:
        frames: Decoded frames in [0, 1].
        content: Content variable w.
        states: States y_t of the frames.
        q_y: Gaussian q(y₀).
        q_z: Gaussians q(z_t) of the frames that were given.
        p_z: Gaussians p(z_t | y_{t−1}) of all frames.
        residuals: Differences f(y, z_t) / k of the states, k Euler steps per frame.
    """

    frames: Float[Array, "n t 64 64 c"]
    content: Float[Array, "n nh_inf"]
    states: Float[Array, "n t ny"]
    q_y: Float[Array, "n two_ny"]
    q_z: Float[Array, "n r two_nz"]
    p_z: Float[Array, "n s two_nz"]
    residuals: Float[Array, "n s k ny"]


class SRVPModel(SRVP):
    """A whole SRVP model; its inference networks are those of `SRVP`.

    Attributes:
        decoder: Maps w and y_t, concatenated, and skip connections to frames.
        posterior: Maps encodings to the Gaussians q(z_t).
        prior: Maps y_{t−1} to the Gaussian p(z_t | y_{t−1}).
        residual: The function f that maps y and z, concatenated, to the change of y.
    """

    def __init__(self, config: SRVPModelArchitecture, *, rngs: nnx.Rngs):
        """Makes the networks with random weights."""
        super().__init__(config, rngs=rngs)
        decoder = DCGAN64Decoder if config.archi == "dcgan" else VGG64Decoder
        hidden, layers = config.nh_res, config.nlayers_res
        self.decoder = decoder(config, rngs=rngs)
        self.posterior = Posterior(config, rngs=rngs)
        self.prior = MLP(config.ny, hidden, 2 * config.nz, layers, rngs=rngs)
        self.residual = MLP(config.ny + config.nz, hidden, config.ny, layers, rngs=rngs)

    def __call__(
        self, clips: Float[Array, "n t 64 64 c"], draws: Draws, *, euler_steps: int = 1
    ) -> Prediction:
        """Reconstructs the frames of clips and predicts those after them.

        Args:
            clips: Clips with values in [0, 1], of at least nt_inf frames.
            draws: From `training_draws` or `evaluation_draws`.
            euler_steps: Number of Euler steps from a frame to the next, at least 1.

        Raises:
            ValueError: If the clips are too short or there is no Euler step.
        """
        _check_frames("clips", clips.shape[1], self.architecture.nt_inf)
        if euler_steps < 1:
            raise ValueError(f"euler_steps: got {euler_steps}, expected at least 1")
        encodings, skips = self._encode(clips, draws.skip_frames)
        content = self.content(_at(encodings, draws.content_frames))
        q_y = self.initial_state(encodings[:, : self.architecture.nt_inf])
        q_z = self.posterior(encodings)[:, 1 : draws.z.shape[1] + 1]
        given = q_z.shape[1]

        def follow(
            y: Float[Array, "n ny"], z: Float[Array, "n nz"]
        ) -> tuple[Float[Array, "n ny"], tuple[Float[Array, "n ny"], Float[Array, "n k ny"]]]:
            residuals = []
            for _ in range(euler_steps):
                residuals.append(self.residual(jnp.concatenate([y, z], axis=-1)) / euler_steps)
                y = y + residuals[-1]
            return y, (y, jnp.stack(residuals, axis=1))

        def predict(
            y: Float[Array, "n ny"], noise: Float[Array, "n nz"]
        ) -> tuple[Float[Array, "n ny"], tuple[Float[Array, "n ny"], Float[Array, "n k ny"]]]:
            return follow(y, _sample(self.prior(y), noise))

        y = _sample(q_y, draws.y)
        first = y[:, None]
        y, (states, residuals) = _scan(follow, y, _sample(q_z, draws.z[:, :given]))
        _, (later_states, later_residuals) = _scan(predict, y, draws.z[:, given:])
        states = jnp.concatenate([first, states, later_states], axis=1)
        return Prediction(
            frames=self._decode(content, states, skips),
            content=content,
            states=states,
            q_y=q_y,
            q_z=q_z,
            p_z=self.prior(states[:, :-1]),
            residuals=jnp.concatenate([residuals, later_residuals], axis=1),
        )

    def _encode(
        self, clips: Float[Array, "n t 64 64 c"], skip_frames: Int[Array, " n"]
    ) -> tuple[Float[Array, "n t nhx"], Skips | None]:
        n, t = clips.shape[:2]
        encodings, outputs = self.encoder.with_skips(clips.reshape(n * t, *clips.shape[2:]))
        if not self.architecture.skipco:
            return encodings.reshape(n, t, -1), None
        skips = [_at(x.reshape(n, t, *x.shape[1:]), skip_frames[:, None])[:, 0] for x in outputs]
        return encodings.reshape(n, t, -1), skips

    def _decode(
        self,
        content: Float[Array, "n nh_inf"],
        states: Float[Array, "n t ny"],
        skips: Skips | None,
    ) -> Float[Array, "n t 64 64 c"]:
        n, t = states.shape[:2]

        def of_frames(x: Float[Array, "n *d"]) -> Float[Array, "m *d"]:
            repeated = jnp.broadcast_to(x[:, None], (n, t, *x.shape[1:]))
            return repeated.reshape(n * t, *x.shape[1:])

        codes = jnp.concatenate([of_frames(content), states.reshape(n * t, -1)], axis=-1)
        frames = self.decoder(codes, None if skips is None else [of_frames(s) for s in skips])
        return frames.reshape(n, t, *frames.shape[1:])


def training_draws(
    key: Key[Array, ""], config: SRVPModelArchitecture, *, clips: int, frames: int
) -> Draws:
    """Draws what is random in a pass on training clips.

    w is inferred from nt_inf distinct frames, and the skip connections come from one frame, chosen
    at random in each clip.

    Args:
        key: Key of JAX's random numbers.
        config: Architecture of the model.
        clips: Number n of clips in the batch.
        frames: Number of frames in each clip, at least nt_inf.

    Raises:
        ValueError: If there are fewer frames.
    """
    _check_frames("frames", frames, config.nt_inf)
    content, skip, y, z = jax.random.split(key, 4)
    places = jnp.broadcast_to(jnp.arange(frames), (clips, frames))
    shuffled = jax.random.permutation(content, places, axis=1, independent=True)
    return Draws(
        content_frames=shuffled[:, : config.nt_inf],
        skip_frames=jax.random.randint(skip, (clips,), 0, frames),
        y=jax.random.normal(y, (clips, config.ny)),
        z=jax.random.normal(z, (clips, frames - 1, config.nz)),
    )


def evaluation_draws(
    key: Key[Array, ""], config: SRVPModelArchitecture, *, clips: int, given: int, frames: int
) -> Draws:
    """Draws the noise of predictions from the first frames of clips.

    As in the authors' code, w is inferred from the last nt_inf frames that are given, and the skip
    connections come from the last one.

    Args:
        key: Key of JAX's random numbers.
        config: Architecture of the model.
        clips: Number n of clips in the batch.
        given: Number of frames of each clip that the model gets, at least nt_inf.
        frames: Number of frames to make, of which the first `given` are reconstructions.

    Raises:
        ValueError: If fewer frames are given, or fewer made than are given.
    """
    _check_frames("given", given, config.nt_inf)
    if frames < given:
        raise ValueError(f"frames: got {frames}, expected at least the {given} given")
    y, z = jax.random.split(key)
    last = jnp.arange(given - config.nt_inf, given)
    return Draws(
        content_frames=jnp.broadcast_to(last, (clips, config.nt_inf)),
        skip_frames=jnp.full(clips, given - 1),
        y=jax.random.normal(y, (clips, config.ny)),
        z=jax.random.normal(z, (clips, frames - 1, config.nz)),
    )


def _sample(raw: Float[Array, "*n two_d"], noise: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    mean, deviation = normal_from_raw(raw)
    return mean + deviation * noise


def _at(x: Float[Array, "n t *d"], frames: Int[Array, "n k"]) -> Float[Array, "n k *d"]:
    return jax.vmap(lambda of_clip, indices: of_clip[indices])(x, frames)


def _scan(
    step: Callable[[Array, Array], tuple[Array, tuple[Array, Array]]],
    y: Float[Array, "n ny"],
    xs: Float[Array, "n s nz"],
) -> tuple[Float[Array, "n ny"], tuple[Float[Array, "n s ny"], Float[Array, "n s k ny"]]]:
    y, results = jax.lax.scan(step, y, xs.swapaxes(0, 1))
    states, residuals = (x.swapaxes(0, 1) for x in results)
    return y, (states, residuals)


def _check_frames(name: str, frames: int, nt_inf: int) -> None:
    if frames < nt_inf:
        raise ValueError(f"{name}: got {frames} frames, expected at least the {nt_inf} of nt_inf")


def _decoder_layers(archi: str) -> dict[str, str]:
    """Keys of the decoder's layers; the last convolution stands without a block of its own."""
    if archi == "dcgan":
        blocks = {f"decoder.conv.{i}": f"decoder.conv.{i}" for i in range(3)}
        blocks["decoder.first"] = "decoder.first_upconv"
        return block_layers(blocks) | {"decoder.conv.3.conv": "decoder.conv.3.*"}
    names = [f"decoder.conv.{stage}.{block}" for stage in range(4) for block in range(3)]
    blocks = {name: name for name in names} | {"decoder.first": "decoder.first_upconv.0"}
    return block_layers(blocks) | {"decoder.conv.3.1.conv": "decoder.conv.3.1.*"}
