"""What a pass makes of clips: a network, and the protocols that give it the same ones."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from srvp_fd_jax.calculator import (
    FrechetDistanceCalculator,
    clip_moments,
    frames_at_once,
    used_frames,
)
from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.encoding import Moments, blocks
from srvp_fd_jax.fvd import FrechetVideoDistanceCalculator, clip_logits, clips_at_once
from srvp_fd_jax.inputs import to_unit_range
from srvp_fd_jax.networks.i3d import MIN_FRAMES
from srvp_fd_jax.networks.srvp import ComparisonType
from srvp_fd_jax.statistics import FeatureStatistics, mark
from srvp_fd_jax.videos.protocols import Protocol
from srvp_fd_jax.videos.resizing import Resize, resize
from srvp_fd_jax.videos.rounds import VIDEOS_A_ROUND, Clips
from srvp_fd_jax.weights import FrozenNetwork


@dataclasses.dataclass(frozen=True)
class Metric:
    """A network, and protocols that give it the same clips: they differ in the comparison only.

    Attributes:
        protocols: At least one.
        network: With its weights.
        empty: Statistics of no samples, a protocol each.
    """

    protocols: tuple[Protocol, ...]
    network: FrozenNetwork
    empty: tuple[FeatureStatistics, ...]

    def of(self, protocols: Iterable[Protocol]) -> "Metric":
        """The same of some of its protocols only."""
        chosen = {p: e for p, e in zip(self.protocols, self.empty, strict=True) if p in protocols}
        return Metric(tuple(chosen), self.network, tuple(chosen.values()))

    def prepare(
        self, clips: Shaped[AnyArray, "n t h w c"]
    ) -> Float[Array, "n t size size channels"]:
        """Clips as the network sees them."""
        protocol = self.protocols[0]
        channels = 3 if self.network.config is None else self.network.config.nc
        return _prepare(clips, protocol.resize, protocol.size, channels)

    def encode(self, clips: Clips) -> tuple[Moments, ...]:
        """Moments of the clips of at most one round, a protocol each.

        They end with padding, up to the number of a full round.
        """
        used: list[Shaped[AnyArray, "1 t h w c"]] = [clip[None] for clip in clips]
        if self.network.config is None:
            at_once = clips_at_once()
        else:
            types, nt_inf = _comparison_types(self.protocols), self.network.config.nt_inf
            used = [used_frames(clip, types, nt_inf) for clip in used]
            fitting = max(1, frames_at_once() // used[0].shape[1])
            at_once = math.gcd(VIDEOS_A_ROUND, 1 << (fitting.bit_length() - 1))
        batches = blocks(map(self.prepare, used), at_once, 1)
        encoded = [_encode(self.network, self.protocols, batch) for batch, _ in batches]

        def padded(*f: Float[Array, "n k d"]) -> Float[Array, "videos k d"]:
            together = jnp.concatenate(f)
            return jnp.pad(together, ((0, VIDEOS_A_ROUND - len(together)), (0, 0), (0, 0)))

        return jax.tree.map(padded, *encoded)

    def check_length(self, frames: int | None) -> None:
        """Raises a `ValueError` if clips of so many frames are too short for the network.

        Args:
            frames: Of a clip, None where that is not known yet.
        """
        least = MIN_FRAMES
        if self.network.config is not None:
            only_frames = _comparison_types(self.protocols) == ("frame",)
            least = 1 if only_frames else self.network.config.nt_inf
        if frames is not None and frames < least:
            protocol = self.protocols[0]
            raise ValueError(
                f"protocol {protocol.name!r}: got clips of {frames} frames, the network "
                f"{protocol.network!r} needs at least {least}"
            )


def load_metrics(
    protocols: Iterable[Protocol], weights: str | os.PathLike[str] | None = None
) -> list[Metric]:
    """Loads the networks of protocols, one for those that take the same clips.

    Args:
        protocols: In any order.
        weights: Of their network, if it is the same of all; by default looked up.

    Returns:
        A metric for each network and way to make clips, each with its protocols.

    Raises:
        FileNotFoundError: If weights are nowhere.
        ValueError: If clips of a protocol are too short for its network, or `weights` are given
            for several networks.
    """
    groups: dict[Protocol, list[Protocol]] = {}
    for protocol in protocols:
        any_comparison = protocol.comparison_type and "frame"
        same = dataclasses.replace(protocol, name="", comparison_type=any_comparison, ddof=0)
        groups.setdefault(same, []).append(protocol)
    networks = sorted({protocol.network for protocol in groups})
    if weights is not None and len(networks) > 1:
        raise ValueError(f"weights: got one file for the networks {', '.join(networks)}")
    metrics = [_load_metric(tuple(group), weights) for group in groups.values()]
    for metric in metrics:
        metric.check_length(metric.protocols[0].frames)
    return metrics


def _load_metric(protocols: tuple[Protocol, ...], weights: str | os.PathLike[str] | None) -> Metric:
    calculator: FrechetVideoDistanceCalculator | FrechetDistanceCalculator
    if protocols[0].network == "i3d":
        calculator = FrechetVideoDistanceCalculator(protocols[0], weights=weights)
        empty = tuple(mark(calculator.empty(), **protocol.marks()) for protocol in protocols)
    else:
        calculator = FrechetDistanceCalculator(protocols[0].network, weights=weights)
        empty = tuple(
            mark(calculator.empty(comparison_type), **protocol.marks())
            for comparison_type, protocol in zip(
                _comparison_types(protocols), protocols, strict=True
            )
        )
    return Metric(protocols, calculator.network, empty)


@jax.jit
def _encode(
    network: FrozenNetwork, protocols: tuple[Protocol, ...], clips: Shaped[Array, "n t h w c"]
) -> tuple[Moments, ...]:
    if network.config is None:
        return (clip_logits(network, clips),) * len(protocols)
    return clip_moments(_comparison_types(protocols), network, clips)


@functools.partial(jax.jit, static_argnames=("rule", "size", "channels"))
def _prepare(
    clips: Shaped[Array, "n t h w c"], rule: Resize, size: int, channels: int
) -> Float[Array, "n t size size channels"]:
    resized = resize(to_unit_range(clips), rule, size)
    if channels == 1 and resized.shape[-1] == 3:
        # Luma of ITU-R BT.601, in bytes: grey stored as RGB comes out as it was.
        luma = jnp.tensordot(resized, jnp.array([0.299, 0.587, 0.114]), 1, precision="highest")
        return jnp.round(luma[..., None] * 255) / 255
    return jnp.broadcast_to(resized, (*resized.shape[:-1], channels))


def _comparison_types(protocols: Iterable[Protocol]) -> tuple[ComparisonType, ...]:
    return tuple(p.comparison_type for p in protocols if p.comparison_type)
