import io
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.significance import corruptions
from srvp_fd_jax.significance.corruptions import CORRUPTIONS, NotApplicableError

N, FRAMES = 20, 8
LONG = list(moving_digits(np.random.default_rng(0), N, 2 * FRAMES))
GREY = [clip[:FRAMES] for clip in LONG]
KINDS = {
    "grey": lambda clip: clip,
    "rgb": lambda clip: np.concatenate([clip, clip // 2, 255 - clip], axis=-1),
    "float32": lambda clip: clip.astype(np.float32) / 255,
    "float16": lambda clip: (clip / 255).astype(np.float16),
}
EVERY = [(name, kind) for name in CORRUPTIONS for kind in KINDS]


def corrupted(name: str, strength: float, clips=GREY, seed: int = 0, fast=None):
    fast = [clip[::2][: len(clips[0])] for clip in LONG] if fast is None else fast
    return CORRUPTIONS[name](clips, strength, np.random.default_rng(seed), fast)


def numbered(clips: int, frames: int) -> list[np.ndarray]:
    """Clips of one pixel whose value is the number of the frame among all frames."""
    return list(np.arange(clips * frames, dtype=np.float32).reshape(clips, frames, 1, 1, 1))


def orders(name: str, share: float, clips: int = 10, frames: int = 8) -> np.ndarray:
    """The frames that each clip has after a corruption in time, by their places in it."""
    made = corrupted(name, share, numbered(clips, frames))
    return np.stack(made)[..., 0, 0, 0].astype(int) - frames * np.arange(clips)[:, None]


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_clips_keep_their_form_and_change_more_by_larger_strengths(name, kind):
    clips = [KINDS[kind](clip) for clip in GREY]
    fast = [KINDS[kind](clip[::2]) for clip in LONG]
    before = [clip.copy() for clip in clips]
    unchanged = corrupted(name, 0.0, clips, fast=fast)
    assert all(one is clip for one, clip in zip(unchanged, clips, strict=True))
    errors = [0.0]
    for strength in CORRUPTIONS[name].strengths:
        made = corrupted(name, strength, clips, fast=fast)
        assert [(x.shape, x.dtype) for x in made] == [(x.shape, x.dtype) for x in clips]
        values = np.stack(made).astype(np.float64)
        assert values.min() >= 0
        assert values.max() <= (255 if clips[0].dtype == np.uint8 else 1)
        errors.append(np.abs(values - np.stack(clips)).mean())
    assert (np.diff(errors) > 0).all()
    np.testing.assert_array_equal(clips, before)


@pytest.mark.parametrize("sigma", [0.3, 1.7, 6.0])
def test_blur_is_a_gaussian(sigma):
    clip = np.random.default_rng(0).random((2, 20, 14, 3)).astype(np.float32)
    (blurred,) = corrupted("blur", sigma, [clip])
    expected = ndimage.gaussian_filter(
        clip.astype(np.float64), (0, sigma, sigma, 0), mode="nearest", truncate=4
    )
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    (stored,) = corrupted("blur", sigma, [(255 * clip).round().astype(np.uint8)])
    np.testing.assert_allclose(stored, 255 * expected, atol=1.01)


def test_noise_has_its_deviation_and_differs_between_clips():
    grey = [np.full((4, 64, 64, 1), 128, np.uint8)] * 2
    noisy = np.stack(corrupted("noise", 12.0, grey)).astype(np.float64)
    assert noisy.std() == pytest.approx(12, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.2)
    assert abs(np.corrcoef(noisy.reshape(2, -1))[0, 1]) < 0.02


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels):
    clip = np.random.default_rng(0).integers(0, 256, (2, 16, 24, channels), np.uint8)
    (made,) = corrupted("JPEG", 70.0, [clip])
    for frame, of_frame in zip(clip, made, strict=True):
        stored = io.BytesIO()
        Image.fromarray(frame.squeeze()).save(stored, "JPEG", quality=30)
        np.testing.assert_array_equal(of_frame.squeeze(), np.asarray(Image.open(stored)))


def test_brightness_is_lowered_by_its_share():
    (made,) = corrupted("brightness", 0.25, [np.full((2, 4, 4, 1), 200, np.uint8)])
    assert (made == 150).all()


def test_floats_outside_of_the_usual_range_are_not_cut():
    clip = 2 * KINDS["float32"](GREY[0]) - 1
    (made,) = corrupted("brightness", 0.25, [clip])
    np.testing.assert_allclose(made, 0.75 * clip, atol=1e-6)


@pytest.mark.parametrize("share", [0.18, 0.5, 0.83, 1.0])
def test_the_share_of_frames_is_dropped(share):
    places = orders("dropped frames", share)
    dropped = places != np.arange(8)
    assert dropped.sum() == pytest.approx(min(share * 80, 70), abs=1)
    assert not dropped[:, 0].any()
    # A dropped frame shows what the frame before it shows.
    np.testing.assert_array_equal(places[:, 1:][dropped[:, 1:]], places[:, :-1][dropped[:, 1:]])


@pytest.mark.parametrize("share", [0.18, 0.5, 0.83, 1.0])
def test_the_last_share_is_frozen(share):
    places = orders("frozen end", share)
    for order in places:
        np.testing.assert_array_equal(order, np.minimum(np.arange(8), order[-1]))
    # The first frame has no frame before it that it could repeat.
    assert (7 - places[:, -1]).sum() == pytest.approx(min(share * 80, 70), abs=1)


@pytest.mark.parametrize("share", [0.25, 0.6, 1.0])
def test_the_share_of_frames_changes_places(share):
    places = orders("shuffled frames", share)
    np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(8), (10, 1)))
    assert (places != np.arange(8)).sum() == pytest.approx(share * 80, abs=1)
    assert len(np.unique(places, axis=0)) > 5


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_share_of_clips_is_replaced(share):
    clips = numbered(10, 8)
    backwards = [clip[::-1] for clip in clips]
    fast = [clip + 0.5 for clip in clips]
    for name, others in (("reversed clips", backwards), ("doubled speed", fast)):
        made = corrupted(name, share, clips, fast=fast)
        same = [(x == clip).all() for x, clip in zip(made, clips, strict=True)]
        other = [(x == one).all() for x, one in zip(made, others, strict=True)]
        assert sum(other) == 10 * share
        assert sum(same) == 10 - 10 * share


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_second_half_comes_from_another_clip(share):
    places = orders("swapped content", share) + 8 * np.arange(10)[:, None]
    of_clip, frame = places // 8, places % 8
    np.testing.assert_array_equal(frame, np.tile(np.arange(8), (10, 1)))
    first, second = of_clip[:, :4], of_clip[:, 4:]
    assert (first == np.arange(10)[:, None]).all()
    assert (second == second[:, :1]).all()
    assert (second[:, 0] != np.arange(10)).sum() == 10 * share


def test_few_modes_are_left():
    clips = numbered(40, 2)
    left = [
        len({float(clip[0, 0, 0, 0]) for clip in corrupted("fewer modes", share, clips)})
        for share in (0.25, 0.5, 0.75, 1.0)
    ]
    assert left == [30, 20, 10, corruptions.MODES]
    _, copies = np.unique(np.stack(corrupted("fewer modes", 1.0, clips))[:, 0], return_counts=True)
    assert (copies == 10).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_clips(name):
    made = [corrupted(name, CORRUPTIONS[name].strengths[1], seed=seed) for seed in (3, 3)]
    np.testing.assert_array_equal(*made)


def test_phrases_are_plain():
    told = {name: one.phrase(one.strengths[0]) for name, one in CORRUPTIONS.items()}
    assert told["noise"] == "noise of σ = 5 of 255"
    assert told["JPEG"] == "JPEG at quality 50"
    assert CORRUPTIONS["blur"].phrase(2.134) == "a blur of σ = 2.1 pixels"
    assert CORRUPTIONS["dropped frames"].phrase(0.1834) == "18 % of frames dropped"
    assert CORRUPTIONS["reversed clips"].phrase(0.00123) == "0.12 % of clips played backwards"
    assert CORRUPTIONS["reversed clips"].phrase(1.0) == "100 % of clips played backwards"


def test_clips_that_do_not_allow_a_corruption_are_refused(monkeypatch):
    still = [clip[:1] for clip in GREY]
    for name in list(CORRUPTIONS)[4:-1]:
        with pytest.raises(NotApplicableError, match="clips of one frame have no order in time"):
            corrupted(name, 0.5, still)
    with pytest.raises(NotApplicableError, match="2 of 20 videos are too short for clips at doub"):
        corrupted("doubled speed", 0.5, fast=[None, None, *GREY[2:]])
    with pytest.raises(NotApplicableError, match="between several clips of one size and type"):
        corrupted("swapped content", 0.5, [GREY[0], GREY[1][:, :32]])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NotApplicableError, match='JPEG needs the extra "video"'):
        corrupted("JPEG", 50.0)
