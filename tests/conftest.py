"""Checks every shape and type annotation of the package while the tests run."""

from collections.abc import Iterator

import jaxtyping
import pytest

jaxtyping.install_import_hook(["srvp_fd_jax", "convert"], "beartype.beartype")


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """The package as users run it, for the errors that they see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
