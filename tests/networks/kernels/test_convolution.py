import functools
import re
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from rounding import assert_as_exact

from srvp_fd_jax.networks.kernels import convolution
from srvp_fd_jax.networks.kernels.convolution import winograd, winograd_in_time

RNG = np.random.default_rng(0)
SIZES = [(3, 1, 8, 12), (3, 1, 2, 2), (4, 2, 8, 12), (4, 2, 4, 4)]


def in_torch(x: torch.Tensor, kernel: torch.Tensor, **arguments: int) -> torch.Tensor:
    """PyTorch's convolution over two or three dimensions of what has channels last."""
    axes = range(1, x.ndim - 1)
    convolve = getattr(torch.nn.functional, f"conv{len(axes)}d")
    y = convolve(
        x.permute(0, -1, *axes), kernel.permute(-1, -2, *(i - 1 for i in axes)), **arguments
    )
    return y.movedim(1, -1)


def torchs(
    x: jax.Array, kernel: jax.Array, strides: int = 1, padding: int = 1, dtype=torch.float64
) -> np.ndarray:
    tensors = (torch.tensor(np.asarray(a), dtype=dtype) for a in (x, kernel))
    return in_torch(*tensors, stride=strides, padding=padding).numpy()


def torchs_gradients(
    x: jax.Array, kernel: jax.Array, strides: int = 1, dtype=torch.float64
) -> list[np.ndarray]:
    """Those of the sum of sines of the convolution."""
    tensors = [torch.tensor(np.asarray(a), dtype=dtype, requires_grad=True) for a in (x, kernel)]
    of_sines = in_torch(*tensors, stride=strides, padding=1).sin().sum()
    return [gradient.numpy() for gradient in torch.autograd.grad(of_sines, tensors)]


def gradients(function: Callable[..., jax.Array], *arguments: jax.Array) -> list[jax.Array]:
    """The same of a function of ours."""
    of_sines = jax.grad(lambda *arguments: jnp.sum(jnp.sin(function(*arguments))), (0, 1))
    return list(jax.jit(of_sines)(*arguments))


def definition(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    return convolution.direct(x, kernel, strides=strides, padding=1)


def example(r: int, h: int, w: int) -> tuple[jax.Array, jax.Array]:
    x = RNG.normal(size=(3, h, w, 24))
    kernel = RNG.normal(size=(r, r, 24, 40)) / np.sqrt(24 * r * r)
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


@pytest.mark.parametrize(("r", "strides", "h", "w"), SIZES)
def test_winograd_is_as_exact_as_the_definition(r: int, strides: int, h: int, w: int):
    x, kernel = example(r, h, w)
    exact = torchs(x, kernel, strides)
    of_definition = definition(x, kernel, strides)
    of_winograd = winograd(x, kernel)
    chex.assert_shape(of_winograd, exact.shape)
    errors = [np.sqrt(np.mean((y - exact) ** 2)) for y in (of_winograd, of_definition)]
    assert errors[0] < 2 * errors[1] < 1e-6


@pytest.mark.parametrize(("r", "strides", "h", "w"), SIZES)
def test_winograd_has_the_gradient_of_the_definition(r: int, strides: int, h: int, w: int):
    x, kernel = example(r, h, w)
    assert_as_exact(
        gradients(winograd, x, kernel),
        torchs_gradients(x, kernel, strides, torch.float32),
        torchs_gradients(x, kernel, strides),
    )


@pytest.mark.parametrize("t", [1, 2, 3, 5, 8])
def test_winograd_in_time_is_nearly_as_exact_as_the_definition(t: int):
    x = jnp.asarray(RNG.normal(size=(2, t, 5, 6, 24)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 3, 24, 40)) / np.sqrt(27 * 24), jnp.float32)
    exact, of_torch = (torchs(x, kernel, dtype=dtype) for dtype in (torch.float64, torch.float32))
    got = winograd_in_time(x, kernel)
    chex.assert_shape(got, exact.shape)
    errors = [np.sqrt(np.mean((y - exact) ** 2)) for y in (got, of_torch)]
    assert errors[0] < 6 * errors[1] < 3e-6


@pytest.mark.parametrize("t", [2, 3])
def test_winograd_in_time_has_the_gradient_of_the_definition(t: int):
    x = jnp.asarray(RNG.normal(size=(2, t, 5, 6, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 3, 3, 4)) / 9, jnp.float32)
    assert_as_exact(
        gradients(winograd_in_time, x, kernel),
        torchs_gradients(x, kernel, dtype=torch.float32),
        torchs_gradients(x, kernel),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kernels_of_the_images_size_give_one_output(precision: convolution.Precision):
    x, kernel = example(4, 4, 4)
    got = convolution.convolution(x, kernel, strides=1, padding=0, precision=precision)
    rounded = (a.astype(precision).astype(jnp.float32) for a in (x, kernel))
    chex.assert_shape(got, (3, 1, 1, 40))
    np.testing.assert_allclose(got, torchs(*rounded, 1, padding=0), atol=1e-5)


@pytest.mark.parametrize(("platform", "definition"), [("cpu", False), ("cuda", True)])
def test_large_convolutions_go_by_winograd_on_the_cpu_alone(platform: str, definition: bool):
    x = jax.ShapeDtypeStruct((16, 16, 16, 128), jnp.float32)
    kernel = jax.ShapeDtypeStruct((4, 4, 128, 256), jnp.float32)

    def lowered(images: int) -> str:
        few = jax.ShapeDtypeStruct((images, *x.shape[1:]), x.dtype)
        function = jax.jit(lambda *a: convolution.convolution(*a, strides=2, padding=1))
        return function.trace(few, kernel).lower(lowering_platforms=(platform,)).as_text()

    assert ("stablehlo.convolution" in lowered(16)) is definition
    assert "stablehlo.convolution" in lowered(1)


@pytest.mark.parametrize(("r", "strides", "h", "w"), SIZES)
def test_bfloat16_rounds_what_is_multiplied_and_nothing_else(r: int, strides: int, h: int, w: int):
    x, kernel = example(r, h, w)
    got = convolution.convolution(x, kernel, strides=strides, padding=1, precision="bfloat16")
    rounded = (a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, kernel))
    np.testing.assert_allclose(got, torchs(*rounded, strides), atol=1e-5)
    assert np.abs(got - torchs(x, kernel, strides)).max() > 1e-3


@pytest.mark.parametrize(("precision", "asked"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_gpus_may_use_their_fast_units_for_bfloat16_alone(precision: str, asked: str):
    x, kernel = example(3, 8, 8)
    function = functools.partial(convolution.convolution, strides=1, padding=1, precision=precision)
    lowered = jax.jit(function).trace(x, kernel).lower(lowering_platforms=("cuda",))
    (line,) = (li for li in lowered.as_text().splitlines() if "stablehlo.convolution" in li)
    assert set(re.findall("DEFAULT|HIGHEST", line)) == {asked}


@pytest.mark.parametrize(
    ("r", "strides", "padding", "h", "w"), [(4, 1, 0, 1, 1), (4, 2, 1, 4, 6), (3, 1, 1, 5, 4)]
)
def test_transposed_convolution_is_pytorchs_and_the_transpose(
    r: int, strides: int, padding: int, h: int, w: int
):
    x, kernel = RNG.normal(size=(2, h, w, 5)), RNG.normal(size=(r, r, 7, 5))
    arguments = {"strides": strides, "padding": padding}
    ours = convolution.transposed_convolution(jnp.float32(x), jnp.float32(kernel), **arguments)
    theirs = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(kernel).permute(3, 2, 0, 1),
        stride=strides,
        padding=padding,
    )
    chex.assert_trees_all_close(ours, theirs.permute(0, 2, 3, 1).numpy(), rtol=0, atol=2e-5)

    y = RNG.normal(size=ours.shape)
    forward = convolution.convolution(jnp.float32(y), jnp.float32(kernel), **arguments)
    assert float(np.sum(forward * x)) == pytest.approx(float(np.sum(y * ours)), rel=1e-4)


def test_transposed_convolution_in_bfloat16_rounds_its_inputs():
    x, kernel = (jnp.float32(RNG.normal(size=shape)) for shape in ((1, 4, 4, 3), (4, 4, 2, 3)))
    whole, rounded = (
        convolution.transposed_convolution(x, kernel, strides=2, padding=1, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    assert 1e-4 < jnp.abs(whole - rounded).max() < 0.2
