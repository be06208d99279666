"""A run as a whole: the same bits after a kill, the same curve on many devices and processes."""

import csv
import dataclasses
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

from srvp_fd_jax import compute
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.networks import weights
from srvp_fd_jax.training import clock as clocks
from srvp_fd_jax.training.checkpoints import load_model
from srvp_fd_jax.training.recipes import RECIPES, Recipe, change
from srvp_fd_jax.training.trainer import Moment, train

STEPS = 30


def tiny(**changes: Any) -> Recipe:
    """A recipe whose programs compile in seconds."""
    sizes = {"nf": 4, "nhx": 16, "ny": 4, "nz": 4, "nt_inf": 2, "nh_inf": 16, "nh_res": 16}
    run = {"frames": 6, "given": 3, "batch_size": 16, "samples": 3, "validate_every": 3}
    return change(RECIPES["digits"], **(sizes | run | changes))


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
            assert float(row[column] or 0) == pytest.approx(float(other[column] or 0), rel=1e-4)


def start(output: Path, kill_at: int = 0, devices: int = 1, **more: Any) -> subprocess.Popen[str]:
    """Runs `main` below in another process."""
    folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    if devices > 1:
        flags = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        )
        environment["XLA_FLAGS"] = flags
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
    assert start(output, kill_at=14).wait(timeout=200) == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "model.run/checkpoints").iterdir()] == ["12"]
    assert start(output, resume=True).wait(timeout=200) == 0
    assert output.read_bytes() == trained.read_bytes()
    assert curve(output) == curve(trained)


def test_the_weights_of_a_run_score_videos(trained: Path):
    rng = np.random.default_rng(1)
    real, fake = (moving_digits(rng, 40, 6) for _ in range(2))
    protocols = [f"srvp:own:{output}+frames=6" for output in ("frame", "dynamics")]
    results = compute(real, fake[:, :, ::-1], protocols, weights=trained)
    assert all(result.distance > 0 for result in results)


def test_a_run_writes_what_it_has_done(trained: Path):
    run = trained.with_suffix(".run")
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "metrics.csv",
        "samples",
        "tensorboard",
        "videos.json",
    }
    names = json.loads((run / "videos.json").read_text())
    assert [len(names[kind]) for kind in ("training", "held_out", "too_short")] == [38, 2, 0]
    checked = [row for row in curve(trained) if row["psnr"]]
    assert [int(row["step"]) for row in checked] == list(range(3, STEPS + 1, 3))
    assert len(list((run / "samples").iterdir())) == len(checked)
    best = max(checked, key=lambda row: float(row["psnr"]))
    about = weights.load(trained).config["training"]
    assert (about["step"], about["psnr"]) == (int(best["step"]), float(best["psnr"]))
    model, architecture = load_model(run), about["recipe"]["architecture"]
    assert dataclasses.asdict(model.architecture) == architecture
    kernel = weights.load(trained).arrays["encoder.conv.0.conv.kernel"]
    np.testing.assert_array_equal(model.encoder.conv[0].conv.kernel[...], kernel)


def test_an_interrupted_run_saves_a_checkpoint(tmp_path: Path):
    def interrupt(moment: Moment) -> None:
        if moment.step == 2:
            raise KeyboardInterrupt

    output = tmp_path / "model.safetensors"
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(UserWarning, match=r"model.run: saved at step 2, resume the run"),
    ):
        train(digits(), output, tiny(), steps=STEPS, on_progress=interrupt)
    assert [path.name for path in (tmp_path / "model.run/checkpoints").iterdir()] == ["2"]


def test_a_run_ends_when_its_time_is_over(tmp_path: Path):
    moments: list[Moment] = []
    output = tmp_path / "model.safetensors"
    recipe = tiny(validate_every=1000)
    train(digits(), output, recipe, minutes=0.03, on_progress=moments.append)
    assert moments[-1].share == 1
    assert moments[-1].step < recipe.steps
    shares = [moment.share for moment in moments]
    assert shares == sorted(shares)
    checked = [float(row["step"]) for row in curve(output) if row["psnr"]]
    assert 1 <= len(checked) <= 11


@pytest.mark.parametrize("budget", [{"steps": 1}, {"minutes": 1e-6}])
def test_the_shortest_run_has_a_step_and_weights(tmp_path: Path, budget: dict[str, Any]):
    made = train(digits(), tmp_path / "model.safetensors", tiny(), **budget)
    assert made.step == 1
    assert weights.load(made.output).config["training"]["psnr"] == made.psnr > 0


def simulated(monkeypatch: pytest.MonkeyPatch, minutes: float, step: float) -> list[float]:
    """When a run with steps of equal time validates, and what it says of its time at each step."""
    now, validations, noted = 0.0, [], []
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now)
    clock, done = clocks.Clock(10**6, minutes, 0.0), 0
    share, _ = clock.look(done)
    while share < 1:
        share, is_due = clock.look(done + 1)
        begun, done = now, done + 1
        now += step + 10 * (done == 1)  # compiles
        clock.stepped(done, begun)
        if is_due or share == 1:
            begun = now
            now += 2 + 8 * (not validations)
            clock.validated(begun)
            validations.append(now)
        noted.append((now, clock.left(done)))
    assert noted[0][1] is None
    assert all(left == pytest.approx(60 * minutes - at, abs=2) for at, left in noted[1:-1])
    return validations


@pytest.mark.parametrize(
    ("minutes", "step", "limit", "first"),
    [(0.5, 0.1, 1, 0.9), (3.0, 0.2, 5, 0.5), (60, 1.0, 10, 0)],
)
def test_validations_take_a_tenth_of_the_time_and_end_with_it(
    monkeypatch: pytest.MonkeyPatch, minutes: float, step: float, limit: int, first: float
):
    validations = simulated(monkeypatch, float(minutes), step)
    assert 1 <= len(validations) <= limit
    assert validations[0] >= first * 60 * minutes
    assert 57 * minutes <= validations[-1] <= 60 * minutes + 1
    early = 2 * len(validations[:-1]) + 8 * (len(validations) > 1)
    assert early <= 6 * minutes


def test_a_run_that_diverges_ends(tmp_path: Path):
    recipe = tiny(learning_rate=1e30, validate_every=1)
    with pytest.raises(ValueError, match="the predictions are not finite after step 1: resume"):
        train(digits(), tmp_path / "model.safetensors", recipe, steps=STEPS)
    with pytest.raises(ValueError, match="the loss is nan at step 3: resume"):
        train(digits(), tmp_path / "other.safetensors", tiny(learning_rate=1e30), steps=STEPS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"output": "model.npz"}, ValueError, "output: got .*model.npz, expected a name that ends"),
        ({"steps": 0}, ValueError, "steps: got 0, expected a positive number"),
        ({"minutes": float("nan")}, ValueError, "minutes: got nan, expected a positive number"),
        ({"resume": True}, FileNotFoundError, "other.run: no such run, or it has no"),
        ({"videos": "nowhere"}, FileNotFoundError, "nowhere: no such file or folder"),
        ({"recipe": tiny(batch_size=64)}, ValueError, "got 38 to train on"),
        ({"recipe": tiny(frames=9)}, ValueError, r"0 to train on .*too short 40"),
        ({"output": "/proc/model.safetensors"}, OSError, "/proc"),
    ],
)
@pytest.mark.filterwarnings("ignore:left out 40 of 40 videos")
def test_what_cannot_be_trained_is_refused_at_once(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
):
    usual = {"videos": digits(), "output": "other.safetensors", "recipe": tiny()} | arguments
    usual["output"] = tmp_path / usual["output"]
    with pytest.raises(error, match=message):
        train(**usual)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"resume": False}, FileExistsError, "model.run: holds a run already: resume it"),
        ({"steps": STEPS - 1}, ValueError, "steps: got 29, but the run to resume has done 30"),
        ({"minutes": 1e-9}, ValueError, "minutes: got 1e-09, but the run to resume has taken"),
        ({"recipe": tiny(seed=3)}, ValueError, "recipe: the run to resume has seed 0 .not 3."),
        (
            {"recipe": tiny(nf=8)},
            ValueError,
            "the run to resume has nf 4 .not 8.; only the schedule may change",
        ),
        (
            {"videos": 41},
            ValueError,
            r"videos: are not those of the run to resume, which .*videos.json names",
        ),
    ],
)
def test_a_run_does_not_go_on_as_another_one(
    trained: Path, arguments: dict[str, Any], error: type[Exception], message: str
):
    before = trained.read_bytes()
    usual = {"videos": 40, "output": trained, "resume": True} | arguments
    usual["videos"] = digits(usual["videos"])
    with pytest.raises(error, match=message):
        train(**usual)
    assert trained.read_bytes() == before


def test_a_run_that_is_over_has_nothing_to_do(trained: Path):
    made = train(digits(), trained, resume=True)
    assert made.step == STEPS
    best = max(float(row["psnr"]) for row in curve(trained) if row["psnr"])
    assert made.psnr == pytest.approx(best)


def test_eight_devices_of_two_processes_follow_the_curve_of_one(trained: Path, tmp_path: Path):
    address = f"127.0.0.1:{free_port()}"
    both = [
        start(tmp_path / "model.safetensors", cluster=[address, 2, process], devices=4)
        for process in (0, 1)
    ]
    assert [process.wait(timeout=250) for process in both] == [0, 0]
    assert_close_curves(tmp_path / "model.safetensors", trained)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
