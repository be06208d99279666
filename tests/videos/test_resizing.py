import functools
import re
from pathlib import Path
from typing import get_args

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clips import real_clips
from jax import export
from PIL import Image

from srvp_fd_jax.videos.resizing import Resize, prepare, resize

GOLDEN = Path(__file__).parents[1] / "golden" / "resized.npz"
PIXELS = np.unique([*range(0, 224, 14), 1, 2, 221, 222, 223])  # as in make_resized.py


def frames(height: int, width: int) -> np.ndarray:
    """The clip of make_resized.py."""
    t, y, x, c = np.ogrid[:2, :height, :width, :3]
    noise = (y * 7919 + x * 104729 + t * 31 + c * 17) % 61
    return ((y * (3 + c) + x * (5 - t) + noise * 2) % 256).astype(np.uint8)


@pytest.mark.parametrize("name", np.load(GOLDEN).files)
def test_resizes_as_tensorflow_pytorch_and_cd_fvd_do(name: str):
    rule, size = name.split()
    height, width = map(int, size.split("x"))
    clips = jnp.asarray(frames(height, width)[None], jnp.float32) / 255
    got = 255 * np.asarray(resize(clips, rule))[0][:, PIXELS][:, :, PIXELS]
    difference = np.abs(got - np.load(GOLDEN)[name])
    if rule == "cd_fvd":
        # It cuts to bytes: a whole number up to rounding comes out as itself or as one level less,
        # here or there. In frames of half the size every fourth value is one.
        assert difference.max() < 1.01
        assert (difference > 1e-3).mean() < 0.06
    else:
        assert difference.max() < 1e-3 * (1 if rule == "bilinear_tf1" else 0.2)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (240, 150), (40, 64)])
def test_antialiased_is_pillows_bilinear_of_the_shorter_side(height: int, width: int):
    clip = frames(height, width)
    scale = 64 / min(height, width)
    size = (64, -int(-height * scale // 1)) if width < height else (-int(-width * scale // 1), 64)
    left, top = ((side - 64) // 2 for side in size)
    expected = [
        Image.fromarray(f)
        .resize(size, Image.Resampling.BILINEAR)
        .crop((left, top, left + 64, top + 64))
        for f in clip
    ]
    got = 255 * np.asarray(resize(jnp.asarray(clip[None], jnp.float32) / 255, "antialiased", 64))[0]
    np.testing.assert_allclose(got, got.round(), atol=1e-4)  # bytes
    difference = np.abs(got - np.stack([np.asarray(image, float) for image in expected]))
    assert difference.max() < 1.01  # Pillow stores the intermediate image as bytes, too
    assert difference.mean() < 0.3


ANY_SIZE = sorted({*get_args(Resize)} - {"none", "srvp_human"})


@pytest.mark.parametrize("rule", ANY_SIZE)
def test_a_flat_frame_stays_flat(rule: str):
    flat = jnp.full((1, 1, 90, 70, 1), 128 / 255)
    tolerance = 1 / 255 if rule == "cd_fvd" else 1e-6
    np.testing.assert_allclose(resize(flat, rule), 128 / 255, atol=tolerance)


@pytest.mark.parametrize("rule", sorted({*get_args(Resize)} - {"cd_fvd"}))
@pytest.mark.parametrize("size", [64, 224])
def test_frames_of_the_size_stay_themselves(rule: str, size: int):
    noise = jax.random.uniform(jax.random.key(0), (1, 2, size, size, 3))
    tolerance = 0 if rule.startswith(("none", "srvp", "antialiased")) else 1e-6
    np.testing.assert_allclose(resize(noise, rule, size), noise, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("rule", "height", "width", "message"),
    [
        ("none", 65, 64, "frames of 65×64, expected 64×64 (resize rule 'none')"),
        ("none", 64, 128, "frames of 64×128, expected 64×64 (resize rule 'none')"),
        ("srvp_human", 899, 1000, "frames of 899×1000, expected 64×64 or at least 900×900"),
        ("srvp_human", 1000, 64, "frames of 1000×64, expected 64×64 or at least 900×900"),
        ("srvp_human", 128, 128, "frames of 128×128, expected 64×64 or at least 900×900"),
    ],
)
def test_other_sizes_are_refused(rule: str, height: int, width: int, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        resize(jnp.zeros((1, 1, height, width, 1)), rule, 64)


RGB = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_is_repeated(channels: int):
    prepared = prepare(jnp.asarray(RGB[..., :1]), "none", 64, channels)
    expected = np.repeat(np.float32(RGB[..., :1]) / 255, channels, axis=-1)
    np.testing.assert_allclose(prepared, expected, rtol=1e-6)


def test_grey_stored_as_rgb_comes_out_as_it_was():
    grey = np.arange(256, dtype=np.uint8).repeat(16).reshape(1, 1, 64, 64, 1)
    got = prepare(jnp.asarray(grey.repeat(3, axis=-1)), "none", 64, 1)
    np.testing.assert_array_equal(got, prepare(jnp.asarray(grey), "none", 64, 1))


def test_colours_of_floats_become_luma_that_has_a_gradient():
    clips = jnp.asarray(RGB, jnp.float32) / 255
    weights = np.array([0.299, 0.587, 0.114])
    got = prepare(clips, "none", 64, 1)
    np.testing.assert_allclose(got[..., 0], RGB / 255 @ weights, atol=1e-6)
    gradient = jax.grad(lambda clips: prepare(clips, "none", 64, 1).sum())(clips)
    np.testing.assert_allclose(gradient, np.broadcast_to(weights, RGB.shape), rtol=1e-6)


@pytest.mark.parametrize(("size", "channels"), [(64, 3), (48, 1)])
def test_prepares_frames_of_any_size(size: int, channels: int):
    prepared = prepare(jnp.asarray(RGB), "bilinear", size, channels)
    assert prepared.shape == (2, 3, size, size, channels)
    assert prepared.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"frames of 64×64, expected 65×65 .resize rule 'none'."):
        prepare(jnp.asarray(RGB), "none", 65, channels)


def levels(frames: np.ndarray, rule: str) -> np.ndarray:
    """Grey levels of resized frames [T, H, W, C], which are whole numbers."""
    got = 255 * np.asarray(resize(jnp.asarray(frames[None], jnp.float32) / 255, rule, 64))[0]
    np.testing.assert_allclose(got, got.round(), atol=1e-4)
    return got.round().astype(int)


@functools.cache
def real_frames() -> np.ndarray:
    """Two frames of a film, 720×1280."""
    return real_clips(4, ["bigbuckbunny"], size=None)[0, ::3]


def kinds(height: int, width: int) -> dict[str, np.ndarray]:
    """Frames of film, of noise and of edges at the bounds of what bytes hold."""
    film = [Image.fromarray(frame).resize((width, height)) for frame in real_frames()]
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    edges = np.where((y // 9 + x // 9) % 2, 255, 0).astype(np.uint8)
    return {
        "film": np.stack([np.asarray(image) for image in film]),
        "noise": noise,
        "edges": np.stack([edges] * 3, axis=-1)[None],
    }


@pytest.mark.parametrize("kind", ["film", "noise", "edges"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(120, 160), (100, 90), (240, 320), (65, 64), (40, 50), (32, 48), (64, 100)],
)
def test_srvp_kth_is_ffmpegs_bicubic(kind: str, height: int, width: int):
    grey = kinds(height, width)[kind][..., 1]
    expected = [
        av.VideoFrame.from_ndarray(frame, format="gray")
        .reformat(width=64, height=64, interpolation="BICUBIC")
        .to_ndarray()
        for frame in grey
    ]
    difference = np.abs(levels(grey[..., None], "srvp_kth")[..., 0] - np.stack(expected))
    if min(height, width) < 64:
        # Where it enlarges, FFmpeg errs in one of the first three rows and columns at some ratios.
        difference = difference[:, 3:, 3:]
    assert difference.max() <= 1
    assert difference.mean() < 0.12


@pytest.mark.parametrize("kind", ["film", "noise", "edges"])
@pytest.mark.parametrize(("height", "width"), [(1000, 1000), (900, 950)])
def test_srvp_human_is_pillows_lanczos(kind: str, height: int, width: int):
    frames = kinds(height, width)[kind]
    expected = [
        np.asarray(
            Image.fromarray(frame)
            .crop((100, 100, 900, 900))
            .resize((64, 64), Image.Resampling.LANCZOS)
        )
        for frame in frames
    ]
    difference = np.abs(levels(frames, "srvp_human") - np.stack(expected))
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


@pytest.mark.parametrize("rule", get_args(Resize))
def test_lowers_to_float32_at_full_precision(rule: str):
    size = {"none": (224, 224), "srvp_human": (900, 1000)}.get(rule, (300, 90))
    clips = jax.ShapeDtypeStruct((1, 2, *size, 1), jnp.float32)
    function = jax.jit(lambda clips: resize(clips, rule))
    program = export.export(function, platforms=["tpu"])(clips).mlir_module()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert bool(products) == (rule not in ("bilinear_tf1", "none"))
    assert all("DEFAULT" not in line and "HIGHEST" in line for line in products)
