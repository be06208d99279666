"""A run as a whole: the same bits after a kill, the same curve on many devices and processes."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import free_port

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.training.recipes import RECIPES, Recipe, change
from srvp_fd_jax.training.trainer import Moment, train

STEPS = 30


def tiny(**changes: Any) -> Recipe:
    """A recipe whose programs compile in seconds."""
    sizes = {"nf": 4, "nhx": 16, "ny": 4, "nz": 4, "nt_inf": 2, "nh_inf": 16, "nh_res": 16}
    run = {"frames": 6, "given": 3, "batch_size": 16, "samples": 3, "validate_every": 3}
    return change(RECIPES["digits"], **sizes, **run, **changes)


def digits(n: int = 40, frames: int = 8) -> np.ndarray:
    return moving_digits(np.random.default_rng(0), n, frames)


def curve(output: Path) -> list[dict[str, str]]:
    """The table of a run without the times."""
    with output.with_suffix(".run").joinpath("metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_close_curves(a: Path, b: Path) -> None:
    assert len(curve(a)) == len(curve(b)) >= STEPS // 3
    for row, other in zip(curve(a), curve(b), strict=True):
        for column in ("loss", "reconstruction", "psnr"):
            assert float(row[column]) == pytest.approx(float(other[column]), rel=1e-4)


def start(output: Path, kill_at: int = 0, devices: int = 1, **more: Any) -> subprocess.Popen[str]:
    """Runs `main` below in another process."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    arguments = {"output": str(output), "kill_at": kill_at, **more}
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(arguments)], env=environment, text=True
    )


def main(output: str, kill_at: int, resume: bool = False, cluster: Any = None) -> None:
    """Trains as the other process of a test."""
    if cluster:
        import jax

        jax.distributed.initialize(*cluster)

    def watch(moment: Moment) -> None:
        if moment.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(digits(), output, tiny(), steps=STEPS, resume=resume, on_progress=watch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an undisturbed run."""
    output = tmp_path_factory.mktemp("trained") / "model.safetensors"
    moments: list[Moment] = []
    made = train(digits(), output, tiny(), steps=STEPS, on_progress=moments.append)
    assert (made.output, made.step) == (output, STEPS)
    assert [moment.step for moment in moments] == list(range(1, STEPS + 1))
    assert moments[-1].share == 1
    return output


def test_a_run_goes_on_after_a_kill_with_the_same_bits(trained: Path, tmp_path: Path):
    output = tmp_path / "model.safetensors"
    assert start(output, kill_at=14).wait() == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "model.run/checkpoints").iterdir()] == ["12"]
    assert start(output, resume=True).wait() == 0
    assert output.read_bytes() == trained.read_bytes()
    assert curve(output) == curve(trained)


def test_eight_devices_follow_the_curve_of_one(trained: Path, tmp_path: Path):
    assert start(tmp_path / "model.safetensors", devices=8).wait() == 0
    assert_close_curves(tmp_path / "model.safetensors", trained)


def test_two_processes_follow_the_curve_of_one(trained: Path, tmp_path: Path):
    address = f"127.0.0.1:{free_port()}"
    both = [
        start(tmp_path / "model.safetensors", cluster=[address, 2, process], devices=2)
        for process in (0, 1)
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert_close_curves(tmp_path / "model.safetensors", trained)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
