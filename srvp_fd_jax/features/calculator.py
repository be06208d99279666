"""Computes features, statistics and distances of clips that are given as arrays."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped
from numpy.typing import ArrayLike

from srvp_fd_jax import overlap
from srvp_fd_jax.devices import (
    AnyArray,
    find_division,
    own,
    sharded_by_sample,
    values,
    varying,
)
from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.base import check_counts, check_ranges
from srvp_fd_jax.distances.provenance import check_comparable, mark
from srvp_fd_jax.distances.statistics import of_nothing
from srvp_fd_jax.features import extract
from srvp_fd_jax.features.encoders import features_of_arrays, moments_of_arrays
from srvp_fd_jax.features.extract import Batch, Extract, States
from srvp_fd_jax.files.checkpoint import check_arrays
from srvp_fd_jax.files.inputs import as_array, as_clips, as_count, as_mask, not_allowed, warn
from srvp_fd_jax.networks.base import FrozenNetwork, Output, parameter_shapes
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.networks.weights import load_network
from srvp_fd_jax.protocols import Protocol, find_protocol
from srvp_fd_jax.videos.resizing import check_size


@jax.tree_util.register_pytree_with_keys_class
class Calculator:
    """Computes distances between sets of clips with a network that is loaded once.

    A calculator is a pytree: its weights are arguments of a jitted function that it is passed to,
    and constants of one that closes over it. All methods work under `jit`, and distances and
    features are differentiable with respect to the clips. A calculator can be pickled, and it can
    be an attribute of an `nnx.Module`, whose `train()` and optimiser do not change it.

    Clips are arrays [N, T, H, W, C] or [N, T, C, H, W], grey (C = 1) or RGB (C = 3), uint8 (0 to
    255) or floats (0 to 1), from JAX, NumPy or anything that `np.asarray` takes. If all outputs
    have one feature vector per frame, frames [N, H, W, C] or [N, C, H, W] are accepted as well.
    `batch_size` is the number of clips encoded at a time, by default as many as keep the device
    busy; it changes results by rounding only. A mask, bool [N], is False for clips that do not
    count, such as the padding of a last batch; their values may be anything.

    Methods raise a `ValueError` that names the argument if one is not valid. The values of JAX
    arrays are not checked under `jit`; statistics carry their range, which `distance` checks.

    Attributes:
        network: Weights and architecture, see `networks.base.FrozenNetwork`; `network.module()` is
            the Flax module.
        protocols: One protocol per output, which says how the output is compared. All of them
            prepare clips in the same way. They have no names if the calculator was made from a
            network, because the caller then decides how clips are made.
        weights_sha256: Hash of the weights as they were loaded, see `networks.base.Weights`.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.demo.moving_digits import moving_digits
        >>> calculator = srvp_fd_jax.Calculator("digits")
        >>> clips = moving_digits(np.random.default_rng(0), n=6, length=8)
        >>> statistics = calculator.statistics([clips[:4], clips[4:]])
        >>> {output: (int(s.count), s.dim) for output, s in statistics.items()}
        {'frame': (48, 128), 'static_content': (6, 256), 'dynamics': (6, 20)}
        >>> calculator.only("static_content").features(clips)["static_content"].shape
        (6, 256)
    """

    network: FrozenNetwork
    protocols: tuple[Protocol, ...]
    weights_sha256: str

    def __init__(
        self,
        protocol: Protocol | FrozenNetwork | str = "fvd2048_16f",
        *,
        distance: str = "frechet",
        weights: str | os.PathLike[str] | None = None,
        precision: Precision | None = None,
    ):
        """Loads the network, or takes one in memory.

        Args:
            protocol: A protocol, a name that `find_protocol` takes, or a network to get all of its
                outputs: a name in `NETWORKS`, or a `networks.base.FrozenNetwork` in memory.
            distance: One of `DISTANCES`; used only with a network.
            weights: File of the weights; by default they are looked up, see `load_network`. A
                network in memory has its weights.
            precision: "float32", or "bfloat16" for faster convolutions, see `load_network`. By
                default "float32", or that of the network in memory. Statistics of different
                precisions cannot be compared.

        Raises:
            FileNotFoundError: If no weights are found and the Hugging Face Hub cannot be reached.
            ValueError: If an argument is unknown, or a file of weights is damaged.
        """
        if distance not in DISTANCES:
            raise not_allowed("distance", distance, DISTANCES)
        if isinstance(protocol, str) and protocol not in NETWORKS:
            try:
                protocol = find_protocol(protocol)
            except ValueError as error:
                raise ValueError(f"{error} (or a network: {', '.join(NETWORKS)})") from error
        if isinstance(protocol, FrozenNetwork):
            if weights is not None:
                raise ValueError("weights: the network in memory has its weights, got others")
            check_arrays(protocol.arrays, parameter_shapes(protocol.architecture))
            network = dataclasses.replace(protocol, precision=precision or protocol.precision)
        else:
            name = protocol if isinstance(protocol, str) else protocol.network
            if name not in NETWORKS:
                raise not_allowed("network", name, NETWORKS)
            network = load_network(name, weights, precision or "float32")
        self.network, self.weights_sha256 = network, network.weights_sha256
        name, outputs = network.name, network.architecture.outputs
        if isinstance(protocol, Protocol):
            self.protocols = (protocol,)
        else:
            self.protocols = tuple(
                Protocol(
                    name="", network=name, output=output, distance=distance, resize="none", ddof=1
                )
                for output in outputs
            )
        for given in self.protocols:
            if given.output not in outputs:
                raise not_allowed("output", given.output, outputs, of=f" of {name!r}")
        if network.architecture.caution:
            _warn_once(f"the model {name!r} {network.architecture.caution}")

    def __repr__(self) -> str:
        """The kind of calculator, its network and its outputs or protocols."""
        compared = ", ".join(protocol.name or protocol.output for protocol in self.protocols)
        return f"{type(self).__name__}({self.protocols[0].network}: {compared})"

    def only(self, *outputs: str) -> "Calculator":
        """Returns a calculator of the named outputs only."""
        protocols = {protocol.output: protocol for protocol in self.protocols}
        for output in outputs:
            if output not in protocols:
                raise not_allowed("output", output, protocols)
        return self.under([protocols[output] for output in outputs])

    def under(self, protocols: Iterable[Protocol]) -> "Calculator":
        """Returns a calculator of the same network under other protocols.

        All of the protocols must be for this network and prepare clips in the same way.
        """
        return self.tree_unflatten((tuple(protocols), self.weights_sha256), (self.network,))

    def features(
        self, clips: ArrayLike, batch_size: int | None = None
    ) -> dict[str, Float[Array, "n *t _"]]:
        """Computes the features of clips.

        Returns:
            float32 arrays under the names of the outputs, [N, T, d] for clips if the output has one
            vector per frame, else [N, d]. For an output that is a Gaussian they hold the raw
            parameters that the network computes.
        """
        return self._features(clips, "clips", batch_size)

    def statistics(
        self,
        batches: Iterable[ArrayLike | tuple[ArrayLike, ArrayLike]],
        batch_size: int | None = None,
    ) -> dict[str, Any]:
        """Computes the statistics of any number of clips in a fixed amount of memory.

        `batches` are arrays of clips or frames, or tuples of such an array and its mask. Their
        lengths may differ, but not their dtype, their frame size or the number of frames per clip.
        The network is compiled once, and the host reads the next batch while the device works. For
        a progress bar, call `statistics(tqdm(batches))`.

        Returns:
            States of the distances (`FeatureStatistics` for Fréchet distances) under the names of
            the outputs, marked with the network, the weights and the protocol.
        """
        first, given = extract.peek(extract.checked(batches, self._batch))
        empty = self.nothing(None if first is None else first.clips.shape[1])
        if first is None:
            return self._named(empty)
        size = self._batch_size(extract.used_frames(first.clips, self.outputs), batch_size)
        used = (
            batch._replace(clips=extract.used_frames(batch.clips, self.outputs)) for batch in given
        )
        of_arrays = Extract(moments_of_arrays, self.network, self.protocols)
        return self._named(extract.stream(empty, of_arrays, used, size))

    def update(
        self,
        statistics: Mapping[str, Any],
        clips: ArrayLike,
        batch_size: int | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> dict[str, Any]:
        """Adds clips to the result of `empty`, `statistics` or `update`.

        Returns:
            New statistics; the given ones are unchanged.
        """
        batch = self._batch(clips, mask, "clips", "mask")
        before = tuple(statistics[protocol.output] for protocol in self.protocols)
        return self._named(self._folded(before, batch._replace(clips=own(batch.clips)), batch_size))

    def empty(self) -> dict[str, Any]:
        """Returns statistics of no clips, for a loop that updates or merges them."""
        return self._named(jax.tree.map(varying, self.nothing()))

    def distance(self, real: Any, fake: Any) -> Float[Array, ""]:
        """Computes the distance between the statistics of two sets of clips for one output.

        Returns:
            Non-negative float32 scalar.

        Raises:
            ValueError: If the statistics are marked with another network, other weights or another
                protocol than the calculator's, or hold too few samples.
        """
        named = {"real": real, "fake": fake}
        marked = [dict(s.source)["output"] for s in named.values() if "output" in dict(s.source)]
        protocols = [p for p in self.protocols if not marked or p.output == marked[0]]
        expected = self.under(protocols or self.protocols).nothing()[0]
        for name, s in named.items():
            check_comparable(expected, s)
            # Statistics that lack marks get those of this calculator, among them the divisor.
            named[name] = mark(s, **dict(expected.source))
        compare = DISTANCES[protocols[0].distance]
        check_counts(compare, {k: s.count for k, s in named.items()}, real.dim)
        check_ranges(named)
        return compare.between(named)

    def distances(
        self,
        x: ArrayLike,
        y: ArrayLike,
        batch_size: int | None = None,
        *,
        x_mask: ArrayLike | None = None,
        y_mask: ArrayLike | None = None,
    ) -> dict[str, Float[Array, ""]]:
        """Computes the distances between two sets of clips, encoding each frame once.

        The sets may differ in the number of clips, but not in the number of frames per clip.

        Returns:
            Non-negative float32 scalars under the names of the outputs.
        """
        clips = {
            name: self._batch(given, mask, name)
            for name, given, mask in (("x", x, x_mask), ("y", y, y_mask))
        }
        lengths = [batch.clips.shape[1] for batch in clips.values()]
        numbers = {
            name: len(batch.clips) if batch.mask is None else batch.mask.sum()
            for name, batch in clips.items()
        }
        if lengths[0] != lengths[1]:
            one, other = (length + self.protocols[0].skip for length in lengths)
            raise ValueError(f"y: got clips with {other} frames, not {one} as in x")
        for protocol, output in zip(self.protocols, self.outputs, strict=True):
            samples = lengths[0] if output.per_frame else 1
            counts = {name: samples * n for name, n in numbers.items()}
            check_counts(DISTANCES[protocol.distance], counts, output.dim)
        asked = self.protocols[0].clips
        known = [int(n) for n in map(values, numbers.values()) if n is not None]
        if asked is not None and any(n != asked for n in known):
            got = " and ".join(map(str, known))
            warn(
                f"the protocol {self.protocols[0].name!r} takes {asked} clips per side, got {got}: "
                "do not compare the distance with published ones"
            )
        for protocol, output in zip(self.protocols, self.outputs, strict=True):
            if text := overlap.of_arrays(
                protocol.output, output, *(batch.clips for batch in clips.values())
            ):
                warn(text)
        of_x, of_y = (
            self._folded(self.nothing(lengths[0], len(batch.clips)), batch, batch_size)
            for batch in clips.values()
        )
        check_ranges({"x": of_x[0], "y": of_y[0]}, checked=True)
        return {
            protocol.output: DISTANCES[protocol.distance].between({"x": s1, "y": s2})
            for protocol, s1, s2 in zip(self.protocols, of_x, of_y, strict=True)
        }

    def check_length(self, frames: int, name: str, skipped: int = 0) -> None:
        """Raises a `ValueError` if the protocols or the network do not take clips of this length.

        The message calls the clips `name`, and says that `skipped` more frames were left out.
        """
        got = f"{name}: got clips with {frames + skipped} frames"
        if skipped:
            got += f", of which the first {skipped} are skipped"
        for protocol, output in zip(self.protocols, self.outputs, strict=True):
            if protocol.frames not in (None, frames):
                raise ValueError(
                    f"{got}, but the protocol {protocol.name!r} takes {protocol.frames}"
                )
            if frames < output.frames:
                raise ValueError(
                    f"{got}, but {protocol.output!r} of the network {protocol.network!r} needs at "
                    f"least {output.frames}"
                )

    @property
    def outputs(self) -> list[Output]:
        """The outputs of the network that the protocols compare, one per protocol."""
        return [self.network.architecture.outputs[p.output] for p in self.protocols]

    def nothing(self, frames: int | None = None, most: int | None = None) -> States:
        """Returns one empty state per protocol, marked with the number of frames per clip if given.

        `most` is the largest number of clips that will be added, if it is known too.
        Unlike those of `empty`, the states are not typed as varying inside `jax.shard_map`, so that
        with clips folded in they vary only over the axes over which the clips vary.
        """
        self.network.check(self.weights_sha256)
        made = []
        for protocol, output in zip(self.protocols, self.outputs, strict=True):
            size = DISTANCES[protocol.distance].size
            if size and most and frames:
                size = min(size, most * (frames if output.per_frame else 1))
            made.append(
                mark(
                    of_nothing(output.dim, output.gaussian is not None, size),
                    network=protocol.network,
                    output=protocol.output,
                    precision=self.network.precision,
                    weights_sha256=self.weights_sha256,
                    **(protocol.marks(frames) if protocol.name else {}),
                )
            )
        return tuple(made)

    def _named(self, of_protocols: Sequence[Any]) -> dict[str, Any]:
        return {p.output: one for p, one in zip(self.protocols, of_protocols, strict=True)}

    def _batch(
        self, clips: ArrayLike, mask: ArrayLike | None, name: str, mask_name: str = ""
    ) -> Batch:
        """Checks clips and their mask, the name of which follows from that of the clips."""
        if mask is None:
            return Batch(self._clips(clips, name))
        clips = as_array(clips, name)
        counting = as_mask(mask, mask_name or f"{name}_mask", len(clips) if clips.ndim else 0)
        known = values(counting)
        counting = counting if known is None else own(known)
        return Batch(self._clips(clips, name, counting), counting)

    def _clips(
        self, clips: ArrayLike, name: str, mask: Bool[AnyArray, " n"] | None = None
    ) -> Shaped[AnyArray, "n t h w c"]:
        """Checks clips, moves their channels last and drops the frames that the protocol skips."""
        self.network.check(self.weights_sha256)
        per_frame = all(output.per_frame for output in self.outputs)
        clips = sharded_by_sample(clips)
        checked = as_clips(clips, name, frames_allowed=per_frame, mask=mask)
        size, (_, frames, height, width, _) = self.network.architecture.size, checked.shape
        skip = self.protocols[0].skip
        try:
            check_size(height, width, self.protocols[0].resize, size)
        except ValueError as error:
            raise ValueError(f"{name}: got {error}") from error
        self.check_length(frames - skip, name, skip)
        return extract.frames_between(checked, skip, frames) if skip else checked

    def _batch_size(self, clips: Shaped[AnyArray, "n t ..."], batch_size: int | None) -> int:
        if batch_size is not None:
            return as_count(batch_size, "batch_size", least=1)
        return max(1, self.network.architecture.frames_at_once() // clips.shape[1])

    def _folded(self, states: States, batch: Batch, batch_size: int | None) -> States:
        used = extract.used_frames(batch.clips, self.outputs)
        size = self._batch_size(used, batch_size)
        of_arrays = Extract(moments_of_arrays, self.network, self.protocols)
        return extract.fold(states, of_arrays, batch._replace(clips=used), size)

    def _features(
        self, clips: ArrayLike, name: str, batch_size: int | None
    ) -> dict[str, Float[Array, "n *t _"]]:
        checked = self._clips(clips, name)
        used = extract.used_frames(checked, self.outputs)
        size, division = self._batch_size(used, batch_size), find_division(used)
        made = extract.encode(
            Extract(features_of_arrays, self.network, self.protocols), own(used), size, division
        )
        is_frames = as_array(clips, name).ndim == 4
        return {
            protocol.output: f if output.per_frame and not is_frames else f[:, 0]
            for protocol, output, f in zip(self.protocols, self.outputs, made, strict=True)
        }

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Flattens the calculator; all but the network is static."""
        key = jax.tree_util.GetAttrKey("network")
        return ((key, self.network),), (self.protocols, self.weights_sha256)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> "Calculator":
        """Makes a calculator from the result of `tree_flatten_with_keys`."""
        calculator = object.__new__(cls)
        (calculator.network,), (calculator.protocols, calculator.weights_sha256) = children, static
        return calculator


nnx.register_data_type(Calculator)  # allowed as an attribute of a module

_warn_once = functools.cache(warn)
