"""The command `srvp-fd-jax train`."""

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


def test_the_weights_score_videos(run, videos: str, trained: str, cache: Path):
    options = ["--dataset", "own", "--frames", "6", "--weights", trained]
    assert float(run("compute", videos, videos, *options).out) >= 0
    assert list(cache.glob("statistics/*"))  # as for the published models


def test_a_run_is_continued_with_its_recipe(run, videos: str, trained: str):
    command = ["train", videos, "-o", trained, "--resume", "--json"]
    made = run(*command).json
    assert (made["output"], made["step"], made["clips"]) == (trained, 4, 1)
    assert made["psnr"] > 0
    assert made["baselines"].keys() == {"a blank frame", "the last frame"}
    assert run(*command, "--steps", "6", "--learning-rate", "1e-4").json["step"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "4"], "error: .*model.run: holds a run already: resume it"),
        (["--resume", "--nf", "8"], "error: recipe: the run to resume has nf 4 .not 8."),
        (["--resume", "--recipe", "digits"], "the run to resume has .*preset own .not digits."),
        (["--resume", "--frames", "3"], "error: --frames: got 3, expected at least 5"),
        (["--resume", "--batch-size", "0"], "error: --batch-size: got 0, expected at least 1"),
        (["--resume", "--given", "1"], "error: --given: got 1"),
        (["--resume", "--steps", "3"], "error: --steps: got 3, but the run .* has done [46] "),
    ],
)
def test_errors_are_one_line(run, videos: str, trained: str, options: list[str], message: str):
    (line,) = run("train", videos, "-o", trained, *options, status=1).err.splitlines()
    assert re.search(message, line)


def test_a_model_that_is_no_better_than_a_blank_frame_is_not_for_scoring(
    run, videos: str, tmp_path: Path
):
    output = tmp_path / "model.safetensors"
    command = ["train", videos, "-o", output, "--steps", "1", *TINY, "--batch-size", "8", "--json"]
    printed = run(*command)
    first, *_, last = printed.err.splitlines()
    made = printed.json
    assert first.endswith(
        "recipe own: batch 8, 4 filters, 1 validation clip: fitted to 24 videos, "
        f"{len(os.sched_getaffinity(0))} CPU cores, 1 steps"
    )
    training = weights.load(output).config["training"]
    assert training["fitted"] in first
    assert training["baselines"] == made["baselines"]
    assert made["psnr"] < made["baselines"]["a blank frame"]
    assert "warning: the model predicts no better than a blank frame" in last
    folder = output.with_suffix(".run")
    options = ["--dataset", "own", "--weights", folder]
    error = run("compute", videos, videos, *options, status=1).err
    assert f"whose weights are beside it in {output}" in error
    shutil.rmtree(folder)
    assert "exists already, without its run" in run(*command, status=1).err


def test_a_wrong_option_is_wrong_usage(misused):
    error = misused("train", "videos", "-o", "m.safetensors", "--archi", "resnet")
    assert "invalid choice: 'resnet' (choose from" in error
