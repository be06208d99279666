"""Fréchet distances between real and generated video on SRVP and I3D features, in JAX."""

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srvp_fd_jax.calculator import FrechetDistanceCalculator, frechet_distance
    from srvp_fd_jax.frechet import frechet_distance_from_moments
    from srvp_fd_jax.fvd import FrechetVideoDistanceCalculator, frechet_video_distance
    from srvp_fd_jax.statistics import FeatureStatistics, frechet_distance_from_statistics
    from srvp_fd_jax.videos.protocols import PROTOCOLS, Protocol, Sampling, find_protocol
    from srvp_fd_jax.weights import DATASETS, load_network

__version__ = "0.1.0"

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "FeatureStatistics",
    "FrechetDistanceCalculator",
    "FrechetVideoDistanceCalculator",
    "Protocol",
    "Sampling",
    "find_protocol",
    "frechet_distance",
    "frechet_distance_from_moments",
    "frechet_distance_from_statistics",
    "frechet_video_distance",
    "load_network",
]

# Imported where they are asked for: the command begins before JAX is there, and can be interrupted.
_HOMES = {
    "calculator": ("FrechetDistanceCalculator", "frechet_distance"),
    "frechet": ("frechet_distance_from_moments",),
    "fvd": ("FrechetVideoDistanceCalculator", "frechet_video_distance"),
    "statistics": ("FeatureStatistics", "frechet_distance_from_statistics"),
    "videos.protocols": ("PROTOCOLS", "Protocol", "Sampling", "find_protocol"),
    "weights": ("DATASETS", "load_network"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """What is exported, or a module of the package."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        return globals().setdefault(name, value)
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
