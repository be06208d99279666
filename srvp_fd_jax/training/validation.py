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

from srvp_fd_jax.calculator import Calculator
from srvp_fd_jax.inputs import to_bytes, to_unit_range
from srvp_fd_jax.networks.base import FrozenNetwork, parameter_shapes
from srvp_fd_jax.networks.srvp import OWN, SRVPArchitecture
from srvp_fd_jax.networks.srvp_model import evaluation_draws
from srvp_fd_jax.protocols import Protocol
from srvp_fd_jax.training.recipes import Recipe
from srvp_fd_jax.training.step import Arrays, model_of

_CLIPS_AT_ONCE = 16
_SAMPLES_AT_ONCE = 10

_Clips = UInt8[np.ndarray, "n t 64 64 c"]

# PSNR over all frames, PSNR over the predicted ones, and the frames.
_Best = tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, "n t 64 64 c"]]


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
    key = jax.random.key(recipe.split_seed)
    made = []
    for i, start in enumerate(range(0, len(clips), _CLIPS_AT_ONCE)):
        part = clips[start : start + _CLIPS_AT_ONCE]
        padded = np.resize(part, (_CLIPS_AT_ONCE, *part.shape[1:]))  # one program for all parts
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

    def scored(
        frames: Float[Array, "s n t 64 64 c"],
    ) -> tuple[Float[Array, "s n"], Float[Array, "s n"]]:
        errors = jnp.square(frames - truth).mean((3, 4))
        psnr = -10 * jnp.log10(jnp.maximum(errors, 1e-10))  # at most 100 dB
        return psnr.mean((2, 3)), psnr[:, :, recipe.given :].mean((2, 3))

    def better(best: _Best, keys: Key[Array, " s"]) -> tuple[_Best, None]:
        frames = jax.vmap(sample)(keys)  # encodes the given frames once
        whole, predicted = scored(frames)
        at = whole.argmax(0), jnp.arange(n)
        new = whole[at], predicted[at], frames[at]
        is_better = new[0] > best[0]

        def choose(a: Float[Array, "n *d"], b: Float[Array, "n *d"]) -> Float[Array, "n *d"]:
            return jnp.where(is_better.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        return jax.tree.map(choose, new, best), None

    keys = jax.random.split(key, recipe.samples)
    first = sample(keys[0])
    of_whole, of_predicted = scored(first[None])
    best = of_whole[0], of_predicted[0], first
    whole = recipe.samples // _SAMPLES_AT_ONCE * _SAMPLES_AT_ONCE
    if whole:
        best, _ = jax.lax.scan(better, best, keys[:whole].reshape(-1, _SAMPLES_AT_ONCE))
    if recipe.samples > whole:
        best, _ = better(best, keys[whole:])
    return best[1], to_bytes(best[2]), to_bytes(first)


def _distances(
    arrays: Arrays, truth: _Clips, predicted: _Clips, recipe: Recipe
) -> dict[str, float]:
    if len(truth) < 2:
        return {}
    network = inference_network(arrays, recipe)
    protocols = tuple(
        Protocol(name="", network=OWN, output=output, resize="none", ddof=1)
        for output in network.architecture.outputs
    )
    calculator = Calculator.tree_unflatten((protocols, ""), (network,))
    later = truth[:, recipe.given :], predicted[:, recipe.given :]
    with warnings.catch_warnings():  # of few samples, which would come with every validation
        warnings.simplefilter("ignore")
        return {name: float(d) for name, d in calculator.distances(*later).items()}


def inference_network(arrays: Arrays, recipe: Recipe) -> FrozenNetwork:
    """The part of the model that computes features."""
    architecture = SRVPArchitecture.from_config(dataclasses.asdict(recipe.architecture))
    used = {name: arrays[name] for name in parameter_shapes(architecture)}
    return FrozenNetwork(used, architecture, "float32")
