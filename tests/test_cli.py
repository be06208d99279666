import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import srvp_fd_jax
from srvp_fd_jax import cli
from srvp_fd_jax.videos.moving_digits import moving_digits


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    np.save(folder / "a.npy", moving_digits(rng, 60, 5))
    np.savez_compressed(folder / "b.npz", moving_digits(rng, 50, 5))
    return folder / "a.npy", folder / "b.npz"


def test_compute_prints_the_functions_number(files, capsys):
    a, b = np.load(files[0]), np.load(files[1])["arr_0"]
    expected = float(srvp_fd_jax.frechet_distance(a, b, "digits", "dynamics"))
    command = ["compute", *map(str, files), "--dataset", "digits", "--comparison-type", "dynamics"]

    assert cli.main(command) == 0
    assert float(capsys.readouterr().out) == pytest.approx(expected, rel=1e-5)

    assert cli.main([*command, "--json", "--batch-size", "16"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.pop("distance") == pytest.approx(expected, rel=1e-5)
    assert result == {
        "dataset": "digits",
        "comparison_type": "dynamics",
        "method": "procrustes",
        "samples": [60, 50],
        "version": srvp_fd_jax.__version__,
    }


def test_compute_under_a_protocol(i3d_weights, tmp_path, capsys):
    i3d_weights.save(tmp_path / "i3d.safetensors")
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 9, 40, 50, 1), np.uint8)
    for name, array in zip(("a.npy", "b.npy"), clips, strict=True):
        np.save(tmp_path / name, array)
    files = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    weights = ["--weights", str(tmp_path / "i3d.safetensors")]
    command = ["compute", *files, "--protocol", "tensorflow", "--json", *weights]
    assert cli.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    fvd = srvp_fd_jax.FrechetVideoDistanceCalculator("tensorflow", weights=weights[1])
    with pytest.warns(UserWarning, match="400 feature dimensions"):
        expected = float(fvd(*clips))
    assert result["distance"] == pytest.approx(expected, rel=1e-5)
    assert (result["protocol"], result["samples"]) == ("tensorflow", [2, 2])

    assert cli.main([*command, "--dataset", "kth"]) == 1
    assert "--protocol is for FVD" in capsys.readouterr().err


def test_warnings_are_one_line(files, capsys):
    command = ["compute", *map(str, files), "--dataset", "digits"]
    assert cli.main([*command, "--comparison-type", "static_content"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:3] for line in lines] == [
        ["srvp-fd-jax", " warning", " x"],
        ["srvp-fd-jax", " warning", " y"],
    ]


def test_errors_are_one_line(files, tmp_path, capsys):
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npy").touch()
    cases = {
        "missing.npy": "No such file",
        "clip.mp4": "expected a .npy or .npz file",
        "two.npz": "holds arrays ['a', 'b'], expected one",
        "objects.npy": "not a readable array file",
        "text.npy": "not a readable array file",
        "text.npz": "not a readable array file",
        "empty.npy": "not a readable array file",
    }
    for name, message in cases.items():
        assert (
            cli.main(["compute", str(files[0]), str(tmp_path / name), "--dataset", "digits"]) == 1
        )
        error = capsys.readouterr().err
        assert error.startswith("srvp-fd-jax: error: "), name
        assert message in error
        assert name in error
        assert error.count("\n") == 1

    assert cli.main(["compute", str(files[0]), str(files[1]), "--dataset", "digits"]) == 1
    assert "x: got shape (60, 5, 64, 64, 1), expected [N, 64, 64, 1]" in capsys.readouterr().err


def test_demo_shows_what_each_comparison_reacts_to(capsys):
    assert cli.main(["demo", "--clips", "300", "--json"]) == 0
    output = capsys.readouterr()
    rows = {row.pop("clips"): row for row in json.loads(output.out)}
    same = rows["same distribution"]
    for noise in ("noise 0.1", "noise 0.3"):
        assert all(rows[noise][comparison] > 3 * same[comparison] for comparison in same)
    assert rows["noise 0.3"]["frame"] > rows["noise 0.1"]["frame"]
    for time in ("frozen from the start", "all shuffled in time"):
        assert rows[time]["dynamics"] > 1.2 * same["dynamics"]
        assert rows[time]["frame"] < 1.5 * same["frame"]
    assert rows["blur 7"]["static_content"] > 1.2 * rows["blur 3"]["static_content"]


def test_command_as_installed():
    command = [Path(sys.executable).with_name("srvp-fd-jax")]
    version = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True)
    assert version.stdout.strip() == srvp_fd_jax.__version__
    unknown = subprocess.run(
        [*command, "compute", "a", "b", "--dataset", "x"], capture_output=True, text=True
    )
    assert unknown.returncode == 2
    assert "mmnist_stochastic" in unknown.stderr
