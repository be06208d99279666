import functools
import re
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srvp_fd_jax.networks.kernels import convolution
from srvp_fd_jax.networks.kernels import gradients as with_gradients
from srvp_fd_jax.networks.srvp.modules import ConvBlock

RNG = np.random.default_rng(0)

# Kernel, stride, images, height, width and channels of the two sides. Widths of 64 go by Winograd's
# filtering, and the last two examples of each kind have more than one part.
LAYERS = [
    (3, 1, 2, 4, 6, 3, 5),
    (3, 1, 3, 2, 2, 64, 64),
    (3, 1, 6, 32, 32, 64, 65),
    (3, 1, 7, 64, 64, 20, 3),
    (4, 2, 2, 4, 6, 3, 5),
    (4, 2, 3, 2, 2, 64, 64),
    (4, 2, 6, 32, 32, 64, 65),
    (4, 2, 7, 64, 64, 20, 3),
]
FUNCTIONS = ["convolution", "transposed_convolution"]
Function = Callable[[jax.Array, jax.Array], jax.Array]


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def example(layer: tuple[int, ...], name: str) -> tuple[jax.Array, jax.Array, Function, Function]:
    """Images, a kernel, our function and the definition, which XLA differentiates."""
    r, strides, n, h, w, c, d = layer
    kernel = normal(r, r, c, d) / np.sqrt(r * r * c)
    if name == "transposed_convolution":
        x = normal(n, h // strides, w // strides, d)
    else:
        x = normal(n, h, w, c)

    def definition(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if name == "convolution":
            return convolution.direct(x, kernel, strides=strides, padding=1)
        return convolution.transposed_convolution(x, kernel, strides=strides, padding=1)

    function = functools.partial(getattr(with_gradients, name), strides=strides, padding=1)
    return x, kernel, function, definition


def values_and_gradients(function: Function, x: jax.Array, kernel: jax.Array) -> tuple:
    def loss(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = function(x, kernel)
        return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)


def assert_close(ours: object, theirs: object, rtol: float = 1e-5) -> None:
    for mine, expected in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        largest = float(jnp.abs(expected).max())
        chex.assert_trees_all_close(mine, expected, rtol=0, atol=rtol * largest)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_the_definition(name: str, layer: tuple[int, ...]):
    x, kernel, function, definition = example(layer, name)
    (_, y), gradients = values_and_gradients(function, x, kernel)
    (_, expected), expected_gradients = values_and_gradients(definition, x, kernel)
    assert_close((y, gradients), (expected, expected_gradients))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[4]])
def test_bfloat16_rounds_images_kernels_and_gradients(layer: tuple[int, ...], name: str):
    x, kernel, function, definition = example(layer, name)
    slopes = normal(*definition(x, kernel).shape)
    y, gradients = jax.vjp(functools.partial(function, precision="bfloat16"), x, kernel)
    rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, kernel, slopes)]
    expected, expected_gradients = jax.vjp(definition, *rounded[:2])
    assert_close((y, gradients(slopes)), (expected, expected_gradients(rounded[2])))
    assert jnp.abs(y - definition(x, kernel)).max() > 1e-3


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[4]])
def test_gradients_can_be_batched_and_differentiated(layer: tuple[int, ...], name: str):
    x, kernel, function, definition = example(layer, name)

    def second(function: Function) -> Callable[[jax.Array, jax.Array], jax.Array]:
        def penalty(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(function(x, kernel))))(x) ** 2)

        return jax.jit(jax.vmap(jax.grad(penalty, (0, 1)), (0, None)))

    batch = jnp.stack([x, 2 * x])
    assert_close(second(function)(batch, kernel), second(definition)(batch, kernel))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layer", [LAYERS[2], LAYERS[6]])
def test_lowers_for_every_platform(layer: tuple[int, ...], name: str, platform: str):
    x, kernel, function, _ = example(layer, name)
    gradient = jax.jit(jax.grad(lambda x, k: function(x, k).sum(), (0, 1)))
    program = gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert "f64" not in program
    assert ("stablehlo.while" in program) is (platform == "cpu")  # a few images at a time
    lines = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    dilated = [line for line in lines if re.search(r"(lhs|rhs)_dilate = \[2, 2\]", line)]
    assert bool(dilated) is (platform != "cpu" and layer[1] == 2)
    assert all("HIGHEST" in line for line in lines)


def test_several_devices_take_the_plain_convolutions(monkeypatch: pytest.MonkeyPatch):
    x, kernel, function, definition = example(LAYERS[4], "convolution")
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    jax.jvp(function, (x, kernel), (x, kernel))  # impossible for those with gradients of their own
    assert_close(function(x, kernel), definition(x, kernel))


def test_other_convolutions_are_the_plain_ones():
    x, kernel = normal(2, 5, 7, 3), normal(3, 3, 3, 4)
    for name in FUNCTIONS:
        k = kernel if name == "convolution" else kernel.swapaxes(2, 3)
        arguments = {"strides": 1, "padding": 1}
        ours = getattr(with_gradients, name)(x, k, **arguments)
        assert_close(ours, getattr(convolution, name)(x, k, **arguments), rtol=0)


def test_the_gradient_of_normalisation_knows_where_the_statistics_come_from():
    x, scale, bias, weights = normal(3, 4, 5, 6) + 2, normal(6), normal(6), normal(3, 4, 5, 6)

    def definition(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean = x.mean((0, 1, 2))
        deviation = jnp.sqrt(jnp.square(x - mean).mean((0, 1, 2)) + 1e-5)
        return (x - mean) / deviation * scale + bias

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean = x.mean((0, 1, 2))
        deviation = jnp.sqrt(jnp.square(x - mean).mean((0, 1, 2)) + 1e-5)
        return with_gradients.normalise(x, mean, deviation, scale, bias)

    def results(function: Callable[..., jax.Array]) -> object:
        y, gradients = jax.vjp(function, x, scale, bias)
        return y, gradients(weights)

    assert_close(results(ours), results(definition))


def test_forward_mode_stays_possible_in_evaluation_mode():
    block = ConvBlock(3, 5, 4, strides=2, rngs=nnx.Rngs(0))
    x, tangent = normal(2, 8, 8, 3), normal(2, 8, 8, 3)
    y, slopes = jax.jvp(block, (x,), (tangent,))
    _, pullback = jax.vjp(block, x)
    weights = normal(*y.shape)
    forward, reverse = jnp.sum(slopes * weights), jnp.sum(tangent * pullback(weights)[0])
    assert float(forward) == pytest.approx(float(reverse), rel=1e-4)
    block.train()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(block, (x,), (tangent,))
