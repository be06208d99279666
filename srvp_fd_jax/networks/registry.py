"""The registry of the networks with published weights."""

from srvp_fd_jax.networks import i3d, srvp
from srvp_fd_jax.networks.base import Network

NETWORKS: dict[str, Network] = {**srvp.NETWORKS, **i3d.NETWORKS}
"""Networks by name. To use a network of your own, add an entry."""
