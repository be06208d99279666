"""The command `srvp-fd-jax severity`."""

import numpy as np
import pytest

from srvp_fd_jax.demo.corruptions import add_noise
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.significance import severity as ladder
from srvp_fd_jax.significance.corruptions import CORRUPTIONS

DYNAMICS = ["--dataset", "digits", "--comparison-type", "dynamics"]


def test_a_scale_is_cached_for_later_distances(run, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    clips = moving_digits(rng, 60, 6)
    noisy = add_noise(clips[40:], rng, 0.1)
    for name, of_set in (("real", clips[:40]), ("fake", noisy)):
        (tmp_path / name).mkdir()
        for i, clip in enumerate(of_set):
            np.save(tmp_path / name / f"{i}.npy", clip)
    monkeypatch.setattr(ladder, "CORRUPTIONS", {"noise": CORRUPTIONS["noise"]})
    paths = tmp_path / "real", tmp_path / "fake"
    compute = ["compute", *paths, *DYNAMICS]
    (before,) = run(*compute, "--json").json["results"]
    assert "severity" not in before

    first, *levels = run("severity", paths[0], *DYNAMICS).out.splitlines()
    assert first.startswith("srvp:digits:dynamics: 18 real clips against as many others: ")
    assert [line.split("   ")[0].strip() for line in levels] == [
        f"noise of σ = {sigma} of 255" for sigma in (5, 10, 20, 40)
    ]
    (result,) = run(*compute, "--json").json["results"]
    (standing,) = result["severity"]
    assert standing["place"] == "at"
    assert standing["strength"] == pytest.approx(25.5, abs=5)
    assert result["distance"] == before["distance"]
    assert f"srvp-fd-jax: severity: {standing['described']}" in run(*compute).err
    run("report", *paths, *DYNAMICS, "-o", tmp_path / "r.html")
    assert standing["described"] in (tmp_path / "r.html").read_text()

    # Fewer generated clips than those of the scale, and other real videos.
    for i in range(5):
        (paths[1] / f"{i}.npy").unlink()
    printed = run(*compute, "--json")
    assert "was not used: sample: got 15 clips" in printed.err
    assert "severity" not in printed.json["results"][0]
    (paths[0] / "0.npy").unlink()
    assert "severity" not in run(*compute, "--json").json["results"][0]


def test_a_scale_needs_twice_as_many_videos_as_clips(run, tmp_path):
    for i, clip in enumerate(moving_digits(np.random.default_rng(0), 40, 6)):
        np.save(tmp_path / f"{i}.npy", clip)
    error = run("severity", tmp_path, *DYNAMICS, "--size", "21", status=1).err
    assert "clips: got 21, which takes 42 videos, but only 40 of 40 give a clip" in error
