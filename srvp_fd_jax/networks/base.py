"""The interface of feature networks and of their weights.

A network is one file in this folder: an `Architecture`, which declares and computes its outputs,
and one `Network` for each set of published weights, which finds and reads them. Code outside of
this folder uses networks only through the classes in this module.
"""

import abc
import dataclasses
import functools
import json
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from srvp_fd_jax.devices import values
from srvp_fd_jax.files.atomic import arrays_sha256
from srvp_fd_jax.files.checkpoint import check_arrays
from srvp_fd_jax.files.inputs import not_allowed
from srvp_fd_jax.networks.kernels.convolution import Precision

CONFIG_LIMIT = 1 << 20
"""Largest size of a configuration in bytes; the published ones take 1 KB."""

Moments = dict[str, Float[Array, "n _ _"]]
"""Feature vectors under "features", k per sample; for mixtures also their "variances"."""


@dataclasses.dataclass(frozen=True)
class Output:
    """One kind of features that a network computes.

    Attributes:
        dim: Feature dimension d.
        frames: Smallest number of frames in a clip.
        looks_at: Frames of the clip that the features depend on: "all" frames, or the "first" or
            "last" `frames` frames.
        per_frame: Whether there is one feature vector per frame instead of one per clip.
        gaussian: Function from raw features [..., m] to the means and variances [..., d] of
            diagonal Gaussians, each of which is one component of a Gaussian mixture. None if the
            features are points.
    """

    dim: int
    frames: int = 1
    looks_at: Literal["all", "first", "last"] = "all"
    per_frame: bool = False
    gaussian: Callable[[Array], tuple[Array, Array]] | None = None

    def places(self, length: int) -> int:
        """Number of places along clips of this length that have features, see `windows`."""
        if self.per_frame:
            return length
        return 1 if self.looks_at == "all" else length - self.frames + 1

    def of_clip(self, moments: Moments) -> Moments:
        """Selects the moments of the clip itself among those of all places, see `windows`."""
        place = {"first": slice(None, 1), "last": slice(-1, None), "all": slice(None)}
        return {name: f[:, place[self.looks_at]] for name, f in moments.items()}

    def moments(self, features: Float[Array, "n k _"]) -> Moments:
        """Converts features from `Architecture.features` to `Moments`."""
        if self.gaussian is None:
            return {"features": features}
        mean, variance = self.gaussian(features)
        return {"features": mean, "variances": variance}


class Architecture(abc.ABC):
    """The architecture of a network. Instances are hashable and are compared by value.

    Attributes:
        family: Name of the architecture in files of converted weights.
        size: Height and width in pixels of the frames that the network takes.
        value_range: Pixel values that stand for black and white in the network's input.
        frames_a_call: Approximate numbers of frames that are encoded at once on a CPU, whose caches
            hold the activations of few frames, and on other devices, which need many to be busy.
    """

    family: ClassVar[str]
    size: ClassVar[int]
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    frames_a_call: ClassVar[tuple[int, int]] = (16, 256)

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """Makes the architecture from the configuration that is stored with weights.

        Raises:
            ValueError: If a field is missing or its value is not allowed.
        """

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Number of channels of the frames that the network takes, 1 or 3."""

    @property
    @abc.abstractmethod
    def outputs(self) -> Mapping[str, Output]:
        """The kinds of features that the network computes, under their names."""

    @property
    def caution(self) -> str | None:
        """Predicate of a warning about the network's features ("was trained …"), or None."""
        return None

    @abc.abstractmethod
    def module(self, precision: Precision, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the Flax module with random weights."""

    @abc.abstractmethod
    def features(
        self, module: Any, clips: Float[Array, "n t size size channels"], outputs: tuple[str, ...]
    ) -> Mapping[str, Float[Array, "n k _"]]:
        """Computes features of clips.

        Args:
            module: Flax module made by `module`, with weights.
            clips: Clips with values in `value_range`. Middle frames that none of the `outputs`
                depends on may be missing, see `Output.looks_at`.
            outputs: Names of the outputs to compute.

        Returns:
            Features under the names of the outputs, k vectors per clip, where k is t if the output
            has one vector per frame, else 1.
        """

    def windows(
        self, module: Any, clips: Float[Array, "n t size size channels"], outputs: tuple[str, ...]
    ) -> Mapping[str, Float[Array, "n k _"]]:
        """Computes features at all places along clips, for the same arguments as `features`.

        Of an output that looks at the first or the last frames only, these are the features of all
        windows of that many consecutive frames, one vector per window. Of other outputs they are
        the result of `features`. Subclasses may override this to encode each frame once.
        """
        known = self.outputs
        whole = tuple(output for output in outputs if known[output].looks_at == "all")
        found = dict(self.features(module, clips, whole)) if whole else {}
        for output in set(outputs) - set(whole):
            frames, places = known[output].frames, known[output].places(clips.shape[1])

            def at_place(
                start: Int[Array, ""], output: str = output, frames: int = frames
            ) -> Float[Array, "n _"]:
                window = jax.lax.dynamic_slice_in_dim(clips, start, frames, axis=1)
                return self.features(module, window, (output,))[output][:, 0]

            at_places = jax.lax.map(at_place, jnp.arange(places))
            found[output] = jnp.swapaxes(at_places, 0, 1)
        return found

    def frames_at_once(self) -> int:
        """Number of frames that are encoded at once on JAX's default backend."""
        cpu, other = self.frames_a_call
        return cpu if jax.default_backend() == "cpu" else other


@functools.cache
def parameter_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the parameters of an architecture under their dotted paths."""
    _, state = _abstract(architecture, "float32")
    return {dotted(path): variable.shape for path, variable in nnx.to_flat_state(state)}


@functools.cache
def _abstract(architecture: Architecture, precision: Precision) -> tuple[nnx.GraphDef[Any], Any]:
    make = functools.partial(architecture.module, precision)
    return nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))


def dotted(path: tuple[Any, ...]) -> str:
    """The name of a Flax parameter in files and in `FrozenNetwork.arrays`."""
    return ".".join(map(str, path))


def arrays_of(
    module: nnx.Module, kind: type[nnx.Variable[Any]] = nnx.Variable
) -> dict[str, Float[Array, "..."]]:
    """The arrays of a module under their dotted paths, as `FrozenNetwork` takes them."""
    flat = nnx.to_flat_state(nnx.state(module, kind))
    return {dotted(path): variable[...] for path, variable in flat}


# Arrays of loaded weights under their ids, which need no hash to be recognised.
_RECOGNISED: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()


def _recognise(arrays: Iterable[Array]) -> None:
    # NumPy arrays can be changed in place.
    _RECOGNISED.update({id(array): array for array in arrays if isinstance(array, jax.Array)})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network whose weights are constant, as a pytree.

    Optimisers do not take its plain arrays for parameters, and `train()` of a module around it does
    not change it, because it contains no `nnx.Module`.

    Attributes:
        arrays: Weights under the dotted paths of the Flax parameters, see `arrays_of`.
        architecture: Architecture that the weights belong to.
        name: Name of the network in statistics and messages.
        precision: Precision of the convolutions, see `load_network`.
    """

    arrays: dict[str, Array]
    architecture: Architecture = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    precision: Precision = dataclasses.field(default="float32", metadata={"static": True})

    def __post_init__(self) -> None:
        """Raises a `ValueError` if there is no such precision."""
        if self.precision not in get_args(Precision):
            raise not_allowed("precision", self.precision, get_args(Precision))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights in hexadecimal; empty if they are traced."""
        known = {name: values(array) for name, array in self.arrays.items()}
        found = {name: value for name, value in known.items() if value is not None}
        return arrays_sha256(found) if len(found) == len(known) else ""

    def check(self, weights_sha256: str) -> None:
        """Raises a `ValueError` if the weights are known and do not have this hash.

        Arrays are hashed once. Traced weights, whose hash is empty, are not checked.
        """
        if not weights_sha256 or all(
            _RECOGNISED.get(id(array)) is array for array in self.arrays.values()
        ):
            return
        found = self.weights_sha256
        if not found:
            return
        if found != weights_sha256:
            raise ValueError(
                "network: the weights were changed since they were loaded, such as by an optimiser "
                "with weight decay; load the calculator again, outside of the tree of parameters"
            )
        _recognise(self.arrays.values())

    def module(self) -> Any:
        """Makes the Flax module with these weights."""
        graph, state = _abstract(self.architecture, self.precision)
        flat = [
            (path, variable.replace(self.arrays[dotted(path)]))
            for path, variable in nnx.to_flat_state(state)
        ]
        return nnx.merge(graph, nnx.from_flat_state(flat))

    def features(
        self, clips: Float[Array, "n t size size channels"], outputs: tuple[str, ...]
    ) -> Mapping[str, Float[Array, "n k _"]]:
        """Computes features of clips with values in [0, 1], see `Architecture.features`."""
        return self.architecture.features(self._constant(), self._in_range(clips), outputs)

    def windows(
        self, clips: Float[Array, "n t size size channels"], outputs: tuple[str, ...]
    ) -> Mapping[str, Float[Array, "n k _"]]:
        """Computes features at all places along clips, see `Architecture.windows`."""
        return self.architecture.windows(self._constant(), self._in_range(clips), outputs)

    def _constant(self) -> Any:
        # Distances are differentiated with respect to their inputs, never to the weights.
        return jax.lax.stop_gradient(self).module()

    def _in_range(self, clips: Float[Array, "..."]) -> Float[Array, "..."]:
        low, high = self.architecture.value_range
        return low + (high - low) * clips


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of one network, checked against its architecture.

    Attributes:
        name: Name of the network.
        architecture: Architecture that the weights belong to.
        arrays: Float32 arrays under the dotted paths of the Flax parameters.
        config: Complete configuration that was published with the weights.
        source_sha256: SHA-256 of the file that the weights were converted from, in hexadecimal.
    """

    name: str
    architecture: Architecture
    arrays: dict[str, np.ndarray]
    config: dict[str, Any]
    source_sha256: str

    def __post_init__(self) -> None:
        """Raises a `ValueError` if the arrays do not fit the architecture."""
        check_arrays(self.arrays, parameter_shapes(self.architecture))

    @functools.cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the loaded arrays in hexadecimal, whatever the metadata of a file claims."""
        return arrays_sha256(self.arrays)

    def frozen(self, precision: Precision = "float32") -> FrozenNetwork:
        """Makes a network that computes features; for `precision` see `load_network`."""
        # Inside a jitted function, `jnp.asarray` would otherwise give tracers.
        with jax.ensure_compile_time_eval():
            arrays = {name: jnp.asarray(array) for name, array in self.arrays.items()}
        _recognise(arrays.values())
        return FrozenNetwork(arrays, self.architecture, self.name, precision)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and where its weights are found.

    Attributes:
        architecture: Class of the network's architecture.
        find: Function that returns the path of the weights, downloaded if necessary. None for
            weights of a user's own training, which are passed as a file. They may be used under the
            name of any network of the architecture.
        read: Function that reads the weights from such a path, which `weights=` may name as well.
        published: Whether the code, and weights that are found, never change under this name. Only
            then are converted weights and statistics of videos kept in the cache.
        attribution: Authors of the weights, stored in the files of converted weights.
        licence: Licence of the weights, stored in the files of converted weights.
    """

    architecture: type[Architecture]
    find: Callable[[], Path] | None
    read: Callable[[Path], Weights]
    published: bool = False
    attribution: str = "see the source of the weights"
    licence: str = "see the source of the weights"


def parse_config(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object, or raises a `ValueError` if it is invalid, too long or too deep."""
    if len(text) > CONFIG_LIMIT:
        raise ValueError(f"config: longer than the {CONFIG_LIMIT} bytes allowed")
    try:
        config = json.loads(text)
    except RecursionError as error:
        raise ValueError("config: nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError(f"config: got a {type(config).__name__}, expected an object with fields")
    return config
