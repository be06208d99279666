"""The whole SRVP model and its objective in PyTorch, with everything random given.

srvp-fd 0.4.1 has the networks and the inference of w, y₀ and z, but neither the steps of the state
nor the decoding of a clip. These two are written here, and so is the objective, from the paper and
from the authors' description of it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import srvp_fd.srvp_model as srvp_fd_model
import torch
from checkpoints import SMALL, random_model
from srvp_fd.srvp_model import (
    StochasticLatentResidualVideoPredictor,
    make_normal_from_raw_params,
)
from torch.distributions import Normal, kl_divergence

from srvp_fd_jax.networks.base import FrozenNetwork
from srvp_fd_jax.networks.srvp.checkpoint import from_torch
from srvp_fd_jax.training.model import Draws, SRVPModel, SRVPModelArchitecture

DCGAN = SMALL | {"nz": 4, "nlayers_res": 3}
DCGAN_SKIPS = DCGAN | {"skipco": True}
VGG = DCGAN | {"archi": "vgg", "nc": 3, "nlayers_res": 2}
VGG_SKIPS = VGG | {"skipco": True}


def architecture_of(config: dict[str, Any]) -> SRVPModelArchitecture:
    architecture = SRVPModelArchitecture.from_config(config)
    assert isinstance(architecture, SRVPModelArchitecture)
    return architecture


def moving_clips(n: int, t: int, channels: int, seed: int = 0) -> np.ndarray:
    """Clips [n, t, 64, 64, channels] of bright squares that move, half of them on black."""
    rng = np.random.default_rng(seed)
    clips = 0.2 * rng.random((n, t, 64, 64, channels), np.float32)
    clips[::2] = 0
    for clip in clips:
        place, speed = rng.integers(0, 40, 2), rng.integers(-4, 5, 2)
        for frame, (row, column) in zip(clip, place + np.arange(t)[:, None] * speed, strict=True):
            row, column = max(row, 0), max(column, 0)
            frame[row : row + 16, column : column + 16] = rng.uniform(0.7, 1, channels)
    return clips


def to_torch_clips(clips: np.ndarray) -> torch.Tensor:
    """Clips [n, t, h, w, c] as the authors have them, [t, n, c, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(clips.transpose(1, 0, 4, 2, 3)))


class Oracle(StochasticLatentResidualVideoPredictor):
    """The authors' model, which takes the place of srvp-fd's where that one ends."""

    def forward(
        self, x: torch.Tensor, draws: Draws, euler_steps: int = 1
    ) -> dict[str, torch.Tensor]:
        """Everything that `SRVPModel` computes, time before batch; the random part is given."""
        with given(draws):
            hx, skips = self.encode(x)
            w = self.infer_w(hx)
            y, q_y = self.infer_y(hx[: self.nt_inf])
            hz, _ = self.inf_z(hx)
            ys, q_zs, p_zs, residuals = [y], [], [], []
            for t in range(1, draws.z.shape[1] + 1):
                p_zs.append(self.p_z(y))
                if t < len(x):
                    z, q_z = self.infer_z(hz[t])
                    q_zs.append(q_z)
                else:
                    z = srvp_fd_model.rsample_normal(p_zs[-1])
                for _ in range(euler_steps):
                    residuals.append(self.dynamics(torch.cat([y, z], 1)) * (1 / euler_steps))
                    y = y + residuals[-1]
                ys.append(y)
        codes = [torch.cat([w, y], 1) for y in ys]
        repeated = None if skips is None else [s.repeat(len(ys), 1, 1, 1) for s in skips]
        frames = self.decoder(torch.cat(codes), repeated)
        return {
            "frames": frames.view(len(ys), -1, *frames.shape[1:]),
            "content": w,
            "states": torch.stack(ys),
            "q_y": q_y,
            "q_z": torch.stack(q_zs),
            "p_z": torch.stack(p_zs),
            "residuals": torch.stack(residuals),
        }


def random_oracle(config: dict[str, Any], seed: int = 0) -> Oracle:
    """A model in training mode whose activations do not fade, see `random_model`."""
    oracle = Oracle(**config)
    oracle.load_state_dict(random_model(config, seed).state_dict())
    for module in oracle.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight, a=0.2, mode="fan_out")
    return oracle.train()


def untrained_oracle(config: dict[str, Any], seed: int = 0) -> Oracle:
    """A model in training mode with the weights from which the authors train."""
    torch.manual_seed(seed)
    oracle = Oracle(**config)
    for module in oracle.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(module.weight, 0, 0.02)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.02)
    for module in oracle.dynamics.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight, 1.41)
            torch.nn.init.zeros_(module.bias)
    return oracle.train()


def numpy_state(oracle: Oracle) -> dict[str, np.ndarray]:
    """Copies of the arrays in a model's state dict."""
    return {key: tensor.detach().numpy().copy() for key, tensor in oracle.state_dict().items()}


def model_of(oracle: Oracle, config: dict[str, Any]) -> SRVPModel:
    """Our model with the oracle's weights, in evaluation mode."""
    architecture = architecture_of(config)
    arrays = from_torch(numpy_state(oracle), architecture)
    dtype = oracle.w_inf[0].weight.numpy(force=True).dtype
    weights = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    return FrozenNetwork(weights, architecture, "own").module()


def random_draws(
    config: dict[str, Any], clips: int, given: int, frames: int, seed: int = 0
) -> Draws:
    """What `training_draws` draws, here without compilation."""
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(given), (clips, 1)), axis=1)
    return Draws(
        jnp.asarray(orders[:, : config["nt_inf"]]),
        jnp.asarray(rng.integers(0, given, clips)),
        jnp.asarray(rng.normal(size=(clips, config["ny"]))),
        jnp.asarray(rng.normal(size=(clips, frames - 1, config["nz"]))),
    )


@contextlib.contextmanager
def given(draws: Draws) -> Iterator[None]:
    """Replaces what the model draws: noise first of y, then of each z, and the frames."""
    noise = iter([draws.y, *np.asarray(draws.z).swapaxes(0, 1)])
    orders = iter(np.asarray(draws.content_frames))

    def rsample_normal(raw: torch.Tensor) -> torch.Tensor:
        normal = make_normal_from_raw_params(raw)
        return normal.loc + normal.scale * torch.from_numpy(np.array(next(noise)))

    def randperm(length: int) -> torch.Tensor:
        order = torch.tensor(next(orders))
        assert order.max() < length
        return order

    def randint(high: int, size: tuple[int, ...]) -> torch.Tensor:
        assert size == draws.skip_frames.shape
        assert np.max(draws.skip_frames) < high
        return torch.tensor(np.array(draws.skip_frames))

    with (
        mock.patch.object(srvp_fd_model, "rsample_normal", rsample_normal),
        mock.patch.object(torch, "randint", randint),
        mock.patch.object(torch, "randperm", randperm),
    ):
        yield
    assert next(noise, None) is None


def objective(
    made: dict[str, torch.Tensor], x: torch.Tensor, *, obs_scale: float, beta_z: float
) -> dict[str, torch.Tensor]:
    """The loss and its terms per clip."""
    q_y = make_normal_from_raw_params(made["q_y"])
    q_z, p_z = (make_normal_from_raw_params(made[name]) for name in ("q_z", "p_z"))
    terms = {
        "reconstruction": -Normal(made["frames"], obs_scale).log_prob(x).sum(),
        "kl_y": kl_divergence(q_y, Normal(0, 1)).sum(),
        "kl_z": kl_divergence(q_z, p_z).sum(),
        "residuals": torch.norm(made["residuals"], p=2, dim=2).sum(),
    }
    weights = {"kl_z": beta_z}
    terms["loss"] = sum(weights.get(name, 1) * term for name, term in terms.items())
    return {name: term / x.shape[1] for name, term in terms.items()}
