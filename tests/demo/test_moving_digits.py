from pathlib import Path

import numpy as np
import sklearn.datasets

from srvp_fd_jax.demo import moving_digits as digits
from srvp_fd_jax.demo.moving_digits import moving_digits


def test_images_are_scikit_learns():
    images = sklearn.datasets.load_digits().images
    np.testing.assert_array_equal(
        np.load(Path(digits.__file__).parents[1] / "data" / "digit_images.npy"), images
    )
    large = digits.digit_images()
    # Enlarging keeps the mean of an image but for the clipping of overshoot.
    np.testing.assert_allclose(large.mean((1, 2)) / 255, images.mean((1, 2)) / 16, atol=0.03)


def test_clips_are_reproducible_and_move():
    a, b = (moving_digits(np.random.default_rng(0), 5, 12) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (5, 12, 64, 64, 1)
    assert a.dtype == np.uint8
    assert all((clip[0] != clip[-1]).any() for clip in a)


def test_digits_stay_whole_and_within_speed():
    # The bounding box of a lone digit keeps its size, and moves at most 4 pixels a frame.
    (clip,) = moving_digits(np.random.default_rng(1), 1, 60, digits=1)
    boxes = np.array(
        [[f(np.argwhere(frame)) for f in (corner_low, corner_high)] for frame in clip[..., 0] > 64]
    )
    assert len({tuple(high - low) for low, high in boxes}) == 1
    assert np.abs(np.diff(boxes[:, 0], axis=0)).max() <= 4


def corner_low(points: np.ndarray) -> np.ndarray:
    return points.min(axis=0)


def corner_high(points: np.ndarray) -> np.ndarray:
    return points.max(axis=0)


def test_swapped_digits_differ_from_the_middle_on():
    plain, swapped = (
        moving_digits(np.random.default_rng(2), 20, 6, swapped=swapped) for swapped in (0, 2)
    )
    np.testing.assert_array_equal(plain[:, :3], swapped[:, :3])
    assert (plain[:, 3:] != swapped[:, 3:]).any(axis=(1, 2, 3, 4)).mean() > 0.9
