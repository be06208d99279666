"""The first state of a run, and one step: the gradient of the objective, and Adam.

The state of a run is a pytree of plain arrays under the dotted names of the converted weights. A
step is a pure function of the state, the clips and the recipe: its noise follows from the recipe's
seed and the number of the step, so that a run continues from a saved state with the same bits.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, UInt8

from srvp_fd_jax.devices import shard_like
from srvp_fd_jax.files.inputs import to_unit_range
from srvp_fd_jax.networks.base import FrozenNetwork, arrays_of, parameter_shapes
from srvp_fd_jax.networks.srvp import OWN
from srvp_fd_jax.training.model import (
    Draws,
    SRVPModel,
    SRVPModelArchitecture,
    training_draws,
)
from srvp_fd_jax.training.objective import Objective, objective
from srvp_fd_jax.training.recipes import Recipe

Arrays = dict[str, Float[Array, "..."]]


class State(NamedTuple):
    """Where a run is.

    Attributes:
        step: Number of steps that are done.
        parameters: Parameters of the model, under their dotted names.
        statistics: Running statistics of its batch normalisation, under their dotted names.
        adam: State of `optax.scale_by_adam`.
    """

    step: Int[Array, ""]
    parameters: Arrays
    statistics: Arrays
    adam: Any

    @property
    def arrays(self) -> Arrays:
        """The arrays of the model."""
        return self.parameters | self.statistics


def start(recipe: Recipe) -> State:
    """The state before the first step, with weights drawn as the authors draw them."""
    key = jax.random.fold_in(jax.random.key(recipe.seed), 0)
    model = initialise(key, recipe.architecture, res_gain=recipe.res_gain)
    parameters = arrays_of(model, nnx.Param)
    return State(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        statistics=arrays_of(model, nnx.BatchStat),
        adam=_ADAM.init(parameters),
    )


def initialise(
    key: Key[Array, ""], config: SRVPModelArchitecture, *, res_gain: float = 1.41
) -> SRVPModel:
    """Makes a model with weights drawn as the authors draw them before training.

    Kernels of the encoder and the decoder are N(0, 0.02²), the scales of their normalisation are
    N(1, 0.02²) and its offsets 0. The kernels of the residual network are orthogonal, its biases 0.
    All other layers have PyTorch's defaults, which are uniform.

    Args:
        key: Key of JAX's random numbers.
        config: Architecture of the model.
        res_gain: Factor of the orthogonal kernels.
    """
    return FrozenNetwork(_initial(key, config, res_gain), config, OWN).module()


@functools.partial(jax.jit, static_argnames="config")
def _initial(
    key: Key[Array, ""], config: SRVPModelArchitecture, res_gain: Float[Array, ""] | float
) -> dict[str, Float[Array, "..."]]:
    shapes = parameter_shapes(config)
    of_residual, of_normal, of_uniform = jax.random.split(key, 3)
    # One draw for all parameters: a draw for each takes half a minute to compile.
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    normals = jnp.split(jax.random.normal(of_normal, (ends[-1],)), ends[:-1])
    uniforms = jnp.split(jax.random.uniform(of_uniform, (ends[-1],), minval=-1), ends[:-1])
    arrays = {}
    for i, (name, shape) in enumerate(shapes.items()):
        layer, parameter = name.rsplit(".", 1)
        normal, uniform = normals[i].reshape(shape), uniforms[i].reshape(shape)
        match layer.split(".")[0], parameter:
            case "residual", "kernel":
                orthogonal = jax.nn.initializers.orthogonal()
                value = res_gain * orthogonal(jax.random.fold_in(of_residual, i), shape)
            case "encoder" | "decoder", "kernel":
                value = 0.02 * normal
            case "encoder" | "decoder", "scale":
                value = 1 + 0.02 * normal
            case "encoder" | "decoder" | "residual", _:
                value = jnp.full(shape, float(parameter == "var"), jnp.float32)
            case "posterior", _:  # in PyTorch the width of an LSTM, for both of its matrices
                value = uniform / math.sqrt(config.nh_inf)
            case _:
                value = uniform / math.sqrt(shapes[f"{layer}.kernel"][0])
        arrays[name] = value
    return arrays


@functools.partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def train_step(
    state: State, clips: UInt8[Array, "n t 64 64 c"], progress: Float[Array, ""], recipe: Recipe
) -> tuple[State, Objective]:
    """Makes one step of Adam.

    Args:
        state: The state before the step; its memory is reused.
        clips: Batch of clips, 0 to 255.
        progress: Share of the run that is over at the end of this step, which decides the learning
            rate, see `learning_rate`.
        recipe: How the model is trained.

    Returns:
        The state after the step, and the objective before it.
    """
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step + 1)

    def gradient(
        statistics: Arrays, part: tuple[UInt8[Array, "m t 64 64 c"], Draws]
    ) -> tuple[Arrays, tuple[Arrays, Objective]]:
        loss = functools.partial(_loss, recipe=recipe)
        slopes, (statistics, terms) = jax.grad(loss, has_aux=True)(
            state.parameters, statistics, *part
        )
        return statistics, (slopes, terms)

    n, t = clips.shape[:2]
    draws = training_draws(key, recipe.architecture, clips=n, frames=t)
    draws = jax.tree.map(functools.partial(shard_like, clips), draws)
    if recipe.accumulate == 1:
        statistics, (slopes, terms) = gradient(state.statistics, (clips, draws))
    else:
        parts = jax.tree.map(lambda x: _parts(x, recipe.accumulate), (clips, draws))
        statistics, each = jax.lax.scan(gradient, state.statistics, parts)
        slopes, terms = jax.tree.map(lambda x: x.mean(0), each)
    updates, adam = _ADAM.update(slopes, state.adam)
    rate = learning_rate(progress, recipe)
    parameters = jax.tree.map(lambda p, u: p - rate * u, state.parameters, updates)
    return State(state.step + 1, parameters, statistics, adam), terms


def learning_rate(progress: Float[Array, ""], recipe: Recipe) -> Float[Array, ""]:
    """The learning rate where a share of the run is over: constant, then falling to 0."""
    return recipe.learning_rate * jnp.minimum(1, (1 - progress) * recipe.steps / recipe.decay)


def model_of(arrays: Arrays, recipe: Recipe) -> SRVPModel:
    """The model with these weights, in evaluation mode."""
    return FrozenNetwork(arrays, recipe.architecture, OWN, recipe.precision).module()


def _loss(
    parameters: Arrays,
    statistics: Arrays,
    clips: UInt8[Array, "n t 64 64 c"],
    draws: Draws,
    recipe: Recipe,
) -> tuple[Float[Array, ""], tuple[Arrays, Objective]]:
    model = model_of(parameters | statistics, recipe)
    model.train()
    frames = to_unit_range(clips)
    terms = objective(
        model(frames, draws, euler_steps=recipe.euler_steps),
        frames,
        obs_scale=recipe.obs_scale,
        beta_y=recipe.beta_y,
        beta_z=recipe.beta_z,
        l2_res=recipe.l2_res,
    )
    return terms.loss, (arrays_of(model, nnx.BatchStat), terms)


def _parts(x: Array, parts: int) -> Array:
    """Deals the rows of a batch out to parts, so that each row stays on its device."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


_ADAM = optax.scale_by_adam()
