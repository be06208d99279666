"""The command `srvp-fd-jax statistics`."""

import numpy as np
from PIL import Image

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
