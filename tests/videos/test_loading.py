import itertools
import random
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from clips import moving, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srvp_fd_jax.protocols import PROTOCOLS, Protocol, Sampling, find_protocol
from srvp_fd_jax.videos.loading import Loaded, clip_frames, load_clips, load_numbered
from srvp_fd_jax.videos.reading import read_frames
from srvp_fd_jax.videos.sources import Video, as_videos, find_videos

SIDES = st.sampled_from(["real", "fake"])
SAMPLINGS = st.builds(Sampling, start=st.sampled_from(["first", "random"]), step=st.integers(1, 9))
PROTOCOLS_OF_ANY_KIND = st.builds(
    Protocol,
    name=st.just("any"),
    frames=st.none() | st.integers(1, 40),
    real=SAMPLINGS,
    fake=SAMPLINGS,
    drop_below=st.sampled_from(["span", "steps"]),
    resize=st.just("none"),
    ddof=st.just(1),
    skip=st.just(0) | st.integers(0, 60),
    seed=st.integers(0, 2**40),
)


@settings(max_examples=300)
@given(st.integers(0, 300), st.integers(0, 10**6), PROTOCOLS_OF_ANY_KIND, SIDES)
def test_any_clip_is_within_the_video(length: int, number: int, protocol: Protocol, side: str):
    chosen = clip_frames(length, number, protocol, side)
    sampling = protocol.real if side == "real" else protocol.fake
    frames, step, skip = protocol.frames, sampling.step, protocol.skip
    if frames is None:
        needed = step if protocol.drop_below == "steps" else 1
        expected = len(range(skip, length, step))
    else:
        last = (frames - 1) * step
        needed = frames * step if protocol.drop_below == "steps" else last + 1
        expected = frames
    if length < skip + needed:
        assert len(chosen) == 0
        return
    assert len(chosen) == expected
    assert (np.diff(chosen) == step).all()
    assert chosen[0] >= skip
    assert chosen[-1] < length
    if sampling.start == "first":
        assert chosen[0] == skip
    np.testing.assert_array_equal(clip_frames(length, number, protocol, side), chosen)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("side", ["real", "fake"])
def test_videos_are_too_short_exactly_below_the_shortest(name: str, side: str):
    protocol = find_protocol(name)
    shortest = protocol.shortest(side)
    assert len(clip_frames(shortest - 1, 0, protocol, side)) == 0
    for length in (shortest, shortest + 1):
        for number in range(20):
            assert len(clip_frames(length, number, protocol, side)) == (protocol.frames or length)


@pytest.mark.parametrize(
    ("name", "length", "starts"),
    [
        ("cd_fvd", 16, 1),
        ("cd_fvd", 30, 15),
        ("fvd2048_16f", 40, 25),
        ("fvd2048_128f_subsample8f", 140, 20),
        ("srvp:human:frame", 430, 14),
        ("cd_fvd+step=3", 60, 15),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_random_starts_are_all_equally_likely(name: str, length: int, starts: int, seed: int):
    protocol = find_protocol(name, seed=seed)
    drawn = [clip_frames(length, number, protocol, "real")[0] for number in range(2000)]
    counts = np.bincount(drawn, minlength=starts)
    assert len(counts) == starts
    assert counts.min() > 0
    assert starts == 1 or scipy.stats.chisquare(counts).pvalue > 1e-3
    # Neighbours do not tell of one another.
    if starts > 1:
        assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.08


def test_a_skip_is_as_if_the_first_frames_were_cut_off():
    for name in ("cd_fvd", "srvp:human:frame", "fvd2048_128f_subsample8f", "tensorflow"):
        plain, skipping = find_protocol(name), find_protocol(name, skip=7)
        for number in range(20):
            chosen = clip_frames(500 + 7, number, skipping, "real")
            np.testing.assert_array_equal(chosen - 7, clip_frames(500, number, plain, "real"))


def test_seeds_and_sides_differ_as_they_say():
    def starts(protocol: Protocol, side: str) -> list[int]:
        return [int(clip_frames(100, number, protocol, side)[0]) for number in range(50)]

    protocol = find_protocol("cd_fvd")
    assert starts(protocol, "real") != starts(find_protocol("cd_fvd", seed=1), "real")
    assert set(starts(find_protocol("fvd2048_16f"), "fake")) == {0}
    assert len(set(starts(find_protocol("fvd2048_16f"), "real"))) > 20


@pytest.mark.parametrize("name", ["fvd2048_16f", "fvd2048_128f", "fvd2048_128f_subsample8f"])
def test_starts_are_those_of_stylegan_v(name: str):
    """Restates training/dataset.py, where the real videos are those with enough frames."""
    protocol = find_protocol(name)
    frames, step = protocol.frames, protocol.real.step
    rng = random.Random(0)
    for length in (frames * step - 1, frames * step, frames * step + 5):
        dropped = length < frames * step
        mine = {int(c[0]) for c in chosen_starts(length, protocol) if len(c)}
        if dropped:
            assert mine == set()
            continue
        theirs = set()
        for _ in range(400):
            start = rng.randint(0, length - frames * step + step - 1)
            chosen = [start + step * i for i in range(frames)]
            assert chosen[-1] < length
            theirs.add(start)
        assert mine == theirs


def chosen_starts(length: int, protocol: Protocol) -> list[np.ndarray]:
    return [clip_frames(length, number, protocol, "real") for number in range(400)]


# Loading

NAMES = ["fvd2048_16f+frames=5+step=2", "cd_fvd+frames=4", "cd_fvd+frames=12+seed=3", "tensorflow"]


def protocols() -> list[Protocol]:
    return [find_protocol(name) for name in NAMES]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    """Videos of several kinds and lengths, one of them broken."""
    root = tmp_path_factory.mktemp("mixed")
    for i in range(6):
        write_video(root / f"{i}.mp4", moving(6 + 4 * i, seed=i), options={"g": "8", "bf": "2"})
    (root / "6").mkdir()
    for t in range(15):
        Image.fromarray(moving(15, 16, 16)[t]).save(root / "6" / f"{t}.png")
    np.save(root / "7.npy", np.random.default_rng(0).random((20, 8, 8, 1)))
    (root / "8.mp4").write_bytes(b"")
    np.savez(root / "9.npz", np.zeros((9, 3, 8, 8), np.uint8))
    return find_videos(root)


def assert_same(got: list[Loaded], expected: list[Loaded]) -> None:
    assert [(one.video, one.error) for one in got] == [(one.video, one.error) for one in expected]
    for one, other in zip(got, expected, strict=True):
        for clip, same in zip(one.clips, other.clips, strict=True):
            assert (clip is None) == (same is None)
            if clip is not None:
                assert clip.dtype == same.dtype
                np.testing.assert_array_equal(clip, same)


@pytest.fixture(scope="module")
def expected(mixed: list[Video]) -> list[Loaded]:
    """One protocol and one video at a time, without the loader."""
    results = []
    for number, video in enumerate(mixed):
        if Path(video.name).stem == "8":
            message = "cannot be decoded: Invalid data found when processing input"
            results.append(Loaded(video, (None,) * len(NAMES), message))
            continue
        whole = read_frames(video, np.arange)
        chosen = [clip_frames(len(whole), number, protocol, "real") for protocol in protocols()]
        clips = tuple(whole[frames] if len(frames) else None for frames in chosen)
        results.append(Loaded(video, clips))
    return results


def test_clips_are_those_of_each_protocol_alone(mixed: list[Video], expected: list[Loaded]):
    got = list(load_clips(mixed, protocols(), "real"))
    assert_same(got, expected)
    assert [len(clip) for clip in got[5].clips] == [5, 4, 12, 26]
    assert [clip is None for clip in got[0].clips] == [True, False, True, False]
    for i, protocol in enumerate(protocols()):
        alone = list(load_clips(mixed, [protocol], "real"))
        assert_same(alone, [one._replace(clips=(one.clips[i],)) for one in expected])


@pytest.mark.parametrize("start", [0, 1, 7, 10])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_take_turns_from_the_start_on(
    mixed: list[Video], expected: list[Loaded], start: int, shards: int
):
    parts = [
        list(
            load_clips(mixed, protocols(), "real", numbers=range(start + shard, len(mixed), shards))
        )
        for shard in range(shards)
    ]
    turns = [part[turn] for turn in range(10) for part in parts if turn < len(part)]
    assert_same(turns, expected[start:])


def test_arrays_do_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("av", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", array)
    videos = find_videos(tmp_path / "a.npy")
    got = list(load_clips(videos, [find_protocol("tensorflow")], "fake"))
    np.testing.assert_array_equal([one.clips[0] for one in got], array)
    write_nothing = tmp_path / "v"
    write_nothing.mkdir()
    (write_nothing / "1.mp4").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[video\]" in a clone'):
        next(load_clips(find_videos(write_nothing), [find_protocol("tensorflow")], "fake"))


def test_videos_in_memory_do_without_the_extra(monkeypatch: pytest.MonkeyPatch):
    for name in ("av", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)
    clips = [moving(frames, 16, 16, seed=frames) for frames in (9, 3, 12)]
    protocol = find_protocol("cd_fvd", frames=4)
    loaded = list(load_clips(as_videos(clips, "real"), [protocol], "fake"))
    assert [one.video.name for one in loaded] == ["real[0]", "real[1]", "real[2]"]
    assert (loaded[1].clips, loaded[1].error) == ((None,), None)
    for number in (0, 2):
        chosen = clip_frames(len(clips[number]), number, protocol, "fake")
        np.testing.assert_array_equal(loaded[number].clips[0], clips[number][chosen])


class Failing:
    """Videos in memory, the second of which is lost."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> np.ndarray:
        if i == 1:
            raise KeyError("lost")
        return moving(5, 16, 16)


def test_what_an_object_raises_is_the_reason_of_that_video():
    loaded = load_clips(as_videos(Failing(), "real"), [find_protocol("cd_fvd+frames=4")], "real")
    assert [one.error for one in loaded] == [None, "'lost'", None]


def test_few_videos_are_read_ahead_in_threads_that_end(mixed: list[Video], expected: list[Loaded]):
    asked = itertools.count()
    endless = ((i % 10, mixed[i % 10]) for i in asked)
    threads = threading.active_count()
    loading = load_numbered(endless, protocols(), "real")
    assert_same(list(itertools.islice(loading, 12)), [*expected, *expected[:2]])
    assert threading.active_count() > threads
    assert next(asked) < 12 + 9
    loading.close()
    assert threading.active_count() == threads


def test_clips_too_long_for_the_network_are_told(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((4000, 4, 4), np.uint8))
    tensorflow = find_protocol("tensorflow")
    (loaded,) = load_clips(find_videos(tmp_path), [tensorflow], "real")
    assert loaded.error == "4000 frames of 224×224 would take 2,297 MiB, allowed are 2,048 MiB"
    (loaded,) = load_clips(find_videos(tmp_path), [find_protocol("tensorflow+frames=16")], "real")
    assert loaded.error is None
