import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from srvp_fd_jax import FeatureStatistics
from srvp_fd_jax.inputs import as_frames, to_unit_range

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
CLIPS = np.random.default_rng(1).random((2, 4, 64, 64, 1), np.float32)


def frames(x, **kwargs):
    return as_frames(x, "x", **({"ndim": 4, "size": 64, "channels": 3} | kwargs))


def clips(x, **kwargs):
    return as_frames(x, "x", **({"ndim": 5, "size": 64, "channels": 1} | kwargs))


def test_layouts_are_told_by_the_shape():
    np.testing.assert_array_equal(frames(FRAMES), FRAMES)
    np.testing.assert_array_equal(frames(FRAMES.transpose(0, 3, 1, 2)), FRAMES)
    np.testing.assert_array_equal(clips(CLIPS), CLIPS)
    np.testing.assert_array_equal(clips(CLIPS.transpose(0, 1, 4, 2, 3)), CLIPS)


def test_a_batch_of_64_frames_or_times_is_not_taken_for_height():
    many = np.zeros((64, 64, 64, 3), np.uint8)
    many[:, 0] = 1
    np.testing.assert_array_equal(frames(many), many)
    np.testing.assert_array_equal(frames(many.transpose(0, 3, 1, 2)), many)
    long = np.zeros((3, 64, 64, 64, 1), np.uint8)
    np.testing.assert_array_equal(clips(long), long)


@pytest.mark.parametrize(
    "convert",
    [np.asarray, jnp.asarray, torch.from_numpy, lambda x: x.tolist()],
    ids=["numpy", "jax", "torch", "lists"],
)
def test_sources(convert):
    np.testing.assert_array_equal(
        frames(convert(np.float32(FRAMES) / 255)), np.float32(FRAMES) / 255
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, np.float64])
def test_float_types(dtype):
    x = frames(np.full((2, 64, 64, 3), 0.25).astype(dtype))
    scaled = to_unit_range(jnp.asarray(x))
    assert scaled.dtype == jnp.float32
    np.testing.assert_array_equal(scaled, 0.25)


def test_uint8_is_divided_by_255():
    expected = torch.from_numpy(FRAMES).float() / 255
    np.testing.assert_allclose(jax.jit(to_unit_range)(FRAMES), expected, rtol=1.2e-7)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (FRAMES[0], r"x: got shape \(64, 64, 3\), expected \[N, 64, 64, 3\] or \[N, 3, 64, 64\]$"),
        (FRAMES[:, :32], r"x: got shape \(5, 32, 64, 3\)"),
        (FRAMES[..., :1], r"x: got shape \(5, 64, 64, 1\)"),
        (FRAMES[None], r"x: got shape \(1, 5, 64, 64, 3\)"),
        (FRAMES.astype(np.int32), "x: got dtype int32, allowed are uint8 .* and floats"),
        (FRAMES > 3, "x: got dtype bool"),
        (np.full(FRAMES.shape, "a"), "x: got dtype <U1"),
        (FRAMES.astype(np.complex64), "x: got dtype complex64"),
        (np.float32(FRAMES), "x: got values from 0 to 255, .* divide by 255 or pass uint8"),
        (np.float32(FRAMES) / 10 - 17, "x: got values from -17 to 8.5, expected floats"),
        (np.full(FRAMES.shape, np.nan), "x: got values that are not finite"),
        (np.where(FRAMES == 7, np.inf, 0), "x: got values that are not finite"),
        (np.where(FRAMES == 7, -np.inf, 0), "x: got values that are not finite"),
    ],
)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_wrong_input_is_told(x, message, convert):
    if convert is jnp.asarray and x.dtype.kind == "U":
        pytest.skip("JAX has no strings")
    with pytest.raises(ValueError, match=message):
        frames(convert(x))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.2, 1.2), (0, 16)])
def test_floats_outside_the_unit_interval_are_scored_with_a_warning(low, high, convert):
    x = convert(np.linspace(low, high, FRAMES.size, dtype=np.float32).reshape(FRAMES.shape))
    message = f"x: got values from {low} to {high}, expected floats in \\[0, 1\\]: they are scored"
    with pytest.warns(UserWarning, match=message):
        np.testing.assert_array_equal(frames(x), x)


def test_rounding_is_not_warned_of():
    frames(np.full(FRAMES.shape, 1 + 1e-6, np.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_a_network(dtype):
    x = torch.full(FRAMES.shape, 0.25, dtype=dtype, requires_grad=True)
    np.testing.assert_array_equal(frames(x), 0.25)


def test_what_is_no_array_is_told():
    with pytest.raises(ValueError, match="x: got a list, expected an array"):
        frames([[0.5], [0.5, 0.5]])


def test_shapes_are_checked_and_values_of_traced_arrays_are_not():
    jax.jit(frames)(np.full(FRAMES.shape, np.nan))
    closed_over = jnp.full(FRAMES.shape, 300.0)
    jax.jit(lambda: frames(closed_over))()
    with pytest.raises(ValueError, match="x: got values from 300"):
        jax.jit(lambda: frames(np.asarray(closed_over)))()
    with pytest.raises(ValueError, match=r"x: got shape \(5, 64, 64, 1\)"):
        jax.jit(frames)(FRAMES[..., :1])


FEATURES = np.random.default_rng(2).normal(size=(60, 5)).astype(np.float32)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.tolist(),
        torch.from_numpy,
        lambda x: torch.from_numpy(x).requires_grad_(),
        jnp.asarray,
    ],
    ids=["lists", "torch", "torch with gradient", "jax"],
)
def test_features_from_anywhere(convert):
    for made in (
        FeatureStatistics.from_features(convert(FEATURES)),
        FeatureStatistics.empty(5).update(convert(FEATURES)),
    ):
        np.testing.assert_allclose(made.covariance(), np.cov(FEATURES.T), atol=1e-5)


def test_features_of_bfloat16():
    x = torch.from_numpy(FEATURES).bfloat16()
    made = FeatureStatistics.from_features(x)
    np.testing.assert_allclose(made.covariance(), np.cov(x.float().numpy().T), atol=1e-5)
