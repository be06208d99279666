import re
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.experimental import multihost_utils

from srvp_fd_jax.protocols import Protocol, find_protocol
from srvp_fd_jax.videos import rounds
from srvp_fd_jax.videos.loading import load_clips
from srvp_fd_jax.videos.rounds import VIDEOS_A_ROUND, Progress, Taken
from srvp_fd_jax.videos.sources import Video, find_videos

BROKEN = -1


@pytest.fixture(autouse=True)
def few_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rounds, that there are several."""
    assert VIDEOS_A_ROUND == 16
    monkeypatch.setattr(rounds, "VIDEOS_A_ROUND", 4)


def write(folder: Path, lengths: list[int]) -> list[Video]:
    """Arrays of one video each, whose pixels are the number of the video."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for i, length in enumerate(lengths):
        np.save(folder / f"v{i}.npy", np.full((max(length, 1), 4, 4, 1), i, np.uint8))
        if length == BROKEN:
            (folder / f"v{i}.npy").write_bytes(b"broken")
    return find_videos(folder)


def run(videos: list[Video], *protocols: Protocol, **options):
    """Numbers of the videos whose clips count, for each protocol, and the last progress."""
    progress = options.pop("progress", Progress.start(protocols))
    numbers = [[] for _ in protocols]
    passed = rounds.rounds(videos, protocols, "real", progress=progress, **options)
    for progress, clips in passed:  # noqa: B007 (returned)
        for own, new in zip(numbers, clips, strict=True):
            own += [int(clip[0, 0, 0, 0]) for _, clip in new]
            assert names([name for name, _ in new]) == [f"v{i}" for i in own[len(own) - len(new) :]]
    return numbers, progress


def names(texts: tuple[str, ...]) -> list[str]:
    return [Path(text).stem for text in texts]


def first(frames: int, clips: int | None = None) -> Protocol:
    return find_protocol("tensorflow", frames=frames, clips=clips)


def test_all_usable_videos_count_without_a_number_of_clips(tmp_path: Path):
    numbers, progress = run(write(tmp_path, [5, 3, 9, BROKEN, 4, 5, 8, 2, 5, 5]), first(5))
    assert numbers == [[0, 2, 5, 6, 8, 9]]
    (taken,) = progress.taken
    assert (taken.used, taken.frames) == (6, 5)
    assert names(taken.too_short) == ["v1", "v4", "v7"]
    ((name, reason),) = progress.unreadable
    assert Path(name).name == "v3.npy"
    assert "not a readable array file" in reason
    assert progress.position == 10


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.sampled_from([BROKEN, 1, 2, 3, 5, 8]), min_size=1, max_size=11),
    st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(1, 12)), min_size=1, max_size=3),
)
def test_the_first_usable_videos_count(tmp_path: Path, lengths: list, asked: list):
    videos = write(tmp_path, lengths)
    numbers, progress = run(videos, *(first(frames, clips) for frames, clips in asked))
    read = lengths[: progress.position]
    for own, taken, (frames, clips) in zip(numbers, progress.taken, asked, strict=True):
        usable = [i for i, length in enumerate(lengths) if length >= frames]
        assert own == usable[:clips]
        assert taken.used == len(own)
        short = [f"v{i}" for i, n in enumerate(read) if n != BROKEN and n < frames]
        assert names(taken.too_short) == short
    # No more rounds than the most demanding protocol needs.
    needs = [
        own[-1] + 1 if clips is not None and len(own) == clips else len(lengths)
        for own, (_, clips) in zip(numbers, asked, strict=True)
    ]
    assert progress.position == min(len(lengths), -(-max(needs) // 4) * 4)
    assert len(progress.unreadable) == read.count(BROKEN)


def test_no_more_videos_are_read_than_are_asked_for(tmp_path: Path):
    videos = write(tmp_path, [5] * 4 + [BROKEN] * 8)
    numbers, progress = run(videos, first(5, clips=4), strict=True)
    assert numbers == [[0, 1, 2, 3]]
    assert progress.position == 4


@pytest.mark.parametrize("rounds_before", [0, 1, 2])
def test_goes_on_where_it_was(tmp_path: Path, rounds_before: int):
    videos = write(tmp_path, [5, 3, 9, BROKEN, 4, 5, 8, 2, 5, 5])
    protocols = (first(5, clips=5), first(4), find_protocol("cd_fvd", frames=2))
    numbers, last = run(videos, *protocols)
    before = Progress.start(protocols)
    counts = [0] * 3
    passed = rounds.rounds(videos, protocols, "real", progress=before)
    for _ in range(rounds_before):
        before, clips = next(passed)
        counts = [n + len(new) for n, new in zip(counts, clips, strict=True)]
    resumed, progress = run(videos, *protocols, progress=before)
    assert resumed == [own[n:] for own, n in zip(numbers, counts, strict=True)]
    assert progress == last


def test_strict_raises_of_the_first_that_cannot_be_read(tmp_path: Path):
    videos = write(tmp_path, [5, 5, 5, 5, 5, BROKEN, BROKEN])
    with pytest.raises(ValueError, match=r"v5.npy: .*not a readable array file"):
        run(videos, first(5), strict=True)
    # Too short is not unreadable.
    assert run(write(tmp_path, [5, 2, 5]), first(5), strict=True)[0] == [[0, 2]]


# Whole videos


def test_whole_videos_of_one_length(tmp_path: Path):
    numbers, progress = run(write(tmp_path, [6] * 9), find_protocol("tensorflow"))
    assert numbers == [list(range(9))]
    assert progress.taken == (Taken(used=9, frames=6),)


@pytest.mark.parametrize("odd", [1, 3, 4, 8])
def test_whole_videos_of_several_lengths_are_refused(tmp_path: Path, odd: int):
    lengths = [6] * 9
    lengths[odd] = 7
    message = (
        "videos: got videos of 6 and of 7 frames: 'tensorflow' takes whole videos, which must have "
        "one length; choose a number of frames (--frames)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        run(write(tmp_path, lengths), find_protocol("tensorflow"))
    assert run(write(tmp_path, lengths), first(6))[0] == [list(range(9))]


def test_lengths_beyond_the_clips_asked_for_do_not_matter(tmp_path: Path):
    videos = write(tmp_path, [BROKEN, 6, 6, 6, 7, 8])
    assert run(videos, find_protocol("tensorflow", clips=3))[0] == [[1, 2, 3]]
    with pytest.raises(ValueError, match="videos of 6 and of 7 frames"):
        run(videos, find_protocol("tensorflow", clips=4))


def test_no_usable_video(tmp_path: Path):
    numbers, progress = run(write(tmp_path, [3, BROKEN, 2]), first(5), first(5, clips=2))
    assert numbers == [[], []]
    assert progress.position == 3
    assert [taken.used for taken in progress.taken] == [0, 0]
    numbers, progress = run(write(tmp_path, [BROKEN] * 5), find_protocol("tensorflow"))
    assert progress.taken == (Taken(),)
    assert len(progress.unreadable) == 5


# Processes


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("clips", [None, 1, 4, 6])
def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, clips: int | None
):
    videos = write(tmp_path, [5, 3, 9, BROKEN, 4, 5, 8, 2, 5, 5, 5, 1, 7, 5])
    protocols = (first(5, clips), find_protocol("cd_fvd", frames=3))
    expected, last = run(videos, *protocols)

    # In the place of other processes stands what they would send.
    found = []
    for process in range(processes):
        loaded = load_clips(videos, protocols, "real", shard=(process, processes))
        found.append([[0 if c is None else len(c) for c in one.clips] for one in loaded])
    outcomes = []
    for process in range(processes):
        turn = iter(range(0, 100, 4))

        def gather(own, turn=turn, process=process) -> np.ndarray:
            at = next(turn)
            sent = np.zeros((processes, 4, 2), int)
            for other, lengths in enumerate(found):
                part = lengths[at : at + 4]
                sent[other, : len(part)] = np.reshape(part, (-1, 2))
            np.testing.assert_array_equal(sent[process], own)
            return sent

        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        monkeypatch.setattr(multihost_utils, "process_allgather", gather)
        outcomes.append(run(videos, *protocols))
    for i, own in enumerate(expected):
        assert sorted(n for numbers, _ in outcomes for n in numbers[i]) == own
    for _, progress in outcomes:
        assert [t.used for t in progress.taken] == [t.used for t in last.taken]
        assert [t.frames for t in progress.taken] == [t.frames for t in last.taken]
