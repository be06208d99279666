import dataclasses
import importlib
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
import torch
from clips import real_clips
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.sample import name_keys
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.features import shards
from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.features.shards import (
    load_calculators,
    moments_of_clips,
    prepared,
    statistics_of_videos,
)
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.base import Architecture
from srvp_fd_jax.protocols import Protocol, find_protocol
from srvp_fd_jax.videos.sources import Video, as_videos, clip_names, find_videos

COMPARISONS = ("frame", "static_content", "dynamics")
BROKEN = -1


def load(*names: str) -> list[Calculator]:
    return load_calculators([find_protocol(f"srvp:digits:{name}") for name in names])


@pytest.fixture(scope="module")
def calculators() -> list[Calculator]:
    return load(*COMPARISONS)


@pytest.fixture(scope="module")
def dynamics() -> list[Calculator]:
    return load("dynamics")


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return moving_digits(np.random.default_rng(0), 150, 6)


def write(folder: Path, lengths: list[int], clips: np.ndarray) -> list[Video]:
    """Arrays of one video each, cut to lengths; some of them are broken."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for i, length in enumerate(lengths):
        np.save(folder / f"v{i}.npy", clips[i][: max(length, 1)])
        if length == BROKEN:
            (folder / f"v{i}.npy").write_bytes(b"broken")
    return find_videos(folder)


def numbers(names: tuple[str, ...]) -> list[int]:
    return [int(Path(name).stem[1:]) for name in names]


def check_same(one: FeatureStatistics, other: FeatureStatistics) -> None:
    """Both have the same bits, wherever they come from."""
    videos = [dataclasses.replace(each.videos, cached=False) for each in (one, other)]
    assert (one.source, videos[0]) == (other.source, videos[1])
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Computed(list[int]):
    """The starts of the shards that are computed, as a call of `_computed` says them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        compute = shards._computed

        def computed(job, shard, *rest):
            self.append(shard.start)
            return compute(job, shard, *rest)

        monkeypatch.setattr(shards, "_computed", computed)


# Calculators


def test_clips_too_short_for_a_network_are_refused_before_videos_are_read():
    message = "with 3 frames, but 'static_content' of the network 'digits' needs at least 5"
    with pytest.raises(ValueError, match=message):
        load("static_content+frames=3")
    load("frame+frames=3")


def test_weights_are_of_one_network(tmp_path):
    protocols = [find_protocol("srvp:digits:frame"), find_protocol("cd_fvd")]
    with pytest.raises(ValueError, match="weights: got one file for the networks digits, i3d"):
        load_calculators(protocols, tmp_path / "any.safetensors")


@pytest.mark.parametrize("output", ["logits", ""])
def test_an_output_that_a_network_lacks_is_refused(output):
    protocol = Protocol(name="mine", network="digits", output=output, resize="none", ddof=1)
    message = f"output: got '{output}' of 'digits', allowed are frame, static_content, dynamics"
    with pytest.raises(ValueError, match=message):
        load_calculators([protocol])


# The numbers


@pytest.mark.parametrize("along", [False, True])
def test_statistics_are_those_of_the_arrays_by_numpy(calculators, clips, tmp_path, along):
    (calculator,) = calculators  # one network, each frame encoded once
    np.save(tmp_path / "a.npy", clips)
    videos = find_videos(tmp_path / "a.npy")
    seen: list[int] = []
    made = statistics_of_videos(videos, calculators, "real", along=along, on_progress=seen.append)
    assert seen == [*range(16, 145, 16), 150]
    keys = name_keys(clip_names(videos, "real"))
    order = sorted(range(150), key=lambda i: tuple(keys[i]))
    features = calculator.features(clips)
    for protocol, statistics in made.items():
        output = calculator.network.architecture.outputs[protocol.output]
        raw = np.asarray(features[protocol.output])
        raw = raw if output.per_frame else raw[:, None]
        mean, variance = raw, np.zeros_like(raw)
        if output.gaussian:
            mean, variance = map(np.asarray, output.gaussian(jax.numpy.asarray(raw)))
        rows = np.float64(mean).reshape(-1, output.dim)
        covariance = np.cov(rows.T) + np.diag(np.mean(np.float64(variance), axis=(0, 1)))
        np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(statistics.covariance(), covariance, atol=1e-5)
        np.testing.assert_allclose(statistics.value_range, [clips.min(), clips.max() / 255])
        assert int(statistics.count) == len(rows)
        assert (statistics.videos.found, statistics.videos.used) == (150, 150)
        assert dict(statistics.source) == {
            "network": "digits",
            "output": protocol.output,
            "precision": "float32",
            "weights_sha256": calculator.weights_sha256,
            "protocol": f"srvp:digits:{protocol.output}",
            "side": "real",
            "frames": "6",
            "resize": "none",
            "ddof": "1",
        }
        sampled = statistics.sample.moments()
        assert sampled["features"].shape[1] == output.places(6) if along else raw.shape[1]
        sampled = output.of_clip(sampled) if along else sampled
        np.testing.assert_array_equal(statistics.sample.keys[:150], keys[order])
        np.testing.assert_allclose(sampled["features"], mean[np.array(order)], atol=1e-5)
        if output.gaussian:
            np.testing.assert_allclose(sampled["variances"], variance[np.array(order)], atol=1e-5)


def test_of_more_clips_the_sample_has_those_of_the_smallest_keys(dynamics, clips, monkeypatch):
    monkeypatch.setattr(shards, "_sample_size", lambda protocol: 15)
    videos = as_videos(clips, "real")
    (made,) = statistics_of_videos(videos, dynamics, "real").values()
    keys = name_keys(clip_names(videos, "real"))
    chosen = sorted(range(150), key=lambda i: tuple(keys[i]))[:15]
    expected = moments_of_clips(dynamics[0], [clips[i] for i in chosen])
    for name, array in made.sample.moments().items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5)
    assert int(made.sample.count) == 150


def test_windows_are_those_of_the_cut_clips(calculators, clips):
    network = calculators[0].network
    x = jax.numpy.asarray(clips[:3] / np.float32(255))
    found = network.windows(x, COMPARISONS)
    whole = network.features(x, COMPARISONS)
    np.testing.assert_allclose(found["frame"], whole["frame"], atol=1e-6)
    frames = network.architecture.nt_inf
    for output in ("static_content", "dynamics"):
        cut = [network.features(x[:, i : i + frames], (output,))[output] for i in range(7 - frames)]
        np.testing.assert_allclose(found[output], np.concatenate(cut, axis=1), atol=1e-5)
        # The way that every network has by default, which encodes each window.
        module = network.module()
        default = Architecture.windows(network.architecture, module, x, (output,))[output]
        np.testing.assert_allclose(default, found[output], atol=1e-5)


def test_distances_of_one_output_share_its_features_and_its_files(clips, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", clips[:20])
    videos, folder = find_videos(tmp_path / "a.npy"), tmp_path / "cache"
    both = load("dynamics", "dynamics+distance=frechet_eigh")
    assert len(both) == 1
    one, other = statistics_of_videos(videos, both, "real", folder=folder).values()
    check_same(one, other)
    assert len(content(folder)) == 1


def test_storage_does_not_matter(dynamics, clips, tmp_path):
    """Short videos in every form that loses nothing, more than fit one shard or one folder."""
    clips = clips[:70, :5]
    folder = tmp_path / "frames"
    for i, clip in enumerate(clips):
        video = folder / f"class{i // 30}" / f"v{i}"
        video.mkdir(parents=True)
        for t, frame in enumerate(clip):
            Image.fromarray(frame[..., 0]).save(video / f"{t}.png")
    np.save(tmp_path / "clips.npy", clips)
    np.save(tmp_path / "channels_first.npy", clips.transpose(0, 1, 4, 2, 3))
    np.savez(tmp_path / "sequences.npz", sequences=clips[..., 0], actions=np.arange(70))
    shutil.make_archive(str(tmp_path / "frames"), "zip", folder)
    with tarfile.open(tmp_path / "arrays.tar", "w") as tar:
        for i, clip in enumerate(clips):
            file = io.BytesIO()
            np.save(file, clip)
            info = tarfile.TarInfo(f"{i}.npy")
            info.size = file.tell()
            file.seek(0)
            tar.addfile(info, file)
    forms = (
        "clips.npy",
        "channels_first.npy",
        "sequences.npz",
        "frames",
        "frames.zip",
        "arrays.tar",
    )
    found = [
        one
        for form in forms
        for one in statistics_of_videos(find_videos(tmp_path / form), dynamics, "real").values()
    ]
    for form, statistics in zip(forms, found, strict=True):
        assert statistics.videos.used == 70
        np.testing.assert_array_equal(statistics.factor, found[0].factor, err_msg=form)


def test_frames_of_many_sizes_types_and_colours_in_one_folder(tmp_path):
    rng = np.random.default_rng(0)
    calculators = load("static_content+resize=bilinear")
    videos = []
    for i in range(40):
        size = ((48, 48), (64, 64), (32, 80))[i % 3]
        clip = rng.integers(0, 256, (6, *size, (1, 3)[i % 2]), np.uint8)
        videos.append(np.float32(clip) / 255 if i % 5 == 0 else clip)
        np.save(tmp_path / f"v{i}.npy", videos[-1])
    (made,) = statistics_of_videos(find_videos(tmp_path), calculators, "real").values()
    features = [calculators[0].features(clip[None])["static_content"][0] for clip in videos]
    np.testing.assert_allclose(made.mean, np.mean(features, axis=0), atol=1e-5)
    np.testing.assert_allclose(made.covariance(), np.cov(np.transpose(features)), atol=1e-5)


# Shards


def as_process(monkeypatch: pytest.MonkeyPatch, process: int, processes: int = 3) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(jax, "process_count", lambda: processes)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (shards.SHARD, shards._CHUNK) == (64, 16)
    monkeypatch.setattr(shards, "SHARD", 4)
    monkeypatch.setattr(shards, "_CHUNK", 3)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("more", ["", "+clips=13"])
def test_any_number_of_processes_writes_the_same_bytes(clips, tmp_path, monkeypatch, more):
    lengths = [6, 6, 2, 6, BROKEN, 6, 6, 6, 6, 6, 6, 5, 6, 6, 3, 6, 6, BROKEN, 6]
    videos = write(tmp_path / "videos", lengths, clips)
    calculators = load("frame+frames=6" + more, "dynamics+frames=6")

    def run(folder: str, **options) -> list[FeatureStatistics]:
        made = statistics_of_videos(
            videos, calculators, "real", folder=tmp_path / folder, **options
        )
        return list(made.values())

    alone = run("alone")
    files = content(tmp_path / "alone")
    assert len(files) == 10
    computed = Computed(monkeypatch)

    # One after the other, of which the first one finds nothing and the others find everything.
    for process in range(3):
        as_process(monkeypatch, process)
        for one, other in zip(run("in turn"), alone, strict=True):
            check_same(one, other)
        assert content(tmp_path / "in turn") == files
    assert sorted(set(computed)) == [0, 4, 8, 12, 16]
    own_first = [0, 12, 16, 8, 4]
    assert computed[:5] == own_first
    assert len(computed) == (7 if more else 5)  # the merge decides on the last clips

    # Two are ended after their own shards, and another number of processes goes on.
    class KilledError(Exception):
        pass

    for process in (1, 0):
        begun: set[int] = set()

        def killed(position: int, begun: set[int] = begun) -> None:
            begun.add((position - 1) // shards.SHARD)
            if len(begun) > 2:  # two shards are saved
                raise KilledError

        as_process(monkeypatch, process)
        with pytest.raises(KilledError):
            run("killed", on_progress=killed)
    computed.clear()
    as_process(monkeypatch, 1, 2)
    for one, other in zip(run("killed"), alone, strict=True):
        check_same(one, other)
    assert set(computed) == ({8, 12, 16} if more else {8})
    assert content(tmp_path / "killed") == files


@pytest.mark.usefixtures("small_shards")
def test_a_job_that_is_ended_at_any_moment_goes_on_to_the_same_bytes(clips, tmp_path, monkeypatch):
    videos = write(tmp_path / "videos", [6, 2, 6, 6, 6, BROKEN, 6, 6, 6, 6], clips)
    calculators = load(*(f"{name}+frames=6" for name in COMPARISONS))

    def run(folder: str) -> dict[Protocol, FeatureStatistics]:
        return statistics_of_videos(videos, calculators, "real", folder=tmp_path / folder)

    unbroken = run("unbroken")
    files = content(tmp_path / "unbroken")
    fold, save, left = shards._folded, FeatureStatistics.save, 0

    def interrupted(function: Callable) -> Callable:
        def call(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    monkeypatch.setattr(shards, "_folded", interrupted(fold))
    monkeypatch.setattr(FeatureStatistics, "save", interrupted(save))
    computed = Computed(monkeypatch)
    for moment in range(30):
        left, folder = moment, tmp_path / f"{moment}"
        try:
            run(folder.name)
        except KeyboardInterrupt:
            left = 100
        else:
            break
        there = content(folder) if folder.exists() else {}
        assert there.items() <= files.items()
        computed.clear()
        again = run(folder.name)
        assert len(computed) == 3 - len(there) // 3
        assert content(folder) == files
        for protocol, statistics in unbroken.items():
            check_same(again[protocol], statistics)
    assert moment > 12


def test_a_killed_process_goes_on_to_the_same_bytes(dynamics, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 400, 5))
    videos = find_videos(tmp_path / "a.npy")
    (whole,) = statistics_of_videos(videos, dynamics, "real", folder=tmp_path / "whole").values()
    code = f"""
        from pathlib import Path
        from srvp_fd_jax.features.shards import load_calculators, statistics_of_videos
        from srvp_fd_jax.protocols import find_protocol
        from srvp_fd_jax.videos.sources import find_videos

        path = Path({str(tmp_path)!r})
        calculators = load_calculators([find_protocol("srvp:digits:dynamics")])
        videos = find_videos(path / "a.npy")
        statistics_of_videos(videos, calculators, "real", folder=path / "killed")
    """
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    while process.poll() is None and not (killed.exists() and list(killed.glob("[!.]*"))):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=100)
    there = len(list(killed.glob("[!.]*")))
    computed = Computed(monkeypatch)
    (again,) = statistics_of_videos(videos, dynamics, "real", folder=killed).values()
    assert there > 0
    assert len(computed) == 7 - there
    check_same(again, whole)
    kept = {name: data for name, data in content(killed).items() if name[0] != "."}
    assert kept == content(tmp_path / "whole")


def test_a_shard_of_anything_else_is_not_taken(dynamics, calculators, clips, tmp_path, monkeypatch):
    for name, part in (("a", clips[:20]), ("b", clips[20:40])):
        np.save(tmp_path / f"{name}.npy", part)
    a, b = (find_videos(tmp_path / f"{name}.npy") for name in "ab")
    folder, computed = tmp_path / "cache", Computed(monkeypatch)

    def is_computed(videos=a, calculators=dynamics, side="real", **options) -> bool:
        computed.clear()
        made = statistics_of_videos(videos, calculators, side, folder=folder, **options)
        assert all(one.videos.cached != bool(computed) for one in made.values())
        return bool(computed)

    assert is_computed()
    assert not is_computed()
    assert not is_computed(calculators=load("dynamics", "dynamics+distance=jedi"))
    others = load("dynamics+frames=5"), load("dynamics+skip=1"), load("dynamics+seed=1")
    for change in (
        {"videos": b},
        {"side": "fake"},
        {"along": True},
        {"paired": True},
        {"videos": a[1:]},
        *({"calculators": one} for one in others),
    ):
        assert is_computed(**change), change
        assert not is_computed(**change), change
    time.sleep(0.01)
    np.save(tmp_path / "a.npy", clips[1:21])
    assert is_computed(videos=find_videos(tmp_path / "a.npy"))
    monkeypatch.setattr(shards, "SCHEMA", shards.SCHEMA + 1)
    assert is_computed(videos=find_videos(tmp_path / "a.npy"))


def test_of_several_protocols_those_that_are_cached_are_taken(
    calculators, dynamics, clips, tmp_path
):
    np.save(tmp_path / "a.npy", clips[:70])
    videos = find_videos(tmp_path / "a.npy")
    (first,) = statistics_of_videos(videos, dynamics, "real", folder=tmp_path / "cache").values()
    unbroken = statistics_of_videos(videos, calculators, "real")
    three = statistics_of_videos(videos, calculators, "real", folder=tmp_path / "cache")
    cached = {protocol.output: one.videos.cached for protocol, one in three.items()}
    assert cached == {"frame": False, "static_content": False, "dynamics": True}
    for protocol, one in three.items():
        check_same(one, first if protocol.output == "dynamics" else unbroken[protocol])


def test_a_damaged_shard_is_reported_and_computed_again(dynamics, clips, tmp_path):
    np.save(tmp_path / "a.npy", clips[:20])
    videos, folder = find_videos(tmp_path / "a.npy"), tmp_path / "cache"
    (intact,) = statistics_of_videos(videos, dynamics, "real", folder=folder).values()
    (path,) = folder.iterdir()
    data = path.read_bytes()
    other = FeatureStatistics.from_features(np.eye(20), variances=np.eye(20))
    for damage in (
        lambda: path.write_bytes(data[:-5] + b"\x01" + data[-4:]),
        lambda: path.write_bytes(b"damaged"),
        lambda: path.write_bytes(data[:-100]),
        lambda: other.save(path),
    ):
        damage()
        with pytest.warns(UserWarning, match="; computing its content again$"):
            (made,) = statistics_of_videos(videos, dynamics, "real", folder=folder).values()
        assert not made.videos.cached
        check_same(made, intact)
        assert path.read_bytes() == data


def test_a_folder_that_cannot_be_written_changes_no_number(dynamics, clips, tmp_path):
    np.save(tmp_path / "a.npy", clips[:70])
    videos = find_videos(tmp_path / "a.npy")
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    with pytest.warns(UserWarning, match="continuing without saving statistics"):
        (made,) = statistics_of_videos(videos, dynamics, "real", folder=folder).values()
    (expected,) = statistics_of_videos(videos, dynamics, "real").values()
    check_same(made, expected)
    assert not made.videos.cached


# Which clips count


@pytest.mark.usefixtures("small_shards")
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.sampled_from([BROKEN, 2, 5, 6, 7, 8]), min_size=1, max_size=13),
    st.lists(st.tuples(st.integers(5, 8), st.none() | st.integers(1, 12)), min_size=1, max_size=2),
)
def test_the_first_usable_clips_count(tmp_path_factory, lengths: list, asked: list):
    """Wherever the boundaries of shards and of chunks lie."""
    root = tmp_path_factory.mktemp("videos")
    clips = moving_digits(np.random.default_rng(1), len(lengths), 8)
    videos = write(root / "videos", lengths, clips)
    keys = name_keys(clip_names(videos, "real")).tolist()
    usable = {
        (frames, most): [i for i, length in enumerate(lengths) if length >= frames][:most]
        for frames, most in asked
    }
    names = {
        (frames, most): f"dynamics+frames={frames}" + (f"+clips={most}" if most else "")
        for frames, most in asked
    }
    calculators = load(*names.values())
    if any(len(found) < (most or 1) for (_, most), found in usable.items()):
        with pytest.raises(ValueError, match=r"clips, but only \d+ of \d+ videos gave one"):
            statistics_of_videos(videos, calculators, "real", strict=False)
        return
    for folder in (None, root / "cache", root / "cache"):
        made = statistics_of_videos(videos, calculators, "real", folder=folder)
        of_names = {protocol.name: one for protocol, one in made.items()}
        for (frames, most), name in names.items():
            found, one = usable[frames, most], of_names[f"srvp:digits:{name}"]
            read = lengths[: found[-1] + 1 if len(found) == most else None]
            held = np.asarray(one.sample.keys)[: len(found)].tolist()
            assert sorted(held) == sorted(keys[i] for i in found)
            assert int(one.count) == int(one.sample.count) == one.videos.used == len(found)
            assert one.videos.found == len(lengths)
            short = [i for i, n in enumerate(read) if n != BROKEN and n < frames]
            assert numbers(one.videos.too_short) == short
            broken = [i for i, n in enumerate(read) if n == BROKEN]
            assert numbers(tuple(name for name, _ in one.videos.unreadable)) == broken
            assert all("not a readable array" in reason for _, reason in one.videos.unreadable)


@pytest.mark.usefixtures("small_shards")
def test_strict_raises_an_error_of_a_video_that_cannot_be_read(clips, tmp_path):
    videos = write(tmp_path / "videos", [6, 2, 6, 6, 6, BROKEN, 6, BROKEN], clips)
    folder = tmp_path / "cache"
    calculators = load("dynamics+frames=6")
    statistics_of_videos(videos, calculators, "real", folder=folder)
    for kept in (None, folder):
        with pytest.raises(ValueError, match=r"v5.npy: .*not a readable array file"):
            statistics_of_videos(videos, calculators, "real", folder=kept, strict=True)
    # Too short is not unreadable, and videos after the last clip are not read.
    for count in (3, 4):
        few = load(f"dynamics+clips={count}+frames=6")
        (made,) = statistics_of_videos(videos, few, "real", strict=True).values()
        assert made.videos.used == count


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("odd", [1, 2, 4, 8])
def test_whole_videos_of_several_lengths_are_refused(clips, tmp_path, odd):
    lengths = [BROKEN, *[5] * 8]
    lengths[odd] = 6
    videos = write(tmp_path, lengths, clips)
    with pytest.raises(ValueError, match=r"^videos: got videos of . and of . frames: .*--frames"):
        statistics_of_videos(videos, load("dynamics"), "real")
    (made,) = statistics_of_videos(videos, load("dynamics+frames=5"), "real").values()
    assert made.videos.used == 8
    before = load(f"dynamics+clips={odd - 1}") if odd > 1 else []
    for one in statistics_of_videos(videos, before, "real").values():
        assert one.videos.used == odd - 1


@pytest.mark.parametrize(
    ("protocol", "lengths", "message"),
    [
        ("dynamics+clips=3", [6, 6, BROKEN], "3 clips, but only 2 of 3 videos gave one; 1 unr"),
        ("dynamics+frames=6", [5, 4], r"only 0 of 2 videos gave one; 2 shorter than 6 frames .su"),
        ("dynamics", [4, 4], "clips with 4 frames, but 'dynamics' of the network 'digits' needs"),
    ],
)
def test_too_few_or_too_short_clips_are_errors(clips, protocol, lengths, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        statistics_of_videos(write(tmp_path, lengths, clips), load(protocol), "real")


# Preparation


def test_cd_fvds_own_preprocessing_of_real_clips(i3d_weights, tmp_path, monkeypatch):
    """Its loader's code runs, but for torchvision, which finds clips in its files."""
    monkeypatch.setitem(sys.modules, "torchvision.datasets.video_utils", MagicMock())
    data_utils = importlib.import_module("cdfvd.utils.data_utils")
    weights.save(i3d_weights, tmp_path / "i3d.safetensors")
    (calculator,) = load_calculators([find_protocol("cd_fvd")], tmp_path / "i3d.safetensors")
    for name in ("bikes", "carphone_pristine"):
        (clip,) = real_clips(16, [name], size=None)
        theirs = 255 * data_utils.preprocess(torch.from_numpy(clip), 128)["video"]
        got = 255 * np.asarray(prepared(calculator, clip[None])[0])
        # What is a whole number up to rounding is cut to itself or to one level less, here or
        # there. Resizing keeps order: ours lies between theirs of a little less and more.
        lower, upper = (
            torch.nn.functional.interpolate(
                (theirs + margin).floor().clamp(0, 255).permute(1, 0, 2, 3),
                (224, 224),
                mode="bilinear",
                align_corners=False,
            )
            .permute(0, 2, 3, 1)
            .numpy()
            for margin in (-2e-3, 2e-3)
        )
        assert (got > lower - 1e-3).all()
        assert (got < upper + 1e-3).all()
        assert np.mean(upper - lower) < 0.1


def test_a_grey_model_sees_the_luma_of_colours(dynamics):
    (calculator,) = dynamics
    rgb = np.random.default_rng(0).integers(0, 256, (1, 5, 64, 64, 3), np.uint8)
    luma = np.stack([Image.fromarray(frame).convert("L") for frame in rgb[0]])[..., None]
    difference = np.abs(255 * np.asarray(prepared(calculator, rgb)[0]) - luma)
    assert difference.max() < 1.01  # Pillow rounds in integers
    assert (difference > 0.01).mean() < 1e-3
    grey = rgb[..., :1]
    as_rgb = np.repeat(grey, 3, axis=-1)
    np.testing.assert_array_equal(prepared(calculator, as_rgb), prepared(calculator, grey))
