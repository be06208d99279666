"""Two sets of clips, their statistics and their distance, and a runner of the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import srvp_fd_jax
from srvp_fd_jax import cli
from srvp_fd_jax.demo.moving_digits import moving_digits

DYNAMICS = ["--dataset", "digits", "--comparison-type", "dynamics"]


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    """Runs a command, of which `status` is expected."""

    def run(*words: object, status: int = 0) -> Printed:
        capsys.readouterr()
        assert cli.main([str(word) for word in words]) == status
        return Printed(*capsys.readouterr())

    return run


@pytest.fixture
def misused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command of wrong usage, and returns its last line."""

    def misused(*words: object) -> str:
        with pytest.raises(SystemExit, match="2"):
            cli.main([str(word) for word in words])
        return capsys.readouterr().err.splitlines()[-1]

    return misused


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "srvp-fd-jax"


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files of 60 real and 50 generated clips."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    np.save(folder / "a.npy", moving_digits(rng, 60, 5))
    np.savez_compressed(folder / "b.npz", moving_digits(rng, 50, 5))
    return str(folder / "a.npy"), str(folder / "b.npz")


@pytest.fixture(scope="session")
def clips(sets: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The same as arrays."""
    return np.load(sets[0]), np.load(sets[1])["arr_0"]


@pytest.fixture(scope="session")
def statistics(sets: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Their statistics."""
    folder = tmp_path_factory.mktemp("statistics")
    paths = str(folder / "real.safetensors"), str(folder / "generated.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert cli.main(["statistics", sets[0], "-o", paths[0], *DYNAMICS]) == 0
        assert cli.main(["statistics", sets[1], "--generated", "-o", paths[1], *DYNAMICS]) == 0
    return paths


@pytest.fixture(scope="session")
def expected(clips: tuple[np.ndarray, np.ndarray]) -> float:
    """Their distance."""
    return float(srvp_fd_jax.frechet_distance(*clips, "digits", "dynamics"))
