from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import PUBLISHED, SMALL, random_model
from flax import nnx

from srvp_fd_jax.networks.srvp import SRVP, Content, InitialState, SRVPConfig, gaussian_from_raw


def test_config_takes_what_it_needs_from_a_checkpoints():
    config = SRVPConfig.from_dict(PUBLISHED["bair"])
    assert (config.archi, config.nc, config.nt_inf, config.skipco) == ("vgg", 3, 2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archi": "resnet"}, "archi is 'resnet', allowed are 'dcgan', 'vgg'"),
        ({"nx": 128}, "nx is 128, both encoders need 64"),
        ({"nf": 0}, "nf is 0, expected a positive integer"),
        ({"ny": 2.5}, "ny is 2.5, expected a positive integer"),
        ({"skipco": "no"}, "skipco is 'no', expected true or false"),
        ({"nc": True}, "nc is True, expected a positive integer"),
    ],
)
def test_wrong_config_is_told(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"config: {message}"):
        SRVPConfig.from_dict(SMALL | change)
    with pytest.raises(ValueError, match="config: no field 'nhx'"):
        SRVPConfig.from_dict({k: v for k, v in SMALL.items() if k != "nhx"})


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_every_published_configuration_has_torchs_parameters(dataset: str):
    network = nnx.eval_shape(
        lambda: SRVP(SRVPConfig.from_dict(PUBLISHED[dataset]), rngs=nnx.Rngs(0))
    )
    ours = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network)))
    model = random_model(PUBLISHED[dataset])
    parts = (model.encoder, model.w_proj, model.w_inf, model.q_y)
    theirs = sum(
        tensor.numel()
        for part in parts
        for name, tensor in part.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    assert ours == theirs


@pytest.mark.parametrize("archi", ["dcgan", "vgg"])
def test_sizes_are_the_configs(archi: str):
    config = SRVPConfig.from_dict(SMALL | {"archi": archi, "nc": 3, "nlayers_inf": 1})

    def features(frames: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        network = SRVP(config, rngs=nnx.Rngs(0))
        encodings = network.encoder(frames)
        return encodings, network.content(encodings[None]), network.initial_state(encodings[None])

    encodings, w, q = jax.eval_shape(features, jnp.zeros((2, 64, 64, 3)))
    chex.assert_shape((encodings, w, q), [(2, 16), (1, 8), (1, 6)])


def test_content_ignores_the_order_of_frames_and_the_initial_state_does_not():
    config, rngs = SRVPConfig.from_dict(SMALL), nnx.Rngs(0)
    content, initial_state = Content(config, rngs=rngs), InitialState(config, rngs=rngs)
    encodings = jax.random.normal(jax.random.key(0), (3, 2, 16))
    reverse = encodings[:, ::-1]
    chex.assert_trees_all_close(content(encodings), content(reverse), atol=1e-6)
    difference = initial_state(encodings) - initial_state(reverse)
    assert jnp.abs(difference).max() > 1e-2


def test_gaussian_from_raw_is_torchs():
    raw = np.random.default_rng(0).normal(scale=20, size=(50, 8)).astype(np.float32)
    mean, variance = gaussian_from_raw(jnp.asarray(raw))
    scale = torch.nn.functional.softplus(torch.from_numpy(raw[:, 4:])) + 1e-8
    chex.assert_trees_all_equal(mean, raw[:, :4])
    chex.assert_trees_all_close(variance, (scale**2).numpy(), rtol=1e-5)
