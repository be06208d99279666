"""What a network computes of clips: moments of each protocol's output, or features."""

from collections.abc import Mapping

from jaxtyping import Array, Float, Shaped

from srvp_fd_jax.features.extract import Encoded
from srvp_fd_jax.networks.base import FrozenNetwork, Moments
from srvp_fd_jax.protocols import Protocol
from srvp_fd_jax.videos.resizing import prepare


def moments(
    network: FrozenNetwork,
    protocols: tuple[Protocol, ...],
    clips: Float[Array, "n t size size channels"],
) -> tuple[Encoded, ...]:
    """Encodes clips, each frame once, and returns the moments of each protocol's output.

    `clips` are prepared by `resizing.prepare`. Frames that no output looks at may be missing
    between the first and the last ones.
    """
    features = network.features(clips, _outputs(protocols))
    return tuple(map(Encoded, _moments(network, protocols, features)))


def moments_along(
    network: FrozenNetwork,
    protocols: tuple[Protocol, ...],
    clips: Float[Array, "n t size size channels"],
) -> tuple[Encoded, ...]:
    """Encodes whole clips as `moments` does, and at all time steps, see `Output.places`."""
    known = network.architecture.outputs
    along = _moments(network, protocols, network.windows(clips, _outputs(protocols)))
    return tuple(
        Encoded(known[p.output].of_clip(m), m) for p, m in zip(protocols, along, strict=True)
    )


def _outputs(protocols: tuple[Protocol, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(protocol.output for protocol in protocols))


def _moments(
    network: FrozenNetwork, protocols: tuple[Protocol, ...], features: Mapping[str, Array]
) -> tuple[Moments, ...]:
    known = network.architecture.outputs
    return tuple(known[p.output].moments(features[p.output]) for p in protocols)


def _prepared(
    network: FrozenNetwork, protocols: tuple[Protocol, ...], clips: Shaped[Array, "n t h w c"]
) -> Float[Array, "n t size size channels"]:
    architecture = network.architecture
    return prepare(clips, protocols[0].resize, architecture.size, architecture.channels)


def moments_of_arrays(
    network: FrozenNetwork, protocols: tuple[Protocol, ...], clips: Shaped[Array, "n t h w c"]
) -> tuple[Encoded, ...]:
    """Encodes clips as they are given, see `moments`."""
    return moments(network, protocols, _prepared(network, protocols, clips))


def features_of_arrays(
    network: FrozenNetwork, protocols: tuple[Protocol, ...], clips: Shaped[Array, "n t h w c"]
) -> tuple[Float[Array, "n k _"], ...]:
    """Computes the features of clips as they are given, as the network has them."""
    outputs = tuple(protocol.output for protocol in protocols)
    features = network.features(_prepared(network, protocols, clips), outputs)
    return tuple(features[output] for output in outputs)
