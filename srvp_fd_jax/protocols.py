"""Evaluation protocols as data: everything between stored videos and a distance.

The code that FVD was published with does not say how clips are chosen, and every tool samples,
resizes and divides in its own way, so distances under different protocols cannot be compared. The
presets follow the tools of the field.
"""

import dataclasses
import re
from collections.abc import Collection
from typing import Any, Literal, get_args

import jax

from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.files.inputs import as_count, not_allowed
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.networks.srvp import COMPARISON_TYPES
from srvp_fd_jax.videos.resizing import Resize

Side = Literal["real", "fake"]
Start = Literal["first", "random"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the frames of a clip are chosen from a video.

    Attributes:
        start: "first" to start at frame 0, "random" to start at any frame from which the clip fits,
            with equal probability.
        step: Step between frames; 1 to take every frame.

    Example:
        >>> import srvp_fd_jax
        >>> str(srvp_fd_jax.Sampling("random", step=8))
        'random, every 8th'
    """

    start: Start
    step: int = 1

    def __str__(self) -> str:
        """Words such as "random, every 8th"."""
        return self.start if self.step == 1 else f"{self.start}, every {self.step}th"


_FIRST, _RANDOM = Sampling("first"), Sampling("random")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How videos become a distance: each video gives one clip, and the clips give statistics.

    Attributes:
        name: Name of the protocol in results; it includes overrides, see `find_protocol`.
        network: Name of the network that encodes clips, in `networks.NETWORKS`.
        output: Name of the network's output that is compared.
        distance: Name of the distance; see `distances.DISTANCES`.
        frames: Number of frames per clip; None for whole videos, which must then have one length.
        clips: Number of clips per set, taken from the first videos that are long enough in the
            natural order of their names; None for all.
        real: How real videos are sampled.
        fake: How generated videos are sampled.
        skip: Number of first frames of every video that are left out before its clip is sampled,
            such as the frames that a prediction was given.
        drop_below: Which videos are dropped as too short: those below the (frames − 1)·step + 1
            frames that a clip spans ("span"), or below frames·step ("steps"), without the skipped
            ones.
        resize: How frames are resized for the network; see `resizing.resize`.
        ddof: Covariances of n samples are divided by n − ddof.
        seed: Seed of random starts. Statistics of different seeds may be compared.

    Example:
        A protocol of your own, and the shortest video that a preset takes:

        >>> import dataclasses
        >>> import srvp_fd_jax
        >>> tensorflow = srvp_fd_jax.PROTOCOLS["tensorflow"]
        >>> dataclasses.replace(tensorflow, name="mine", ddof=0).described()["divisor"]
        'n'
        >>> srvp_fd_jax.PROTOCOLS["fvd2048_128f_subsample8f"].shortest("real")
        128
    """

    name: str
    network: str = "i3d"
    output: str = "logits"
    distance: str = "frechet"
    frames: int | None = None
    clips: int | None = None
    real: Sampling = _FIRST
    fake: Sampling = _FIRST
    skip: int = 0
    drop_below: Literal["span", "steps"] = "span"
    resize: Resize
    ddof: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises a `ValueError` if there is no such rule for resizing, or `skip` is no number."""
        as_count(self.skip, "skip", least=0)
        if self.resize not in get_args(Resize):
            raise not_allowed("resize", self.resize, get_args(Resize))

    def described(self) -> dict[str, str]:
        """Describes in words all that a distance depends on except the weights."""
        architecture = NETWORKS[self.network].architecture
        low, high = architecture.value_range
        return {
            "protocol": self.name,
            "network": self.network,
            "output": self.output,
            "distance": self.distance,
            "clips": str(self.clips or "all"),
            "frames": str(self.frames or "all"),
            "skipped first": str(self.skip),
            "real from": str(self.real),
            "fake from": str(self.fake),
            "dropped below": f"{self.shortest('real')}, {self.shortest('fake')}",
            "resize": f"{self.resize}, {architecture.size}×{architecture.size}",
            "values": f"{low:g} to {high:g}",
            "divisor": f"n - {self.ddof}" if self.ddof else "n",
            "seed": str(self.seed),
        }

    def marks(self, frames: int | None = None) -> dict[str, object]:
        """Marks for statistics: statistics with different marks are not compared.

        `frames` is the number of frames per clip, needed if the protocol takes whole videos. A
        value that is not known is None.
        """
        return {
            "ddof": self.ddof,
            "frames": frames or self.frames,
            # Statistics do not depend on the distance that compares them.
            "protocol": re.sub(r"\+distance=\w+", "", self.name),
            "resize": self.resize,
        }

    def shortest(self, side: Side) -> int:
        """Number of frames that a video of this side must have at least to give a clip."""
        frames, step = self.frames or 1, self.sampling(side).step
        span = frames * step if self.drop_below == "steps" else (frames - 1) * step + 1
        return self.skip + span

    def sampling(self, side: Side) -> Sampling:
        """How the videos of this side are sampled."""
        return self.real if side == "real" else self.fake


def _stylegan_v(name: str, frames: int, step: int = 1) -> Protocol:
    # https://github.com/universome/stylegan-v, src/metrics and src/training/dataset.py
    return Protocol(
        name=name,
        frames=frames,
        clips=2048,
        real=Sampling("random", step),
        fake=Sampling("first", step),
        drop_below="steps",
        resize="bilinear",
        ddof=0,
    )


def _srvp(
    dataset: str, frames: int | None, real: Sampling = _FIRST, resize: Resize = "none"
) -> list[Protocol]:
    # https://github.com/edouardelasalles/srvp: test sets of preprocessing/*/make_test_set.py with
    # the conditioning frames; covariances are divided as in srvp-fd 0.4.1.
    return [
        Protocol(
            name=f"srvp:{dataset}:{output}",
            network=dataset,
            output=output,
            frames=frames,
            real=real,
            resize=resize,
            ddof=1,
        )
        for output in COMPARISON_TYPES
    ]


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        # https://github.com/google-research/google-research/tree/master/frechet_video_distance
        Protocol(name="tensorflow", resize="bilinear_tf1", ddof=1),
        _stylegan_v("fvd2048_16f", 16),
        _stylegan_v("fvd2048_128f", 128),
        _stylegan_v("fvd2048_128f_subsample8f", 16, step=8),
        # https://github.com/songweige/content-debiased-fvd
        Protocol(
            name="cd_fvd",
            frames=16,
            real=_RANDOM,
            fake=_RANDOM,
            resize="cd_fvd",
            ddof=0,
        ),
        # https://github.com/JunyaoHu/common_metrics_on_video_quality, method "styleganv"
        Protocol(name="common_metrics", resize="shorter_side", ddof=1),
        *_srvp("mmnist_stochastic", 100),
        *_srvp("mmnist_deterministic", 25),
        *_srvp("bair", 30),
        *_srvp("kth", 40, _RANDOM, resize="srvp_kth"),
        # Original videos have 50 frames per second, of which the model takes every 8th.
        *_srvp("human", 53, Sampling("random", 8), resize="srvp_human"),
        *_srvp("digits", None),
        # Clips as long as those that the recipe "own" of `training` trains on.
        *_srvp("own", 15, _RANDOM, resize="antialiased"),
    )
}
"""Presets by name. Add an entry to use a protocol of your own by its name."""

OVERRIDES: dict[str, type | Collection[str]] = {
    "clips": int,
    "frames": int,
    "step": int,
    "skip": int,
    "start": get_args(Start),
    "resize": get_args(Resize),
    "seed": int,
    "distance": DISTANCES.keys(),
}
"""The overrides that `find_protocol` takes: `int`, or the values that are allowed."""


def find_protocol(name: str, **overrides: int | str | None) -> Protocol:
    """Finds a preset and overrides parts of it.

    Args:
        name: A name in `PROTOCOLS`, alone or with overrides as they appear in names, such as
            "fvd2048_16f+clips=256+start=first".
        **overrides: Values for clips, frames, step, skip, start, resize, seed or distance, each for
            both sides; None keeps the value of the preset.

    Returns:
        The protocol. All overrides except the seed are part of its name.

    Raises:
        ValueError: If the preset or an override is unknown, or a value is not allowed.

    Example:
        >>> import srvp_fd_jax
        >>> protocol = srvp_fd_jax.find_protocol("fvd2048_16f", clips=256, start="first")
        >>> protocol.name
        'fvd2048_16f+clips=256+start=first'
        >>> protocol == srvp_fd_jax.find_protocol(protocol.name)
        True
    """
    preset, *parts = name.split("+")
    if preset not in PROTOCOLS:
        raise not_allowed("protocol", preset, PROTOCOLS)
    protocol = PROTOCOLS[preset]
    given: dict[str, Any] = dict(part.partition("=")[::2] for part in parts)
    given |= {key: value for key, value in overrides.items() if value is not None}
    values: dict[str, Any] = {key: _checked(key, value) for key, value in given.items()}
    sampling = {key: values[key] for key in ("start", "step") if key in values}
    changed: dict[str, Any] = {key: value for key, value in values.items() if key not in sampling}
    changed["real"] = dataclasses.replace(protocol.real, **sampling)
    changed["fake"] = dataclasses.replace(protocol.fake, **sampling)
    parts = [
        f"{key}={value}"
        for key, value in sorted(values.items())
        if key != "seed"
        for holders in [(protocol.real, protocol.fake) if key in sampling else (protocol,)]
        if any(getattr(holder, key) != value for holder in holders)
    ]
    return dataclasses.replace(protocol, name="+".join([preset, *parts]), **changed)


def _checked(key: str, value: int | str) -> int | str:
    if key not in OVERRIDES:
        raise not_allowed("protocol", f"+{key}", [f"+{name}" for name in OVERRIDES])
    allowed = OVERRIDES[key]
    if not isinstance(allowed, type):
        if value not in allowed:
            raise not_allowed(key, value, allowed)
        return value
    least = 0 if key in ("seed", "skip") else 1
    try:
        number = int(str(value))  # raises an error for 2.5, where `int` would cut it
    except ValueError:
        number = -1
    if number < least:
        raise ValueError(f"{key}: got {value!r}, expected a whole number of at least {least}")
    return number
