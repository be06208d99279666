"""Messages, errors, progress and exit statuses, which all commands share."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import srvp_fd_jax
from srvp_fd_jax import cli

DYNAMICS = ["--dataset", "digits", "--comparison-type", "dynamics"]


def test_the_installed_command():
    command = [Path(sys.executable).with_name("srvp-fd-jax")]
    version = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True)
    assert version.stdout.strip() == srvp_fd_jax.__version__
    words = [*command, "compute", "a", "b", "--dataset", "x"]
    unknown = subprocess.run(words, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "mmnist_stochastic" in unknown.stderr


def test_warnings_have_a_line_each(run, sets):
    words = ["--dataset", "digits", "--comparison-type", "static_content"]
    lines = run("compute", *sets, *words).err.splitlines()
    warnings = [line for line in lines if line.startswith("srvp-fd-jax: warning: ")]
    assert ["samples" in line for line in warnings] == [True, True]


def test_errors_are_one_line(run, sets, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.zip").write_text("of another kind")
    np.save(tmp_path / "large.npy", np.full((3, 5, 64, 64, 1), 255.0, np.float32))
    np.save(tmp_path / "size.npy", np.zeros((3, 5, 60, 64, 1), np.uint8))
    for name, message in {
        "missing.npy": "no such file or folder",
        "missing.safetensors": "No such file",
        "text.zip": "not a readable archive",
        "folder": "holds no videos",
        "large.npy": "values from 255 to 255",
        "size.npy": "frames of 60×64, expected 64×64",
    }.items():
        error = run("compute", sets[0], tmp_path / name, *DYNAMICS, status=1).err.splitlines()[-1]
        assert error.startswith("srvp-fd-jax: error: ")
        assert message in error
        assert name in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "0"], "--clips: got 0"),
        (["--protocol", "fvd2048"], "--protocol: got 'fvd2048'"),
        (["--protocol=fvd2048"], "--protocol: got 'fvd2048'"),
        (["--protocol", "cd_fvd+clips=0"], "clips: got '0'"),
        ([*DYNAMICS, "--protocol", "cd_fvd"], "--protocol: not allowed with --dataset"),
    ],
)
def test_errors_call_options_by_their_names(run, sets, options, message):
    assert f"error: {message}" in run("compute", *sets, *options, status=1).err


@pytest.mark.parametrize("value", ["-1", "x", "9" * 5000])
def test_a_wrong_number_is_wrong_usage(misused, value):
    error = misused("demo", "--clips", value)
    assert "--clips: got '" in error
    assert "expected a whole number of at least 2" in error
    assert len(error) < 2100


def test_a_near_choice_is_suggested(misused):
    assert "did you mean 'digits'?" in misused("compute", "a", "b", "--dataset", "digit")


@pytest.mark.parametrize(
    "words",
    [
        ["compute", "", "b"],
        ["compare", "a", " "],
        ["report", "a", "b", "-o", ""],
        ["statistics", "", "-o", "a.safetensors"],
        ["compute", "a", "b", "--weights", ""],
    ],
)
def test_empty_names_are_wrong_usage(misused, words):
    assert "got an empty name" in misused(*words)


def test_bugs_have_a_traceback(run, sets, monkeypatch):
    def fail(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr("srvp_fd_jax.evaluate.statistics_of_videos", fail)
    with pytest.raises(TypeError, match="a bug"):
        run("compute", *sets, *DYNAMICS)


def test_an_interruption_has_its_status(run, sets, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("srvp_fd_jax.evaluate.statistics_of_videos", interrupt)
    assert run("compute", *sets, *DYNAMICS, status=130).err == "srvp-fd-jax: interrupted\n"


@pytest.mark.parametrize("home", ["none", "a file"])
def test_without_a_cache(run, sets, expected, home, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    printed = run("compute", *sets, *DYNAMICS)
    assert float(printed.out) == pytest.approx(expected, rel=1e-5)
    assert printed.err.count("warning: no cache (XDG_CACHE_HOME): ") == 1


def test_without_the_extra_arrays_are_read(run, sets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    run("compute", *sets, *DYNAMICS)
    (tmp_path / "a.mp4").touch()
    error = run("compute", tmp_path, tmp_path, *DYNAMICS, status=1).err
    assert 'pip install ".[video]"' in error


def test_progress_is_a_line_every_30_seconds(run, sets, monkeypatch):
    now = iter(range(0, 10_000, 12))  # of each look at the clock
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr("srvp_fd_jax.cli._progress.time", clock)
    error = run("compute", *sets, *DYNAMICS, "--no-cache").err
    found = re.findall(r"^srvp-fd-jax: (\w+), \d+ s: (.*)$", error, re.MULTILINE)
    assert found == [("real", "48 of 60 videos"), ("generated", "48 of 50 videos")]


def test_progress_is_a_bar_on_a_terminal(run, sets, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    error = run("compute", *sets, *DYNAMICS, "--no-cache").err
    for name, total in (("real", 60), ("generated", 50)):
        assert re.search(rf"\r{name}: 100%.*{total} of {total} videos.*\n", error)
    messages = [line for line in re.split("[\r\n]", error) if "srvp-fd-jax: " in line]
    assert len(messages) == 3
    assert all(line.startswith("srvp-fd-jax: ") for line in messages)


def test_help_is_that_of_the_fields(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--nt-inf NT_INF number of frames from which w and the initial state are" in text
    assert "--skipco, --no-skipco whether the model was trained" in text
    assert "--learning-rate LEARNING_RATE learning rate of Adam" in text
