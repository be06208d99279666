import functools
import re

import i3d
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax

from srvp_fd_jax.networks.i3d import I3D, Unit3D, factorised, max_pool, plain
from srvp_fd_jax.weights import Weights


@pytest.fixture(scope="module")
def apply(i3d_weights: Weights):
    return functools.partial(
        jax.jit(lambda network, clips: network(clips)), i3d_weights.frozen().module()
    )


@pytest.fixture(scope="module")
def torch_network(i3d_weights: Weights):
    return i3d.torch_network(i3d_weights.arrays)


def test_logits_of_random_clips_are_those_of_pytorch(apply, torch_network):
    clips = np.random.default_rng(9).uniform(-1, 1, (2, 9, 224, 224, 3)).astype(np.float32)
    check(np.asarray(apply(clips)), i3d.torch_logits(torch_network, clips))


@pytest.mark.parametrize(("frames", "videos"), [(16, i3d.VIDEOS), (64, i3d.VIDEOS[:1])])
def test_logits_of_real_clips_are_those_of_pytorch(frames, videos, apply, torch_network):
    clips = i3d.real_clips(frames, videos)
    resized = jax.image.resize(np.float32(clips), (*clips.shape[:2], 224, 224, 3), "bilinear")
    # One by one, which takes one program for all that have 16 frames.
    for clip in np.array(resized / 127.5 - 1)[:, None]:
        check(np.asarray(apply(clip)), i3d.torch_logits(torch_network, clip))


def check(logits: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(logits - expected) < 5e-4
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
    assert expected.std() > 0.5  # where all is alike, nothing is shown


def test_the_ports_eps_is_told_apart(i3d_weights: Weights, apply, torch_network):
    clips = np.random.RandomState(1).rand(1, 16, 224, 224, 3).astype(np.float32)
    logits = np.asarray(apply(clips))
    check(logits, i3d.torch_logits(torch_network, clips))
    other = i3d.torch_logits(i3d.torch_network(i3d_weights.arrays, eps=1e-5), clips)
    assert np.linalg.norm(logits - other) > 0.01


def test_bfloat16_is_that_of_every_convolution(i3d_weights: Weights):
    network = i3d_weights.frozen("bfloat16").module()
    units = [module for _, module in nnx.iter_modules(network) if isinstance(module, Unit3D)]
    assert len(units) == 57
    assert {unit.precision for unit in units} == {network.precision} == {"bfloat16"}
    assert network.logits.precision == "highest"


def kernels() -> list[tuple[tuple[int, ...], int]]:
    network = nnx.eval_shape(lambda: I3D(rngs=nnx.Rngs(0)))
    units = [m for _, m in nnx.iter_graph(network) if hasattr(m, "kernel") and hasattr(m, "stride")]
    return sorted({(unit.kernel.shape, unit.stride) for unit in units if unit.kernel.shape[0] > 1})


@pytest.mark.parametrize(("shape", "stride"), kernels())
def test_factorised_and_plain_convolutions_agree(shape: tuple[int, ...], stride: int):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
    for size in ((5, 9, 8), (4, 8, 9)):
        x = jnp.asarray(rng.normal(size=(2, *size, shape[3])), jnp.float32)
        expected = np.asarray(plain(x, kernel, stride))
        got = factorised(x, kernel, stride)
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("window", "strides"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (1,) * 3), ((2,) * 3, (2,) * 3)],
)
def test_max_pool_is_that_over_the_whole_window(window, strides):
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 8, 3))
    expected = lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "SAME")
    np.testing.assert_array_equal(max_pool(x, window, strides), expected)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_to_float32_at_full_precision(platform: str):
    graph, state = nnx.split(nnx.eval_shape(lambda: I3D(rngs=nnx.Rngs(0))))
    clips = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    function = jax.jit(lambda state, clips: nnx.merge(graph, state)(clips))
    exported = export.export(function, platforms=[platform])(state, clips)
    program = exported.mlir_module()
    lines = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(lines) == 57
    assert all(set(re.findall("DEFAULT|HIGHEST|HIGH", line)) == {"HIGHEST"} for line in lines)
    # 3-D convolutions stay whole where they are fast.
    temporal = [line for line in lines if "7x7x7x3x64xf32" in line or "3x3x3x" in line]
    assert bool(temporal) == (platform != "cpu")
