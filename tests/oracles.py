"""Distances between sets of points as others compute them, in float64."""

import contextlib
import importlib
import importlib.util
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import prdc
import reference
from sklearn.metrics.pairwise import polynomial_kernel

from srvp_fd_jax.distances.mind import DIRECTIONS, unit_directions


def mmd_poly(x: np.ndarray, y: np.ndarray, gamma: float | None = None) -> float:
    """As `mmd_poly` of the package videojedi, which cannot be installed beside this one."""
    kernel = [polynomial_kernel(a, b, 2, gamma, 0) for a, b in ((x, x), (y, y), (x, y))]
    return kernel[0].mean() + kernel[1].mean() - 2 * kernel[2].mean()


def jedi(x: np.ndarray, y: np.ndarray) -> float:
    """As `JEDiMetric.compute_metric` of videojedi."""
    return 100 * mmd_poly(np.float64(x), np.float64(y))


def jedi_unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """JEDi's kernel in the unbiased estimate of torch-fidelity, for sets of one size."""
    kernel = {"kid_kernel_poly_degree": 2, "kid_kernel_poly_coef0": 0}
    return 100 * torch_fidelity_kid(x, y, **kernel)["kernel_inception_distance_mean"]


def kvd(x: np.ndarray, y: np.ndarray) -> float:
    """KID of torch-fidelity on all samples at once, for sets of one size."""
    return torch_fidelity_kid(x, y)["kernel_inception_distance_mean"]


def torch_fidelity_kid(x: np.ndarray, y: np.ndarray, **options: Any) -> dict[str, float]:
    """KID of torch-fidelity, by default on all samples at once."""
    import torch

    defaults = {
        "kid_subsets": 1,
        "kid_subset_size": len(x),
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
        "rng_seed": 2020,
        "verbose": False,
    }
    features = (torch.tensor(np.float64(f)) for f in (x, y))
    return _metric_kid().kid_features_to_metric(*features, **defaults | options)


def mind(x: np.ndarray, y: np.ndarray) -> float:
    """As `metric_mind` in torch-fidelity's repository, on our directions, for sets of one size."""
    d = x.shape[1]
    directions = np.float64(unit_directions(DIRECTIONS, d))
    projected = [np.sort(np.float64(f) @ directions.T, axis=0) for f in (x, y)]
    return 3 * d * float(np.mean((projected[0] - projected[1]) ** 2))


def prdc_of(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """As the package prdc."""
    with contextlib.redirect_stdout(io.StringIO()):
        return prdc.compute_prdc(np.float64(x), np.float64(y), nearest_k=5)


ORACLES = {
    "frechet": reference.frechet_distance_float64,
    "jedi": jedi,
    "jedi_unbiased": jedi_unbiased,
    "kvd": kvd,
    "mind": mind,
    **{
        name: lambda x, y, name=name: prdc_of(x, y)[name]
        for name in ("precision", "recall", "density", "coverage")
    },
}
"""Oracles under the names of `DISTANCES`."""


def _metric_kid() -> Any:
    """The module of KID in torch-fidelity alone: the package imports torchvision."""
    name = "torch_fidelity.metric_kid"
    if name not in sys.modules:
        found = importlib.util.find_spec("torch_fidelity")
        assert found is not None
        package = types.ModuleType("torch_fidelity")
        package.__path__ = list(found.submodule_search_locations or [])
        extracting = types.ModuleType("torch_fidelity.utils")
        source = (Path(package.__path__[0]) / "metric_kid.py").read_text()
        for function in source.split("torch_fidelity.utils import (")[1].split(")")[0].split(","):
            if function.strip():
                setattr(extracting, function.strip(), None)
        sys.modules |= {"torch_fidelity": package, "torch_fidelity.utils": extracting}
    return importlib.import_module(name)
