import numpy as np
import pytest
import torch

from srvp_fd_jax.demo import corruptions

CLIPS = np.random.default_rng(0).integers(0, 256, (6, 8, 16, 16, 1), np.uint8)


def test_noise_has_the_given_strength():
    grey = np.full((4, 4, 64, 64, 1), 128, np.uint8)
    noisy = corruptions.add_noise(grey, np.random.default_rng(0), 0.1)
    assert noisy.std() / 255 == pytest.approx(0.1, rel=0.02)
    assert noisy.mean() == pytest.approx(128, rel=0.01)


@pytest.mark.parametrize("width", [3, 5])
def test_blur_is_a_box(width: int):
    frames = torch.from_numpy(CLIPS.reshape(-1, 1, 16, 16)).double()
    padded = torch.nn.functional.pad(frames, [width // 2] * 4, mode="replicate")
    expected = torch.nn.functional.avg_pool2d(padded, width, stride=1).reshape(CLIPS.shape)
    np.testing.assert_allclose(corruptions.blur(CLIPS, width), expected, atol=0.51)


def test_freeze_stops_time():
    frozen = corruptions.freeze(CLIPS, 3)
    np.testing.assert_array_equal(frozen[:, :3], CLIPS[:, :3])
    assert (frozen[:, 3:] == CLIPS[:, 2:3]).all()
    np.testing.assert_array_equal(corruptions.freeze(CLIPS, 8), CLIPS)


def test_shuffle_permutes_each_clip_by_itself():
    rng = np.random.default_rng(0)
    shuffled = corruptions.shuffle_time(CLIPS, rng, 1.0)
    assert shuffled.shape == CLIPS.shape
    orders = set()
    for clip, original in zip(shuffled, CLIPS, strict=True):
        order = tuple(next(t for t in range(8) if (original[t] == frame).all()) for frame in clip)
        assert sorted(order) == list(range(8))
        orders.add(order)
    assert len(orders) > 1
    np.testing.assert_array_equal(corruptions.shuffle_time(CLIPS, rng, 0.0), CLIPS)
