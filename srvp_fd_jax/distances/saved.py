"""Files of feature statistics."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srvp_fd_jax.distances.sample import NO_KEY
from srvp_fd_jax.files.atomic import printable, read_safetensors, write_safetensors

FORMAT_VERSION = 3
_FORMAT = "srvp-fd-jax statistics"
_LARGEST = 1 << 16  # of a dimension, far beyond any network's
_LARGEST_SAMPLE = 1 << 32  # bytes
_OF_PLACES = ("sample.keys", "sample.features", "sample.variances")


def save(statistics: Any, path: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Writes unstacked statistics and more metadata, see `write_safetensors` for the errors."""
    metadata = {
        **more,
        "format": _FORMAT,
        "format_version": str(FORMAT_VERSION),
        "dim": str(statistics.dim),
        "videos": json.dumps(dataclasses.asdict(statistics.videos) | {"cached": False}),
    }
    metadata |= {f"source.{name}": value for name, value in statistics.source}
    arrays = {name: np.asarray(x) for name, x in _arrays(statistics).items()}
    if statistics.sample is not None:  # without its empty places
        metadata["sample_size"] = str(statistics.sample.size)
        held = int(np.count_nonzero(statistics.sample.held))
        arrays |= {name: arrays[name][:held] for name in _OF_PLACES if name in arrays}
    write_safetensors(path, arrays, metadata)


def load(
    path: Path,
    of_nothing: Callable[..., Any],
    counts: Callable[..., Any],
) -> tuple[Any, dict[str, str]]:
    """Reads statistics and metadata that `save` wrote, see `FeatureStatistics.load`.

    The last two arguments are names of `statistics`, which imports this module.
    """
    try:
        metadata, arrays = read_safetensors(path, _check_metadata)
        shapes, like = _expected(metadata, arrays, of_nothing)
        videos = _videos(metadata.get("videos", "{}"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    leaves = [jnp.asarray(_padded(arrays[name], shapes[name])) for name in _arrays(like)]
    statistics = jax.tree.unflatten(jax.tree.structure(like), leaves)
    source = sorted(
        (name.removeprefix("source."), value)
        for name, value in metadata.items()
        if name.startswith("source.")
    )
    found = dataclasses.replace(statistics, videos=counts(**videos), source=tuple(source))
    return found, metadata


def _padded(array: np.ndarray, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """Adds the empty places of a sample, see `FeatureSample`."""
    if array.shape == like.shape:
        return array
    beyond = [(0, like.shape[0] - len(array)), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, beyond, constant_values=NO_KEY if array.dtype == np.uint32 else 0)


def _videos(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
        return {name: int(read[name]) for name in ("found", "used")} | {
            "too_short": tuple(map(str, read["too_short"])),
            "unreadable": tuple((str(name), str(reason)) for name, reason in read["unreadable"]),
        }
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a file of feature statistics: its videos: {error}") from error


def _arrays(statistics: Any) -> dict[str, Any]:
    """The arrays under the names of their fields, joined by dots if nested."""
    found = jax.tree_util.tree_leaves_with_path(statistics)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in found}


def _expected(
    metadata: Mapping[str, str],
    arrays: Mapping[str, np.ndarray],
    of_nothing: Callable[..., Any],
) -> tuple[dict[str, jax.ShapeDtypeStruct], Any]:
    """Shapes of the arrays of a file, which are checked, and small statistics of their kind."""
    dim, size = metadata.get("dim", ""), metadata.get("sample_size", "0")
    of_sample = arrays["sample.features"].shape if "sample.features" in arrays else (0, 1, 1)
    numbers = all(text.isdecimal() and len(text) < 9 for text in (dim, size))
    if numbers and 0 < int(dim) < _LARGEST and len(of_sample) == 3:
        held, vectors, _ = of_sample
        if held <= int(size) and 4 * int(size) * vectors * int(dim) <= _LARGEST_SAMPLE:
            mixture = "variance_sum" in arrays
            shapes = jax.eval_shape(
                lambda: _arrays(of_nothing(int(dim), mixture, int(size), vectors))
            )
            expected = {
                name: ((held, *x.shape[1:]) if name in _OF_PLACES else x.shape, x.dtype.kind)
                for name, x in shapes.items()
            }
            if expected == {name: (x.shape, x.dtype.kind) for name, x in arrays.items()}:
                return shapes, of_nothing(1, mixture, min(int(size), 1))
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
