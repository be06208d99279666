"""The interface of distances and of their states, and how states are marked, compared and saved.

A state summarises a set of features for a distance, and can be updated and merged. It is a pytree:
a dataclass of arrays with one static field `source`, which says where the features come from.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from srvp_fd_jax.devices import AnyArray, Division, values, varying_axes
from srvp_fd_jax.files import printable, read_safetensors, write_safetensors
from srvp_fd_jax.inputs import check_range, dark_caution, range_caution, warn

FORMAT_VERSION = 2
_FORMAT = "srvp-fd-jax statistics"
_SAMPLE = "sample."  # prefix of the arrays of a sample

Source = tuple[tuple[str, str], ...]
"""Where features come from, as (name, value) pairs such as ("network", "kth")."""

Kind = Literal["distance", "estimate", "similarity"]
"""How values of a distance are read.

A "distance" is never negative, and larger for sets that differ more. An "estimate" is an unbiased
one of such a distance, and may be negative for close sets. A "similarity" is larger for closer
sets, as precision is.
"""

_S = TypeVar("_S", bound="State")
_M = TypeVar("_M", bound="Marked")
_T = TypeVar("_T")


@runtime_checkable
class Marked(Protocol):
    """Something made of features that knows where they come from: a dataclass and a pytree.

    Attributes:
        source: Where the features come from; a static field of the dataclass.
        dim: Feature dimension.
    """

    @property
    def source(self) -> Source: ...  # noqa: D102

    @property
    def dim(self) -> int: ...  # noqa: D102


@runtime_checkable
class State(Marked, Protocol):
    """Summary of a set of features for a distance: an immutable dataclass and a pytree.

    Attributes:
        count: Number of samples, a scalar.
    """

    @property
    def count(self) -> Any: ...  # noqa: D102

    def fold(
        self: _S,
        features: Float[AnyArray, "n d"],
        mask: Bool[AnyArray, " n"] | None,
        variances: Float[AnyArray, "n d"] | None,
        division: Division,
    ) -> _S:
        """Returns the state with a batch of samples added.

        Args:
            features: Features with one sample per row.
            mask: False for rows to ignore. None counts all rows.
            variances: Component variances if the samples are a Gaussian mixture, else None.
            division: How the rows are divided over devices; implementations may ignore it.
        """

    def merge(self: _S, other: _S) -> _S:
        """Returns the state of both sets of samples together."""

    def reduce(self: _S) -> _S:
        """Merges states whose arrays are stacked along a leading axis."""


@runtime_checkable
class Distance(Protocol):
    """A distance between two sets of features. Instances are hashable and are compared by value.

    Attributes:
        least: Smallest number of samples in each set.
        kind: How values are read, see `Kind`.
    """

    @property
    def least(self) -> int: ...  # noqa: D102

    @property
    def kind(self) -> Kind: ...  # noqa: D102

    def empty(self, dim: int, mixture: bool, most: int | None = None) -> Any:
        """Makes the state of no samples.

        Args:
            dim: Feature dimension.
            mixture: Whether samples are components of a Gaussian mixture, with variances.
            most: Largest number of samples that will be added, if it is known. A state that holds
                samples needs no more places.
        """

    def caution(self, count: int, dim: int) -> str | None:
        """Warning text if `count` samples are too few for an accurate distance, else None."""

    def between(self, named: Mapping[str, Any]) -> Float[Array, ""]:
        """Computes the distance between two states.

        Args:
            named: Two states under the names that error messages use.

        Raises:
            ValueError: If the states are not comparable, or (outside of `jit`) have too few samples
                or values that are not finite.
        """


def mark(state: _M, **source: object) -> _M:
    """Adds entries to the `source` of a state, except those with the value None."""
    known = {name: str(value) for name, value in source.items() if value is not None}
    both = dict(state.source) | known
    return dataclasses.replace(state, source=tuple(sorted(both.items())))  # type: ignore[type-var]


def check_comparable(s1: Marked, s2: Marked, *, same_side: bool = False) -> None:
    """Raises a `ValueError` unless types, dimensions and common entries of the sources agree.

    A mixture agrees only with another mixture. The entries "side" ("real" or "fake") must agree
    only with `same_side`, which is for merging.
    """
    dims = s1.dim, s2.dim
    source1, source2 = dict(s1.source), dict(s2.source)
    both = source1.keys() & source2.keys()
    for name in sorted(both if same_side else both - {"side"}):
        if source1[name] != source2[name]:
            raise ValueError(
                f"statistics: {name} is {source1[name]!r} of one and {source2[name]!r} of the other"
            )
    if type(s1) is not type(s2):
        kinds = f"{type(s1).__name__} and {type(s2).__name__}"
        raise ValueError(f"statistics: got {kinds}, which no distance compares with each other")
    if len(jax.tree.leaves(s1)) != len(jax.tree.leaves(s2)):
        raise ValueError("statistics: one is of a Gaussian mixture and the other is not")
    if dims[0] != dims[1]:
        raise ValueError(
            f"statistics: got feature dimensions {dims[0]} and {dims[1]}, which must be equal"
        )


def check_finite(distance: Float[Array, ""], named: Mapping[str, Any], of: str) -> None:
    """Raises a `ValueError` if a distance is known and not finite.

    Args:
        distance: The distance, which is ignored if it is traced.
        named: Pytrees of what it was computed from, under the names that the message uses.
        of: Name of the distance.
    """
    found = values(distance)
    if found is None or np.isfinite(found):
        return
    largest = 0.0
    for name, state in named.items():
        for leaf in jax.tree.leaves(state):
            if (array := values(leaf)) is None:
                continue
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: holds values that are not finite")
            if jnp.issubdtype(array.dtype, jnp.floating) and array.size:
                largest = max(largest, float(np.abs(array).max()))
    raise ValueError(
        f"{of}: got {found} from values of up to {largest:.3g}, whose distance {distance.dtype} "
        "does not hold; scale the features of both sets by one number"
    )


def check_counts(distance: Distance, counts: Mapping[str, Any], dim: int | None = None) -> None:
    """Raises a `ValueError` for too few samples, and warns if the distance has a caution.

    `counts` are numbers of samples under the names of the arguments. Traced numbers are ignored.
    Without the feature dimension `dim` there is no warning.
    """
    for name, count in counts.items():
        known = values(count)
        if known is None:
            continue
        if known < distance.least:
            raise ValueError(
                f"{name}: got {known} samples, a distance needs at least {distance.least}"
            )
        if dim is not None and (caution := distance.caution(int(known), dim)):
            warn(f"{name}: {caution}")


_RANGE = "value_range"
_MOST = float(np.finfo(np.float32).max)


@jax.jit
def unseen() -> Float[Array, "2"]:
    """The range of no values: finite, as JAX can be set to refuse others, and least to merge."""
    return jnp.array([_MOST, -_MOST], jnp.float32)


def join_ranges(ranges: Float[Array, "k 2"]) -> Float[Array, "2"]:
    """The smallest range that contains others."""
    low, high = jnp.min(ranges[:, 0], initial=_MOST), jnp.max(ranges[:, 1], initial=-_MOST)
    return jnp.stack([low, high])


def widened(state: _T, seen: Float[AnyArray, "2"]) -> _T:
    """Adds a range of values that were encoded to a state, if it has fields `value_range`."""

    def widen(path: tuple[Any, ...], leaf: Any) -> Any:
        return join_ranges(jnp.stack([leaf, seen])) if _is_range(path) else leaf

    return jax.tree_util.tree_map_with_path(widen, state)


def range_of(state: Any) -> tuple[float, float] | None:
    """The smallest and the largest value that were encoded; None if unknown or traced."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        found = values(leaf) if _is_range(path) else None
        if found is not None and found.shape == (2,) and found[0] <= found[1]:
            return float(found[0]), float(found[1])
    return None


def _is_range(path: tuple[Any, ...]) -> bool:
    return getattr(path[-1], "name", None) == _RANGE


def range_cautions(name: str, state: Any, *, checked: bool = False) -> list[str]:
    """Warning texts about the values of a set of clips, which messages call `name`.

    `checked` says that its arrays were checked one by one.

    Raises:
        ValueError: If they cannot be values of clips, see `inputs.as_clips`.
    """
    found = range_of(state)
    if found is None:
        return []
    low, high = found
    check_range(low, high, name)
    texts = [dark_caution(high)] if checked else [range_caution(low, high), dark_caution(high)]
    return [f"{name}: {text}" for text in texts if text]


def check_ranges(named: Mapping[str, Any], *, checked: bool = False) -> None:
    """Gives the warnings of `range_cautions` for states under the names of the arguments."""
    for name, state in named.items():
        for text in range_cautions(name, state, checked=checked):
            warn(text)


def gather(state: _T, axis_name: Hashable | tuple[Hashable, ...]) -> _T:
    """Stacks the states of all devices along axes of `jax.shard_map` (or `jax.vmap`).

    Raises:
        ValueError: If the states are equal on all devices of an axis, so that samples would be
            counted several times. `jax.shard_map` detects this unless `check_vma=False`.
    """
    # `shard_map` infers that the result of a `psum` is replicated, but not that of a gather.
    place, places = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
    varying = frozenset().union(*map(varying_axes, jax.tree.leaves(state)))
    same = varying_axes(place) - varying
    if same:
        raise ValueError(
            f"axis_name: got {axis_name!r}, but the statistics are the same along "
            f"{', '.join(map(repr, sorted(same)))}: each sample would be counted several times"
        )

    def stacked(x: Shaped[Array, "..."]) -> Shaped[Array, "places ..."]:
        own = jnp.arange(places).reshape(-1, *[1] * x.ndim) == place
        return jax.lax.psum(jnp.where(own, x[None], jnp.zeros((), x.dtype)), axis_name)

    return jax.tree.map(stacked, state)


def save(state: State, path: Path, sample: Any = None) -> None:
    """Writes an unstacked state to a safetensors file, and a sample of the features beside it.

    The `FeatureSample` has the same source as the state. See `write_safetensors` for the errors.
    """
    metadata = {
        "format": _FORMAT,
        "format_version": str(FORMAT_VERSION),
        "state": type(state).__name__,
        "dim": str(state.dim),
    }
    metadata |= {f"source.{name}": value for name, value in state.source}
    arrays = arrays_of(state)
    if sample is not None:
        arrays |= {_SAMPLE + name: value for name, value in arrays_of(sample).items()}
    write_safetensors(path, {k: np.asarray(value) for k, value in arrays.items()}, metadata)


def load(path: Path, empties: Iterable[Callable[[int, bool], State]]) -> Any:
    """Reads a state that `save` wrote, see `load_statistics`.

    `empties` are the functions `Distance.empty` of the allowed types of states.
    """
    try:
        metadata, arrays = read_safetensors(path, _check_metadata)
        own = {name: array for name, array in arrays.items() if not name.startswith(_SAMPLE)}
        empty = _state_with(metadata, own, empties)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    leaves = [jnp.asarray(own[name]) if name in own else unseen() for name in arrays_of(empty)]
    read = jax.tree.unflatten(jax.tree.structure(empty), leaves)
    return dataclasses.replace(read, source=_source(metadata))


def load_sample_arrays(path: Path) -> tuple[dict[str, np.ndarray], Source]:
    """Reads the arrays and the source of the sample in a file of `save`; no arrays without one."""
    try:
        metadata, arrays = read_safetensors(path, _check_metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    sample = {
        name.removeprefix(_SAMPLE): array
        for name, array in arrays.items()
        if name.startswith(_SAMPLE)
    }
    return sample, _source(metadata)


def _source(metadata: Mapping[str, str]) -> Source:
    found = (
        (name.removeprefix("source."), value)
        for name, value in metadata.items()
        if name.startswith("source.")
    )
    return tuple(sorted(found))


def arrays_of(state: Any) -> dict[str, Any]:
    """The arrays of a state or a sample under the names of its fields, joined by dots if nested."""
    found = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in found}


def is_range_name(name: str) -> bool:
    """Whether the array of this name may be missing, as in files that were written before it."""
    return name.rpartition(".")[2] == _RANGE


def _state_with(
    metadata: Mapping[str, str],
    arrays: Mapping[str, np.ndarray],
    empties: Iterable[Callable[[int, bool], State]],
) -> Any:
    """Returns a state with the same names of arrays, after checking shapes and kinds of dtypes."""
    name, dim = metadata.get("state", ""), metadata.get("dim", "")
    of_types: dict[str, list[Callable[[int, bool], State]]] = {}
    for empty in empties:
        of_types.setdefault(type(empty(1, False)).__name__, []).append(empty)
    if name not in of_types:
        known = ", ".join(of_types)
        raise ValueError(f"statistics of the kind {printable(name, 80)!r}, expected {known}")
    got = {key: (array.shape, array.dtype.kind) for key, array in arrays.items()}
    is_dim = dim.isdecimal() and len(dim) < 6 and 0 < int(dim) < 1 << 16
    for empty, mixture in itertools.product(of_types[name] if is_dim else (), (False, True)):

        def expected(empty: Any = empty, mixture: bool = mixture) -> dict[str, Any]:
            return arrays_of(empty(int(dim), mixture))

        shapes = {k: (x.shape, x.dtype.kind) for k, x in jax.eval_shape(expected).items()}
        if got == {k: x for k, x in shapes.items() if k in got or not is_range_name(k)}:
            return empty(1, mixture)
    raise ValueError(
        "not a file of feature statistics: its arrays have unexpected names, shapes or types"
    )


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT:
        raise ValueError("not a file of feature statistics")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"format version {printable(str(version), 80)}, this release reads {FORMAT_VERSION}: "
            "make the statistics again"
        )
