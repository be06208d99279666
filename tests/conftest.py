"""Checks every shape and type annotation of the package while the tests run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import jaxtyping
import pytest

if TYPE_CHECKING:
    from srvp_fd_jax import FrechetDistanceCalculator
    from srvp_fd_jax.weights import Weights

jaxtyping.install_import_hook(["srvp_fd_jax", "convert"], "beartype.beartype")


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """The package as users run it, for the errors that they see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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
