import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from srvp_fd_jax.networks.kernels.pooling import max_pool_2x2, max_pool_3d

RNG = np.random.default_rng(0)


def test_maxima_and_their_gradients_are_those_of_flax():
    x = jnp.asarray(RNG.integers(0, 3, (2, 6, 4, 5)), jnp.float32)  # with many ties
    weights = jnp.float32(RNG.normal(size=(2, 3, 2, 5)))

    def results(function: Callable[[jax.Array], jax.Array]) -> object:
        y, gradients = jax.vjp(function, x)
        return y, gradients(weights)

    flax = functools.partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
    chex.assert_trees_all_equal(results(max_pool_2x2), results(flax))
    for place in np.ndindex(2, 2):
        assert jnp.isnan(max_pool_2x2(x.at[(0, *place, 0)].set(jnp.nan))[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("window", "strides"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (1,) * 3), ((2,) * 3, (2,) * 3)],
)
def test_max_pool_is_that_over_the_whole_window(window, strides):
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 8, 3))
    expected = lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "SAME")
    np.testing.assert_array_equal(max_pool_3d(x, window, strides), expected)
