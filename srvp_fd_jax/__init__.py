"""Fréchet distances between real and generated video on SRVP and I3D features, in JAX."""

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
