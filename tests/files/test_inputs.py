import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import SMALL, write_checkpoint

from srvp_fd_jax import (
    FeatureStatistics,
    FrechetDistanceCalculator,
    frechet_distance_from_moments,
)
from srvp_fd_jax.distances.kvd import kvd
from srvp_fd_jax.distances.mind import mind
from srvp_fd_jax.features.shards import prepared
from srvp_fd_jax.files.inputs import as_clips, not_allowed, to_unit_range

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
CLIPS = np.random.default_rng(1).random((2, 6, 64, 64, 1), np.float32)


def frames(x):
    """Frames as they come back from clips of one frame."""
    clips = as_clips(x, "x", frames_allowed=True)
    assert clips.shape[1] == 1
    return clips[:, 0]


def clips(x):
    return as_clips(x, "x")


def test_layouts_are_told_by_the_shape():
    np.testing.assert_array_equal(frames(FRAMES), FRAMES)
    np.testing.assert_array_equal(frames(FRAMES.transpose(0, 3, 1, 2)), FRAMES)
    np.testing.assert_array_equal(clips(CLIPS), CLIPS)
    np.testing.assert_array_equal(clips(CLIPS.transpose(0, 1, 4, 2, 3)), CLIPS)
    np.testing.assert_array_equal(as_clips(CLIPS, "x", frames_allowed=True), CLIPS)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_arrays_stay_where_they_are(convert):
    assert isinstance(frames(convert(FRAMES)), type(convert(FRAMES)))
    assert isinstance(clips(convert(CLIPS)), type(convert(CLIPS)))


def test_a_batch_of_64_frames_or_times_is_not_taken_for_height():
    many = np.zeros((64, 64, 64, 3), np.uint8)
    many[:, 0] = 1
    np.testing.assert_array_equal(frames(many), many)
    np.testing.assert_array_equal(frames(many.transpose(0, 3, 1, 2)), many)
    long = np.zeros((3, 64, 64, 64, 1), np.uint8)
    np.testing.assert_array_equal(clips(long), long)


@pytest.mark.parametrize("layout", [(0, 1, 2, 3, 4), (0, 1, 4, 2, 3)], ids=["last", "first"])
def test_rgb_arrays_give_a_grey_model_what_rgb_videos_do(layout, digits):
    rgb = np.random.default_rng(2).integers(0, 256, (2, 6, 64, 64, 3), np.uint8)
    seen = prepared(digits, rgb)
    assert seen.shape == (2, 6, 64, 64, 1)
    of_arrays, of_videos = digits.features(rgb.transpose(layout)), digits.features(seen)
    chex.assert_trees_all_close(of_arrays, of_videos, atol=1e-6)
    of_frames = digits.extract_features(rgb.transpose(layout)[:, 0])
    chex.assert_trees_all_close(of_frames, of_videos["frame"][:, 0], atol=1e-6)


@pytest.mark.parametrize("grey", [CLIPS, FRAMES[None, ..., :1]], ids=["floats", "uint8"])
def test_grey_frames_are_repeated_for_an_rgb_model(grey, tmp_path):
    folder = write_checkpoint(tmp_path / "bair", SMALL | {"nc": 3})
    calculator = FrechetDistanceCalculator("bair", weights=folder)
    repeated = np.repeat(grey, 3, axis=-1)
    chex.assert_trees_all_close(
        calculator.features(grey), calculator.features(repeated), rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_close(
        calculator.extract_features(grey[0]), calculator.features(repeated)["frame"][0], atol=1e-6
    )


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


OF_FRAMES = r"\[N, H, W, C\], \[N, C, H, W\]"
OF_CLIPS = r"\[N, T, H, W, C\] or \[N, T, C, H, W\]"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            FRAMES[0],
            rf"x: got shape \(64, 64, 3\), expected {OF_FRAMES}, {OF_CLIPS} with 1 or 3 ch",
        ),
        (FRAMES[..., :2], rf"x: got shape \(5, 64, 64, 2\), expected {OF_FRAMES}"),
        (FRAMES[None, None], r"x: got shape \(1, 1, 5, 64, 64, 3\)"),
        (FRAMES[:, :0], r"x: got shape \(5, 0, 64, 3\), expected frames with pixels"),
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


def test_frames_are_told_where_clips_are_expected():
    with pytest.raises(ValueError, match=rf"x: got shape \(5, 64, 64, 3\), expected {OF_CLIPS}"):
        clips(FRAMES)
    with pytest.raises(ValueError, match=r"x: got shape .* expected frames with pixels"):
        clips(CLIPS[:, :0])


@pytest.mark.parametrize("size", [32, 65])
def test_frames_of_a_size_that_the_network_does_not_take_are_told(size: int, digits):
    wrong = np.zeros((4, size, size, 1), np.uint8)
    message = rf"x: got frames of {size}×{size}, expected 64×64 \(resize rule 'none'\)"
    with pytest.raises(ValueError, match=message):
        digits(wrong, wrong)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.2, 1.2), (0, 16)])
def test_floats_outside_the_unit_interval_are_scored_with_a_warning(low, high, convert):
    x = convert(np.linspace(low, high, FRAMES.size, dtype=np.float32).reshape(FRAMES.shape))
    message = f"x: got values from {low} to {high}, expected floats in \\[0, 1\\]; they are used"
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
    with pytest.raises(ValueError, match=r"x: got shape \(5, 64, 64, 2\)"):
        jax.jit(frames)(FRAMES[..., :2])


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
        FeatureStatistics.empty(5, sample=3).update(convert(FEATURES)),
    ):
        np.testing.assert_allclose(made.covariance(), np.cov(FEATURES.T), atol=1e-5)


def test_features_of_bfloat16():
    x = torch.from_numpy(FEATURES).bfloat16()
    made = FeatureStatistics.from_features(x)
    np.testing.assert_allclose(made.covariance(), np.cov(x.float().numpy().T), atol=1e-5)


def test_warnings_point_at_the_line_that_called_the_package(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, srvp_fd_jax\n"
        "x = np.zeros((4, 64, 64, 1), np.uint8)\n"
        "srvp_fd_jax.frechet_distance(x, x, 'digits')\n"
        "srvp_fd_jax.FrechetDistanceCalculator('digits')(x, x)\n"
    )
    command = [sys.executable, str(script)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stderr
    assert re.findall(r"(\S+:\d+): UserWarning: ([xy]): 4 samples", told) == [
        (f"{script}:{line}", name) for line in (3, 4) for name in "xy"
    ]


def test_channels_before_time_are_named_with_what_mends_them():
    clips = np.zeros((2, 3, 16, 32, 48), np.uint8)
    with pytest.raises(ValueError, match=r"clips: got .* \[N, C, T, H, W\].*swapaxes\(1, 2\)"):
        as_clips(clips, "clips")
    assert as_clips(clips.swapaxes(1, 2), "clips").shape == (2, 16, 32, 48, 3)


def test_the_nearest_name_is_suggested_in_any_case():
    assert "did you mean 'frame'?" in str(not_allowed("output", "Frames", ["frame", "dynamics"]))
    assert "did you mean" not in str(not_allowed("output", 3, ["frame"]))


def swapped(x):
    """In the order of bytes that this machine has not."""
    x = np.asarray(x)
    return x.astype(x.dtype.newbyteorder())


def statistics_of(features, **others):
    made = FeatureStatistics.from_features(features, **others)
    return np.concatenate([made.mean, made.covariance().ravel()])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("f", "arrays"),
    [
        (clips, [CLIPS]),
        (statistics_of, [FEATURES]),
        (lambda x: statistics_of(x, variances=x**2), [FEATURES]),
        (lambda x: FeatureStatistics.from_features(x, sample=9).sample.features, [FEATURES]),
        (mind, [FEATURES, FEATURES + 1]),
        (kvd, [FEATURES, FEATURES + 1]),
        (frechet_distance_from_moments, [FEATURES[0], np.eye(5), FEATURES[1], 2 * np.eye(5)]),
    ],
    ids=["clips", "features", "variances", "sample", "mind", "kvd", "moments"],
)
def test_either_order_of_bytes_is_read(f, arrays, dtype):
    native = [np.asarray(x, dtype) for x in arrays]
    np.testing.assert_array_equal(f(*map(swapped, native)), f(*native))


def test_either_order_of_bytes_is_encoded(digits):
    expected = digits.only("static_content").features(CLIPS)["static_content"]
    got = digits.only("static_content").features(swapped(CLIPS))["static_content"]
    np.testing.assert_array_equal(got, expected)
    streamed = digits.only("static_content").statistics([swapped(CLIPS)])["static_content"]
    np.testing.assert_allclose(streamed.mean, expected.mean(axis=0), rtol=1e-4, atol=1e-6)
