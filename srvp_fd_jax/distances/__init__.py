"""The distances, one file per distance, and their registry."""

import os
from pathlib import Path
from typing import Any

from srvp_fd_jax.distances import cd_fvd, states
from srvp_fd_jax.distances.frechet import Frechet
from srvp_fd_jax.distances.jedi import Jedi
from srvp_fd_jax.distances.kvd import kvd
from srvp_fd_jax.distances.mind import mind
from srvp_fd_jax.distances.points import PointDistance
from srvp_fd_jax.distances.prdc import NEIGHBOURS, PRDC
from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.distances.states import Distance

DISTANCES: dict[str, Distance] = {
    "frechet": Frechet(),
    "frechet_eigh": Frechet("eigh"),
    "jedi": Jedi(),
    "jedi_unbiased": Jedi(unbiased=True),
    "kvd": PointDistance(kvd, least=2, kind="estimate"),
    "mind": PointDistance(mind, least=2),
    **{
        name: PointDistance(of_prdc, least=NEIGHBOURS + 1, kind="similarity")
        for name, of_prdc in PRDC.items()
    },
}
"""Distances by name. To use a distance of your own, add an entry."""


def check_type(distance: str, argument: str, state: object) -> None:
    """Raises a `ValueError` unless a state is one that the distance of this name compares.

    The message blames the `argument`, and says how to make such a state.
    """
    types = {name: type(of.empty(1, False)) for name, of in DISTANCES.items()}
    got, expected = type(state), types[distance]
    if got is not expected:
        others = " or ".join(name for name, of in types.items() if of is got) or "nothing"
        sample = ", or with --sample under any" if expected is FeatureSample else ""
        raise ValueError(
            f"{argument}: got {got.__name__}, which serves the distance {others}, but not "
            f"{distance!r}. That compares {expected.__name__}: a calculator with that distance "
            f"makes them, and so does `srvp-fd-jax stats` under a protocol with "
            f"+distance={distance} in its name{sample}"
        )


def load_statistics(path: str | os.PathLike[str]) -> Any:
    """Reads the statistics of any distance from a file that `srvp-fd-jax stats` or cd-fvd wrote.

    Args:
        path: Path of the file. One of cd-fvd, which it names ".pkl", is read without unpickling it.

    Returns:
        The statistics, such as `FeatureStatistics`, with the `source` that was saved. A file of
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
    return states.load(Path(path), [distance.empty for distance in DISTANCES.values()])
