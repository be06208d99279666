"""The Fréchet distance between sets of frames or clips, on SRVP features.

The three comparisons are those of the PyTorch package srvp-fd 0.4.1, whose numbers they give:

- "frame": the encoding of single frames; appearance.
- "static_content": the content variable w, from the last nt_inf frames of a clip; what stays.
- "dynamics": the Gaussian over the initial state, from the first nt_inf frames of a clip, every
  clip being one component of a Gaussian mixture; motion.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterable
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from numpy.typing import ArrayLike

from srvp_fd_jax import encoding, frechet
from srvp_fd_jax.encoding import Extract, Features
from srvp_fd_jax.inputs import DataFormat, as_frames, check_counts, to_unit_range
from srvp_fd_jax.networks.convolution import Precision
from srvp_fd_jax.networks.srvp import SRVP, ComparisonType, gaussian_from_raw
from srvp_fd_jax.statistics import (
    AnyArray,
    FeatureStatistics,
    frechet_distance_from_statistics,
)
from srvp_fd_jax.weights import load_weights

Moments = dict[str, Float[Array, "_ _"]]
"""Features, of which there may be another number and size for each comparison."""


@encoding.network_pytree("dataset", "method", "weights_sha256")
class FrechetDistanceCalculator:
    """Fréchet distances with one model, whose weights are loaded once.

    A calculator is a pytree: passed to a jitted function its weights are arguments, closed over
    they are constants. All methods work under `jit`; distances and features are differentiable in
    the inputs.

    Inputs are frames [N, 64, 64, C] or [N, C, 64, 64], and clips [N, T, 64, 64, C] or
    [N, T, C, 64, 64] with T ≥ nt_inf; uint8 (0 to 255) or floats (0 to 1); from JAX, NumPy or
    anything that `np.asarray` takes.

    Attributes:
        network: The Flax network, float32.
        dataset: Name of the model.
        method: How the Fréchet distance is evaluated.
        weights_sha256: Hash of the PyTorch checkpoint that the weights come from.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.videos.moving_digits import moving_digits
        >>> calculator = srvp_fd_jax.FrechetDistanceCalculator("digits")
        >>> clips = moving_digits(np.random.default_rng(0), n=6, length=8)
        >>> calculator.extract_w(clips).shape
        (6, 256)
        >>> statistics = calculator.statistics([clips[:4], clips[4:]], "dynamics")
        >>> int(statistics.count), statistics.mean.shape
        (6, (20,))
    """

    network: SRVP
    dataset: str
    method: frechet.Method
    weights_sha256: str

    def __init__(
        self,
        dataset: str = "mmnist_stochastic",
        *,
        weights: str | os.PathLike[str] | None = None,
        method: frechet.Method = "procrustes",
        precision: Precision = "float32",
    ):
        """Loads the model.

        Args:
            dataset: One of `DATASETS`.
            weights: A converted file or checkpoint folder; by default looked up, see
                `load_network`.
            method: "procrustes" or "eigh", see `frechet.frechet_distance_from_factors`.
            precision: "float32", or the faster "bfloat16" for the encoder alone, see
                `load_network`. Statistics made with one are not compared with the other's.

        Raises:
            FileNotFoundError: If the weights are nowhere and the hub cannot be reached.
            ValueError: If `dataset`, `method` or `precision` is unknown, or a weights file is
                damaged.
        """
        frechet.check_method(method)
        found = load_weights(dataset, weights)
        self.network, self.weights_sha256 = found.network(precision), found.source_sha256
        self.dataset, self.method = dataset, method
        if self.network.config.skipco:
            warnings.warn(
                f"the model {dataset!r} was trained with skip connections (skipco), which let "
                "detail bypass the encoder: its features may tell less than those of a model "
                "without",
                stacklevel=2,
            )

    def __call__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        comparison_type: ComparisonType = "frame",
        batch_size: int | None = None,
    ) -> Float[Array, ""]:
        """Squared Fréchet distance between two sets of frames or clips.

        Args:
            x: Frames for comparison_type "frame", else clips.
            y: The same; the number of samples may differ, the length of clips may not.
            comparison_type: "frame", "static_content" or "dynamics".
            batch_size: How many samples are encoded at a time; by default about 64 frames on a
                CPU and 256 elsewhere. The result is the same up to rounding.

        Returns:
            Non-negative float32 scalar.

        Raises:
            ValueError: If an argument is not what is described here; the message names it. Values
                out of range or not finite are found in concrete arrays, not under `jit`.
        """
        return self._distance(x, y, comparison_type, batch_size, "auto")

    def extract_features(
        self, images: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n nhx"]:
        """Encodings of frames, in [-1, 1]: the features of "frame".

        Args:
            images: Frames [N, 64, 64, C] or [N, C, 64, 64].
            batch_size: How many are encoded at a time; by default 64.

        Returns:
            One row a frame, float32; differentiable in the frames.

        Raises:
            ValueError: If `images` are not what is described here.
        """
        samples = self._samples(images, "images", "frame")
        return self._features(_frame, samples, "frame", batch_size)

    def extract_w(
        self, videos: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n nh_inf"]:
        """Content variables of clips, in [-1, 1]: the features of "static_content".

        Args:
            videos: Clips [N, T, 64, 64, C] or [N, T, C, 64, 64]; the last nt_inf frames count.
            batch_size: How many are encoded at a time, by default as in a call.

        Returns:
            One row a clip, float32; differentiable in the clips.

        Raises:
            ValueError: If `videos` are not what is described here.
        """
        samples = self._samples(videos, "videos", "static_content")
        return self._features(_static_content, samples, "static_content", batch_size)

    def extract_q_y_0_params(
        self, videos: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n two_ny"]:
        """Gaussians over the initial states of clips, mean and raw scale side by side.

        The standard deviation is softplus(raw scale) + 1e-8.

        Args:
            videos: Clips [N, T, 64, 64, C] or [N, T, C, 64, 64]; the first nt_inf frames count.
            batch_size: How many are encoded at a time, by default as in a call.

        Returns:
            One row a clip, float32; differentiable in the clips.

        Raises:
            ValueError: If `videos` are not what is described here.
        """
        samples = self._samples(videos, "videos", "dynamics")
        return self._features(_initial_state, samples, "dynamics", batch_size)

    def statistics(
        self,
        batches: Iterable[ArrayLike],
        comparison_type: ComparisonType = "frame",
        batch_size: int | None = None,
    ) -> FeatureStatistics:
        """Statistics of any number of samples, in a fixed amount of memory.

        Compiled once whatever the lengths of the batches; while the device works on one batch the
        host reads the next. For a progress bar wrap `batches`, as in `statistics(tqdm(batches))`.

        Args:
            batches: Arrays of frames for comparison_type "frame", else of clips, of any lengths
                but all of the same type and with clips of one length.
            comparison_type: "frame", "static_content" or "dynamics".
            batch_size: How many samples are encoded at a time, by default as in a call.

        Returns:
            Statistics for `frechet_distance_from_statistics`, marked with what they are of.

        Raises:
            ValueError: If a batch is not what is described here; the message tells which.
        """
        _check_comparison_type(comparison_type)

        def check(batch: ArrayLike, name: str) -> Shaped[AnyArray, "..."]:
            return self._samples(batch, name, comparison_type)

        samples = encoding.checked(batches, check)  # whole clips: all of one length
        return encoding.stream(
            Extract(_MOMENTS[comparison_type], self.network),
            (self._counting_frames(s, comparison_type) for s in samples),
            self._batch_size(comparison_type, batch_size),
            self.empty(comparison_type),
        )

    def empty(self, comparison_type: ComparisonType = "frame") -> FeatureStatistics:
        """Statistics of no samples, marked with what the calculator's statistics are of.

        Args:
            comparison_type: "frame", "static_content" or "dynamics".

        Returns:
            Statistics to update or to merge with in a loop of your own.
        """
        _check_comparison_type(comparison_type)
        source = {
            "comparison_type": comparison_type,
            "dataset": self.dataset,
            "network": "srvp",
            "precision": self.network.precision,
            "weights_sha256": self.weights_sha256,
        }
        return FeatureStatistics.empty(
            self._dim(comparison_type),
            mixture=comparison_type == "dynamics",
            source=tuple(source.items()),
        )

    def calculate_frechet_distance_from_features(
        self, f1: ArrayLike, f2: ArrayLike
    ) -> Float[Array, ""]:
        """Squared Fréchet distance between two sets of features.

        Args:
            f1: Features [N, d], float.
            f2: Features [M, d], float.

        Returns:
            Non-negative float32 scalar.

        Raises:
            ValueError: If the shapes disagree, a set has fewer than two samples, or (on concrete
                arrays) a value is not finite.
        """
        features = {"f1": _as_features(f1, "f1"), "f2": _as_features(f2, "f2")}
        d1, d2 = (f.shape[1] for f in features.values())
        if d1 != d2:
            raise ValueError(f"f2: got {d2} feature dimensions, expected {d1} as in f1")
        check_counts(features, d1)
        s1, s2 = (FeatureStatistics.from_features(f) for f in features.values())
        return frechet_distance_from_statistics(s1, s2, self.method)

    def _distance(
        self,
        x: ArrayLike,
        y: ArrayLike,
        comparison_type: ComparisonType,
        batch_size: int | None,
        data_format: DataFormat,
    ) -> Float[Array, ""]:
        samples = {
            "x": self._samples(x, "x", comparison_type, data_format),
            "y": self._samples(y, "y", comparison_type, data_format),
        }
        if comparison_type != "frame" and np.shape(samples["x"])[1] != np.shape(samples["y"])[1]:
            lengths = [s.shape[1] for s in samples.values()]
            raise ValueError(f"y: got clips of {lengths[1]} frames, expected {lengths[0]} as in x")
        check_counts(samples, self._dim(comparison_type))
        s1, s2 = (self._statistics(s, comparison_type, batch_size) for s in samples.values())
        return frechet_distance_from_statistics(s1, s2, self.method)

    def _statistics(
        self,
        samples: Shaped[AnyArray, "..."],
        comparison_type: ComparisonType,
        batch_size: int | None,
    ) -> FeatureStatistics:
        return encoding.statistics(
            Extract(_MOMENTS[comparison_type], self.network),
            self._counting_frames(samples, comparison_type),
            self._batch_size(comparison_type, batch_size),
            self.empty(comparison_type),
        )

    def _samples(
        self,
        x: ArrayLike,
        name: str,
        comparison_type: ComparisonType,
        data_format: DataFormat = "auto",
    ) -> Shaped[AnyArray, "..."]:
        """Checked frames or whole clips, channels last."""
        _check_comparison_type(comparison_type)
        config = self.network.config
        samples = as_frames(
            x,
            name,
            ndim=4 if comparison_type == "frame" else 5,
            size=config.nx,
            channels=config.nc,
            data_format=data_format,
        )
        if comparison_type != "frame" and samples.shape[1] < config.nt_inf:
            raise ValueError(
                f"{name}: got clips of {samples.shape[1]} frames, {comparison_type!r} of the "
                f"model {self.dataset!r} needs at least {config.nt_inf}"
            )
        return samples

    def _features(
        self,
        function: Callable[[SRVP, Shaped[Array, "n *sample"]], Features],
        samples: Shaped[AnyArray, "..."],
        comparison_type: ComparisonType,
        batch_size: int | None,
    ) -> Float[Array, "n d"]:
        counting = self._counting_frames(samples, comparison_type)
        batch_size = self._batch_size(comparison_type, batch_size)
        shards = encoding.find_shards(samples)
        return encoding.encode(Extract(function, self.network), counting, batch_size, shards)[
            "features"
        ]

    def _counting_frames(
        self, samples: Shaped[AnyArray, "..."], comparison_type: ComparisonType
    ) -> Shaped[AnyArray, "..."]:
        """Only the frames that count are encoded, and only those go to the device."""
        nt_inf = self.network.config.nt_inf
        match comparison_type:
            case "static_content":
                return samples[:, -nt_inf:]
            case "dynamics":
                return samples[:, :nt_inf]
        return samples

    def _dim(self, comparison_type: ComparisonType) -> int:
        config = self.network.config
        dims = {"frame": config.nhx, "static_content": config.nh_inf, "dynamics": config.ny}
        return dims[comparison_type]

    def _batch_size(self, comparison_type: ComparisonType, batch_size: int | None) -> int:
        frames = 1 if comparison_type == "frame" else self.network.config.nt_inf
        return encoding.check_batch_size(batch_size, max(1, frames_at_once() // frames))


def frechet_distance(
    x: ArrayLike,
    y: ArrayLike,
    dataset: str = "mmnist_stochastic",
    comparison_type: ComparisonType = "frame",
    *,
    batch_size: int | None = None,
    data_format: DataFormat = "auto",
    weights: str | os.PathLike[str] | None = None,
    method: frechet.Method = "procrustes",
) -> Float[Array, ""]:
    """Squared Fréchet distance between two sets of frames or clips, on SRVP features.

    The distance of Gaussians fitted to the features (Heusel et al. 2017, arXiv 1706.08500, on the
    encoder of SRVP, arXiv 2002.09219), as the PyTorch package srvp-fd 0.4.1 computes it. Works
    under `jit`, where the weights are constants, and is differentiable in x and y. A model is
    loaded at its first use and kept.

    Args:
        x: Frames [N, 64, 64, C] or [N, C, 64, 64] for comparison_type "frame", else clips
            [N, T, 64, 64, C] or [N, T, C, 64, 64] with T ≥ nt_inf; uint8 (0 to 255) or floats
            (0 to 1). C is the model's: 1 for Moving MNIST, KTH and digits, 3 for BAIR and Human.
        y: The same; the number of samples may differ, the length of clips may not.
        dataset: Which model's features: one of `DATASETS`.
        comparison_type: "frame" (appearance of single frames), "static_content" (what stays in a
            clip) or "dynamics" (how it moves).
        batch_size: How many samples are encoded at a time; by default about 64 frames on a CPU
            and 256 elsewhere. The result is the same up to rounding.
        data_format: "channels_last", "channels_first", or "auto" to tell by the shape.
        weights: A converted file or checkpoint folder; by default looked up, see `load_network`.
        method: "procrustes" or "eigh", see `frechet.frechet_distance_from_factors`.

    Returns:
        Non-negative float32 scalar. Its bias falls with the number of samples, so that only numbers
        made with the same N compare.

    Raises:
        FileNotFoundError: If the weights are nowhere and the hub cannot be reached.
        ValueError: If an argument is not what is described here; the message names it. Values out
            of range or not finite are found in concrete arrays, not under `jit`.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.videos.moving_digits import moving_digits
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
    calculator = _calculator(dataset, path, method)
    return calculator._distance(x, y, comparison_type, batch_size, data_format)


@functools.lru_cache(maxsize=8)
def _calculator(
    dataset: str, weights: str | None, method: frechet.Method
) -> FrechetDistanceCalculator:
    return FrechetDistanceCalculator(dataset, weights=weights, method=method)


def frames_at_once() -> int:
    """How many frames are encoded at a time.

    A fixed number bounds the memory of any number of samples. On a CPU the activations of a few
    stay near the cores, other devices take many to be busy.
    """
    return 64 if jax.default_backend() == "cpu" else 256


def _frame(network: SRVP, frames: Shaped[Array, "n h w c"]) -> Features:
    return {"features": network.encoder(to_unit_range(frames))}


def _static_content(network: SRVP, clips: Shaped[Array, "n t h w c"]) -> Features:
    return _content_moments(network, _encode_clips(network, clips))


def _initial_state(network: SRVP, clips: Shaped[Array, "n t h w c"]) -> Features:
    return {"features": network.initial_state(_encode_clips(network, clips))}


def _dynamics(network: SRVP, clips: Shaped[Array, "n t h w c"]) -> Features:
    return _dynamics_moments(network, _encode_clips(network, clips))


def _content_moments(network: SRVP, encodings: Float[Array, "n t nhx"]) -> Features:
    return {"features": network.content(encodings)}


def _dynamics_moments(network: SRVP, encodings: Float[Array, "n nt_inf nhx"]) -> Features:
    mean, variance = gaussian_from_raw(network.initial_state(encodings))
    return {"features": mean, "variances": variance}


_MOMENTS = {"frame": _frame, "static_content": _static_content, "dynamics": _dynamics}


def clip_moments(
    network: SRVP,
    comparison_types: tuple[ComparisonType, ...],
    clips: Shaped[Array, "n t h w c"],
) -> tuple[Moments, ...]:
    """What several comparisons are made of, each frame that counts encoded once.

    Returns:
        Features a comparison; of "frame" those of all frames, clip after clip.
    """
    t, nt_inf = clips.shape[1], network.config.nt_inf
    counting = {"frame": (0, t), "static_content": (t - nt_inf, t), "dynamics": (0, nt_inf)}
    frames = np.unique(np.concatenate([np.arange(*counting[name]) for name in comparison_types]))
    encodings = _encode_clips(network, clips[:, frames])

    def moments(comparison_type: ComparisonType) -> Moments:
        of_clips = encodings[:, np.searchsorted(frames, np.arange(*counting[comparison_type]))]
        match comparison_type:
            case "frame":
                return {"features": of_clips.reshape(-1, of_clips.shape[-1])}
            case "static_content":
                return _content_moments(network, of_clips)
        return _dynamics_moments(network, of_clips)

    return tuple(map(moments, comparison_types))


def _encode_clips(network: SRVP, clips: Shaped[Array, "n t h w c"]) -> Float[Array, "n t nhx"]:
    encodings = network.encoder(to_unit_range(clips.reshape(-1, *clips.shape[2:])))
    return encodings.reshape(*clips.shape[:2], -1)


def _as_features(f: ArrayLike, name: str) -> Float[Array, "n d"]:
    if np.ndim(f) != 2:
        raise ValueError(f"{name}: got shape {np.shape(f)}, expected [N, d]")
    features = jnp.asarray(f)
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"{name}: got dtype {features.dtype}, expected floats")
    if not isinstance(features, jax.core.Tracer) and not jnp.isfinite(features).all():
        raise ValueError(f"{name}: got values that are not finite")
    return features.astype(jnp.float32)


def _check_comparison_type(comparison_type: str) -> None:
    if comparison_type not in get_args(ComparisonType):
        allowed = ", ".join(map(repr, get_args(ComparisonType)))
        raise ValueError(f"comparison_type: got {comparison_type!r}, allowed are {allowed}")
