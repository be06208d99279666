"""Fréchet distances between real and generated videos on SRVP and I3D features, in JAX."""

from srvp_fd_jax._version import __version__ as __version__
from srvp_fd_jax.compat import FrechetDistanceCalculator as FrechetDistanceCalculator
from srvp_fd_jax.compat import frechet_distance as frechet_distance
from srvp_fd_jax.compat import frechet_video_distance as frechet_video_distance
from srvp_fd_jax.distances import DISTANCES as DISTANCES
from srvp_fd_jax.distances import load_statistics as load_statistics
from srvp_fd_jax.distances.frechet import (
    frechet_distance_from_moments as frechet_distance_from_moments,
)
from srvp_fd_jax.distances.frechet import (
    frechet_distance_from_statistics as frechet_distance_from_statistics,
)
from srvp_fd_jax.distances.statistics import FeatureStatistics as FeatureStatistics
from srvp_fd_jax.evaluate import compare as compare
from srvp_fd_jax.evaluate import compute as compute
from srvp_fd_jax.evaluate import report as report
from srvp_fd_jax.evaluate import severity as severity
from srvp_fd_jax.evaluate import statistics as statistics
from srvp_fd_jax.features.calculator import Calculator as Calculator
from srvp_fd_jax.features.metric import DistanceMetric as DistanceMetric
from srvp_fd_jax.networks.registry import NETWORKS as NETWORKS
from srvp_fd_jax.networks.srvp import DATASETS as DATASETS
from srvp_fd_jax.networks.weights import load_network as load_network
from srvp_fd_jax.protocols import PROTOCOLS as PROTOCOLS
from srvp_fd_jax.protocols import Protocol as Protocol
from srvp_fd_jax.protocols import Sampling as Sampling
from srvp_fd_jax.protocols import find_protocol as find_protocol
from srvp_fd_jax.result import Result as Result
