"""Validation: how close predictions come to held-out clips, and how far they are as a set.

As in the authors' code, a model is given the first frames of a clip and predicts the rest several
times; the prediction with the highest PSNR counts. The Fréchet distances compare one prediction per
clip with the truth, on the features of the model itself, as it is at the time.
"""

import dataclasses
import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.files.inputs import to_bytes, to_unit_range
from srvp_fd_jax.networks.base import FrozenNetwork, parameter_shapes
from srvp_fd_jax.networks.srvp import OWN
from srvp_fd_jax.networks.srvp.architecture import SRVPArchitecture
from srvp_fd_jax.training.model import evaluation_draws
from srvp_fd_jax.training.recipes import Recipe
from srvp_fd_jax.training.step import Arrays, model_of

_CLIPS_AT_ONCE = 16
_SAMPLES_AT_ONCE = 10

_Clips = UInt8[np.ndarray, "n t 64 64 c"]

# PSNR over all frames, PSNR over the predicted ones, and the frames; then those of the first one.
_Best = tuple[
    Float[Array, " n"], Float[Array, " n"], Float[Array, "n t 64 64 c"], Float[Array, "n t 64 64 c"]
]


class Validation(NamedTuple):
    """What a validation finds.

    Attributes:
        psnr: Peak signal-to-noise ratio of the best predictions in dB, averaged over the clips and
            the frames that were predicted.
        distances: Fréchet distances between predicted and true frames, by the outputs of the
            network: empty for fewer than two clips.
        best: Best prediction of each clip, with the given frames as the model decodes them.
        first: First prediction of each clip.
    """

    psnr: float
    distances: dict[str, float]
    best: _Clips
    first: _Clips


def validate(arrays: Arrays, clips: _Clips, recipe: Recipe) -> Validation:
    """Predicts held-out clips.

    Args:
        arrays: Weights of the model.
        clips: Clips, 0 to 255.
        recipe: How the model is trained. The noise follows from its seed and is the same in every
            validation.

    Raises:
        FloatingPointError: If the predictions are not finite.
    """
    key, at_once = jax.random.key(recipe.split_seed), min(_CLIPS_AT_ONCE, len(clips))
    made = []
    for i, start in enumerate(range(0, len(clips), at_once)):
        part = clips[start : start + at_once]
        padded = np.resize(part, (at_once, *part.shape[1:]))  # one program for all parts
        of_part = jax.device_get(predict(arrays, padded, jax.random.fold_in(key, i), recipe))
        made.append([x[: len(part)] for x in of_part])
    psnr, best, first = (np.concatenate(x) for x in zip(*made, strict=True))
    if not np.isfinite(psnr).all():
        raise FloatingPointError("the predictions are not finite")
    return Validation(float(psnr.mean()), _distances(arrays, clips, first, recipe), best, first)


@functools.partial(jax.jit, static_argnames="recipe")
def predict(
    arrays: Arrays, clips: UInt8[Array, "n t 64 64 c"], key: Key[Array, ""], recipe: Recipe
) -> tuple[Float[Array, " n"], UInt8[Array, "n t 64 64 c"], UInt8[Array, "n t 64 64 c"]]:
    """Predicts clips `recipe.samples` times from their first `recipe.given` frames.

    Returns:
        The PSNR in dB of the frames after the given ones in the best prediction of each clip; that
        prediction; the first prediction. The best one has the highest PSNR over all frames.
    """
    truth = to_unit_range(clips)
    model, given = model_of(arrays, recipe), truth[:, : recipe.given]
    n, t = clips.shape[:2]
    draw = functools.partial(
        evaluation_draws, config=recipe.architecture, clips=n, given=recipe.given, frames=t
    )

    def sample(key: Key[Array, ""]) -> Float[Array, "n t 64 64 c"]:
        return model(given, draw(key), euler_steps=recipe.euler_steps).frames

    # A CPU gains nothing from larger parts. A divisor leaves no rest, and so one program.
    largest = 1 if jax.default_backend() == "cpu" else _SAMPLES_AT_ONCE
    at_once = max(k for k in range(1, largest + 1) if recipe.samples % k == 0)

    def better(best: _Best, keys: Key[Array, " s"]) -> tuple[_Best, None]:
        frames = jax.vmap(sample)(keys)  # encodes the given frames once
        psnr = _psnr(frames, truth)
        whole, predicted = psnr.mean(2), psnr[:, :, recipe.given :].mean(2)
        at = whole.argmax(0), jnp.arange(n)
        new = whole[at], predicted[at], frames[at]
        is_better = new[0] > best[0]

        def choose(a: Float[Array, "n *d"], b: Float[Array, "n *d"]) -> Float[Array, "n *d"]:
            return jnp.where(is_better.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        first = jnp.where(jnp.isneginf(best[0]).all(), frames[0], best[3])
        return (*jax.tree.map(choose, new, best[:3]), first), None

    keys = jax.random.split(key, recipe.samples).reshape(-1, at_once)
    nothing = jnp.full(n, -jnp.inf), jnp.full(n, jnp.nan), truth, truth
    (_, predicted, best, first), _ = jax.lax.scan(better, nothing, keys)
    return predicted, to_bytes(best), to_bytes(first)


def baselines(clips: _Clips, given: int) -> dict[str, float]:
    """PSNR in dB of predictions that need no model, computed as that of the model.

    Args:
        clips: Clips, 0 to 255.
        given: Number of first frames from which the others are predicted.

    Returns:
        The PSNR of "a blank frame", which has the mean colour of the given frames of its clip, and
        of "the last frame", which repeats the last of them.
    """
    truth = to_unit_range(jnp.asarray(clips))
    simple = {
        "a blank frame": truth[:, :given].mean((1, 2, 3), keepdims=True),
        "the last frame": truth[:, given - 1 : given],
    }
    later = truth[:, given:]
    return {name: float(_psnr(frames, later).mean()) for name, frames in simple.items()}


def _psnr(
    frames: Float[Array, "*s n t1 h w c"], truth: Float[Array, "n t 64 64 c"]
) -> Float[Array, "*s n t"]:
    """PSNR of frames in dB, at most 100, averaged over the channels as in the authors' code."""
    errors = jnp.square(frames - truth).mean((-3, -2))
    return -10 * jnp.log10(jnp.maximum(errors, 1e-10)).mean(-1)


def _distances(
    arrays: Arrays, truth: _Clips, predicted: _Clips, recipe: Recipe
) -> dict[str, float]:
    if len(truth) < 2:
        return {}
    later = truth[:, recipe.given :], predicted[:, recipe.given :]
    with warnings.catch_warnings():  # of few samples, which would come with every validation
        warnings.simplefilter("ignore")
        found = _distances_of_later(inference_network(arrays, recipe), *later)
        return {name: float(distance) for name, distance in found.items()}


@jax.jit  # with the weights as an argument, so that one program serves all validations
def _distances_of_later(
    network: FrozenNetwork, truth: UInt8[Array, "n t h w c"], predicted: UInt8[Array, "n t h w c"]
) -> dict[str, Float[Array, ""]]:
    return Calculator(network).distances(truth, predicted)


def inference_network(arrays: Arrays, recipe: Recipe) -> FrozenNetwork:
    """The part of the model that computes features."""
    architecture = SRVPArchitecture.from_config(dataclasses.asdict(recipe.architecture))
    used = {name: arrays[name] for name in parameter_shapes(architecture)}
    return FrozenNetwork(used, architecture, OWN)
