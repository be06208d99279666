from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from srvp_fd_jax.videos.resizing import Resize, resize

GOLDEN = Path(__file__).parent / "golden" / "resized.npz"
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


@pytest.mark.parametrize("rule", get_args(Resize))
def test_a_flat_frame_stays_flat_and_224_stays_itself(rule: str):
    flat = jnp.full((1, 1, 90, 70, 1), 0.5)
    tolerance = 1 / 255 if rule == "cd_fvd" else 1e-6
    np.testing.assert_allclose(resize(flat, rule), 0.5, atol=tolerance)
    if rule != "cd_fvd":
        noise = jax.random.uniform(jax.random.key(0), (1, 1, 224, 224, 1))
        np.testing.assert_allclose(resize(noise, rule), noise, atol=1e-6)


@pytest.mark.parametrize("rule", get_args(Resize))
def test_lowers_to_float32_at_full_precision(rule: str):
    clips = jax.ShapeDtypeStruct((1, 2, 300, 90, 1), jnp.float32)
    function = jax.jit(lambda clips: resize(clips, rule))
    program = export.export(function, platforms=["tpu"])(clips).mlir_module()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert bool(products) == (rule != "bilinear_tf1")
    assert all("DEFAULT" not in line and "HIGHEST" in line for line in products)
