"""The objective that SRVP is trained with.

It is the negative evidence lower bound of Franceschi et al. (ICML 2020, arXiv 2002.09219), with
weights of its terms, and a penalty on the residuals, as in the authors' train.py
(https://github.com/edouardelasalles/srvp).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from srvp_fd_jax.networks.srvp.modules import normal_from_raw
from srvp_fd_jax.training.model import Prediction


class Objective(NamedTuple):
    """The loss and its terms without their weights, in nats per clip.

    Attributes:
        loss: Weighted sum of the terms, which training minimises.
        reconstruction: −log N(x; x̂, obs_scale²), summed over the pixels of all frames.
        kl_y: KL(q(y₀) ‖ N(0, 1)).
        kl_z: KL(q(z_t) ‖ p(z_t | y_{t−1})), summed over the frames after the first.
        residuals: Euclidean norms of the residuals, summed over all Euler steps; not in nats.
    """

    loss: Float[Array, ""]
    reconstruction: Float[Array, ""]
    kl_y: Float[Array, ""]
    kl_z: Float[Array, ""]
    residuals: Float[Array, ""]


def objective(
    prediction: Prediction,
    clips: Float[Array, "n t 64 64 c"],
    *,
    obs_scale: float = 1.0,
    beta_y: float = 1.0,
    beta_z: float = 1.0,
    l2_res: float = 1.0,
) -> Objective:
    """Computes the objective of one batch, each term summed and divided by the number of clips.

    Args:
        prediction: Result of the model for `clips` and `model.training_draws`.
        clips: Clips with values in [0, 1].
        obs_scale: Standard deviation of the pixels around the decoded frames.
        beta_y: Weight of `Objective.kl_y`.
        beta_z: Weight of `Objective.kl_z`.
        l2_res: Weight of `Objective.residuals`.

    Raises:
        ValueError: If the prediction has another number of frames than the clips.
    """
    if prediction.frames.shape != clips.shape:
        raise ValueError(
            f"prediction: has frames of shape {prediction.frames.shape}, expected those of the "
            f"clips, {clips.shape}"
        )
    error = (clips - prediction.frames) / obs_scale
    constant = math.log(obs_scale) + math.log(2 * math.pi) / 2
    zeros = jnp.zeros_like(prediction.q_y[:, : prediction.states.shape[-1]])
    sums = (
        jnp.sum(error**2) / 2 + clips.size * constant,
        _divergence(normal_from_raw(prediction.q_y), (zeros, zeros + 1)),
        _divergence(normal_from_raw(prediction.q_z), normal_from_raw(prediction.p_z)),
        _norm(prediction.residuals).sum(),
    )
    reconstruction, kl_y, kl_z, residuals = (x / clips.shape[0] for x in sums)
    loss = reconstruction + beta_y * kl_y + beta_z * kl_z + l2_res * residuals
    return Objective(loss, reconstruction, kl_y, kl_z, residuals)


_Normal = tuple[Float[Array, "*n d"], Float[Array, "*n d"]]


def _divergence(q: _Normal, p: _Normal) -> Float[Array, ""]:
    """KL(q ‖ p) of diagonal Gaussians given as means and standard deviations, summed."""
    (mean, deviation), (prior_mean, prior_deviation) = q, p
    ratio = (deviation / prior_deviation) ** 2
    distance = ((mean - prior_mean) / prior_deviation) ** 2
    return jnp.sum(ratio + distance - 1 - jnp.log(ratio)) / 2


def _norm(x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Euclidean norms, whose gradient at 0 is 0 as in PyTorch; that of `jnp.linalg.norm` is nan."""
    squares = jnp.sum(x**2, axis=-1)
    is_zero = squares == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
