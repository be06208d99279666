"""The published comparison of FVD implementations, with our I3D.

    pip install -e ".[dev]" && python benchmarks/fvd_comparison.py

StyleGAN-V's authors compare their port with the TensorFlow original by the logits of four clips of
noise and the FVD of two sets of 128 clips (https://github.com/universome/fvd-comparison). The noise
enters the network unscaled, with values in [0, 1]. This script compares our network with the I3D of
cd-fvd, with the same weights and TensorFlow's eps, and with the figures that the authors published.
It takes about ten minutes on two cores.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import scipy.linalg
from tqdm import tqdm

import srvp_fd_jax
from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.networks.weights import load_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import i3d  # I3D in PyTorch, from the tests

PUBLISHED_L2, PUBLISHED_FVD = 2.6e-4, 10.138085


def noise(seed: int, count: int) -> Iterator[np.ndarray]:
    """Yields RandomState(seed).rand(count, 16, 224, 224, 3) in clips [1, 16, 224, 224, 3]."""
    rng = np.random.RandomState(seed)
    for _ in range(count):
        yield rng.rand(1, 16, 224, 224, 3).astype(np.float32)


def main() -> None:
    """Prints both comparisons."""
    weights = load_weights("i3d")
    apply = jax.jit(lambda network, clips: network(clips))
    network = srvp_fd_jax.load_network("i3d").module()
    torch_network = i3d.torch_network(weights.arrays)
    networks: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ours": lambda clips: np.asarray(apply(network, clips)),
        "PyTorch": lambda clips: i3d.torch_logits(torch_network, clips),
    }

    four = np.random.RandomState(1).rand(4, 3, 16, 224, 224).astype(np.float32)
    logits = [f(np.moveaxis(four, 1, -1)) for f in networks.values()]
    l2 = np.linalg.norm(logits[0] - logits[1])
    print(f"L2 difference of the logits of 4 clips: {l2:.2e} (published, port: {PUBLISHED_L2:.1e})")

    sets: dict[str, list[np.ndarray]] = {name: [] for name in networks}
    with tqdm(total=2 * 128, unit="clip", smoothing=0) as progress:
        for seed in (1, 2):
            rows: dict[str, list[np.ndarray]] = {name: [] for name in networks}
            for clip in noise(seed, 128):
                for name, f in networks.items():
                    rows[name].append(f(clip)[0])
                progress.update()
            for name in networks:
                sets[name].append(np.stack(rows[name]))

    for name, (fake, real) in sets.items():
        s1, s2 = (FeatureStatistics.from_features(features) for features in (fake, real))
        ours = frechet_distance_from_statistics(s1, s2)
        print(f"{name + ' logits,':16} our distance:    {ours:.6f}")
        print(f"{name + ' logits,':16} SciPy's formula: {trace_formula(fake, real):.6f}")
    print(f"published, TensorFlow and the port: {PUBLISHED_FVD}")


def trace_formula(fake: np.ndarray, real: np.ndarray) -> float:
    """The distance as StyleGAN-V computes it."""
    m1, m2 = fake.mean(axis=0), real.mean(axis=0)
    c1, c2 = (np.cov(features, rowvar=False) for features in (fake, real))
    root = scipy.linalg.sqrtm(c1 @ c2)
    return float(np.real(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)))


if __name__ == "__main__":
    main()
