"""The distances, one file per distance, and their registry."""

import os
from pathlib import Path

from srvp_fd_jax.distances import cd_fvd
from srvp_fd_jax.distances.base import Distance
from srvp_fd_jax.distances.frechet import Frechet
from srvp_fd_jax.distances.jedi import Jedi, UnbiasedJedi
from srvp_fd_jax.distances.kvd import kvd
from srvp_fd_jax.distances.mind import mind
from srvp_fd_jax.distances.points import PointDistance
from srvp_fd_jax.distances.prdc import NEIGHBOURS, PRDC
from srvp_fd_jax.distances.statistics import FeatureStatistics

DISTANCES: dict[str, Distance] = {
    "frechet": Frechet(),
    "frechet_eigh": Frechet("eigh"),
    "jedi": Jedi(),
    "jedi_unbiased": UnbiasedJedi(),
    "kvd": PointDistance(kvd, least=2, kind="estimate"),
    "mind": PointDistance(mind, least=2),
    **{
        name: PointDistance(of_prdc, least=NEIGHBOURS + 1, kind="similarity")
        for name, of_prdc in PRDC.items()
    },
}
"""Distances by name. To use a distance of your own, add an entry."""


def load_statistics(path: str | os.PathLike[str]) -> FeatureStatistics:
    """Reads statistics from a file that `srvp-fd-jax statistics` or cd-fvd wrote.

    Args:
        path: Path of the file. One of cd-fvd, which it names ".pkl", is read without unpickling it.

    Returns:
        The statistics with the `source` that was saved. A file of
        cd-fvd does not name its protocol and weights, so statistics of any can be compared with it.

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
    if Path(path).suffix == cd_fvd.SUFFIX:
        return cd_fvd.load(path)
    return FeatureStatistics.load(path)
