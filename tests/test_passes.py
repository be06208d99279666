import importlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
import torch
from clips import real_clips
from PIL import Image
from processes import free_port, together

import srvp_fd_jax
from srvp_fd_jax import cli, passes
from srvp_fd_jax.calculator import Calculator
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.sample import load_sample, name_keys
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.base import Architecture
from srvp_fd_jax.passes import (
    Evaluated,
    encode_clips,
    evaluate,
    evaluate_cached,
    load_calculators,
    prepared,
)
from srvp_fd_jax.protocols import Protocol, find_protocol
from srvp_fd_jax.videos.sources import clip_names, find_videos

COMPARISONS = ("frame", "static_content", "dynamics")


@pytest.fixture(scope="module")
def calculators() -> list[Calculator]:
    return load_calculators([find_protocol(f"srvp:digits:{name}") for name in COMPARISONS])


@pytest.fixture(scope="module")
def dynamics() -> list[Calculator]:
    return load_calculators([find_protocol("srvp:digits:dynamics")])


def test_clips_too_short_for_a_network_are_refused_before_videos_are_read():
    message = "with 3 frames, but 'static_content' of the network 'digits' needs at least 5"
    with pytest.raises(ValueError, match=message):
        load_calculators([find_protocol("srvp:digits:static_content", frames=3)])
    load_calculators([find_protocol("srvp:digits:frame", frames=3)])


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


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return moving_digits(np.random.default_rng(0), 40, 7)


def factors(results: list[Evaluated]) -> list[np.ndarray]:
    return [np.asarray(result.statistics.factor) for result in results]


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_three_numbers_of_one_pass_are_those_of_the_arrays(calculators, clips, digits, tmp_path):
    np.save(tmp_path / "a.npy", clips)
    assert len(calculators) == 1  # one network, each frame encoded once
    results = evaluate(find_videos(tmp_path / "a.npy"), calculators, "real")
    other = moving_digits(np.random.default_rng(1), 30, 7)
    of_other = digits.statistics([other])
    for comparison, result in zip(COMPARISONS, results, strict=True):
        cut = (lambda c: c.reshape(-1, 64, 64, 1)) if comparison == "frame" else (lambda c: c)
        expected = float(digits(cut(clips), cut(other), comparison))
        s2 = of_other[comparison]
        got = srvp_fd_jax.frechet_distance_from_statistics(result.statistics, s2)
        assert float(got) == pytest.approx(expected, rel=1e-5)
        assert (result.found, result.used, result.cached) == (40, 40, False)
        assert dict(result.statistics.source) == dict(s2.source) | {
            "protocol": f"srvp:digits:{comparison}",
            "side": "real",
            "frames": "7",
            "resize": "none",
            "ddof": "1",
        }


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_samples_have_the_features_of_the_clips(calculators, clips, tmp_path):
    np.save(tmp_path / "a.npy", clips)
    videos = find_videos(tmp_path / "a.npy")
    results = evaluate(videos, calculators, "real", sample=15)
    along = evaluate(videos, calculators, "real", sample=15, along=True)
    keys = name_keys(clip_names(videos, "real"))
    chosen = sorted(range(40), key=lambda i: tuple(keys[i]))[:15]
    encoded = encode_clips(calculators[0], [clips[i] for i in chosen])
    outputs = calculators[0].network.architecture.outputs
    for result, whole, expected in zip(results, along, encoded, strict=True):
        output = outputs[result.protocol.output]
        moments, everywhere = result.sample.moments(), whole.sample.moments()
        assert everywhere["features"].shape[1] == output.places(7)
        for name, array in moments.items():
            np.testing.assert_allclose(array, expected[name], atol=1e-5)
            np.testing.assert_allclose(output.of_clip(everywhere)[name], array, atol=1e-5)
        assert int(result.sample.count) == 40
        assert result.sample.source == result.statistics.source
        np.testing.assert_allclose(
            whole.statistics.covariance(), result.statistics.covariance(), atol=1e-5
        )
    assert all(result.sample is None for result in evaluate(videos, calculators, "real"))


def test_windows_are_those_of_the_cut_clips(calculators, clips):
    network = calculators[0].network
    x = jax.numpy.asarray(clips[:3] / np.float32(255))
    found = network.windows(x, COMPARISONS)
    whole = network.features(x, COMPARISONS)
    np.testing.assert_allclose(found["frame"], whole["frame"], atol=1e-6)
    frames = network.architecture.nt_inf
    for output in ("static_content", "dynamics"):
        cut = [network.features(x[:, i : i + frames], (output,))[output] for i in range(8 - frames)]
        np.testing.assert_allclose(found[output], np.concatenate(cut, axis=1), atol=1e-5)
        # The way that every network has by default, which encodes each window.
        module = network.module()
        default = Architecture.windows(network.architecture, module, x, (output,))[output]
        np.testing.assert_allclose(default, found[output], atol=1e-5)


def test_distances_of_one_output_share_its_features(tmp_path):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 20, 6))
    names = ["srvp:digits:dynamics", "srvp:digits:dynamics+distance=frechet_eigh"]
    calculators = load_calculators(map(find_protocol, names))
    assert len(calculators) == 1
    results = evaluate(find_videos(tmp_path / "a.npy"), calculators, "real")
    assert [result.protocol.name for result in results] == names
    assert results[0].statistics.source == results[1].statistics.source
    np.testing.assert_array_equal(*factors(results))


def test_storage_does_not_matter(dynamics, tmp_path):
    """Short videos in every form that loses nothing, more than fit one round or one folder."""
    clips = moving_digits(np.random.default_rng(0), 70, 5)
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
    forms = [
        "clips.npy",
        "channels_first.npy",
        "sequences.npz",
        "frames",
        "frames.zip",
        "arrays.tar",
    ]
    results = [evaluate(find_videos(tmp_path / form), dynamics, "real")[0] for form in forms]
    for form, result in zip(forms, results, strict=True):
        assert result.used == 70
        np.testing.assert_array_equal(
            result.statistics.factor, results[0].statistics.factor, err_msg=form
        )


def test_an_interrupted_pass_goes_on_to_the_same_bits(calculators, tmp_path):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 150, 6))
    videos = find_videos(tmp_path / "a.npy")
    unbroken = evaluate(videos, calculators, "real", sample=40)
    rng = np.random.default_rng(0)
    starts = []
    while len(starts) < 50:
        left = int(rng.integers(0, 4))

        def interrupt(position: int) -> None:
            nonlocal left
            left -= 1
            starts[-1].append(position)
            if left < 0:
                raise KeyboardInterrupt

        starts.append([])
        try:
            results = evaluate(
                videos,
                calculators,
                "real",
                save_to=tmp_path / "state",
                sample=40,
                on_progress=interrupt,
            )
        except KeyboardInterrupt:
            continue
        break
    else:
        pytest.fail("it never came to an end")
    assert len(starts) > 2
    assert starts[-1][0] > 16  # the last one did not begin at the start
    for got, expected in zip(factors(results), factors(unbroken), strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(results, unbroken, strict=True):
        jax.tree.map(np.testing.assert_array_equal, got.sample.moments(), expected.sample.moments())
    assert [r.used for r in results] == [r.used for r in unbroken]


def test_a_killed_command_goes_on_to_the_same_bits(tmp_path):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 800, 6))
    command = [Path(sys.executable).with_name("srvp-fd-jax"), "statistics", str(tmp_path / "a.npy")]
    command += ["--dataset", "digits", "-o"]
    partial = tmp_path / "broken.safetensors.partial"
    for _ in range(2):
        before = partial.stat().st_mtime_ns if partial.exists() else None
        process = subprocess.Popen([*command, str(tmp_path / "broken.safetensors")])
        while process.poll() is None and (
            not partial.exists() or partial.stat().st_mtime_ns == before
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=100)
    assert partial.exists()
    subprocess.run([*command, str(tmp_path / "broken.safetensors")], check=True, timeout=100)
    assert not partial.exists()
    assert cli.main([*command[1:], str(tmp_path / "whole.safetensors")]) == 0
    whole, broken = (
        FeatureStatistics.load(tmp_path / f"{name}.safetensors") for name in ("whole", "broken")
    )
    assert whole.source == broken.source
    for ours, theirs in zip(jax.tree.leaves(broken), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_state_of_other_videos_or_protocols_is_not_gone_on_from(calculators, dynamics, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        np.save(tmp_path / f"{name}.npy", moving_digits(np.random.default_rng(seed), 20, 6))
    a, b = (find_videos(tmp_path / f"{name}.npy") for name in "ab")
    state = tmp_path / "state"
    evaluate(a, calculators, "real", save_to=state)
    for videos, others, side in (
        (b, calculators, "real"),
        (a, dynamics, "real"),
        (a, calculators, "fake"),
    ):
        positions = []
        evaluate(videos, others, side, save_to=state, on_progress=positions.append)
        assert positions[0] == 16, "it did not begin at the start"


def test_what_is_saved_and_damaged_is_told_and_made_anew(dynamics, tmp_path):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 20, 6))
    videos, cache = find_videos(tmp_path / "a.npy"), tmp_path / "cache"
    partial = tmp_path / "partial"
    evaluate(videos, dynamics, "real", save_to=partial)
    (intact,) = evaluate_cached(videos, dynamics, "real", folder=cache)
    (kept,) = cache.iterdir()
    for path, run in (
        (partial, lambda: evaluate(videos, dynamics, "real", save_to=partial)),
        (kept, lambda: evaluate_cached(videos, dynamics, "real", folder=cache)),
    ):
        content = bytearray(path.read_bytes())
        for damaged in (content[:-5] + b"\x01" + content[-4:], b"damaged"):
            path.write_bytes(damaged)
            with pytest.warns(UserWarning, match=rf"^{path}: .*; computing its content again$"):
                (result,) = run()
            assert not result.cached
            np.testing.assert_array_equal(factors([result]), factors([intact]))
        (again,) = run()
        assert again.cached == (path == kept)
    assert kept.read_bytes() == content


def test_reference_statistics_are_computed_once(calculators, dynamics, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 20, 6))
    cache = tmp_path / "cache"

    def run(calculators: list[Calculator]) -> tuple[list[Evaluated], int]:
        rounds = []
        videos = find_videos(tmp_path / "a.npy")
        results = evaluate_cached(
            videos, calculators, "real", folder=cache, on_progress=rounds.append
        )
        return results, len(rounds)

    (first,), computed = run(dynamics)
    assert (first.cached, computed) == (False, 2)
    (again,), computed = run(dynamics)
    assert (again.cached, computed) == (True, 0)
    assert again.statistics.source == first.statistics.source
    np.testing.assert_array_equal(factors([again]), factors([first]))

    three, computed = run(calculators)
    assert [result.cached for result in three] == [False, False, True]
    assert computed == 2
    np.testing.assert_array_equal(factors(three[2:]), factors([first]))

    time.sleep(0.01)
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(1), 20, 6))
    (changed,), computed = run(dynamics)
    assert (changed.cached, computed) == (False, 2)
    assert not np.array_equal(factors([changed])[0], factors([first])[0])

    monkeypatch.setattr(passes, "SCHEMA", passes.SCHEMA + 1)
    assert run(dynamics)[1] == 2


def test_kept_files_are_the_same_for_the_same_videos(dynamics, tmp_path):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 20, 6))
    videos = find_videos(tmp_path / "a.npy")
    kept = []
    for name in ("one", "two"):
        evaluate_cached(videos, dynamics, "real", folder=tmp_path / name)
        (path,) = (tmp_path / name).iterdir()
        kept.append(path.read_bytes())
    assert kept[0] == kept[1]


def test_what_cannot_be_kept_is_told_and_done_without(dynamics, tmp_path):
    np.save(tmp_path / "a.npy", moving_digits(np.random.default_rng(0), 20, 6))
    videos = find_videos(tmp_path / "a.npy")
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="continuing without saving statistics"):
        (got,) = evaluate_cached(videos, dynamics, "real", folder=tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="continuing without saving statistics"):
        evaluate(videos, dynamics, "real", save_to=tmp_path / "file" / "state")
    assert (got.used, got.cached) == (20, False)


def test_processes_take_the_clips_that_one_takes(tmp_path, capsys):
    """Short and broken videos lie between the first 33 that are long enough."""
    rng = np.random.default_rng(0)
    for i, clip in enumerate(moving_digits(rng, 60, 8)):
        np.save(tmp_path / f"{i}.npy", clip[: 5 if i % 4 == 1 else 8])
    for i in (2, 7, 30):
        (tmp_path / f"{i}.npy").write_bytes(b"")
    command = [Path(sys.executable).with_name("srvp-fd-jax"), "statistics", str(tmp_path), "--json"]
    command += ["--protocol", "srvp:digits:dynamics+clips=33+frames=6+start=random"]
    command += ["--sample", "20", "-o"]
    assert cli.main([*command[1:], str(tmp_path / "alone.safetensors")]) == 0
    cluster = {
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    ranks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": "0"} for i in range(2)]
    outputs = together(
        [[*command, str(tmp_path / "together.safetensors"), "--distributed"]] * 2,
        [cluster | rank for rank in ranks],
    )
    told = [
        json.loads(text.splitlines()[-1])["statistics"][0]
        for text in (capsys.readouterr().out, outputs[0])
    ]
    assert [summary["used"] for summary in told] == [33, 33]
    assert "statistics" not in outputs[1]  # one of them tells
    one, two = (
        FeatureStatistics.load(tmp_path / f"{name}.safetensors") for name in ("alone", "together")
    )
    assert (int(one.count), one.source) == (int(two.count), two.source)
    np.testing.assert_allclose(two.mean, one.mean, atol=1e-6)
    np.testing.assert_allclose(two.covariance(), one.covariance(), atol=1e-6)
    samples = [load_sample(tmp_path / f"{name}.safetensors") for name in ("alone", "together")]
    np.testing.assert_array_equal(samples[0].keys, samples[1].keys)
    np.testing.assert_allclose(samples[0].features, samples[1].features, atol=1e-5)
    assert [int(sample.count) for sample in samples] == [33, 33]


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


@pytest.mark.parametrize(
    ("protocol", "lengths", "message"),
    [
        ("srvp:digits:dynamics+clips=3", [6, 6, 4], "3 clips, but only 2 of 3 videos gave one; 1 "),
        (
            "srvp:digits:dynamics+frames=6",
            [5, 4],
            r"only 0 of 2 videos gave one; 2 shorter than 6 frames .such",
        ),
        ("srvp:digits:frame", [6, 5], "videos of 6 and of 5 frames: 'srvp:digits:frame' takes"),
        (
            "srvp:digits:dynamics",
            [4, 4],
            "got clips with 4 frames, but 'dynamics' of the network 'digits' needs at least 5",
        ),
    ],
)
def test_too_few_or_unequal_clips_are_errors(protocol, lengths, message, tmp_path):
    for i, length in enumerate(lengths):
        np.save(tmp_path / f"{i}.npy", np.zeros((length, 64, 64, 1), np.uint8))
    if "clips=3" in protocol:
        (tmp_path / "2.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        evaluate(find_videos(tmp_path), load_calculators([find_protocol(protocol)]), "real")
