"""The command `srvp-fd-jax train`."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from srvp_fd_jax import cli
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.networks import weights

SIZES = {"nc": 1, "nf": 4, "ny": 4, "nz": 4, "nt-inf": 2}
RUN = {"frames": 6, "given": 3, "batch-size": 16, "samples": 2}
TINY = [word for name, value in (SIZES | RUN).items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("videos")
    for i, clip in enumerate(moving_digits(np.random.default_rng(0), 24, 8)):
        np.save(folder / f"{i:02}.npy", clip)
    return str(folder)


@pytest.fixture(scope="module")
def trained(videos: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("trained") / "model.safetensors")
    assert cli.main(["train", videos, "-o", output, "--steps", "4", *TINY]) == 0
    return output


def test_options_change_the_recipe(trained: str):
    recipe = weights.load(trained).config["training"]["recipe"]
    changed = {"preset": "own", "frames": 6, "given": 3, "batch_size": 16, "samples": 2}
    assert recipe == recipe | changed
    architecture = {"nc": 1, "nf": 4, "ny": 4, "nz": 4, "nt_inf": 2, "nh_res": 512}
    assert recipe["architecture"] == recipe["architecture"] | architecture
    assert recipe["burn_in"] + recipe["decay"] == 4


def test_the_weights_score_videos(
    videos: str, trained: str, cache: Path, capsys: pytest.CaptureFixture[str]
):
    command = f"compute {videos} {videos} --dataset own --frames 6 --weights {trained}"
    assert cli.main(command.split()) == 0
    assert float(capsys.readouterr().out) >= 0
    assert list(cache.glob("statistics/*"))  # kept, as for the published models


def test_a_run_goes_on_with_its_own_recipe(
    videos: str, trained: str, capsys: pytest.CaptureFixture[str]
):
    command = ["train", videos, "-o", trained, "--resume"]
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["output"], told["step"]) == (trained, 4)
    assert told["psnr"] > 0
    assert told["clips"] == 1
    assert told["baselines"].keys() == {"a blank frame", "the last frame"}
    longer = [*command, "--steps", "6", "--learning-rate", "1e-4", "--json"]
    assert cli.main(longer) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "4"], "error: .*model.run: holds a run already: resume it"),
        (["--resume", "--nf", "8"], "error: recipe: the run to resume has nf 4 .not 8."),
        (["--resume", "--recipe", "digits"], "the run to resume has .*preset own .not digits."),
        (["--resume", "--frames", "3"], "error: --frames: got 3, expected at least 5"),
        (["--resume", "--batch-size", "0"], "error: --batch-size: got 0, expected at least 1"),
        (["--resume", "--given", "1"], "error: --given: .* expected at least the 2 of --nt-inf"),
        (["--resume", "--steps", "3"], "error: --steps: got 3, but the run .* has done [46] "),
    ],
)
def test_errors_are_told_in_one_line(
    videos: str,
    trained: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    assert cli.main(["train", videos, "-o", trained, *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_a_model_that_is_no_better_than_a_blank_frame_is_not_for_scoring(
    videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "model.safetensors"
    options = ["--steps", "1", *TINY, "--batch-size", "8", "--json"]
    assert cli.main(["train", videos, "-o", str(output), *options]) == 0
    first, *_, last = (captured := capsys.readouterr()).err.splitlines()
    made = json.loads(captured.out)
    assert first.endswith(
        "recipe own: batch 8, 4 filters, 1 validation clip: fitted to 24 videos, "
        f"{len(os.sched_getaffinity(0))} CPU cores, 1 steps"
    )
    training = weights.load(output).config["training"]
    assert training["fitted"] in first
    assert training["baselines"] == made["baselines"]
    assert made["psnr"] < made["baselines"]["a blank frame"]
    assert "warning: the model predicts no better than a blank frame" in last
    run = output.with_suffix(".run")
    command = ["compute", videos, videos, "--dataset", "own", "--weights", str(run)]
    assert cli.main(command) == 1
    assert f"whose weights are beside it in {output}" in capsys.readouterr().err
    shutil.rmtree(run)
    assert cli.main(["train", videos, "-o", str(output), *options]) == 1
    assert "exists already, without its run" in capsys.readouterr().err


def test_a_wrong_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "videos", "-o", "m.safetensors", "--archi", "resnet"])
    assert "invalid choice: 'resnet' (choose from" in capsys.readouterr().err
