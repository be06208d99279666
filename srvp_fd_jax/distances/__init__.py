"""The distances, one file per distance, and their registry."""

import os
from pathlib import Path
from typing import Any

from srvp_fd_jax.distances import states
from srvp_fd_jax.distances.frechet import Frechet
from srvp_fd_jax.distances.states import Distance

DISTANCES: dict[str, Distance] = {"frechet": Frechet(), "frechet_eigh": Frechet("eigh")}
"""Distances by name. To use a distance of your own, add an entry."""


def load_statistics(path: str | os.PathLike[str]) -> Any:
    """Reads the statistics of any distance from a file that `srvp-fd-jax stats` wrote.

    Args:
        path: Path of the file.

    Returns:
        The statistics, such as `FeatureStatistics`, with the `source` that was saved.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If the file is damaged, or has another format or format version.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> statistics = srvp_fd_jax.FeatureStatistics.from_features(np.eye(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     statistics.save(f"{folder}/real.safetensors")
        ...     real = srvp_fd_jax.load_statistics(f"{folder}/real.safetensors")
        >>> int(real.count), real.dim
        (3, 3)
    """
    empties = {type(d.empty(1, False)).__name__: d.empty for d in DISTANCES.values()}
    return states.load(Path(path), empties)
