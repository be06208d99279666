"""A catalogue of uses: what is computed, and the places of JAX code that it is computed in.

The networks are stand-ins that compile at once, and whose features NumPy computes too. Run as a
script, with eight devices, it prints the numbers of all uses on meshes as JSON.
"""

import contextlib
import dataclasses
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from srvp_fd_jax import (
    PROTOCOLS,
    Calculator,
    FeatureStatistics,
    FrechetDistanceCalculator,
    Protocol,
    frechet_distance_from_moments,
    frechet_distance_from_statistics,
)
from srvp_fd_jax.networks.base import Architecture, Output, Weights
from srvp_fd_jax.networks.kernels.convolution import Precision

SIZE, LENGTH, DIM, CLIPS = 6, 9, 5, 16
_rng = np.random.default_rng(0)
WEIGHTS = {
    "encoder": _rng.normal(0, 0.3, (SIZE * SIZE, DIM)),
    "content": _rng.normal(0, 1, (DIM, DIM)),
    "colours": _rng.normal(0, 0.3, (LENGTH * 3, DIM)),
}
REAL, FAKE = (_rng.random((32, LENGTH, SIZE, SIZE, 1), np.float32) ** power for power in (1.0, 1.5))
# Of one pixel, which every resizing makes frames of one colour of.
REAL_CLIPS, FAKE_CLIPS = (
    c[:CLIPS].mean(axis=(2, 3, 4))[:, :, None, None, None]
    * _rng.random((CLIPS, LENGTH, 1, 1, 3), np.float32)
    for c in (REAL, FAKE)
)


def _encode(frames: Any, w: Any, xp: Any) -> Any:
    return xp.tanh(frames.reshape(-1, SIZE * SIZE) @ w["encoder"])


def _content(clips: Any, w: Any, xp: Any) -> Any:
    encodings = _encode(clips[:, -2:], w, xp).reshape(-1, 2, DIM)
    return xp.tanh(encodings.sum(axis=1) @ w["content"])


def _colours(clips: Any, w: Any, xp: Any) -> Any:
    return xp.tanh(clips.mean(axis=(2, 3)).reshape(len(clips), -1) @ w["colours"])


class Module(nnx.Module):
    """Parameters that are computed with like NumPy's."""

    def __init__(self):
        for name, w in WEIGHTS.items():
            setattr(self, name, nnx.Param(jnp.asarray(w, jnp.float32)))

    def __getitem__(self, name: str) -> jax.Array:
        return getattr(self, name)[...]


class StandIn(Architecture):
    """A network that compiles at once, and whose features NumPy computes too."""

    family = "stand-in"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "StandIn":
        return cls()

    def module(self, precision: Precision, rngs: nnx.Rngs) -> Module:
        return Module()


@dataclasses.dataclass(frozen=True)
class Contents(StandIn):
    """In the place of SRVP."""

    size, channels = SIZE, 1
    outputs = {"static_content": Output(DIM, frames=2, looks_at="last")}  # noqa: RUF012

    def features(self, module: Module, clips: jax.Array, outputs: tuple[str, ...]) -> Any:
        return {"static_content": _content(clips, module, jnp)[:, None]}


@dataclasses.dataclass(frozen=True)
class Colours(StandIn):
    """In the place of I3D: of more features than there are clips."""

    size, channels = SIZE, 3
    value_range = (-1.0, 1.0)
    outputs = {"logits": Output(2 * CLIPS, frames=LENGTH)}  # noqa: RUF012

    def features(self, module: Module, clips: jax.Array, outputs: tuple[str, ...]) -> Any:
        colours = _colours((clips + 1) / 2, module, jnp)
        return {"logits": jnp.pad(colours, ((0, 0), (0, 2 * CLIPS - DIM)))[:, None]}


def calculator(kind: type[Calculator], architecture: Architecture, protocol: Protocol) -> Any:
    """A calculator on a stand-in."""
    arrays = {name: np.float32(w) for name, w in WEIGHTS.items()}
    weights = Weights("stand-in", architecture, arrays, {}, "")
    return kind.tree_unflatten(((protocol,), weights.weights_sha256), (weights.frozen(),))


CALCULATOR = calculator(
    FrechetDistanceCalculator,
    Contents(),
    Protocol(name="", network="digits", output="static_content", resize="none", ddof=1),
)
FVD = calculator(
    Calculator,
    Colours(),
    dataclasses.replace(PROTOCOLS["tensorflow"], name="short", frames=LENGTH),
)


def _call(x: Any, y: Any) -> Any:
    return CALCULATOR(x, y, "static_content", batch_size=8)


def _masked(x: Any, y: Any, x_mask: Any, y_mask: Any) -> Any:
    return CALCULATOR(x, y, "static_content", batch_size=8, x_mask=x_mask, y_mask=y_mask)


def padded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clips among which there are others that do not count, and the mask of those that do."""
    among, mask = np.full((48, *x.shape[1:]), np.nan, np.float32), np.arange(48) % 3 > 0
    among[mask] = x
    return among, mask


def _statistics(x: Any, y: Any) -> Any:
    made = (CALCULATOR.statistics([c], batch_size=8)["static_content"] for c in (x, y))
    return frechet_distance_from_statistics(*made)


def _calculator_updates(x: Any, y: Any) -> Any:
    made = (CALCULATOR.update(CALCULATOR.empty(), c, batch_size=8) for c in (x, y))
    return CALCULATOR.distance(*(of_one["static_content"] for of_one in made))


def _features(x: Any, y: Any) -> Any:
    made = (FeatureStatistics.from_features(CALCULATOR.extract_w(c)) for c in (x, y))
    return frechet_distance_from_statistics(*made)


def _updates(x: Any, y: Any) -> Any:
    features = (CALCULATOR.extract_w(c) for c in (x, y))
    made = (FeatureStatistics.empty(DIM).update(f) for f in features)
    return frechet_distance_from_statistics(*made)


def _of_features(x: Any, y: Any) -> Any:
    features = (CALCULATOR.extract_w(c) for c in (x, y))
    return CALCULATOR.calculate_frechet_distance_from_features(*features)


def _moments(x: Any, y: Any) -> Any:
    def moments(f: Any) -> Any:
        mean = f.mean(axis=0)
        rows = f - mean  # a product of matrices would have to say how it is sharded
        return mean, (rows[:, :, None] * rows[:, None]).sum(axis=0) / (len(f) - 1)

    return frechet_distance_from_moments(
        *moments(CALCULATOR.extract_w(x)), *moments(CALCULATOR.extract_w(y))
    )


def _fvd(x: Any, y: Any) -> Any:
    return FVD.distances(x, y, batch_size=8)["logits"]


def _expected(features: Callable[..., Any]) -> Callable[[Any, Any], float]:
    return lambda x, y: reference.frechet_distance_float64(
        *(features(np.float64(c), WEIGHTS, np) for c in (x, y))
    )


@dataclasses.dataclass(frozen=True)
class Computation:
    """A distance, and the same by NumPy in float64."""

    function: Callable[[Any, Any], Any]
    expected: Callable[[Any, Any], float]
    real: np.ndarray
    fake: np.ndarray

    def slope(self) -> float:
        """Derivative along `DIRECTION` by central differences."""
        h, d = 1e-4, direction(self.fake)
        step = [self.expected(self.real, np.float64(self.fake) + s * h * d) for s in (1, -1)]
        return (step[0] - step[1]) / (2 * h)


def direction(x: np.ndarray) -> np.ndarray:
    return np.cos(np.arange(x.size)).reshape(x.shape)


COMPUTATIONS = {
    f.__name__.strip("_"): Computation(f, _expected(_content), REAL, FAKE)
    for f in (
        _call,
        _statistics,
        _calculator_updates,
        _features,
        _updates,
        _of_features,
        _moments,
    )
} | {"fvd": Computation(_fvd, _expected(_colours), REAL_CLIPS, FAKE_CLIPS)}


def _slope(f: Callable[..., Any], x: Any) -> Any:
    return jnp.vdot(jax.grad(f)(x), direction(x))


# Each takes a function of one array and that array; "grad" in the name: to a derivative.
PLACES: dict[str, Callable[[Callable[..., Any], Any], Any]] = {
    "eager": lambda f, x: f(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "grad": _slope,
    "jit of grad": lambda f, x: jax.jit(lambda x: _slope(f, x))(x),
    "scan": lambda f, x: jax.lax.scan(lambda c, x: (c, f(x)), 0, x[None])[1][0],
    "lax.map": lambda f, x: jax.lax.map(f, x[None])[0],
    "vmap": lambda f, x: jax.vmap(f)(jnp.stack([x, x]))[1],
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "grad of checkpoint": lambda f, x: _slope(jax.checkpoint(f), x),
    "nnx.jit": lambda f, x: nnx.jit(f)(x),
}


def run(name: str, place: str, closed_over: bool, *, put: Callable[[Any], Any] = jnp.asarray):
    """The number of one use: of a distance, or of its derivative along `direction`."""
    computation = COMPUTATIONS[name]
    real, fake = put(computation.real), put(computation.fake)
    if closed_over:
        return PLACES[place](lambda fake: computation.function(real, fake), fake)
    if place in ("scan", "lax.map", "vmap", "nnx.jit"):
        both = jnp.stack([real, fake])
        return PLACES[place](lambda both: computation.function(both[0], both[1]), both)
    in_place = PLACES[place]
    jitted = jax.jit if place.startswith("jit") else lambda f: f
    return jitted(lambda real, fake: in_place(lambda fake: computation.function(real, fake), fake))(
        real, fake
    )


def expected(name: str, place: str) -> float:
    """The number of one use, by NumPy in float64."""
    computation = COMPUTATIONS[name]
    if "grad" in place:
        return computation.slope()
    return computation.expected(computation.real, computation.fake)


def on_meshes() -> dict[str, float]:
    """The numbers of all uses on meshes of eight devices."""
    assert jax.device_count() == 8
    numbers = {}
    for axis_type in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((8,), ("a",), axis_types=(axis_type,))

        def put(x: np.ndarray, mesh: jax.sharding.Mesh = mesh) -> jax.Array:
            return jax.device_put(x, NamedSharding(mesh, P("a")))

        names = ["call", "statistics", "features", "moments"]
        if axis_type == AxisType.Explicit:
            names += ["calculator_updates", "updates", "of_features"]
        for within, places in ((False, ("jit", "jit of grad")), (True, ("eager", "grad"))):
            # Without `jax.set_mesh` JAX itself has no `grad` outside of `jit` on explicit axes.
            with jax.set_mesh(mesh) if within else contextlib.nullcontext():
                for name, place in itertools.product(names, places):
                    key = f"{name}, {place}, {axis_type.name}{', set_mesh' * within}"
                    numbers[key] = float(run(name, place, name == "call", put=put))
        numbers[f"fvd, jit, {axis_type.name}"] = float(run("fvd", "jit", False, put=put))
        with jax.set_mesh(mesh):
            for place in ("eager", "jit"):
                x, x_mask = map(put, padded(REAL))
                y, y_mask = map(put, padded(FAKE))
                in_place = jax.jit(_masked) if place == "jit" else _masked
                numbers[f"masked, {place}, {axis_type.name}"] = float(
                    in_place(x, y, x_mask, y_mask)
                )
    return numbers | in_shard_map()


def in_shard_map() -> dict[str, float]:
    mesh = jax.make_mesh((8,), ("a",))
    clips = {
        side: jax.device_put(x, NamedSharding(mesh, P("a")))
        for side, x in (("real", REAL), ("fake", FAKE))
    }

    def from_features(x: Any) -> Any:
        return FeatureStatistics.from_features(CALCULATOR.extract_w(x))

    def scanned(x: Any) -> Any:
        features = CALCULATOR.extract_w(x)[:, None]
        step = lambda s, f: (s.update(f), None)  # noqa: E731
        return jax.lax.scan(step, FeatureStatistics.empty(DIM), features)[0]

    def statistics(x: Any) -> Any:
        return CALCULATOR.statistics([x])["static_content"]

    def updated(x: Any) -> Any:
        step = lambda s, clips: (CALCULATOR.update(s, clips), None)  # noqa: E731
        return jax.lax.scan(step, CALCULATOR.empty(), x[:, None])[0]["static_content"]

    numbers = {}
    for own in (from_features, scanned, statistics, updated):

        def all_reduced(x: Any, own: Callable[..., Any] = own) -> Any:
            return own(x).all_reduce("a")

        def distance(real: Any, fake: Any, f: Callable[..., Any] = all_reduced) -> Any:
            sharded = jax.shard_map(f, mesh=mesh, in_specs=P("a"), out_specs=P())
            return frechet_distance_from_statistics(sharded(real), sharded(fake))

        numbers[f"{own.__name__}, jit, shard_map"] = float(jax.jit(distance)(**clips))
        if own is scanned:
            numbers[f"{own.__name__}, eager, shard_map"] = float(distance(**clips))
    # Two axes, of which one has the samples.
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    clips = {
        side: jax.device_put(x, NamedSharding(mesh, P("a")))
        for side, x in (("real", REAL), ("fake", FAKE))
    }

    def of_one_axis(x: Any, axes: Any = "a") -> Any:
        return from_features(x).all_reduce(axes)

    def distance(real: Any, fake: Any) -> Any:
        sharded = jax.shard_map(of_one_axis, mesh=mesh, in_specs=P("a"), out_specs=P())
        return frechet_distance_from_statistics(sharded(real), sharded(fake))

    numbers["of_one_axis, jit, shard_map"] = float(jax.jit(distance)(**clips))
    wrong = lambda x: of_one_axis(x, ("a", "b"))  # noqa: E731
    with pytest.raises(ValueError, match="the statistics are the same along 'b'"):
        jax.shard_map(wrong, mesh=mesh, in_specs=P("a"), out_specs=P())(clips["real"])

    # Kept by their devices, and merged afterwards.
    def kept(x: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], from_features(x))

    def distance_of_kept(real: Any, fake: Any) -> Any:
        sharded = jax.shard_map(kept, mesh=mesh, in_specs=P("a"), out_specs=P("a"))
        return frechet_distance_from_statistics(sharded(real).reduce(), sharded(fake).reduce())

    numbers["kept, jit, shard_map"] = float(jax.jit(distance_of_kept)(**clips))

    # As written before `all_reduce` was there: what is gathered is not known to be the same.
    gathered = jax.shard_map(
        lambda x: jax.lax.all_gather(from_features(x), "a").reduce(),
        mesh=mesh,
        in_specs=P("a"),
        out_specs=P(),
        check_vma=False,
    )
    distance = lambda real, fake: frechet_distance_from_statistics(gathered(real), gathered(fake))  # noqa: E731
    numbers["all_gather, jit, shard_map"] = float(jax.jit(distance)(**clips))
    return numbers


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*leave the covariance singular")
    json.dump(on_meshes(), sys.stdout)
