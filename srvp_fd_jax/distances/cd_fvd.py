"""Reads the files of statistics that cd-fvd writes.

cd-fvd (https://github.com/songweige/content-debiased-fvd, `FeatureStats` in
`cdfvd/utils/metric_utils.py`) keeps the number n of samples and, in float64, the sums Σ xᵢ and
Σ xᵢxᵢᵀ, pickled as a dict. The mean is m = Σ xᵢ / n and the scatter matrix Σ xᵢxᵢᵀ − n m mᵀ, whose
factor R is computed in float64 as well: float32 would lose in that difference what R can hold.

The class comes from StyleGAN2-ADA by way of StyleGAN-V, and a file names neither the tool that
wrote it, nor the protocol, nor the weights. All these tools divide by n.
"""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.files.atomic import open_file
from srvp_fd_jax.files.pickles import read_pickle

SUFFIX = ".pkl"

_LARGEST = 1 << 28  # bytes of a file; 2048 dimensions take 2²⁵
_I3D_LOGITS = 400  # no other output of the networks that these tools have is as wide
# The sums are rounded: relative to the largest entry, and to the trace.
_ASYMMETRY, _INDEFINITENESS = 1e-6, 1e-9


def load(path: str | os.PathLike[str]) -> FeatureStatistics:
    """Reads a file that cd-fvd's `save_real_stats` wrote, or one that it offers for download.

    Args:
        path: Path of the file, for example `i3d_ucf101_full_res128_len16_skip1_seed0.pkl`.

    Returns:
        Statistics in float32. Their `source` says that covariances are divided by n and, if there
        are 400 features, that these are the logits of I3D.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If the file is damaged, or is a pickle of anything else. Nothing of it is run.
    """
    try:
        with open_file(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > _LARGEST:
                raise ValueError(f"has {size} bytes, at most {_LARGEST} are read")
            return _statistics(*_sums(read_pickle(file.read())))
    except ValueError as error:
        raise ValueError(f"{Path(path)}: {error}") from error


def _sums(read: Any) -> tuple[int, Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """The number of samples and the two sums of a file, after checking their types and shapes."""
    if not isinstance(read, dict) or not {"num_items", "raw_mean", "raw_cov"} <= read.keys():
        raise ValueError("not a file of cd-fvd: no dict with num_items, raw_mean and raw_cov")
    count, total, products = read["num_items"], read["raw_mean"], read["raw_cov"]
    if read.get("capture_mean_cov", True) is not True or total is None:
        raise ValueError("holds no sums of features: cd-fvd made it without capture_mean_cov")
    if type(count) is not int or not 2 <= count < 1 << 63:
        raise ValueError(f"num_items is {count!s:.40}, expected a number of samples of at least 2")
    for name, array in (("raw_mean", total), ("raw_cov", products)):
        if not isinstance(array, np.ndarray) or array.dtype != np.float64:
            raise ValueError(f"{name} is not an array of float64")
    d = total.size
    if total.shape != (d,) or products.shape != (d, d) or not 0 < d < 1 << 16:
        shapes = f"{total.shape} and {products.shape}"
        raise ValueError(f"raw_mean and raw_cov have the shapes {shapes}, expected [d] and [d, d]")
    return count, total, products


def _statistics(
    count: int, total: Float[np.ndarray, " d"], products: Float[np.ndarray, "d d"]
) -> FeatureStatistics:
    with np.errstate(over="ignore", invalid="ignore"):
        mean = total / count
        scatter = products - np.outer(mean, total)
        asymmetry, largest = np.abs(products - products.T).max(), np.abs(products).max()
    if not np.isfinite([asymmetry, np.abs(scatter).max()]).all():
        raise ValueError("raw_mean or raw_cov has values that are not finite")
    if asymmetry > _ASYMMETRY * largest:
        raise ValueError("raw_cov is not symmetric")
    eigenvalues, u = np.linalg.eigh((scatter + scatter.T) / 2)
    if eigenvalues[0] < -_INDEFINITENESS * np.trace(products):
        raise ValueError(
            "raw_cov - raw_mean raw_meanᵀ / num_items has negative eigenvalues, so it is no "
            "covariance"
        )
    rows: np.ndarray = np.sqrt(eigenvalues.clip(0))[:, None] * u.T
    with np.errstate(over="ignore"):
        high = mean.astype(np.float32)
        factor = np.linalg.qr(rows).R.astype(np.float32)
    if not (np.isfinite(high).all() and np.isfinite(factor).all()):
        raise ValueError("raw_mean or raw_cov has values that are too large for float32")
    source = {"ddof": "0"}
    if len(mean) == _I3D_LOGITS:
        source |= {"network": "i3d", "output": "logits"}
    return FeatureStatistics(
        count_limbs=jnp.asarray(np.array([count & 0xFFFFFFFF, count >> 32], np.uint32)),
        mean=jnp.asarray(high),
        mean_error=jnp.asarray((mean - high).astype(np.float32)),
        factor=jnp.asarray(factor),
        source=tuple(sorted(source.items())),
    )
