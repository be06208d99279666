"""The command `srvp-fd-jax statistics`."""

import json
import sys

import numpy as np
from PIL import Image
from processes import free_port, together

from srvp_fd_jax.demo.moving_digits import moving_digits

DYNAMICS = ["--dataset", "digits", "--comparison-type", "dynamics"]


def test_one_file_for_each_protocol(run, sets, tmp_path):
    path = tmp_path / "fake.safetensors"
    (summary,) = run("statistics", sets[1], "-o", path, *DYNAMICS, "--json").json["statistics"]
    assert (summary["output"], summary["used"]) == (str(path), 50)
    assert [path.name for path in tmp_path.iterdir()] == ["fake.safetensors"]
    command = ["statistics", sets[0], "--protocol", "srvp:digits:frame,srvp:digits:dynamics"]
    for name in ("all.safetensors", "{protocol}.npz"):
        error = run(*command, "-o", tmp_path / name, status=1).err
        assert "error: --output: got " in error
    printed = run(*command, "-o", tmp_path / "a-{protocol}.safetensors")
    names = ["a-srvp_digits_frame.safetensors", "a-srvp_digits_dynamics.safetensors"]
    assert printed.out.splitlines() == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).exists() for name in names)


def test_images_beside_sequences_are_named(run, tmp_path):
    for i, clip in enumerate(moving_digits(np.random.default_rng(0), 3, 5)):
        (tmp_path / f"v{i}").mkdir()
        for t, frame in enumerate(clip):
            Image.fromarray(frame[..., 0]).save(tmp_path / f"v{i}" / f"{t}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "v1" / "preview.png")
    error = run("statistics", tmp_path, "-o", tmp_path / "s.safetensors", *DYNAMICS).err
    assert "warning: real: ignored 1 images" in error
    assert f"{tmp_path}/v1/preview.png\n" in error
    assert "3 videos, 3 used" in error


def test_processes_that_share_the_cache_write_the_bytes_of_one(run, tmp_path):
    """Short and broken videos lie between the first 70 that are long enough."""
    for i, clip in enumerate(moving_digits(np.random.default_rng(0), 100, 8)):
        np.save(tmp_path / f"{i}.npy", clip[: 5 if i % 8 == 1 else 8])
    for i in (2, 7, 30):
        (tmp_path / f"{i}.npy").write_bytes(b"")
    command = ["statistics", tmp_path, "--json", "-o"]
    options = ["--protocol", "srvp:digits:dynamics+clips=70+frames=6+start=random"]
    alone, together_ = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
    (expected,) = run(*command, alone, *options).json["statistics"]
    cluster = {
        "XDG_CACHE_HOME": str(tmp_path / "shared"),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    ranks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": "0"} for i in range(2)]
    program = [sys.executable, "-m", "srvp_fd_jax", *command, together_, *options, "--distributed"]
    outputs = together([list(map(str, program))] * 2, [cluster | rank for rank in ranks])
    (found,) = json.loads(outputs[0].splitlines()[-1])["statistics"]
    assert outputs[1] == ""  # the first process alone prints
    different = {"output", "cached"}
    assert {k: v for k, v in found.items() if k not in different} == {
        k: v for k, v in expected.items() if k not in different
    }
    assert found["used"] == 70
    assert together_.read_bytes() == alone.read_bytes()
