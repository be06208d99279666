"""Fréchet distances between real and generated videos on SRVP and I3D features, in JAX."""

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srvp_fd_jax.calculator import (
        Calculator,
        FrechetDistanceCalculator,
        frechet_distance,
        frechet_video_distance,
    )
    from srvp_fd_jax.distances import DISTANCES, load_statistics
    from srvp_fd_jax.distances.frechet import (
        frechet_distance_from_moments,
        frechet_distance_from_statistics,
    )
    from srvp_fd_jax.distances.sample import FeatureSample, load_sample
    from srvp_fd_jax.distances.statistics import FeatureStatistics
    from srvp_fd_jax.evaluation import Result, compute
    from srvp_fd_jax.metric import DistanceMetric
    from srvp_fd_jax.networks.registry import NETWORKS
    from srvp_fd_jax.networks.srvp import DATASETS
    from srvp_fd_jax.networks.weights import load_network
    from srvp_fd_jax.protocols import PROTOCOLS, Protocol, Sampling, find_protocol

from srvp_fd_jax._version import __version__ as __version__

# Imported at first use, so that the command can handle Ctrl-C before JAX is imported.
_HOMES = {
    "calculator": (
        "Calculator",
        "FrechetDistanceCalculator",
        "frechet_distance",
        "frechet_video_distance",
    ),
    "distances": ("DISTANCES", "load_statistics"),
    "distances.frechet": ("frechet_distance_from_moments", "frechet_distance_from_statistics"),
    "distances.sample": ("FeatureSample", "load_sample"),
    "distances.statistics": ("FeatureStatistics",),
    "evaluation": ("Result", "compute"),
    "metric": ("DistanceMetric",),
    "networks.registry": ("NETWORKS",),
    "networks.srvp": ("DATASETS",),
    "protocols": ("PROTOCOLS", "Protocol", "Sampling", "find_protocol"),
    "networks.weights": ("load_network",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DATASETS",
    "DISTANCES",
    "NETWORKS",
    "PROTOCOLS",
    "Calculator",
    "DistanceMetric",
    "FeatureSample",
    "FeatureStatistics",
    "FrechetDistanceCalculator",
    "Protocol",
    "Result",
    "Sampling",
    "compute",
    "find_protocol",
    "frechet_distance",
    "frechet_distance_from_moments",
    "frechet_distance_from_statistics",
    "frechet_video_distance",
    "load_network",
    "load_sample",
    "load_statistics",
]


def __getattr__(name: str) -> Any:
    """Imports an exported name, or a module of the package, at its first use."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        return globals().setdefault(name, value)
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
