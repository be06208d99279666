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
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from numpy.typing import ArrayLike

from srvp_fd_jax import encoding, frechet
from srvp_fd_jax.devices import AnyArray, find_division, own, varying
from srvp_fd_jax.encoding import Extract, Moments, Statistics
from srvp_fd_jax.inputs import DataFormat, as_array, as_frames, to_unit_range
from srvp_fd_jax.networks.convolution import Precision
from srvp_fd_jax.networks.srvp import COMPARISON_TYPES, ComparisonType, gaussian_from_raw
from srvp_fd_jax.statistics import (
    FeatureStatistics,
    check_counts,
    distance_between,
    mark,
    nothing,
)
from srvp_fd_jax.weights import DATASETS, FrozenNetwork, load_weights

_T = TypeVar("_T")


@encoding.network_pytree("dataset", "method", "weights_sha256")
class FrechetDistanceCalculator:
    """Fréchet distances with one model, whose weights are loaded once.

    A calculator is a pytree: passed to a jitted function its weights are arguments, closed over
    they are constants. All methods work under `jit`; distances and features are differentiable in
    the inputs. A calculator can be an attribute of an `nnx.Module`, whose optimiser and `train()`
    leave it as it is, and it can be pickled.

    Inputs are frames [N, 64, 64, C] or [N, C, 64, 64], and clips [N, T, 64, 64, C] or
    [N, T, C, 64, 64] with T ≥ nt_inf; uint8 (0 to 255) or floats (0 to 1); from JAX, NumPy or
    anything that `np.asarray` takes.

    Attributes:
        network: The weights and the architecture, see `weights.FrozenNetwork`; `network.module()`
            is the Flax module.
        dataset: Name of the model.
        method: How the Fréchet distance is evaluated.
        weights_sha256: Hash of the weights as they were loaded, see `weights.Weights`.

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
        >>> of_all_three = calculator.clip_statistics([clips])
        >>> {name: int(of_name.count) for name, of_name in of_all_three.items()}
        {'frame': 48, 'static_content': 6, 'dynamics': 6}
    """

    network: FrozenNetwork
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
        if dataset not in DATASETS:
            raise ValueError(f"dataset: got {dataset!r}, allowed are {', '.join(DATASETS)}")
        found = load_weights(dataset, weights)
        self.network, self.weights_sha256 = found.frozen(precision), found.weights_sha256
        self.dataset, self.method = dataset, method
        if self.network.config.skipco:
            _warn_of_skip_connections(dataset)

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
        return self._distances(x, y, (comparison_type,), batch_size, "auto")[comparison_type]

    def distances(
        self, x: ArrayLike, y: ArrayLike, batch_size: int | None = None
    ) -> dict[ComparisonType, Float[Array, ""]]:
        """All three distances between two sets of clips, each frame encoded once.

        Args:
            x: Clips; "frame" compares all of their frames.
            y: The same; the number of clips may differ, their length may not.
            batch_size: How many clips are encoded at a time, by default as in a call.

        Returns:
            Squared Fréchet distances under the names of the comparisons, as calls give them.

        Raises:
            ValueError: If an argument is not what is described here; the message names it.
        """
        return self._distances(x, y, COMPARISON_TYPES, batch_size, "auto")

    def extract_features(
        self, images: ArrayLike, batch_size: int | None = None
    ) -> Float[Array, "n nhx"]:
        """Encodings of frames, in [-1, 1]: the features of "frame".

        Args:
            images: Frames [N, 64, 64, C] or [N, C, 64, 64].
            batch_size: How many are encoded at a time, by default as in a call.

        Returns:
            One row a frame, float32; differentiable in the frames.

        Raises:
            ValueError: If `images` are not what is described here.
        """
        return self._features(images, "images", "frame", batch_size)

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
        return self._features(videos, "videos", "static_content", batch_size)

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
        return self._features(videos, "videos", "dynamics", batch_size)

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
        return self._stream(batches, (comparison_type,), batch_size)[comparison_type]

    def clip_statistics(
        self, batches: Iterable[ArrayLike], batch_size: int | None = None
    ) -> dict[ComparisonType, FeatureStatistics]:
        """Statistics of all three comparisons in one pass, each frame encoded once.

        As `statistics`; under `jit` too, where they merge with those that a loop carries.

        Args:
            batches: Arrays of clips of any numbers, but all of the same type and length; "frame"
                compares all of their frames.
            batch_size: How many clips are encoded at a time, by default as in a call.

        Returns:
            Statistics under the names of the comparisons.

        Raises:
            ValueError: If a batch is not what is described here; the message tells which.
        """
        return self._stream(batches, COMPARISON_TYPES, batch_size)

    def empty(self, comparison_type: ComparisonType = "frame") -> FeatureStatistics:
        """Statistics of no samples, marked with what the calculator's statistics are of.

        Args:
            comparison_type: "frame", "static_content" or "dynamics".

        Returns:
            Statistics to update or to merge with in a loop of your own.

        Raises:
            ValueError: If `comparison_type` is unknown.
        """
        return jax.tree.map(varying, self._nothing(comparison_type))

    def _nothing(self, comparison_type: ComparisonType) -> FeatureStatistics:
        """Statistics of no samples for samples that vary over some axes of `jax.shard_map`."""
        _check_comparison_type(comparison_type)
        return mark(
            nothing(self._dim(comparison_type), comparison_type == "dynamics"),
            comparison_type=comparison_type,
            dataset=self.dataset,
            network="srvp",
            precision=self.network.precision,
            weights_sha256=self.weights_sha256,
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
        features = {name: as_array(f, name) for name, f in (("f1", f1), ("f2", f2))}
        for name, f in features.items():
            if f.ndim != 2:
                raise ValueError(f"{name}: got shape {f.shape}, expected [N, d]")
            if not jnp.issubdtype(f.dtype, jnp.floating):
                raise ValueError(f"{name}: got dtype {f.dtype}, expected floats")
            if isinstance(f, np.ndarray) and not np.isfinite(f).all():
                raise ValueError(f"{name}: got values that are not finite")
        d1, d2 = (f.shape[1] for f in features.values())
        if d1 != d2:
            raise ValueError(f"f2: got {d2} feature dimensions, expected {d1} as in f1")
        check_counts({name: len(f) for name, f in features.items()}, d1, stacklevel=3)
        both = {name: FeatureStatistics.from_features(f) for name, f in features.items()}
        return distance_between(both, self.method)

    def _distances(
        self,
        x: ArrayLike,
        y: ArrayLike,
        comparison_types: tuple[ComparisonType, ...],
        batch_size: int | None,
        data_format: DataFormat,
    ) -> dict[ComparisonType, Float[Array, ""]]:
        samples = {
            "x": self._samples(x, "x", comparison_types, data_format),
            "y": self._samples(y, "y", comparison_types, data_format),
        }
        if comparison_types != ("frame",):
            lengths = [s.shape[1] for s in samples.values()]
            if lengths[0] != lengths[1]:
                raise ValueError(
                    f"y: got clips of {lengths[1]} frames, expected {lengths[0]} as in x"
                )
        for comparison_type in comparison_types:
            counts = {
                name: len(s) * s.shape[1] if comparison_type == "frame" and s.ndim == 5 else len(s)
                for name, s in samples.items()
            }
            check_counts(counts, self._dim(comparison_type))
        of_x, of_y = (self._statistics(s, comparison_types, batch_size) for s in samples.values())
        return {
            comparison_type: distance_between({"x": s1, "y": s2}, self.method)
            for comparison_type, s1, s2 in zip(comparison_types, of_x, of_y, strict=True)
        }

    def _statistics(
        self,
        samples: Shaped[AnyArray, "..."],
        comparison_types: tuple[ComparisonType, ...],
        batch_size: int | None,
    ) -> Statistics:
        used = self._used_frames(samples, comparison_types)
        return encoding.statistics(
            self._extract(clip_moments, comparison_types),
            used,
            _batch_size(used, batch_size),
            tuple(map(self._nothing, comparison_types)),
        )

    def _stream(
        self,
        batches: Iterable[ArrayLike],
        comparison_types: tuple[ComparisonType, ...],
        batch_size: int | None,
    ) -> dict[ComparisonType, FeatureStatistics]:
        def check(batch: ArrayLike, name: str) -> Shaped[AnyArray, "..."]:
            return self._samples(batch, name, comparison_types)

        empty = tuple(map(self._nothing, comparison_types))
        samples = encoding.checked(batches, check)  # whole clips: all of one length
        first, used = encoding.peek(self._used_frames(s, comparison_types) for s in samples)
        if first is None:
            return dict(zip(comparison_types, empty, strict=True))
        size = _batch_size(first, batch_size)
        made = encoding.stream(self._extract(clip_moments, comparison_types), used, size, empty)
        return dict(zip(comparison_types, made, strict=True))

    def _features(
        self, x: ArrayLike, name: str, comparison_type: ComparisonType, batch_size: int | None
    ) -> Float[Array, "n d"]:
        samples = self._samples(x, name, (comparison_type,))
        used = self._used_frames(samples, (comparison_type,))
        (features,) = encoding.encode(
            self._extract(_clip_features, (comparison_type,)),
            own(used),
            _batch_size(used, batch_size),
            find_division(used),
        )
        return features[:, 0]

    def _samples(
        self,
        x: ArrayLike,
        name: str,
        comparison_types: tuple[ComparisonType, ...],
        data_format: DataFormat = "auto",
    ) -> Shaped[AnyArray, "..."]:
        """Checked frames (of "frame" alone) or whole clips, channels last."""
        for comparison_type in comparison_types:
            _check_comparison_type(comparison_type)
        config = self.network.config
        samples = as_frames(
            x,
            name,
            ndim=4 if comparison_types == ("frame",) else 5,
            size=config.nx,
            channels=config.nc,
            data_format=data_format,
        )
        if samples.ndim == 5 and samples.shape[1] < config.nt_inf:
            inferred = next(t for t in comparison_types if t != "frame")
            raise ValueError(
                f"{name}: got clips of {samples.shape[1]} frames, {inferred!r} of the model "
                f"{self.dataset!r} needs at least {config.nt_inf}"
            )
        return samples

    def _used_frames(
        self, samples: Shaped[AnyArray, "..."], comparison_types: tuple[ComparisonType, ...]
    ) -> Shaped[AnyArray, "..."]:
        return used_frames(samples, comparison_types, self.network.config.nt_inf)

    def _extract(
        self,
        function: Callable[[tuple[ComparisonType, ...], FrozenNetwork, Array], Any],
        comparison_types: tuple[ComparisonType, ...],
    ) -> Extract:
        return Extract(_bound(function, comparison_types), self.network)

    def _dim(self, comparison_type: ComparisonType) -> int:
        config = self.network.config
        dims = {"frame": config.nhx, "static_content": config.nh_inf, "dynamics": config.ny}
        return dims[comparison_type]


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
    distances = calculator._distances(x, y, (comparison_type,), batch_size, data_format)
    return distances[comparison_type]


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


def _batch_size(samples: Shaped[AnyArray, "..."], batch_size: int | None) -> int:
    frames = samples.shape[1] if samples.ndim == 5 else 1
    return encoding.check_batch_size(batch_size, max(1, frames_at_once() // frames))


def used_frames(
    samples: Shaped[AnyArray, "..."], comparison_types: tuple[ComparisonType, ...], nt_inf: int
) -> Shaped[AnyArray, "..."]:
    """Samples without the frames that no comparison looks at: only these need a device."""
    if "frame" in comparison_types:
        return samples
    length = samples.shape[1]
    first, last = (0, nt_inf), (length - nt_inf, length)
    if comparison_types == ("dynamics",):
        return _between(samples, *first)
    if comparison_types == ("static_content",):
        return _between(samples, *last)
    if length <= 2 * nt_inf:
        return samples
    xp = jnp if isinstance(samples, jax.Array) else np
    return xp.concatenate([_between(samples, *first), _between(samples, *last)], axis=1)


def _between(samples: Shaped[AnyArray, "n t ..."], start: int, end: int) -> Shaped[AnyArray, "..."]:
    if isinstance(samples, jax.Array):
        return jax.lax.slice_in_dim(samples, start, end, axis=1)  # its bounds are no arrays
    return samples[:, start:end]


@functools.cache
def _bound(
    function: Callable[..., _T], comparison_types: tuple[ComparisonType, ...]
) -> Callable[..., _T]:
    """The same object for the same arguments, since `jit` knows functions by their identity."""
    return functools.partial(function, comparison_types)


def clip_moments(
    comparison_types: tuple[ComparisonType, ...],
    network: FrozenNetwork,
    clips: Shaped[AnyArray, "n *t h w c"],
) -> tuple[Moments, ...]:
    """What several comparisons are made of, each frame encoded once.

    Args:
        comparison_types: Of the clips.
        network: Of the model.
        clips: Their first and last frames are those of the whole clips. Or frames.

    Returns:
        Moments a comparison; of "frame" those of all frames.
    """
    features = _clip_features(comparison_types, network, clips)
    return tuple(map(_moments, comparison_types, features))


def _moments(comparison_type: ComparisonType, features: Float[Array, "n k _"]) -> Moments:
    if comparison_type == "dynamics":
        mean, variance = gaussian_from_raw(features)
        return {"features": mean, "variances": variance}
    return {"features": features}


def _clip_features(
    comparison_types: tuple[ComparisonType, ...],
    network: FrozenNetwork,
    clips: Shaped[AnyArray, "n *t h w c"],
) -> tuple[Float[Array, "n _ _"], ...]:
    """Encodings, w, and means with raw scales of q(y₀), whichever are asked for."""
    # Whoever differentiates in a calculator means its inputs: the metric stays what it is.
    nt_inf, module = network.config.nt_inf, jax.lax.stop_gradient(network).module()
    encodings = _encodings(module.encoder, jnp.reshape(clips, (len(clips), -1, *clips.shape[-3:])))

    def features(comparison_type: ComparisonType) -> Float[Array, "n k d"]:
        match comparison_type:
            case "frame":
                return encodings
            case "static_content":
                return module.content(encodings[:, -nt_inf:])[:, None]
            case "dynamics":
                return module.initial_state(encodings[:, :nt_inf])[:, None]

    return tuple(map(features, comparison_types))


def _encodings(
    encoder: Callable[[Array], Array], clips: Shaped[Array, "n t h w c"]
) -> Float[Array, "n t nhx"]:
    """Encodings of the frames of clips; of long clips part after part, to bound the memory."""

    def encode(part: Shaped[Array, "n s h w c"]) -> Float[Array, "n s nhx"]:
        encodings = encoder(to_unit_range(part.reshape(-1, *part.shape[2:])))
        return encodings.reshape(*part.shape[:2], -1)

    n, t = clips.shape[:2]
    length = -(-t // max(1, n * t // (4 * frames_at_once())))
    if length == t:
        return encode(clips)
    steps = -(-t // length)
    padded = jnp.pad(clips, ((0, 0), (0, steps * length - t), *[(0, 0)] * 3))
    parts = padded.reshape(n, steps, length, *clips.shape[2:]).swapaxes(0, 1)
    encodings = jax.lax.map(encode, parts).swapaxes(0, 1)
    return encodings.reshape(n, steps * length, -1)[:, :t]


@functools.cache  # once a process
def _warn_of_skip_connections(dataset: str) -> None:
    warnings.warn(
        f"the model {dataset!r} was trained with skip connections (skipco), which let detail "
        "bypass the encoder: its features may tell less than those of a model without",
        stacklevel=3,
    )


def _check_comparison_type(comparison_type: str) -> None:
    if comparison_type not in COMPARISON_TYPES:
        allowed = ", ".join(map(repr, COMPARISON_TYPES))
        raise ValueError(f"comparison_type: got {comparison_type!r}, allowed are {allowed}")
