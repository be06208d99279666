"""Features of clips for `sample_efficiency.py` and `time_sensitivity.py`, kept in a file."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from srvp_fd_jax import Calculator
from srvp_fd_jax.features.shards import moments_of_clips
from srvp_fd_jax.significance.draws import ClipFeatures

OUTPUTS = {"digits": ("frame", "static_content", "dynamics"), "i3d": ("logits",)}
"""The outputs of both networks, as the tables name them."""

Pools = dict[str, dict[str, ClipFeatures]]
"""Features of sets of clips, by the name of the set and by output."""


def encode(network: str, clips: UInt8[np.ndarray, "n t h w c"]) -> dict[str, ClipFeatures]:
    """Encodes each clip into one vector per output; `frame` sees one random frame of the clip."""
    if network == "i3d":
        return {"logits": moments_of_clips(Calculator("fvd2048_16f"), list(clips))}
    calculator = Calculator(network)
    n, length = clips.shape[:2]
    frames = clips[np.arange(n), np.random.default_rng(0).integers(length, size=n)]
    return {"frame": moments_of_clips(calculator.only("frame"), list(frames[:, None]))} | {
        output: moments_of_clips(calculator.only(output), list(clips))
        for output in ("static_content", "dynamics")
    }


def kept(make: Callable[[], Iterator[tuple[str, str, ClipFeatures]]], doc: str) -> Pools:
    """Pools from the file of the option --features if it exists, else as made, and kept there.

    Args:
        make: Function that yields names of sets and of outputs with the features.
        doc: Description of the script.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, help="npz file that keeps the features of clips")
    path = parser.parse_args().features
    pools: Pools = {}
    if path is not None and path.exists():
        with np.load(path) as arrays:
            for key, array in arrays.items():
                clips, output, name = key.split("|")
                pools.setdefault(clips, {}).setdefault(output, {})[name] = array
        return pools
    for clips, output, features in make():
        pools.setdefault(clips, {})[output] = jax.tree.map(np.asarray, features)
    if path is not None:
        np.savez(path, **dict(_flat(pools)))
    return pools


def _flat(pools: Mapping[str, Mapping[str, ClipFeatures]]) -> Iterator[tuple[str, np.ndarray]]:
    for clips, outputs in pools.items():
        for output, features in outputs.items():
            for name, array in features.items():
                yield f"{clips}|{output}|{name}", np.asarray(array)
