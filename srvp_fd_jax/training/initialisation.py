"""Weights of a whole SRVP model before training, drawn as the authors draw them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from srvp_fd_jax.networks.base import FrozenNetwork, parameter_shapes
from srvp_fd_jax.networks.srvp import OWN
from srvp_fd_jax.training.model import SRVPModel, SRVPModelArchitecture


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
