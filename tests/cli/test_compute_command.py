"""The command `srvp-fd-jax compute`."""

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from clips import moving, write_video

import srvp_fd_jax
from srvp_fd_jax.networks.weights import save

DYNAMICS = ["--dataset", "digits", "--comparison-type", "dynamics"]


def test_the_distance_is_that_of_the_function(run, sets, expected):
    printed = run("compute", *sets, *DYNAMICS)
    assert float(printed.out) == pytest.approx(expected, rel=1e-5)
    for name, path, n in (("real", sets[0], 60), ("generated", sets[1], 50)):
        assert (
            f"srvp-fd-jax: {name}: {path}: {n} videos, {n} used, 0 too short, 0 unreadable; "
            "srvp:digits:dynamics, weights 3911fc1c"
        ) in printed.err

    printed = run("compute", *sets, *DYNAMICS, "--json")
    assert "statistics from the cache" in printed.err
    assert printed.json["version"] == srvp_fd_jax.__version__
    (result,) = printed.json["results"]
    assert result["distance"] == pytest.approx(expected, rel=1e-5)
    assert result["protocol"] == "srvp:digits:dynamics"
    assert result["source"]["weights_sha256"].startswith("3911fc1c")
    assert [result[side]["samples"] for side in ("real", "fake")] == [60, 50]
    assert [result[side]["cached"] for side in ("real", "fake")] == [True, True]
    (result,) = run("compute", *sets, *DYNAMICS, "--json", "--no-cache").json["results"]
    assert result["real"]["cached"] is False


def test_several_protocols(run, sets, clips, expected):
    names = ["srvp:digits:dynamics", "srvp:digits:frame+clips=40"]
    printed = run("compute", *sets, "--protocol", ",".join(names))
    rows = [line.split("\t") for line in printed.out.splitlines()]
    assert [row[0] for row in rows] == names
    assert float(rows[0][1]) == pytest.approx(expected, rel=1e-5)
    x, y = (array[:40].reshape(-1, 64, 64, 1) for array in clips)
    frames = float(srvp_fd_jax.frechet_distance(x, y, "digits"))
    assert float(rows[1][1]) == pytest.approx(frames, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "protocol"),
    [([], "fvd2048_16f"), (["--distance", "frechet_eigh"], "fvd2048_16f+distance=frechet_eigh")],
)
def test_the_default_protocol(run, sets, options, protocol):
    error = run("compute", *sets, *options, status=1).err
    assert f"a.npy: holds 60 videos, protocol '{protocol}' takes 2048" in error


@pytest.mark.parametrize("given", [[0], [0, 1]])
def test_the_protocol_is_that_of_statistics(run, sets, statistics, clips, expected, given):
    paths = [statistics[i] if i in given else sets[i] for i in range(2)]
    assert float(run("compute", *paths).out) == pytest.approx(expected, rel=1e-5)
    printed = run("compute", *paths, "--distance", "frechet_eigh", "--json")
    (result,) = printed.json["results"]
    assert result["protocol"] == "srvp:digits:dynamics+distance=frechet_eigh"
    method = float(srvp_fd_jax.frechet_distance(*clips, "digits", "dynamics", method="eigh"))
    # Other batches round differently, to which an eigendecomposition is more sensitive than an SVD.
    assert result["distance"] == pytest.approx(method, rel=1e-4)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("Sg", ["--dataset", "digits"], "statistics: "),
        ("Sg", ["--clips", "50"], r"\+clips=50' of the other"),
        ("SG", ["--protocol", "fvd2048_16f"], "ddof is '1' of one and '0' of the other"),
        ("SG", ["--weights", "w.npy"], "but both sets are statistics"),
        ("SG", ["--protocol", "cd_fvd,tensorflow"], "got 2 protocols, but statistics have only"),
    ],
)
def test_statistics_of_something_else(run, sets, statistics, names, options, message):
    paths = {"S": statistics[0], "G": statistics[1], "g": sets[1]}
    error = run("compute", *(paths[name] for name in names), *options, status=1).err
    assert re.search(f"error: .*{message}", error)
    assert "generated: " not in error  # before any video is read


def test_unreadable_videos_are_counted_and_named(run, tmp_path):
    for i in range(8):
        write_video(tmp_path / f"v{i}.mp4", moving(6, 64, 64, seed=i))
    write_video(tmp_path / "short.mp4", moving(4, 64, 64))
    write_video(tmp_path / "large.mp4", moving(6, 96, 64))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "v0.mp4").read_bytes()[:-800])
    command = ["compute", tmp_path, tmp_path, *DYNAMICS, "--frames", "5"]
    printed = run(*command)
    assert float(printed.out) < 1e-6
    assert printed.err.count("13 videos, 8 used, 1 too short, 4 unreadable") == 2
    assert "large.mp4: frames of 96×64, expected 64×64 (resize rule 'none')" in printed.err
    for name in ("empty", "text", "cut"):
        assert re.search(rf"unreadable: {tmp_path}/{name}.mp4: .+", printed.err)
    assert f"too short: {tmp_path}/short.mp4" in printed.err

    (result,) = run(*command, "--json").json["results"]
    assert result["protocol"] == "srvp:digits:dynamics+frames=5"
    assert result["fake"]["too_short"] == [f"{tmp_path}/short.mp4"]
    assert len(result["fake"]["unreadable"]) == 4
    for cached in ([], ["--no-cache"]):
        error = run(*command, "--strict", *cached, status=1).err
        assert f"error: {tmp_path}/cut.mp4: " in error
    error = run(*command, "--clips", "9", status=1).err
    assert "9 clips, but only 8 of 13 videos gave one; 1 shorter than 5 frames (such as" in error


@pytest.mark.filterwarnings("ignore:(real|fake). 2 samples for 400 feature dimensions")
def test_a_protocol_of_fvd(run, i3d_weights, tmp_path):
    weights = str(tmp_path / "i3d.safetensors")
    save(i3d_weights, weights)
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 9, 72, 88, 1), np.uint8)
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path, array in zip(paths, clips, strict=True):
        np.save(path, array)
    printed = run("compute", *paths, "--protocol", "tensorflow", "--json", "--weights", weights)
    assert "400 feature dimensions" in printed.err
    (result,) = printed.json["results"]
    fvd = srvp_fd_jax.Calculator("tensorflow", weights=weights)
    s1, s2 = (fvd.statistics([c])["logits"] for c in clips)
    assert result["distance"] == pytest.approx(float(fvd.distance(s1, s2)), rel=1e-5)
    assert result["source"] == dict(s1.source)


def test_one_input_twice_is_a_warning(run, sets, tmp_path):
    (tmp_path / "link.npy").symlink_to(sets[0])
    for fake in (sets[0], tmp_path / "link.npy"):
        printed = run("compute", sets[0], fake, *DYNAMICS)
        assert printed.err.count("warning: 60 of 60 generated videos are real ones too") == 1
        assert float(printed.out) < 1e-6
    assert "real ones too" not in run("compute", *sets, *DYNAMICS).err


def test_globs_choose_the_sets_of_one_folder(run, clips, expected, tmp_path):
    for of_set, kind in zip(clips, ("gt", "pred"), strict=True):
        for i, clip in enumerate(of_set):
            np.save(tmp_path / f"{i}_{kind}.npy", clip)
    globs = ["--match", "*_gt.npy", "--match", "*_pred.npy"]
    printed = run("compute", tmp_path, tmp_path, *globs, *DYNAMICS)
    assert float(printed.out) == pytest.approx(expected, rel=1e-5)
    out = tmp_path / "a.safetensors"
    error = run("statistics", tmp_path, "-o", out, *globs, *DYNAMICS, status=1).err
    assert "error: --match: got 2 globs" in error


def test_names_never_reach_the_terminal_raw(run, tmp_path):
    for name in (b"\x1b[2J.mp4", b"\xff.mp4"):
        (tmp_path / os.fsdecode(name)).touch()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("7" * 5000 + ".mp4", b"")
    np.save(tmp_path / "b.npy", np.zeros((5, 64, 64), np.uint8))
    np.save(tmp_path / "c.npy", np.zeros((5, 64, 64), np.uint8))
    error = run("compute", tmp_path, tmp_path, *DYNAMICS).err
    assert "5 videos, 2 used, 0 too short, 3 unreadable" in error
    assert all(line.isprintable() and len(line) < 2100 for line in error.splitlines())
    assert f"unreadable: {tmp_path}/\\x1b[2J.mp4: " in error
    assert f"unreadable: {tmp_path}/\\udcff.mp4: " in error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["compute", "a.npy", "nothing.npy"], "nothing.npy: no such file or folder"),
        (["report", "a.npy", "nothing.npy", "-o", "r.html"], "nothing.npy: no such file"),
        (["compute", "a.npy", "b.safetensors"], "b.safetensors: a folder, expected a file"),
        (["compute", "a.npy", "a.npy", "--clips", "9"], "a.npy: holds 8 videos, protocol 'srvp:"),
        (["statistics", "a.npy", "-o", "b.safetensors"], "b.safetensors: is a folder, expected"),
        (["statistics", "a.npy", "-o", "a.npy/s.safetensors"], "Not a directory"),
        (["compare", "b.safetensors", "b.safetensors"], "b.safetensors: a folder, expected a file"),
    ],
)
def test_errors_come_before_the_work(run, command, message, tmp_path, monkeypatch):
    monkeypatch.setattr("srvp_fd_jax.features.shards.load_clips", None)  # nothing may be read
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros((8, 5, 64, 64, 1), np.uint8))
    Path("b.safetensors").mkdir()
    error = run(*command, *([] if command[0] == "compare" else DYNAMICS), status=1).err
    assert message in error
    assert "No such file" not in error
