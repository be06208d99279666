"""Checks every shape and type annotation of the package while the tests run."""

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
from processes import UNFUSED, WITHOUT_AVX512

if TYPE_CHECKING:
    from srvp_fd_jax import FrechetDistanceCalculator
    from srvp_fd_jax.networks.base import Weights

# Of two test processes on two cores, the threads of NumPy and PyTorch would mostly wait for each
# other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Compilation was most of the tests' time: LLVM's optimisation is left out, and so are emitters that
# rely on it, which takes a sixth. JAX_DISABLE_MOST_OPTIMIZATIONS=0 compiles as for users.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    flags = os.environ.get("XLA_FLAGS", "").replace(UNFUSED, "")
    os.environ["XLA_FLAGS"] = f"{flags} {UNFUSED}".strip()

# One compilation cache, of this run alone, for the test processes and those that tests start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    cache = tempfile.mkdtemp(prefix="jax-cache-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Lets the second test process compute as a processor without AVX-512 does.

    Plugins load NumPy before this file, so that it would be too late in the process itself.
    """
    for spec in specs[1:2]:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {WITHOUT_AVX512['XLA_FLAGS']}"
        spec.env |= WITHOUT_AVX512 | {"XLA_FLAGS": flags}


jaxtyping.install_import_hook("srvp_fd_jax", "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Drops compiled programs before they take gigabytes, or all the memory maps of a process.

    A step of training has a thousand maps, and beyond the 65,530 of Linux the process crashes.
    """
    yield
    import jax

    maps, pages = Path("/proc/self/maps"), Path("/proc/self/statm")
    if maps.exists() and (
        maps.read_bytes().count(b"\n") > 40_000
        or int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 1 << 30
    ):
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(AttributeError):  # without glibc
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def optimised() -> Iterator[None]:
    """Programs as LLVM optimises them, for tests that compute for longer than they compile."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """The package as users run it, for the errors that they see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(params=["transfer_guard", "numpy_rank_promotion", "numpy_dtype_promotion"])
def strict_setting(request: pytest.FixtureRequest) -> AbstractContextManager[object]:
    """One of the settings of JAX under which it forgives less."""
    import jax

    level = {"transfer_guard": "disallow", "numpy_rank_promotion": "raise"}
    return getattr(jax, request.param)(level.get(request.param, "strict"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted weights are kept: an empty folder, not the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "srvp-fd-jax"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a small SRVP model."""
    from checkpoints import SMALL, write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small", SMALL)


@pytest.fixture(scope="session")
def converted(small: Path) -> "Weights":
    """The same as it is converted."""
    from srvp_fd_jax.networks.srvp.checkpoint import read_checkpoint

    return read_checkpoint(small)


@pytest.fixture(scope="session")
def i3d_weights(tmp_path_factory: pytest.TempPathFactory) -> "Weights":
    """The real weights of I3D, converted into a cache of their own."""
    from srvp_fd_jax.networks.weights import load_weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return load_weights("i3d")


@pytest.fixture(scope="session")
def digits() -> "FrechetDistanceCalculator":
    """The calculator of the bundled model."""
    from srvp_fd_jax import FrechetDistanceCalculator

    return FrechetDistanceCalculator("digits")
