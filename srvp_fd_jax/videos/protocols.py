"""Evaluation protocols, as data: everything between stored videos and a number.

The code that FVD was published with says nothing about how clips are chosen, and every tool
samples, resizes and divides in its own way; numbers made under different protocols cannot be
compared. The presets restate what the field's tools do.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax

from srvp_fd_jax.networks.i3d import CLIP_SIZE
from srvp_fd_jax.networks.srvp import FRAME_SIZE, ComparisonType
from srvp_fd_jax.videos.resizing import Resize

Side = Literal["real", "fake"]
Start = Literal["first", "random"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames of a video make its clip.

    Attributes:
        start: "first" for frame 0, "random" for any from which the clip fits, all equally likely.
        step: Every step-th frame is taken.

    Example:
        >>> import srvp_fd_jax
        >>> str(srvp_fd_jax.Sampling("random", step=8))
        'random, every 8th'
    """

    start: Start
    step: int = 1

    def __str__(self) -> str:
        """As in "random, every 8th"."""
        return self.start if self.step == 1 else f"{self.start}, every {self.step}th"


_FIRST, _RANDOM = Sampling("first"), Sampling("random")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How videos become a number: a video gives one clip, and clips give the statistics.

    Attributes:
        name: What a result is called by; overrides are part of it, see `find_protocol`.
        network: "i3d", or the SRVP dataset whose model encodes.
        comparison_type: Of SRVP; None for I3D.
        frames: Frames of a clip; None for whole videos, which then have one length.
        clips: Clips a side, those of the first videos that are long enough, in natural order of
            their names; None for all.
        real: How real videos are sampled.
        fake: How generated videos are sampled.
        drop_below: Shorter videos are dropped: those below the (frames − 1)·step + 1 frames that a
            clip spans ("span"), or below frames·step ("steps").
        resize: How frames are brought to the network's size, see `videos.resizing.resize`.
        ddof: Covariances are divided by n − ddof.
        seed: Of random starts. Not part of what statistics are compared by.

    Example:
        One of your own, and what a preset drops:

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
    comparison_type: ComparisonType | None = None
    frames: int | None = None
    clips: int | None = None
    real: Sampling = _FIRST
    fake: Sampling = _FIRST
    drop_below: Literal["span", "steps"] = "span"
    resize: Resize
    ddof: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises a `ValueError` unless there is a comparison for SRVP and only for it."""
        if (self.comparison_type is None) != (self.network == "i3d"):
            raise ValueError(
                f"comparison_type: got {self.comparison_type!r} for the network {self.network!r}"
            )

    @property
    def size(self) -> int:
        """Height and width of the frames that the network takes."""
        return CLIP_SIZE if self.network == "i3d" else FRAME_SIZE

    def described(self) -> dict[str, str]:
        """The protocol in words, all that a number depends on but the weights."""
        i3d = self.network == "i3d"
        return {
            "protocol": self.name,
            "network": self.network,
            "clips": str(self.clips or "all"),
            "frames": str(self.frames or "all"),
            "real from": str(self.real),
            "fake from": str(self.fake),
            "dropped below": f"{self.shortest('real')}, {self.shortest('fake')}",
            "resize": f"{self.resize}, {self.size}×{self.size}",
            "values": "-1 to 1" if i3d else "0 to 1",
            "divisor": f"n - {self.ddof}" if self.ddof else "n",
            "seed": str(self.seed),
        }

    def marks(self, frames: int | None = None) -> dict[str, object]:
        """What statistics are marked with: of another protocol they are not compared.

        Args:
            frames: Frames of a clip, where the protocol leaves them to the videos.

        Returns:
            Values by name; None for what is not known.
        """
        return {
            "ddof": self.ddof,
            "frames": frames or self.frames,
            "protocol": self.name,
            "resize": self.resize,
        }

    def shortest(self, side: Side) -> int:
        """Frames of the shortest video that gives a clip.

        Args:
            side: "real" or "fake".

        Returns:
            At least 1.
        """
        frames, step = self.frames or 1, self.sampling(side).step
        return frames * step if self.drop_below == "steps" else (frames - 1) * step + 1

    def sampling(self, side: Side) -> Sampling:
        """How the videos of one side are sampled.

        Args:
            side: "real" or "fake".

        Returns:
            `real` or `fake`.
        """
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
    # https://github.com/edouardelasalles/srvp: the test sets of preprocessing/*/make_test_set.py,
    # conditioning frames included; covariances as srvp-fd 0.4.1 divides them.
    return [
        Protocol(
            name=f"srvp:{dataset}:{comparison_type}",
            network=dataset,
            comparison_type=comparison_type,
            frames=frames,
            real=real,
            resize=resize,
            ddof=1,
        )
        for comparison_type in get_args(ComparisonType)
    ]


PROTOCOLS: Mapping[str, Protocol] = {
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
        # Originals run at 50 Hz, the model at an eighth of it.
        *_srvp("human", 53, Sampling("random", 8), resize="srvp_human"),
        *_srvp("digits", None),
    )
}
"""Presets by name."""

_KINDS: Mapping[str, type | tuple[str, ...]] = {
    "clips": int,
    "frames": int,
    "step": int,
    "start": get_args(Start),
    "resize": get_args(Resize),
    "seed": int,
}
OVERRIDES = tuple(_KINDS)
"""What `find_protocol` can override."""


def find_protocol(name: str, **overrides: int | str | None) -> Protocol:
    """Finds a preset and overrides parts of it, which its name then says.

    Args:
        name: A name in `PROTOCOLS`, alone or with overrides in the form that names have, as in
            "fvd2048_16f+clips=256+start=first".
        **overrides: Any of clips, frames, step, start, resize and seed; of both sides. None for
            those of the preset.

    Returns:
        The protocol; all overrides but the seed are part of its name.

    Raises:
        ValueError: If there is no such preset or override, or a value is not allowed.

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
        raise ValueError(f"protocol: got {preset!r}, allowed are {', '.join(PROTOCOLS)}")
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
    if key not in _KINDS:
        raise ValueError(f"protocol: got an override {key!r}, allowed are {', '.join(_KINDS)}")
    allowed = _KINDS[key]
    if isinstance(allowed, tuple):
        if value not in allowed:
            raise ValueError(f"{key}: got {value!r}, allowed are {', '.join(allowed)}")
        return value
    least = 0 if key == "seed" else 1
    try:
        number = int(str(value))  # not cut to a whole one
    except ValueError:
        number = -1
    if number < least:
        raise ValueError(f"{key}: got {value!r}, expected a whole number of at least {least}")
    return number
