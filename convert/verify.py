"""Compares converted weights with the PyTorch network from which they come."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import torch
from srvp_fd.srvp_model import StochasticLatentResidualVideoPredictor

from srvp_fd_jax.networks.base import Weights
from srvp_fd_jax.networks.srvp import SRVP, TORCH_PARTS, SRVPArchitecture

TOLERANCE = 1e-4


def largest_differences(
    folder: Path, weights: Weights, *, clips: int = 16, seed: int = 0
) -> dict[str, float]:
    """Runs the PyTorch and the Flax network on the same random clips.

    Args:
        folder: Checkpoint folder with config.json and model.pt.
        weights: Flax weights that the checkpoint was converted to.
        clips: Number of clips, each nt_inf frames of uniform noise in [0, 1].
        seed: Seed of the noise.

    Returns:
        Largest absolute difference of the features, by comparison type.
    """
    network = weights.frozen().module()
    config = network.architecture
    shape = (clips, config.nt_inf, config.nx, config.nx, config.nc)
    videos = np.random.default_rng(seed).random(shape, np.float32)
    ours = _flax_features(network, videos)
    theirs = _torch_features(folder / "model.pt", config, videos)
    return {name: float(np.abs(ours[name] - theirs[name]).max()) for name in ours}


def _flax_features(network: SRVP, videos: np.ndarray) -> dict[str, np.ndarray]:
    encode = jax.jit(lambda network, frames: network.encoder(frames))
    encodings = encode(network, videos.reshape(-1, *videos.shape[2:]))
    of_clips = encodings.reshape(*videos.shape[:2], -1)
    features = {
        "frame": encodings,
        "static_content": network.content(of_clips),
        "dynamics": network.initial_state(of_clips),
    }
    return {name: np.asarray(array) for name, array in features.items()}


def _torch_features(
    path: Path, config: SRVPArchitecture, videos: np.ndarray
) -> dict[str, np.ndarray]:
    # The other parts may have any size and random weights: no feature depends on them.
    model = StochasticLatentResidualVideoPredictor(
        **dataclasses.asdict(config), nz=1, nh_res=1, nlayers_res=2
    )
    state_dict = torch.load(path, map_location="cpu", weights_only=True)
    names = {key.removeprefix("module."): key for key in state_dict}
    used = {name: state_dict[key] for name, key in names.items() if name.startswith(TORCH_PARTS)}
    model.load_state_dict(used, strict=False)
    model.eval()
    with torch.no_grad():
        time_major = torch.from_numpy(videos).permute(1, 0, 4, 2, 3)
        encodings, _ = model.encode(time_major)
        features = {
            "frame": encodings.transpose(0, 1).flatten(0, 1),
            "static_content": model.infer_w(encodings),
            "dynamics": model.infer_y(encodings)[1],
        }
    return {name: tensor.numpy() for name, tensor in features.items()}
