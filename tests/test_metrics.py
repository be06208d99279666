import pytest

from srvp_fd_jax import find_protocol
from srvp_fd_jax.metrics import load_metrics


def test_clips_too_short_for_a_network_are_refused_before_videos_are_read():
    with pytest.raises(ValueError, match="got clips of 3 frames, the network 'digits' needs at"):
        load_metrics([find_protocol("srvp:digits:static_content", frames=3)])
    load_metrics([find_protocol("srvp:digits:frame", frames=3)])


def test_weights_are_of_one_network(tmp_path):
    protocols = [find_protocol("srvp:digits:frame"), find_protocol("cd_fvd")]
    with pytest.raises(ValueError, match="weights: got one file for the networks digits, i3d"):
        load_metrics(protocols, tmp_path / "any.safetensors")
