"""What the public functions become on each kind of device, without the devices."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from checkpoints import SMALL
from flax import nnx
from jax import export

from srvp_fd_jax import (
    DISTANCES,
    FeatureStatistics,
    FrechetDistanceCalculator,
    frechet_distance,
    frechet_distance_from_moments,
    frechet_distance_from_statistics,
)
from srvp_fd_jax.distances.prdc import Prdc
from srvp_fd_jax.networks.srvp.architecture import SRVP, SRVPArchitecture

FRAMES = jax.ShapeDtypeStruct((130, 64, 64, 1), jnp.uint8)
CLIPS = jax.ShapeDtypeStruct((130, 5, 64, 64, 1), jnp.float32)
FEATURES = jax.ShapeDtypeStruct((300, 128), jnp.float32)
MEAN = jax.ShapeDtypeStruct((64,), jnp.float32)
COVARIANCE = jax.ShapeDtypeStruct((64, 64), jnp.float32)


@functools.cache
def calculator() -> FrechetDistanceCalculator:
    return FrechetDistanceCalculator("digits")


def vgg_features(frames: jax.Array) -> jax.Array:
    config = SRVPArchitecture.from_config(SMALL | {"archi": "vgg"})
    return SRVP(config, rngs=nnx.Rngs(0)).encoder(frames.astype(jnp.float32))


def streamed(features: jax.Array) -> jax.Array:
    statistics = (
        FeatureStatistics.from_features(features)
        .update(features)
        .merge(FeatureStatistics.from_features(features))
    )
    return frechet_distance_from_statistics(statistics, statistics)


def of_features(name: str) -> Callable[..., jax.Array]:
    """A distance of the registry, between two arrays of features."""

    def between(x: jax.Array, y: jax.Array) -> jax.Array:
        size = DISTANCES[name].size
        made = (FeatureStatistics.from_features(f, sample=size) for f in (x, y))
        return DISTANCES[name].between(dict(zip("xy", made, strict=True)))

    return between


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "frame": (lambda x, y: frechet_distance(x, y, "digits"), (FRAMES, FRAMES)),
    "static_content": (lambda x, y: calculator()(x, y, "static_content"), (CLIPS, CLIPS)),
    "dynamics": (lambda x, y: calculator()(x, y, "dynamics"), (CLIPS, CLIPS)),
    "gradient": (jax.grad(lambda x, y: calculator()(x, y, "dynamics")), (CLIPS, CLIPS)),
    "features": (lambda x: calculator().extract_features(x), (FRAMES,)),
    "w": (lambda x: calculator().extract_w(x), (CLIPS,)),
    "q_y": (lambda x: calculator().extract_q_y_0_params(x), (CLIPS,)),
    "vgg": (vgg_features, (FRAMES,)),
    "from_features": (
        lambda f, g: calculator().calculate_frechet_distance_from_features(f, g),
        (FEATURES, FEATURES),
    ),
    "from_statistics": (streamed, (FEATURES,)),
    "covariance": (lambda f: FeatureStatistics.from_features(f).covariance(), (FEATURES,)),
    "from_moments": (frechet_distance_from_moments, (MEAN, COVARIANCE, MEAN, COVARIANCE)),
    **{name: (of_features(name), (FEATURES, FEATURES)) for name in DISTANCES},
    **{
        f"{name}, gradient": (jax.grad(of_features(name)), (FEATURES, FEATURES))
        for name in ("jedi", "jedi_unbiased", "kvd", "mind")
    },
    "from_moments, eigh": (
        lambda *moments: frechet_distance_from_moments(*moments, method="eigh"),
        (MEAN, COVARIANCE, MEAN, COVARIANCE),
    ),
}


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_lowers_to_float32_at_full_precision_without_callbacks(name: str, platform: str):
    function, arguments = FUNCTIONS[name]
    exported = export.export(jax.jit(function), platforms=[platform])(*arguments)
    program = re.sub(r"(?m)^#loc.*|loc\(.*\)", "", exported.mlir_module())  # source locations
    assert "f64" not in program
    assert "callback" not in program
    products = [
        line
        for line in program.splitlines()
        if re.search(r"stablehlo\.(dot_general|dot|convolution)\b", line)
    ]
    assert products or name in ("covariance", *Prdc._fields)
    for line in products:
        precision = re.findall(r"DEFAULT|HIGHEST|HIGH", line)
        assert precision, line
        assert set(precision) == {"HIGHEST"}, line
