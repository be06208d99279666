"""Checks every shape and type annotation of the package while the tests run."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import jaxtyping
import pytest

if TYPE_CHECKING:
    from srvp_fd_jax import FrechetDistanceCalculator
    from srvp_fd_jax.weights import Weights

# Most of the time would go to LLVM, on functions that run once; the optimisations of XLA itself,
# which decide what is computed in what order, stay as they are. The caller's flags come last and
# win: XLA_FLAGS=--xla_backend_optimization_level=3 tests what users run.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 {os.environ.get('XLA_FLAGS', '')}"
# Of two test processes on two cores, the threads of NumPy and PyTorch would mostly wait for each
# other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# One compilation cache, of this run alone, for the test processes and those that tests start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    cache = tempfile.mkdtemp(prefix="jax-cache-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

jaxtyping.install_import_hook(["srvp_fd_jax", "convert"], "beartype.beartype")


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


@pytest.fixture(scope="session")
def i3d_weights(tmp_path_factory: pytest.TempPathFactory) -> "Weights":
    """The real weights of I3D, converted into a cache of their own."""
    from srvp_fd_jax.weights import load_weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return load_weights("i3d")


@pytest.fixture(scope="session")
def digits() -> "FrechetDistanceCalculator":
    """The calculator of the bundled model."""
    from srvp_fd_jax import FrechetDistanceCalculator

    return FrechetDistanceCalculator("digits")
