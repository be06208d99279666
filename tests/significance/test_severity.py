import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.provenance import mark
from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.features.shards import load_calculators, statistics_of_videos
from srvp_fd_jax.files.atomic import CHECKSUM, read_safetensors, write_safetensors
from srvp_fd_jax.protocols import find_protocol
from srvp_fd_jax.significance import severity as ladder
from srvp_fd_jax.significance.corruptions import CORRUPTIONS
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.labels import labels_of_videos
from srvp_fd_jax.significance.severity import (
    Ladder,
    Rung,
    Standing,
    at_distance,
    build,
    distance_from,
    equivalent,
    kept_at,
)
from srvp_fd_jax.videos.sources import as_videos, find_videos

K, FEW, FRAMES = 40, 5, 6
# Of the frames in the wrong order, or of the clips backwards, the set of frames is the same.
SEEN = ("noise", "blur", "JPEG", "brightness", "frozen end", "fewer modes")
IN_ORDER = ("shuffled frames", "reversed clips")


def calculator_of(output: str, frames: int | None = FRAMES) -> Calculator:
    (calculator,) = load_calculators([find_protocol(f"srvp:digits:{output}", frames=frames)])
    return calculator


def subset(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Leaves only these corruptions, which saves time."""
    patch.setattr(ladder, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in names})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the same path in every run, since clips are chosen by their names."""
    path = Path("videos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("ruler"))
        path.mkdir()
        for i, clip in enumerate(moving_digits(np.random.default_rng(0), 2 * K, 2 * FRAMES)):
            np.save(path / f"{i}.npy", clip)
        yield path


@pytest.fixture(scope="module")
def of_frames(folder: Path) -> Ladder:
    with pytest.MonkeyPatch.context() as patch:
        subset(patch, *SEEN, *IN_ORDER)
        return build(find_videos(folder), calculator_of("frame"), K)


@pytest.fixture(scope="module")
def of_dynamics(folder: Path) -> tuple[Ladder, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    made = build(
        find_videos(folder), calculator_of("dynamics"), K, on_progress=lambda *n: told.append(n)
    )
    return made, told


def statistics_of(clips: np.ndarray, output: str) -> FeatureStatistics:
    videos = as_videos(clips, "fake")
    (made,) = statistics_of_videos(videos, [calculator_of(output)], "fake").values()
    return made


def standing(made: Ladder, fake: FeatureStatistics) -> tuple[Standing, ...]:
    return at_distance(made, distance_from(made, fake))


def generated(name: str, strength: float, seed: int, n: int = K) -> np.ndarray:
    clips = list(moving_digits(np.random.default_rng(seed), n, FRAMES))
    return np.stack(CORRUPTIONS[name](clips, strength, np.random.default_rng(seed)))


def rung(made: Ladder, name: str) -> Rung:
    return next(one for one in made.rungs if one.corruption == name)


def test_distances_are_those_of_disjoint_halves_in_the_order_of_hashes(folder, of_frames):
    names = [video.name for video in find_videos(folder)]
    names.sort(key=lambda name: hashlib.sha256(Path(name).stem.encode()).digest()[:8])
    clips = np.stack([np.load(name)[:FRAMES] for name in names])
    calculator = calculator_of("frame")
    made = [calculator.statistics([half])["frame"] for half in (clips[:K], clips[K:])]
    assert of_frames.clean == pytest.approx(float(calculator.distance(*made)), rel=1e-4)
    noisy = CORRUPTIONS["noise"](list(clips[K:]), 20.0, np.random.default_rng(0))
    distance = calculator.distance(made[0], calculator.statistics([np.stack(noisy)])["frame"])
    assert rung(of_frames, "noise").distances[2] == pytest.approx(float(distance), rel=1e-4)
    held = np.asarray(of_frames.sample.moments()["features"])
    np.testing.assert_allclose(held, calculator.features(clips[:K])["frame"], atol=1e-5)


def test_distances_rise_with_the_strength(of_frames):
    assert {one.corruption for one in of_frames.rungs} == {*SEEN, *IN_ORDER}
    floor = of_frames.floor
    assert floor.low <= of_frames.clean <= floor.high
    noise = (floor.high - floor.low) / 4
    for name in SEEN:
        levels = np.array([of_frames.clean, *rung(of_frames, name).distances])
        assert (np.diff(levels) > -noise).all(), name
        assert levels[-1] > floor.high, name
    for name in IN_ORDER:
        np.testing.assert_allclose(rung(of_frames, name).distances, of_frames.clean, rtol=1e-4)


def test_every_corruption_is_tried_and_the_work_is_told(of_dynamics):
    made, told = of_dynamics
    assert [one.corruption for one in made.rungs] == list(CORRUPTIONS)
    assert made.left_out == ()
    assert made.clips == K
    for name in ("noise", "fewer modes"):
        assert rung(made, name).distances[-1] > 2 * made.floor.high
    total = 2 + 4 * len(CORRUPTIONS)
    assert list(dict.fromkeys(told)) == [(done, total) for done in range(total + 1)]


@pytest.mark.parametrize(("name", "strength", "within"), [("noise", 15.0, 2.0), ("blur", 6.0, 0.6)])
def test_generated_clips_stand_at_their_own_corruption(of_frames, name, strength, within):
    found = {
        one.corruption: one
        for one in standing(of_frames, statistics_of(generated(name, strength, seed=5), "frame"))
    }
    assert found[name].place == "at"
    assert found[name].strength == pytest.approx(strength, abs=within)
    phrase = CORRUPTIONS[name].phrase(found[name].strength)
    assert found[name].described == f"as far as {phrase}"
    for other in IN_ORDER:
        assert found[other].place == "unseen"


def test_clips_that_may_be_real_stand_below(of_frames):
    fake = statistics_of(generated("noise", 0.0, seed=5), "frame")
    for found in standing(of_frames, fake):
        assert found.place == ("unseen" if found.corruption in IN_ORDER else "below")


def test_only_the_clips_of_the_smallest_keys_count(of_dynamics):
    made, _ = of_dynamics
    clips = generated("noise", 30.0, seed=6, n=K + 5)
    fake = statistics_of(clips, "dynamics")
    smaller = FeatureSample.empty(K, fake.dim, mixture=True)
    smaller = smaller.offer(fake.sample.moments(), fake.sample.keys[: K + 5])
    assert int(smaller.count) == K + 5
    assert standing(made, fake) == standing(made, dataclasses.replace(fake, sample=smaller))


def with_rungs(made: Ladder, *distances: float, clean: float, high: float) -> Ladder:
    return dataclasses.replace(
        made,
        floor=made.floor._replace(distance=clean, high=high),
        rungs=(Rung("blur", (1.0, 2.0, 4.0, 8.0), distances),),
    )


@pytest.mark.parametrize(
    ("distance", "place", "strength", "described"),
    [
        (0.5, "below", None, "nearer than a blur of σ = 0.2 pixels"),
        (1.2, "below", None, "nearer than a blur of σ = 0.2 pixels"),
        (1.5, "at", 0.5, "as far as a blur of σ = 0.5 pixels"),
        (2.5, "at", 4.5, "as far as a blur of σ = 4.5 pixels"),
        (3.0, "at", 5.0, "as far as a blur of σ = 5 pixels"),
        (6.0, "at", 8.0, "as far as a blur of σ = 8 pixels"),
        (6.1, "beyond", None, "beyond a blur of σ = 8 pixels"),
    ],
)
def test_strengths_are_interpolated_on_the_running_maximum(
    of_dynamics, distance, place, strength, described
):
    # The running maximum is 1, 2, 2, 2, 6: from strength 4 to 8 it rises from 2 to 6.
    made = with_rungs(of_dynamics[0], 2.0, 1.8, 1.9, 6.0, clean=1.0, high=1.2)
    (found,) = at_distance(made, distance)
    assert (found.place, found.described) == (place, described)
    assert found.strength == (None if strength is None else pytest.approx(strength))


def test_a_similarity_is_read_from_above(of_dynamics):
    made = dataclasses.replace(
        of_dynamics[0],
        measure=Measure("recall", 1),
        floor=of_dynamics[0].floor._replace(distance=0.9, low=0.85, high=1.0),
        rungs=(Rung("blur", (1.0, 2.0), (0.7, 0.5)),),
    )
    read = {value: at_distance(made, value)[0] for value in (0.95, 0.8, 0.6, 0.4)}
    assert [one.place for one in read.values()] == ["below", "at", "at", "beyond"]
    assert [read[0.8].strength, read[0.6].strength] == pytest.approx([0.5, 1.5])
    assert read[0.95].described == "nearer than a blur of σ = 0.25 pixels"


def test_a_corruption_within_the_floor_tells_nothing(of_dynamics):
    made = with_rungs(of_dynamics[0], 1.1, 1.3, 1.2, 1.4, clean=1.0, high=1.5)
    for distance in (0.5, 1.2, 9.0):
        (found,) = at_distance(made, distance)
        assert (found.place, found.strength) == ("unseen", None)
        assert found.described == (f"{K} clips do not tell a blur of σ = 8 pixels from real ones")


@pytest.mark.parametrize("output", ["frame", "dynamics"])
def test_saved_and_loaded_it_is_the_same(output, of_frames, of_dynamics, tmp_path):
    made = {"frame": of_frames, "dynamics": of_dynamics[0]}[output]
    made = dataclasses.replace(made, left_out=(("doubled speed", "too short"),))
    path = tmp_path / "new" / "r.safetensors"
    ladder.save(made, path)
    loaded = ladder.load(path)
    for field in dataclasses.fields(made):
        if field.name != "reference":
            assert getattr(loaded, field.name) == getattr(made, field.name)
    assert loaded.reference.source == made.reference.source
    chex.assert_trees_all_equal(loaded.reference, made.reference)
    assert loaded.clips == K
    fake = statistics_of(generated("noise", 20.0, seed=7), output)
    assert standing(loaded, fake) == standing(made, fake)
    before = path.read_bytes()
    ladder.save(loaded, path)
    assert path.read_bytes() == before


def test_other_files_are_no_rulers(of_dynamics, tmp_path, monkeypatch):
    path = tmp_path / "r.safetensors"
    calculator_of("dynamics").empty()["dynamics"].save(path)
    with pytest.raises(ValueError, match=r"r\.safetensors: not a severity scale"):
        ladder.load(path)
    with pytest.raises(FileNotFoundError):
        ladder.load(tmp_path / "none")
    ladder.save(of_dynamics[0], path)
    written = path.read_bytes()
    path.write_bytes(written[:-8] + bytes(8))
    with pytest.raises(ValueError, match="damaged or was altered"):
        ladder.load(path)
    path.write_bytes(written)
    with monkeypatch.context() as patch:
        subset(patch, "noise", "JPEG")
        with pytest.raises(ValueError, match="corruption: got 'blur', allowed are noise, JPEG"):
            ladder.load(path)
        patch.setattr(ladder, "_FORMAT_VERSION", 9)
        with pytest.raises(ValueError, match="another format version: make the severity scale"):
            ladder.load(path)
    metadata, arrays = read_safetensors(path, lambda _: None)
    del metadata[CHECKSUM]
    for described in ("[]", "{", '{"version": 3}', "[" * 100_000):
        write_safetensors(path, arrays, metadata | {"severity": described})
        with pytest.raises(ValueError, match=r"r\.safetensors: "):
            ladder.load(path)


def test_samples_that_do_not_fit_are_refused(of_dynamics, of_frames):
    made, _ = of_dynamics
    clips = generated("noise", 20.0, seed=8)
    with pytest.raises(ValueError, match=f"sample: got 9 clips, but the scale compares {K}"):
        standing(made, statistics_of(clips[:9], "dynamics"))
    fake = statistics_of(clips, "dynamics")
    for name in ("weights_sha256", "precision", "output", "network", "protocol", "frames"):
        with pytest.raises(ValueError, match=f"{name} is .* and 'other' of"):
            standing(made, mark(fake, **{name: "other"}))
    with pytest.raises(ValueError, match="statistics: output is 'frame' of one"):
        standing(of_frames, fake)
    along = dataclasses.replace(of_frames.sample, features=jnp.zeros((K, 3, 128)))
    with pytest.raises(ValueError, match=f"sample: got 3 vectors per clip, the scale has {FRAMES}"):
        standing(of_frames, dataclasses.replace(of_frames.reference, sample=along))
    with pytest.raises(ValueError, match="sample: got statistics without a sample"):
        standing(made, dataclasses.replace(fake, sample=None))


def test_the_order_of_videos_makes_no_difference(of_dynamics, folder, monkeypatch):
    subset(monkeypatch, "brightness")
    made = build(find_videos(folder)[::-1], calculator_of("dynamics"), K)
    assert made.rungs == (rung(of_dynamics[0], "brightness"),)
    assert made.clean == of_dynamics[0].clean
    fewer = build(find_videos(folder), calculator_of("dynamics"), FEW)
    np.testing.assert_array_equal(fewer.sample.keys, made.sample.keys[:FEW])


def test_videos_that_give_no_clip_are_passed_over(tmp_path, monkeypatch):
    subset(monkeypatch, "doubled speed", "reversed clips")
    for i, clip in enumerate(moving_digits(np.random.default_rng(1), 12, FRAMES + 1)):
        np.save(tmp_path / f"{i}.npy", clip[: FRAMES - (i < 2)])
    (tmp_path / "damaged.npy").write_text("not an array")
    videos = find_videos(tmp_path)
    made = build(videos, calculator_of("dynamics"), FEW)
    assert [one.corruption for one in made.rungs] == ["reversed clips"]
    assert made.left_out == (
        ("doubled speed", "5 of 5 videos are too short for clips at doubled speed"),
    )
    message = r"clips: got 6, which takes 12 videos, but only 10 of 13 give a clip; 3 do not, such"
    with pytest.raises(ValueError, match=message + r" as .*(damaged|[01])\.npy: "):
        build(videos, calculator_of("dynamics"), 6)
    whole = calculator_of("dynamics", frames=None)
    with pytest.raises(ValueError, match=r"videos: got videos of \d and of \d frames: 'srvp:dig"):
        build([v for v in videos if "damaged" not in v.name], whole, 6)


def test_whole_videos_have_no_doubled_speed(folder, monkeypatch):
    subset(monkeypatch, "doubled speed", "frozen end")
    made = build(find_videos(folder), calculator_of("dynamics", frames=None), FEW)
    assert dict(made.reference.source)["frames"] == str(2 * FRAMES)
    assert [name for name, _ in made.left_out] == ["doubled speed"]


def test_arguments_are_checked(folder):
    videos = find_videos(folder)
    with pytest.raises(ValueError, match=r"clips: got 3, expected at least 4"):
        build(videos, calculator_of("dynamics"), 3)
    with pytest.raises(ValueError, match=f"clips: got {K + 1}, which takes {2 * K + 2} videos"):
        build(videos, calculator_of("dynamics"), K + 1)
    (both,) = load_calculators(map(find_protocol, ["srvp:digits:frame", "srvp:digits:dynamics"]))
    with pytest.raises(ValueError, match=re.escape("calculator: got the protocols srvp:digits:fr")):
        build(videos, both, K)
    too_short = dataclasses.replace(calculator_of("dynamics").protocols[0], frames=3)
    with pytest.raises(ValueError, match="needs at least 5"):
        build(videos, calculator_of("dynamics").under([too_short]), K)


def test_floats_of_another_range_are_told(monkeypatch):
    subset(monkeypatch, "reversed clips")
    clips = moving_digits(np.random.default_rng(2), 2 * FEW, FRAMES).astype(np.float32) / 127.5 - 1
    with pytest.warns(UserWarning, match="videos: got values from -1 to 1, expected floats in"):
        build(as_videos(clips, "real"), calculator_of("dynamics"), FEW)


def test_sets_share_no_group(folder):
    videos, calculator = find_videos(folder), calculator_of("frame")
    labels = [int(Path(video.name).stem) // 7 for video in videos]
    usable = ladder._usable(videos, calculator.protocols[0], 25, labels)
    chosen = [label for _, label, *_ in usable]
    assert len(chosen) == 50
    assert not {*chosen[:25]} & {*chosen[25:]}
    assert [*dict.fromkeys(chosen)] == [label for label, _ in itertools.groupby(chosen)]
    with pytest.raises(ValueError, match="clips: got 40, which takes 80 videos, but only 7"):
        list(ladder._usable(videos, calculator.protocols[0], 40, labels))


def test_predictions_of_the_reference_are_left_out(folder, of_frames, tmp_path):
    videos, calculator = find_videos(folder), calculator_of("frame")
    ladder.save(of_frames, kept_at(videos, calculator, tmp_path))
    (fake,) = statistics_of_videos(videos, [calculator], "fake").values()
    both = labels_of_videos({"real": videos, "fake": videos})
    found = equivalent(fake, videos, calculator, tmp_path, both)
    # The others are the second set, whose distance is that of real clips.
    assert found == at_distance(of_frames, of_frames.clean)
    assert distance_from(of_frames, fake) < of_frames.clean / 100
    few = videos[: K + 9]
    (fake,) = statistics_of_videos(few, [calculator], "fake").values()
    with pytest.warns(UserWarning, match="generated clips of 40 have the names or groups of its"):
        equivalent(fake, videos, calculator, tmp_path, both)
    (fake,) = statistics_of_videos(videos[: K - 1], [calculator], "fake").values()
    with pytest.warns(UserWarning, match="scale of the real videos was not used: sample: got 39"):
        assert equivalent(fake, videos, calculator, tmp_path, both) == ()
    assert equivalent(fake, few, calculator, tmp_path, both) == ()
