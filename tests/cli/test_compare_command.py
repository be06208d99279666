"""The command `srvp-fd-jax compare`."""

import dataclasses

import numpy as np
import pytest

import srvp_fd_jax

REAL = "warning: the real set is statistics of videos sampled as generated ones"
GENERATED = "warning: the generated set is statistics of videos sampled as real ones"


@pytest.mark.parametrize(
    ("given", "warnings"),
    [([0, 1], []), ([0, 0], [GENERATED]), ([1, 1], [REAL]), ([1, 0], [REAL, GENERATED])],
)
def test_statistics_know_their_set(run, statistics, expected, given, warnings):
    paths = [statistics[i] for i in given]
    printed = run("compare", *paths, "--json")
    assert [text for text in (REAL, GENERATED) if text in printed.err] == warnings
    (result,) = printed.json["results"]
    for name, side, i in zip(("real", "generated"), ("real", "fake"), given, strict=True):
        assert f"srvp-fd-jax: {name}: {statistics[i]}: {(60, 50)[i]} of " in printed.err
        assert result[side]["side"] == ("real", "fake")[i]
    assert "side" not in result["source"]
    if given == [0, 1]:
        assert result["distance"] == pytest.approx(expected, rel=1e-5)


def test_the_set_of_statistics_beside_videos(run, sets, statistics):
    assert REAL in run("compute", statistics[1], sets[1]).err


def test_the_distance_can_be_chosen(run, statistics, clips):
    printed = run("compare", *statistics, "--distance", "frechet_eigh", "--json")
    (result,) = printed.json["results"]
    expected = srvp_fd_jax.frechet_distance(*clips, "digits", "dynamics", method="eigh")
    assert result["distance"] == pytest.approx(float(expected), rel=1e-4)
    assert result["protocol"] == result["source"]["protocol"] == "srvp:digits:dynamics"


def test_either_set_has_the_divisor(run, tmp_path):
    features = np.random.default_rng(0).normal(size=(2, 20, 3)).astype(np.float32)
    real, fake = map(srvp_fd_jax.FeatureStatistics.from_features, features)
    paths = [tmp_path / "real.safetensors", tmp_path / "fake.safetensors"]
    real.save(paths[0])
    dataclasses.replace(fake, source=(("ddof", "0"),)).save(paths[1])
    expected = float(srvp_fd_jax.frechet_distance_from_statistics(real, fake, ddof=0))
    for given in (paths, paths[::-1]):
        assert float(run("compare", *given).out) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("samples", [(3, 20), (20, 3)])
def test_as_many_samples_as_the_divisor_takes_off(run, samples, tmp_path):
    paths = [tmp_path / "real.safetensors", tmp_path / "fake.safetensors"]
    for path, n in zip(paths, samples, strict=True):
        features = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
        statistics = srvp_fd_jax.FeatureStatistics.from_features(features)
        dataclasses.replace(statistics, source=(("ddof", "3"),)).save(path)
    printed = run("compare", *paths, "--json", status=1)
    assert printed.out == ""
    path = paths[samples.index(3)]
    assert f"error: {path}: got 3 samples for a divisor of n - 3" in printed.err
