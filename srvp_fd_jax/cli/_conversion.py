"""Conversions between PyTorch's weights and those of Flax, and their verification."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from srvp_fd_jax.files.atomic import check_writable, write_atomically
from srvp_fd_jax.files.inputs import missing_extra
from srvp_fd_jax.networks import hub, i3d, weights
from srvp_fd_jax.networks.base import Weights
from srvp_fd_jax.networks.srvp import checkpoint
from srvp_fd_jax.networks.srvp.architecture import SRVP, TORCH_PARTS, SRVPArchitecture
from srvp_fd_jax.networks.srvp.checkpoint import HUB_FOLDERS
from srvp_fd_jax.training import checkpoints

TOLERANCE = 1e-4
"""Largest difference of a feature between PyTorch and Flax."""


class Conversion(NamedTuple):
    """What a conversion has made.

    Attributes:
        name: Name of the weights.
        output: Path of the converted file, or of the folder of a checkpoint.
        differences: Result of `largest_differences`; empty where the networks were not compared.
        is_new: Whether something was written; False if the file had this conversion already.
    """

    name: str
    output: Path
    differences: dict[str, float]
    is_new: bool = True


def convert(source: str, out: Path | None, *, force: bool) -> Conversion:
    """Converts weights.

    Args:
        source: Name of a dataset on the hub, "i3d", folder of a checkpoint, file of a state dict of
            I3D, or folder of a run of training.
        out: Path to write; by default in the cache or beside `source`.
        force: Whether existing files are replaced.

    Raises:
        ModuleNotFoundError: If the extra "convert" is needed and not installed.
        OSError: If a file cannot be read, downloaded or written.
        ValueError: If `source` has no such weights, if the networks differ, or if `out` has other
            content and `force` is False.
    """
    is_name = source in (*HUB_FOLDERS, "i3d")
    if not is_name and checkpoints.exist(Path(source)):
        return _export(Path(source), out, force=force)
    if source == "i3d" or (not is_name and Path(source).is_file()):
        return _convert_i3d(source, out, force=force)
    return _convert_srvp(source, out, force=force)


def _convert_srvp(source: str, out: Path | None, *, force: bool) -> Conversion:
    _import_torch()  # before anything is downloaded
    if source in HUB_FOLDERS:
        out = out or weights.cached_path(source)
        if not force and _is_finished(out, source):
            return Conversion(source, out, {}, is_new=False)
        folder = checkpoint.download(source)
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise ValueError(
                f"source: got {source!r}, which is neither a folder or file, nor i3d, nor a "
                f"dataset on the hub ({', '.join(HUB_FOLDERS)})"
            )
        out = out or folder.resolve().with_name(f"{folder.resolve().name}.safetensors")
    converted = checkpoint.read_checkpoint(folder)
    if not force and _is_finished(out, converted.name, converted):
        return Conversion(converted.name, out, {}, is_new=False)
    check_writable(out)
    differences = largest_differences(folder, converted)
    if not all(value <= TOLERANCE for value in differences.values()):  # NaN fails too
        found = ", ".join(f"{name} by {value:.2e}" for name, value in differences.items())
        raise ValueError(
            f"{folder}: the networks differ by more than {TOLERANCE:g}: {found}; nothing was "
            "written"
        )
    weights.save(converted, out, hub.commit(folder))
    return Conversion(converted.name, out, differences)


def _convert_i3d(source: str, out: Path | None, *, force: bool) -> Conversion:
    path = i3d.find_ckpt() if source == "i3d" else Path(source)
    default = weights.cached_path("i3d") if source == "i3d" else path.with_suffix(".safetensors")
    out = out or default
    converted = i3d.read_checkpoint(path)
    is_new = force or not _is_finished(out, "i3d", converted)
    if is_new:
        weights.save(converted, out)
    return Conversion("i3d", out, {}, is_new=is_new)


def _is_finished(out: Path, name: str, converted: Weights | None = None) -> bool:
    """Whether `out` has this conversion; raises a `ValueError` if it has other content."""
    if not out.exists():
        return False
    try:
        found = weights.load(out)
    except ValueError as error:
        raise ValueError(f"{error}; --force replaces the file") from error
    of_both = [(one.source_sha256, one.weights_sha256) for one in (found, converted or found)]
    if found.name != name or of_both[0] != of_both[1]:
        raise ValueError(f"{out} holds other weights, of {found.name!r}; --force replaces them")
    return True


def _export(run: Path, out: Path | None, *, force: bool) -> Conversion:
    """Writes the best model of a run as published checkpoints are, config.json and model.pt."""
    torch, model_of = _import_torch()
    out = out or run.resolve().with_suffix(".torch")
    if (out / "model.pt").exists() and not force:
        raise ValueError(f"{out} holds a checkpoint already; --force replaces it")
    recipe, arrays = checkpoints.load_best(run)
    on_host = {name: np.asarray(array) for name, array in arrays.items()}
    config = dataclasses.asdict(recipe.architecture)
    model = model_of(**config)
    state = checkpoint.to_torch(on_host, recipe.architecture).items()
    # PyTorch's own class refuses missing, unexpected and mis-shaped arrays.
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state})
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    write_atomically(out / "model.pt", content.getvalue())
    write_atomically(out / "config.json", json.dumps(config, indent=2).encode() + b"\n")
    return Conversion(run.name, out, {})


def largest_differences(folder: Path, converted: Weights) -> dict[str, float]:
    """Largest absolute differences between PyTorch's and Flax's features of noise, by output."""
    network = converted.frozen().module()
    config = network.architecture
    shape = (16, config.nt_inf, config.nx, config.nx, config.nc)
    videos = np.random.default_rng(0).random(shape, np.float32)
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
    torch, model_of = _import_torch()
    # The other parts may have any size and random weights: no feature depends on them.
    model = model_of(**dataclasses.asdict(config), nz=1, nh_res=1, nlayers_res=2)
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


def _import_torch() -> tuple[Any, Any]:
    """PyTorch, and the class of srvp-fd's model."""
    try:
        import torch
        from srvp_fd.srvp_model import StochasticLatentResidualVideoPredictor
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_extra(error, "a conversion", "convert")) from error
    return torch, StochasticLatentResidualVideoPredictor
