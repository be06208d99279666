"""Which clips a run trains on: the split, the order, and videos that cannot be used."""

import collections
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from srvp_fd_jax.training import clips
from srvp_fd_jax.training.clips import batches, check_batch, held_out_clips, split
from srvp_fd_jax.training.recipes import RECIPES, Recipe, change
from srvp_fd_jax.videos.sources import Video, as_videos

BATCH, FRAMES, COUNT = 4, 6, 40
_SIZES = {"frames": FRAMES, "given": 3, "nt_inf": 2, "batch_size": BATCH}
RECIPE = change(RECIPES["digits"], **_SIZES)


def numbered(count: int = COUNT, length: int = 9) -> list[Video]:
    """Videos whose pixels tell their number and the frame."""
    frames = np.arange(count)[:, None] + 100 * (np.arange(length) % 2)
    array = np.broadcast_to(frames[:, :, None, None, None], (count, length, 64, 64, 1))
    return as_videos(array.astype(np.uint8), "videos")


def numbers_of(batch: np.ndarray) -> list[int]:
    return [int(clip[0, 0, 0, 0]) % 100 for clip in batch]


def take(videos: list[Video], count: int, recipe: Recipe = RECIPE, **more: Any) -> list[np.ndarray]:
    made = batches(videos, recipe, **more)
    taken = [next(made) for _ in range(count)]
    made.close()
    return taken


def names(videos: list[Video]) -> list[str]:
    return [video.name for video in videos]


def test_one_video_in_twenty_is_held_out():
    found = split(numbered(), RECIPE)
    assert (len(found.training), len(found.held_out)) == (38, 2)
    assert sorted(names(found.training + found.held_out)) == sorted(names(numbered()))


def test_the_split_depends_on_the_seed_and_the_names_alone():
    found = split(numbered(), RECIPE)
    assert names(split(numbered()[::-1], RECIPE).held_out) == names(found.held_out)[::-1]
    other = split(numbered(), change(RECIPE, split_seed=1))
    assert names(other.held_out) != names(found.held_out)
    assert names(split(numbered(), change(RECIPE, seed=1)).held_out) == names(found.held_out)


def test_every_video_gives_a_clip_before_any_gives_another():
    taken = [n for batch in take(numbered(12), 6) for n in numbers_of(batch)]
    assert sorted(taken[:12]) == sorted(taken[12:]) == list(range(12))
    assert taken[:12] not in (taken[12:], list(range(12)))


def test_clips_are_consecutive_frames_from_random_places():
    taken = np.concatenate(take(numbered(), 10))[..., 0, 0, 0]
    assert taken.shape == (40, FRAMES)
    starts = taken[:, 0] // 100
    np.testing.assert_array_equal(taken[:, 1:] // 100, (starts[:, None] + np.arange(1, FRAMES)) % 2)
    assert collections.Counter(starts.tolist()).keys() == {0, 1}


def test_a_run_goes_on_with_the_clips_that_come_next():
    whole = take(numbered(), 8)
    np.testing.assert_array_equal(take(numbered(), 3, first=5), whole[5:])


def test_processes_share_the_batches_of_one():
    whole = take(numbered(), 5)
    parts = []
    for process in range(2):
        with (
            mock.patch.object(clips.jax, "process_count", return_value=2),
            mock.patch.object(clips.jax, "process_index", return_value=process),
        ):
            parts.append(take(numbered(), 5))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_frames_of_any_size_and_colour_are_brought_to_the_models():
    rng = np.random.default_rng(0)
    videos = as_videos([*rng.integers(0, 255, (COUNT, 8, 96, 128, 3), np.uint8)], "videos")
    (batch,) = take(videos, 1, change(RECIPES["own"], **_SIZES, nc=1))
    assert batch.shape == (BATCH, FRAMES, 64, 64, 1)
    assert batch.dtype == np.uint8
    assert 20 < batch.std() < 60  # averaged, not dropped


def test_videos_that_cannot_be_used_are_counted_and_named(tmp_path: Path):
    for i in range(30):
        np.save(tmp_path / f"{i:02}.npy", np.zeros((FRAMES + 1, 64, 64, 1), np.uint8))
    for i in range(3):
        np.save(tmp_path / f"short{i}.npy", np.zeros((FRAMES - 1, 64, 64, 1), np.uint8))
    np.save(tmp_path / "large.npy", np.zeros((FRAMES, 96, 64, 1), np.uint8))
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="left out") as told:
        found = split(as_videos(tmp_path, "videos"), RECIPE)
    assert len(found.training + found.held_out) == 30
    assert [Path(name).stem for name in found.too_short] == ["short0", "short1", "short2"]
    short, unusable = (str(one.message) for one in told)
    assert short.startswith(
        "left out 3 of 35 videos, which are shorter than the 6 frames of a clip:"
    )
    assert "frames of 96×64, expected 64×64 (resize rule 'none')" in unusable
    assert "broken.npy" in unusable


def test_fewer_videos_than_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"got 38 to train on \(found 40, held out 2, too short 0"):
        check_batch(split(numbered(), RECIPE), change(RECIPE, batch_size=39))


def test_floats_that_bytes_would_clip_are_left_out():
    video = np.linspace(-1, 1, 9 * 64 * 64, dtype=np.float32).reshape(9, 64, 64, 1)
    late = np.zeros_like(video)
    late[1:] = 1.5
    videos = as_videos([*[video / 2 + 0.5] * 6, late, video], "videos")
    with pytest.warns(UserWarning, match=r"videos\[7\] \(got values from -1 to -0.778, expected"):
        found = split(videos, RECIPE)
    assert len(found.training + found.held_out) == 7
    with pytest.warns(
        UserWarning, match="got values from .* to 1.5.*another video takes its place"
    ):
        (batch,) = take(videos[4:7], 1)
    assert batch[:, 0].max() <= 128  # none begins in the bright part
    with pytest.warns(UserWarning, match="left out"):
        none = split(videos[7:] * 5, RECIPE)
    with pytest.raises(ValueError, match=r"videos: got 0 .*\(got values from -1 to"):
        check_batch(none, RECIPE)


def test_a_video_that_breaks_later_is_replaced_by_the_same_one_every_time(tmp_path: Path):
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", np.full((FRAMES, 64, 64, 1), i, np.uint8))
    videos = as_videos(tmp_path, "videos")
    before = np.concatenate(take(videos, 2))
    (tmp_path / "3.npy").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"3.npy: .*; another video takes its place"):
        after = np.concatenate(take(videos, 2))
    changed = [(b, a) for b, a in zip(numbers_of(before), numbers_of(after), strict=True) if b != a]
    assert changed == [(3, 4)]


def test_held_out_clips_are_one_per_video_and_the_same_every_time():
    videos = numbered()
    taken = held_out_clips(videos, change(RECIPE, validation_clips=7))
    assert numbers_of(taken) == list(range(7))
    np.testing.assert_array_equal(taken, held_out_clips(videos[:7], change(RECIPE, seed=5)))
