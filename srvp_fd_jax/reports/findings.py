"""What a report says about one protocol: the distance, what it is worth, and telling clips."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.networks.base import Moments, Output
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.reports.clips import Frames, load_shown
from srvp_fd_jax.result import summary
from srvp_fd_jax.significance.along import Along, distances_along
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.extrapolation import Curve, Limit, distance_curve, extrapolate
from srvp_fd_jax.significance.interval import distance_interval
from srvp_fd_jax.significance.labels import KeyLabels, keys_of, labels_in, units_of
from srvp_fd_jax.significance.null_distribution import Floor, find_floor, sample_of
from srvp_fd_jax.significance.severity import Standing
from srvp_fd_jax.videos.sources import Video

SIGNIFICANT, DOUBTFUL = 0.01, 0.05
"""Differences are taken for real if the p-value is below the first, for possible if the second."""

CLIPS_SHOWN = 4
"""Number of random clips of each side that are shown, and of pairs of nearest clips."""


class Pair(NamedTuple):
    """A generated clip and the real clip whose features are nearest to its features.

    Attributes:
        fake: Name of the generated video.
        real: Name of the real video.
        distance: Euclidean distance between the features of both clips.
        typical: Median distance of real clips in the sample from their own nearest real clip.
    """

    fake: str
    real: str
    distance: float
    typical: float


class Findings(NamedTuple):
    """The content of a report for one protocol.

    Attributes:
        protocol: Protocol of both sets.
        names: Paths of the real and of the generated videos.
        real: Statistics of the real videos, with a sample of their own features.
        fake: The same of the generated videos.
        distance: Distance between all clips of both sides.
        floor: Null distribution of the distance between the clips in the samples, and the p-value.
        interval: 95 % confidence interval of the distance between the clips in the samples.
        curve: Distances of random subsets of the clips.
        limit: Line that extrapolates the curve to infinitely many clips.
        along: Distances along the clips; None if features depend on all of their frames.
        window: Number of frames that each vector of `along` looks at.
        looks_at: Frames of the clip that the distance looks at, see `Output.looks_at`.
        pairs: The generated clips that are nearest to real ones, the nearest first.
        random: Names of random videos of each side.
        clips: The clips of all these videos by side and name, prepared for the network, in [0, 1].
        severity: Severity of corruptions of real videos that have the same distance; empty without
            a severity scale of the real videos.
        warnings: Reasons not to rely on the distance, one sentence each.
    """

    protocol: Protocol
    names: tuple[str, str]
    real: FeatureStatistics
    fake: FeatureStatistics
    distance: float
    floor: Floor
    interval: tuple[float, float]
    curve: Curve
    limit: Limit
    along: Along | None
    window: int
    looks_at: str
    pairs: tuple[Pair, ...]
    random: dict[Side, list[str]]
    clips: dict[Side, dict[str, Frames]]
    severity: tuple[Standing, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def infinity(self) -> float | None:
        """FD∞, or None if the line is not reliable.

        With no more clips than feature dimensions the bias is not linear in 1/N. Clips count, not
        their frames, which depend on each other. A line with a negative limit cannot be right, as
        distances are not negative. Unbiased estimates and similarities have no such limit.
        """
        enough = min(self.floor.real, self.floor.fake) > self.real.dim
        limited = DISTANCES[self.protocol.distance].kind == "distance"
        return self.limit.infinity if limited and enough and self.limit.infinity >= 0 else None

    def differs(self) -> bool:
        """Whether the distance is larger than chance gives."""
        return self.floor.p_value < SIGNIFICANT

    def verdict(self) -> str:
        """Says in plain English what the distance is worth, and where along the clip it arises."""
        return " ".join([self._difference(), *self._units()])

    def _units(self) -> Iterator[str]:
        """Says what the test exchanges, unless it is single videos, and if these are too few."""
        floor = self.floor
        if floor.unit != "video":
            yield f"The permutation test exchanges {floor.exchanged()}."
        if floor.smallest_p >= SIGNIFICANT:
            yield (
                f"With so few {floor.unit}s no p-value below {floor.smallest_p:.2g} is possible, "
                "so the test cannot show a difference."
            )

    def _difference(self) -> str:
        floor, where = self.floor, self.where()
        clips = f"{floor.real} real and {floor.fake} generated clips"
        if self.differs():
            times = floor.distance / floor.mean if floor.mean > 0 else math.inf
            beside = f"{times:.1f} times the distance that chance gives"
            if DISTANCES[self.protocol.distance].kind != "distance":
                beside = f"{floor.distance:.3g}, where chance gives {floor.mean:.3g},"
            told = f"Real and generated differ: {beside} with {clips} (p = {floor.p_value:.2g})."
            return f"{told} {where}" if where else told
        if not where and floor.p_value < DOUBTFUL:
            return (
                f"Real and generated may differ, which more than these {clips} would tell "
                f"(p = {floor.p_value:.2g})."
            )
        if not where:
            return f"Not distinguishable from real with these {clips} (p = {floor.p_value:.2g})."
        # The distance looks at some frames only, or at all of them together.
        return (
            f"{where} The distance itself does not tell, which chance may give with these {clips} "
            f"(p = {floor.p_value:.2g})."
        )

    def where(self) -> str:
        """Says from which frame on real and generated clips differ; empty if that tells nothing."""
        if self.along is None or len(self.along.places) < 2:
            return ""
        differ = self.along.p_values < SIGNIFICANT
        if not differ.any() or differ.all():
            return ""
        first = int(np.argmax(differ))
        start = int(self.along.places[first]) + 1
        end = start + self.window - 1
        frames = f"frame {start}" if start == end else f"frames {start} to {end}"
        if first and differ[first:].all():
            return f"The clips begin to differ at {frames}, and differ to their end."
        return f"The clips differ first at {frames}."

    def summary(self) -> dict[str, Any]:
        """The numbers of the report for JSON."""
        return {
            "distance": self.distance,
            "verdict": self.verdict(),
            "floor": self.floor._asdict(),
            "interval": self.interval,
            "fd_infinity": self.infinity,
            "curve": _listed(self.curve),
            "along": None if self.along is None else {**_listed(self.along), "window": self.window},
            "severity": [place._asdict() for place in self.severity],
            "nearest": [pair._asdict() for pair in self.pairs],
            "real": summary(self.real, self.names[0]),
            "fake": summary(self.fake, self.names[1]),
        }


def find(
    real: FeatureStatistics,
    fake: FeatureStatistics,
    protocol: Protocol,
    names: tuple[str, str],
    videos: Mapping[Side, Sequence[Video]],
    calculator: Calculator,
    labels: KeyLabels,
    grouped: bool,
    paired: bool,
) -> Findings:
    """Computes the content of a report from two sets under the same protocol.

    Args:
        real: Statistics of the real videos, with a sample at all time steps of the clips.
        fake: Statistics of the generated videos, with a sample at all time steps.
        protocol: The protocol.
        names: Paths of the real and of the generated videos.
        videos: All videos of both sets.
        calculator: Calculator of the protocol.
        labels: Labels of the videos, see `significance.labels`.
        grouped: Whether the labels are those of groups.
        paired: Whether the videos are pairs by their indices.

    Raises:
        ValueError: If the two sets are not comparable, one has fewer than four clips, or a video
            cannot be read again.
    """
    output = calculator.network.architecture.outputs[protocol.output]
    sets: dict[Side, FeatureStatistics] = {"real": real, "fake": fake}
    samples = {side: sample_of(one, side) for side, one in sets.items()}
    along = {side: sample.moments() for side, sample in samples.items()}
    own = {side: output.of_clip(moments) for side, moments in along.items()}
    both = own["real"], own["fake"]
    units = units_of(samples["real"], samples["fake"], labels, grouped)
    alone = {
        side: dataclasses.replace(one, sample=_of_clips(samples[side], output))
        for side, one in sets.items()
    }
    distance = DISTANCES[protocol.distance].between(dict(alone.items()))
    measure = Measure(protocol.distance, protocol.ddof)
    rng = np.random.default_rng(0)
    curve = distance_curve(*both, rng, measure, units)
    several = along["real"]["features"].shape[1] > 1
    held: dict[Side, list[Any]] = {
        side: labels_in(
            sample,
            {k: v.name for k, v in zip(keys_of(of, side, paired), of, strict=True)},
        )
        for side, sample in samples.items()
        for of in [videos[side]]
    }
    pairs = nearest_pairs(own, held)
    random = {side: held[side][:CLIPS_SHOWN] for side in held}
    shown: dict[Side, list[str]] = {
        "real": [*random["real"], *(pair.real for pair in pairs)],
        "fake": [*random["fake"], *(pair.fake for pair in pairs)],
    }
    return Findings(
        protocol=protocol,
        names=names,
        real=alone["real"],
        fake=alone["fake"],
        distance=float(distance),
        floor=find_floor(*both, measure, units),
        interval=distance_interval(*both, rng, measure, units),
        curve=curve,
        limit=extrapolate(curve),
        along=distances_along(along["real"], along["fake"], measure, units) if several else None,
        window=1 if output.per_frame else output.frames,
        looks_at=output.looks_at,
        pairs=pairs,
        random=random,
        clips={side: load_shown(videos[side], shown[side], calculator, side) for side in shown},
    )


def _of_clips(along: FeatureSample, output: Output) -> FeatureSample:
    """The sample with the features of the clips themselves, of one with those of all places."""
    moments = {"features": along.features, "variances": along.variances}
    own = output.of_clip({name: f for name, f in moments.items() if f is not None})
    return dataclasses.replace(along, features=own["features"], variances=own.get("variances"))


def nearest_pairs(
    moments: Mapping[Side, Moments], names: Mapping[Side, Sequence[str]]
) -> tuple[Pair, ...]:
    """Finds the generated clips in the sample that are nearest to real ones, which copies are.

    Args:
        moments: Moments of the clips in the samples.
        names: Names of the clips' videos in the same order.
    """
    flat = {side: m["features"].reshape(len(m["features"]), -1) for side, m in moments.items()}
    to_real, nearest = jax.device_get(_nearest(flat["fake"], flat["real"], apart=False))
    typical, _ = jax.device_get(_nearest(flat["real"], flat["real"], apart=True))
    return tuple(
        Pair(
            fake=names["fake"][i],
            real=names["real"][nearest[i]],
            distance=float(to_real[i]),
            typical=float(np.median(typical)),
        )
        for i in np.argsort(to_real, kind="stable")[:CLIPS_SHOWN]
    )


@functools.partial(jax.jit, static_argnames="apart")
def _nearest(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, apart: bool
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Distances from rows of x to their nearest rows of y, and the indices of these.

    If `apart`, x and y are the same, and a row is not its own neighbour.
    """

    # The differences themselves: the squares expanded would cancel at copies.
    def of_row(i: Int[Array, ""]) -> tuple[Float[Array, ""], Int[Array, ""]]:
        squares = jnp.sum((y - x[i]) ** 2, axis=1)
        if apart:
            squares = squares.at[i].set(jnp.inf)
        return jnp.sqrt(jnp.min(squares)), jnp.argmin(squares)

    return jax.lax.map(of_row, jnp.arange(len(x)))


def rounded(value: float, margin: float) -> str:
    """Formats a value to two significant digits of its margin of error, if there is any."""
    if not margin > 0:
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(margin))
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def _listed(arrays: Any) -> dict[str, Any]:
    return {name: np.asarray(array).tolist() for name, array in arrays._asdict().items()}
