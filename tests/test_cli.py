import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clips import moving, write_video
from PIL import Image

import srvp_fd_jax
from srvp_fd_jax import cli
from srvp_fd_jax.demo.corruptions import add_noise
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.networks.weights import save
from srvp_fd_jax.protocols import PROTOCOLS
from srvp_fd_jax.ruler import ladder
from srvp_fd_jax.ruler.corruptions import CORRUPTIONS

DYNAMICS = ["--dataset", "digits", "--comparison-type", "dynamics"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    np.save(folder / "a.npy", moving_digits(rng, 60, 5))
    np.savez_compressed(folder / "b.npz", moving_digits(rng, 50, 5))
    return folder / "a.npy", folder / "b.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def kept(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Statistics by side."""
    folder = tmp_path_factory.mktemp("statistics")
    paths = {side: str(folder / f"{side}.safetensors") for side in ("real", "fake")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert cli.main(["stats", str(files[0]), "-o", paths["real"], *DYNAMICS]) == 0
        assert cli.main(["stats", str(files[1]), "-o", paths["fake"], "--fake", *DYNAMICS]) == 0
    return paths


@pytest.fixture(scope="module")
def expected(files) -> float:
    a, b = np.load(files[0]), np.load(files[1])["arr_0"]
    return float(srvp_fd_jax.frechet_distance(a, b, "digits", "dynamics"))


def test_compute_prints_the_functions_number(files, expected, capsys):
    command = ["compute", *map(str, files), *DYNAMICS]
    assert cli.main(command) == 0
    output = capsys.readouterr()
    assert float(output.out) == pytest.approx(expected, rel=1e-5)
    for side, path, n in (("real", files[0], 60), ("fake", files[1], 50)):
        assert (
            f"srvp-fd-jax: {side}: {path}: {n} videos, {n} used, 0 too short, 0 unreadable; "
            "srvp:digits:dynamics, weights 3911fc1c"
        ) in output.err

    assert cli.main([*command, "--json"]) == 0
    output = capsys.readouterr()
    assert "real: " in output.err
    assert "statistics from the cache" in output.err
    told = json.loads(output.out)
    assert told.keys() == {"results", "version"}
    assert told["version"] == srvp_fd_jax.__version__
    (result,) = told["results"]
    assert result["distance"] == pytest.approx(expected, rel=1e-5)
    assert result["protocol"] == "srvp:digits:dynamics"
    assert result["source"]["weights_sha256"].startswith("3911fc1c")
    assert [result[side]["samples"] for side in ("real", "fake")] == [60, 50]
    assert [result[side]["cached"] for side in ("real", "fake")] == [True, False]

    assert cli.main([*command, "--json", "--no-cache"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["real"]["cached"] is False


def test_several_protocols_in_one_pass(files, expected, capsys):
    names = ["srvp:digits:dynamics", "srvp:digits:frame+clips=40"]
    assert cli.main(["compute", *map(str, files), "--protocol", ",".join(names)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == names
    assert float(rows[0][1]) == pytest.approx(expected, rel=1e-5)
    x, y = np.load(files[0])[:40], np.load(files[1])["arr_0"][:40]
    frames = srvp_fd_jax.frechet_distance(
        x.reshape(-1, 64, 64, 1), y.reshape(-1, 64, 64, 1), "digits"
    )
    assert float(rows[1][1]) == pytest.approx(float(frames), rel=1e-5)


@pytest.mark.parametrize(
    ("command", "protocol"),
    [
        (["compute", "a.npy", "b.npz", *DYNAMICS], "srvp:digits:dynamics+distance=frechet_eigh"),
        (["compute", "real", "b.npz"], "srvp:digits:dynamics+distance=frechet_eigh"),
        (["compute", "real", "fake"], "srvp:digits:dynamics+distance=frechet_eigh"),
        (["compare", "real", "fake"], "srvp:digits:dynamics"),
    ],
)
def test_the_distance_is_one_of_the_protocol(files, kept, command, protocol, capsys):
    a, b = np.load(files[0]), np.load(files[1])["arr_0"]
    expected = float(srvp_fd_jax.frechet_distance(a, b, "digits", "dynamics", method="eigh"))
    paths = kept | {path.name: str(path) for path in files}
    command = [paths.get(argument, argument) for argument in command]
    assert cli.main([*command, "--distance", "frechet_eigh", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    # Other batches round differently, to which an eigendecomposition is more sensitive than an SVD.
    assert result["distance"] == pytest.approx(expected, rel=1e-4)
    assert result["protocol"] == protocol
    assert result["source"]["protocol"] == "srvp:digits:dynamics"


@pytest.mark.parametrize(
    ("options", "protocol"),
    [([], "fvd2048_16f"), (["--distance", "frechet_eigh"], "fvd2048_16f+distance=frechet_eigh")],
)
def test_the_protocol_where_none_is_named(files, options, protocol, capsys):
    assert cli.main(["compute", *map(str, files), *options]) == 1
    assert f"a.npy: holds 60 videos, protocol '{protocol}' takes 2048" in capsys.readouterr().err


def test_statistics_stand_for_videos(files, expected, tmp_path, capsys):
    real, fake = (str(tmp_path / f"{side}.safetensors") for side in ("real", "fake"))
    assert cli.main(["stats", str(files[0]), "-o", real, *DYNAMICS]) == 0
    assert capsys.readouterr().out == f"{real}\n"
    assert cli.main(["stats", str(files[1]), "-o", fake, "--fake", *DYNAMICS, "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["statistics"]
    assert (summary["output"], summary["used"]) == (fake, 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fake.safetensors",
        "real.safetensors",
    ]
    for command in (
        ["compare", real, fake],
        ["compute", real, fake],
        ["compute", real, str(files[1])],  # under the statistics' own protocol
        ["compute", str(files[0]), fake, *DYNAMICS],
    ):
        assert cli.main(command) == 0
        assert float(capsys.readouterr().out) == pytest.approx(expected, rel=1e-5)

    assert cli.main(["compute", real, str(files[1]), "--dataset", "digits"]) == 1
    output = capsys.readouterr()
    assert "error: statistics: " in output.err
    assert "fake: " not in output.err  # told before the videos were gone through
    assert cli.main(["compute", real, str(files[1]), "--clips", "50"]) == 1
    assert "+clips=50' of the other" in capsys.readouterr().err
    assert cli.main(["compute", real, fake, "--protocol", "fvd2048_16f"]) == 1
    assert "ddof is '1' of one and '0' of the other" in capsys.readouterr().err
    assert cli.main(["compute", real, fake, "--weights", str(files[0])]) == 1
    assert "but both sides are statistics" in capsys.readouterr().err
    assert cli.main(["compute", real, fake, "--protocol", "cd_fvd,tensorflow"]) == 1
    assert "got 2 protocols, but statistics have only one" in capsys.readouterr().err


AS_REAL = "warning: the real side is statistics of videos sampled as generated ones"
AS_FAKE = "warning: the generated side is statistics of videos sampled as real ones: make it"


@pytest.mark.parametrize(
    ("sides", "told"),
    [
        (("real", "fake"), []),
        (("real", "real"), [AS_FAKE]),
        (("fake", "fake"), [AS_REAL]),
        (("fake", "real"), [AS_REAL, AS_FAKE]),
    ],
)
def test_statistics_know_their_side(kept, sides, told, capsys):
    assert cli.main(["compare", *(kept[side] for side in sides), "--json"]) == 0
    output = capsys.readouterr()
    assert [text for text in (AS_REAL, AS_FAKE) if text in output.err] == told
    for taken_for, side in zip(("real", "fake"), sides, strict=True):
        assert ("side", side) in srvp_fd_jax.FeatureStatistics.load(kept[side]).source
        samples = {"real": 60, "fake": 50}[side]
        line = f"srvp-fd-jax: {taken_for}: {kept[side]}: {samples} samples, side {side}\n"
        assert line in output.err
    (result,) = json.loads(output.out)["results"]
    assert [result[taken_for]["side"] for taken_for in ("real", "fake")] == list(sides)
    assert "side" not in result["source"]


def test_the_side_of_statistics_is_told_beside_videos(files, kept, capsys):
    assert cli.main(["compute", kept["fake"], str(files[1])]) == 0
    assert AS_REAL in capsys.readouterr().err


def test_either_side_tells_the_divisor(tmp_path, capsys):
    features = np.random.default_rng(0).normal(size=(2, 20, 3)).astype(np.float32)
    real, fake = map(srvp_fd_jax.FeatureStatistics.from_features, features)
    real.save(tmp_path / "real.safetensors")
    dataclasses.replace(fake, source=(("ddof", "0"),)).save(tmp_path / "fake.safetensors")
    expected = float(srvp_fd_jax.frechet_distance_from_statistics(real, fake, ddof=0))
    files = [str(tmp_path / f"{side}.safetensors") for side in ("real", "fake")]
    for sides in (files, files[::-1]):
        assert cli.main(["compare", *sides]) == 0
        assert float(capsys.readouterr().out) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("samples", [(3, 20), (20, 3), (2, 20)])
def test_a_count_that_its_divisor_leaves_nothing_of_is_an_error(samples, tmp_path, capsys):
    for side, n in zip(("real", "fake"), samples, strict=True):
        features = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
        statistics = srvp_fd_jax.FeatureStatistics.from_features(features)
        marked = dataclasses.replace(statistics, source=(("ddof", "3"),))
        marked.save(tmp_path / f"{side}.safetensors")
    files = [str(tmp_path / f"{side}.safetensors") for side in ("real", "fake")]
    assert cli.main(["compare", *files, "--json"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    path = files[0] if samples[0] < 4 else files[1]
    assert output.err.splitlines()[-1] == (
        f"srvp-fd-jax: error: {path}: got {min(samples)} samples for a divisor of n - 3"
    )


def test_statistics_of_several_protocols(files, tmp_path, capsys):
    command = ["stats", str(files[0]), "--protocol", "srvp:digits:frame,srvp:digits:dynamics"]
    assert cli.main([*command, "-o", str(tmp_path / "all.safetensors")]) == 1
    assert "several protocols need {protocol} in it" in capsys.readouterr().err
    assert cli.main([*command, "-o", str(tmp_path / "{protocol}.npz")]) == 1
    assert "expected a name that ends in .safetensors" in capsys.readouterr().err
    assert cli.main([*command, "-o", str(tmp_path / "a-{protocol}.safetensors")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-srvp_digits_dynamics.safetensors",
        "a-srvp_digits_frame.safetensors",
    ]


def test_broken_videos_are_told_and_counted(tmp_path, capsys):
    for i in range(8):
        write_video(tmp_path / f"v{i}.mp4", moving(6, 64, 64, seed=i))
    write_video(tmp_path / "short.mp4", moving(4, 64, 64))
    write_video(tmp_path / "large.mp4", moving(6, 96, 64))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "v0.mp4").read_bytes()[:-800])
    command = ["compute", str(tmp_path), str(tmp_path), *DYNAMICS, "--frames", "5"]
    assert cli.main(command) == 0
    output = capsys.readouterr()
    assert float(output.out) < 1e-6
    assert output.err.count("13 videos, 8 used, 1 too short, 4 unreadable") == 2
    assert "large.mp4: frames of 96×64, expected 64×64 (resize rule 'none')" in output.err
    for name in ("empty", "text", "cut"):
        assert re.search(rf"unreadable: {tmp_path}/{name}.mp4: .+", output.err)
    assert f"too short: {tmp_path}/short.mp4" in output.err

    assert cli.main([*command, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["protocol"] == "srvp:digits:dynamics+frames=5"
    assert result["fake"]["too_short"] == [f"{tmp_path}/short.mp4"]
    assert len(result["fake"]["unreadable"]) == 4

    for cached in ([], ["--no-cache"]):
        assert cli.main([*command, "--strict", *cached]) == 1
        assert f"error: {tmp_path}/cut.mp4: " in capsys.readouterr().err

    assert cli.main([*command, "--clips", "9"]) == 1
    error = capsys.readouterr().err
    assert "9 clips, but only 8 of 13 videos gave one; 1 shorter than 5 frames (such as" in error


@pytest.mark.filterwarnings("ignore:(real|fake). 2 samples for 400 feature dimensions")
def test_compute_under_an_fvd_protocol(i3d_weights, tmp_path, capsys):
    save(i3d_weights, tmp_path / "i3d.safetensors")
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 9, 72, 88, 1), np.uint8)
    for name, array in zip(("a.npy", "b.npy"), clips, strict=True):
        np.save(tmp_path / name, array)
    files = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    weights = ["--weights", str(tmp_path / "i3d.safetensors")]
    command = ["compute", *files, "--protocol", "tensorflow", "--json", *weights]
    assert cli.main(command) == 0
    output = capsys.readouterr()
    assert "400 feature dimensions" in output.err
    (result,) = json.loads(output.out)["results"]
    fvd = srvp_fd_jax.Calculator("tensorflow", weights=weights[1])
    s1, s2 = (fvd.statistics([c])["logits"] for c in clips)
    assert result["distance"] == pytest.approx(float(fvd.distance(s1, s2)), rel=1e-5)
    assert result["source"] == dict(s1.source)


def test_protocols_are_listed_side_by_side(capsys):
    assert cli.main(["protocols"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(PROTOCOLS)
    assert all(len(row) < 190 for row in rows)
    assert "output" in header.split()
    assert "seed" not in header.split()  # one of all presets
    column = header.index("real from")
    assert rows[3][column:].startswith("random, every 8th")
    assert cli.main(["protocols", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = {"name": "cd_fvd", "frames": 16, "real": {"start": "random", "step": 1}}
    assert expected.items() <= told[4].items()
    assert (told[4]["output"], told[4]["distance"]) == ("logits", "frechet")


def test_warnings_are_one_line(files, capsys):
    command = ["compute", *map(str, files), "--dataset", "digits"]
    assert cli.main([*command, "--comparison-type", "static_content"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if " warning: " in line]
    assert warnings == [
        "srvp-fd-jax: warning: 60 real and 50 generated samples: a distance depends on their "
        "number",
        "srvp-fd-jax: warning: 50 samples for 256 feature dimensions leave the covariance singular "
        "and the distance strongly biased",
    ]


def unreadable(folder: Path) -> None:
    """Files of every kind that are not what their names say."""
    np.savez(folder / "two.npz", a=np.zeros((2, 3, 4)), b=np.zeros((2, 3, 4)))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    for suffix in ("npy", "npz", "zip", "tar", "safetensors"):
        (folder / f"text.{suffix}").write_text("of another kind")
    (folder / "clip.mp4").touch()
    (folder / "empty.npy").touch()
    (folder / "folder").mkdir()
    np.save(folder / "large.npy", np.full((3, 5, 64, 64, 1), 255.0, np.float32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.npy", "no such file or folder"),
        ("missing.safetensors", "No such file"),
        ("clip.mp4", "expected a folder or a .zip, .tar"),
        ("two.npz", "holds 2 arrays of frames or clips, expected one"),
        ("objects.npy", "not a readable array file"),
        ("text.npy", "not a readable array file"),
        ("text.npz", "not a readable array file"),
        ("text.zip", "not a readable archive"),
        ("text.tar", "not a readable archive"),
        ("text.safetensors", "not a safetensors file"),
        ("empty.npy", "not a readable array file"),
        ("folder", "holds no videos"),
        ("large.npy", "values from 255 to 255, expected floats in [0, 1]; divide by 255"),
    ],
)
def test_errors_are_one_line(files, name, message, tmp_path, capsys):
    unreadable(tmp_path)
    assert cli.main(["compute", str(files[0]), str(tmp_path / name), "--dataset", "digits"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("srvp-fd-jax: error: ")
    assert message in error
    assert name in error


def test_frames_of_another_size_are_an_error(files, tmp_path, capsys):
    np.save(tmp_path / "size.npy", np.zeros((3, 5, 60, 64, 1), np.uint8))
    assert cli.main(["compute", str(files[0]), str(tmp_path / "size.npy"), *DYNAMICS]) == 1
    assert "frames of 60×64, expected 64×64 (resize rule 'none')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*DYNAMICS, "--protocol", "cd_fvd"], "protocol: --protocol cannot be combined"),
        (["--protocol", "fvd"], "--protocol: got 'fvd', allowed are tensorflow, "),
    ],
)
def test_protocols_that_are_not_to_be_had_are_errors(files, options, message, capsys):
    assert cli.main(["compute", *map(str, files), *options]) == 1
    assert f"error: {message}" in capsys.readouterr().err


def test_the_cache_is_limited_listed_and_cleared(files, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_CACHE_BYTES", 100_000)
    folder = Path(os.environ["XDG_CACHE_HOME"], "srvp-fd-jax")
    (folder / "statistics").mkdir(parents=True)
    old = folder / "statistics" / "old.safetensors"
    old.write_bytes(bytes(200_000))
    weights = folder / "kth.safetensors"
    weights.write_bytes(bytes(300_000))
    assert cli.main(["compute", *map(str, files), *DYNAMICS]) == 0
    assert not old.exists()
    assert weights.exists()
    capsys.readouterr()
    assert cli.main(["cache"]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == str(folder)
    assert [row.split()[:3] for row in rows] == [
        ["weights", "1", "files"],
        ["statistics", "1", "files"],
        ["programs", "0", "files"],
    ]
    assert cli.main(["cache", "--clear", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cleared"] is True
    assert told["weights"] == {"files": 1, "bytes": 300_000}
    assert not any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["compute", "a.npy", "nothing.npy"], "nothing.npy: no such file or folder"),
        (["report", "a.npy", "nothing.npy", "-o", "r.html"], "nothing.npy: no such file"),
        (["compute", "a.npy", "b.safetensors"], "b.safetensors: a folder, expected a file"),
        (["compute", "a.npy", "a.npy", "--clips", "9"], "a.npy: holds 8 videos, protocol 'srvp:"),
        (["stats", "a.npy", "-o", "b.safetensors"], "b.safetensors: is a folder, expected a file"),
        (["stats", "a.npy", "-o", "a.npy/s.safetensors"], "Not a directory"),
        (["compare", "b.safetensors", "b.safetensors"], "b.safetensors: a folder, expected a file"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("srvp_fd_jax.passes.rounds", None)  # nothing may be read
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros((8, 5, 64, 64, 1), np.uint8))
    Path("b.safetensors").mkdir()
    options = [] if command[0] == "compare" else DYNAMICS
    assert cli.main([*command, *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "No such file" not in error


def test_without_a_terminal_progress_is_a_line_now_and_then(files, monkeypatch, capsys):
    command = ["compute", *map(str, files), *DYNAMICS, "--no-cache"]
    now = iter(range(0, 10_000, 12))  # of each look at the clock
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=lambda: next(now)))
    assert cli.main(command) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " of " in line]
    assert [re.sub("in [0-9]+ s", "in - s", line) for line in lines] == [
        f"srvp-fd-jax: {side}: {n} of {total} videos in - s"
        for side, n, total in (("real", 48, 60), ("fake", 48, 50))
    ]


def test_on_a_terminal_progress_is_a_bar_for_each_side(files, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["compute", *map(str, files), *DYNAMICS, "--no-cache"]) == 0
    error = capsys.readouterr().err
    for side, total in (("real", 60), ("fake", 50)):
        assert re.search(rf"\r{side}: 100%.*\| {total}/{total} .*\n", error)
    told = [line for line in re.split("[\r\n]", error) if "srvp-fd-jax: " in line]
    assert len(told) == 3
    assert all(line.startswith("srvp-fd-jax: ") for line in told)


def test_strays_beside_frames_are_named(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i, clip in enumerate(moving_digits(rng, 3, 5)):
        (tmp_path / f"v{i}").mkdir()
        for t, frame in enumerate(clip):
            Image.fromarray(frame[..., 0]).save(tmp_path / f"v{i}" / f"{t}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "v1" / "preview.png")
    output = tmp_path / "s.safetensors"
    assert cli.main(["stats", str(tmp_path), "-o", str(output), *DYNAMICS]) == 0
    error = capsys.readouterr().err
    assert (
        "warning: real: ignored 1 images that are not part of the sequences beside them: "
        f"{tmp_path}/v1/preview.png\n"
    ) in error
    assert "3 videos, 3 used" in error


@pytest.mark.parametrize("number", ["-1", "x", "9" * 5000])
def test_wrong_usage_is_told_in_one_short_line(number, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", "--clips", number])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--clips: got '" in error
    assert len(error) < 2100


def test_a_near_choice_is_suggested(files, capsys):
    with pytest.raises(SystemExit):
        cli.main(["compute", *map(str, files), "--dataset", "digit"])
    assert "did you mean 'digits'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "0"], "error: --clips: got 0, expected a whole number of at least 1"),
        (["--protocol", "fvd2048"], "error: --protocol: got 'fvd2048', allowed are"),
        (["--protocol", "cd_fvd+clips=0"], "error: clips: got '0'"),
    ],
)
def test_errors_call_options_by_their_names(files, options, message, capsys):
    assert cli.main(["compute", *map(str, files), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["compute", "", "b"],
        ["compute", "a", " "],
        ["compare", "a", ""],
        ["report", "a", "b", "-o", ""],
        ["stats", "", "-o", "a.safetensors"],
        ["stats", "a", "-o", ""],
        ["compute", "a", "b", "--protocol", ""],
        ["compute", "a", "b", "--weights", ""],
    ],
)
def test_empty_arguments_are_wrong_usage(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)
    assert exit_.value.code == 2
    assert "got an empty name" in capsys.readouterr().err


def test_one_input_twice_is_told(files, tmp_path, capsys):
    (tmp_path / "link.npy").symlink_to(files[0])
    for fake in (files[0], tmp_path / "link.npy"):
        assert cli.main(["compute", str(files[0]), str(fake), *DYNAMICS]) == 0
        output = capsys.readouterr()
        assert output.err.count("warning: 60 of 60 generated videos are real ones too") == 1
        assert float(output.out) < 1e-6
    assert cli.main(["compute", *map(str, files), *DYNAMICS]) == 0
    assert "real ones too" not in capsys.readouterr().err


def test_globs_choose_the_sets_of_one_folder(files, tmp_path, capsys):
    for clips, kind in ((np.load(files[0]), "gt"), (np.load(files[1])["arr_0"], "pred")):
        for i, clip in enumerate(clips):
            np.save(tmp_path / f"{i}_{kind}.npy", clip)
    globs = ["--match", "*_gt.npy", "--match", "*_pred.npy"]
    assert cli.main(["compute", str(tmp_path), str(tmp_path), *globs, *DYNAMICS]) == 0
    output = capsys.readouterr()
    assert "one and the same" not in output.err
    cli.main(["compute", *map(str, files), *DYNAMICS])
    assert float(output.out) == pytest.approx(float(capsys.readouterr().out), rel=1e-5)
    out = str(tmp_path / "a.safetensors")
    assert cli.main(["stats", str(tmp_path), "-o", out, *globs, *DYNAMICS]) == 1
    assert "match: got 2 globs" in capsys.readouterr().err


def test_names_never_reach_the_terminal_raw(tmp_path, capsys):
    names = [b"\x1b[2J.mp4", b"\xff.mp4"]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("7" * 5000 + ".mp4", b"")
    np.save(tmp_path / "b.npy", np.zeros((5, 64, 64), np.uint8))
    np.save(tmp_path / "c.npy", np.zeros((5, 64, 64), np.uint8))
    assert cli.main(["compute", str(tmp_path), str(tmp_path), *DYNAMICS]) == 0
    output = capsys.readouterr()
    assert "5 videos, 2 used, 0 too short, 3 unreadable" in output.err
    lines = output.err.splitlines()
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 2100
    assert f"unreadable: {tmp_path}/\\x1b[2J.mp4: " in output.err
    assert f"unreadable: {tmp_path}/\\udcff.mp4: " in output.err


def test_what_nobody_foresaw_keeps_its_traceback(files, monkeypatch):
    def fail(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr("srvp_fd_jax.evaluation.evaluate_cached", fail)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["compute", *map(str, files), *DYNAMICS])


def no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("home", ["none", "a file"])
def test_a_cache_that_cannot_be_written_is_told_once_and_done_without(
    files, expected, home, tmp_path, monkeypatch, capsys
):
    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cli.main(["compute", *map(str, files), *DYNAMICS]) == 0
    output = capsys.readouterr()
    assert float(output.out) == pytest.approx(expected, rel=1e-5)
    assert output.err.count("warning: going on without the cache (XDG_CACHE_HOME): ") == 1


def test_without_the_extra_arrays_are_read_and_videos_tell_what_is_missing(
    files, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main(["compute", *map(str, files), *DYNAMICS]) == 0
    (tmp_path / "a.mp4").touch()
    assert cli.main(["compute", str(tmp_path), str(tmp_path), *DYNAMICS]) == 1
    assert 'pip install ".[video]"' in capsys.readouterr().err


def test_interruption_has_its_own_status(files, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("srvp_fd_jax.evaluation.evaluate_cached", interrupt)
    assert cli.main(["compute", *map(str, files), *DYNAMICS]) == 130
    assert capsys.readouterr().err == "srvp-fd-jax: interrupted\n"


def test_demo_shows_what_each_comparison_reacts_to(capsys):
    assert cli.main(["demo", "--clips", "200"]) == 0
    _, header, *lines = capsys.readouterr().out.splitlines()
    rows = {
        line[:24].rstrip(): dict(zip(header.split(), map(float, line[24:].split()), strict=True))
        for line in lines
    }
    assert cli.main(["demo", "--clips", "3", "--json"]) == 0
    told = {row.pop("clips"): row for row in json.loads(capsys.readouterr().out)}
    assert [(name, [*row]) for name, row in told.items()] == [(n, [*r]) for n, r in rows.items()]
    same = rows["same distribution"]
    for noise in ("noise 0.1", "noise 0.3"):
        assert all(rows[noise][comparison] > 3 * same[comparison] for comparison in same)
    assert rows["noise 0.3"]["frame"] > rows["noise 0.1"]["frame"]
    for time in ("frozen from the start", "all shuffled in time", "twice as fast"):
        assert rows[time]["dynamics"] > 1.2 * same["dynamics"]
        assert rows[time]["frame"] < 1.5 * same["frame"]
    assert rows["blur 7"]["static_content"] > 1.05 * rows["blur 3"]["static_content"]


def test_demo_writes_videos_to_try(tmp_path, capsys):
    folder = str(tmp_path / "videos")
    assert cli.main(["demo", "-o", folder, "--clips", "100"]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    distances = {}
    for name in ("perfect", "still"):
        assert cli.main(["compute", f"{folder}/real", f"{folder}/{name}", *DYNAMICS]) == 0
        distances[name] = float(capsys.readouterr().out)
    assert distances["still"] > 1.5 * distances["perfect"]


def test_command_as_installed():
    command = [Path(sys.executable).with_name("srvp-fd-jax")]
    version = subprocess.run(
        [*command, "--version"], check=True, capture_output=True, text=True, timeout=100
    )
    assert version.stdout.strip() == srvp_fd_jax.__version__
    unknown = subprocess.run(
        [*command, "compute", "a", "b", "--dataset", "x"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert unknown.returncode == 2
    assert "mmnist_stochastic" in unknown.stderr


def test_a_ruler_is_kept_and_read_off(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    clips = moving_digits(rng, 60, 6)
    noisy = add_noise(clips[40:], rng, 0.1)
    for name, own in (("real", clips[:40]), ("fake", noisy)):
        (tmp_path / name).mkdir()
        for i, clip in enumerate(own):
            np.save(tmp_path / name / f"{i}.npy", clip)
    monkeypatch.setattr(ladder, "CORRUPTIONS", {"noise": CORRUPTIONS["noise"]})
    real, fake = (str(tmp_path / name) for name in ("real", "fake"))
    compute = ["compute", real, fake, *DYNAMICS]
    assert cli.main([*compute, "--json"]) == 0
    (before,) = json.loads(capsys.readouterr().out)["results"]
    assert "ruler" not in before

    assert cli.main(["ruler", real, *DYNAMICS]) == 0
    first, *rungs = capsys.readouterr().out.splitlines()
    assert first.startswith("srvp:digits:dynamics: 18 real clips against 18 others: ")
    assert [line.split("   ")[0].strip() for line in rungs] == [
        f"noise of σ = {sigma} of 255" for sigma in (5, 10, 20, 40)
    ]
    assert cli.main([*compute, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    (standing,) = result["ruler"]
    assert standing["place"] == "at"
    assert standing["strength"] == pytest.approx(25.5, abs=5)
    assert result["distance"] == before["distance"]
    assert cli.main(compute) == 0
    assert f"srvp-fd-jax: ruler: {standing['described']}" in capsys.readouterr().err
    assert cli.main(["report", real, fake, *DYNAMICS, "-o", str(tmp_path / "r.html")]) == 0
    assert standing["described"] in (tmp_path / "r.html").read_text()
    capsys.readouterr()

    # Fewer generated clips than the ruler takes, and other real videos.
    for i in range(5):
        (tmp_path / "fake" / f"{i}.npy").unlink()
    assert cli.main([*compute, "--json"]) == 0
    told = capsys.readouterr()
    assert "ruler of the real videos was not used: sample: got 15 clips, but the ruler" in told.err
    assert "ruler" not in json.loads(told.out)["results"][0]
    (tmp_path / "real" / "0.npy").unlink()
    assert cli.main([*compute, "--json"]) == 0
    assert "ruler" not in json.loads(capsys.readouterr().out)["results"][0]


def test_a_ruler_needs_twice_as_many_videos_as_clips(tmp_path, capsys):
    for i, clip in enumerate(moving_digits(np.random.default_rng(0), 40, 6)):
        np.save(tmp_path / f"{i}.npy", clip)
    assert cli.main(["ruler", str(tmp_path), *DYNAMICS, "--size", "21"]) == 1
    message = "clips: got 21, which takes 42 videos, but only 40 of 40 give a clip"
    assert message in capsys.readouterr().err
