"""The result of a comparison of two sets, and what to know about it."""

import dataclasses
import html
from collections.abc import Iterator
from typing import Any

from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.base import range_cautions
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.files.atomic import printable
from srvp_fd_jax.protocols import Protocol
from srvp_fd_jax.significance.null_distribution import Floor
from srvp_fd_jax.significance.severity import Standing


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """A distance between two sets of videos, and what it was computed from.

    `float(result)` is the distance. Printed, in a terminal or a notebook, a result describes it.

    Attributes:
        distance: The distance.
        protocol: Protocol by which the videos were sampled, encoded and compared; None if it is not
            known, as for statistics that name no protocol.
        real: Statistics of the real videos.
        fake: Statistics of the generated videos.
        names: Paths of the real and of the generated videos; empty if they are not at one path.
        warnings: Reasons not to rely on the distance, one sentence each.
        significance: Null distribution of the distance and p-value, if asked for.
        severity: Severity of corruptions of real videos that have the same distance, if the cache
            has a severity scale, see `significance.severity`; else empty.
        measure: Name of the distance in `DISTANCES`.

    Example:
        With statistics instead of videos:

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> features = np.random.default_rng(0).normal(size=(50, 4))
        >>> make = srvp_fd_jax.FeatureStatistics.from_features
        >>> result = srvp_fd_jax.compute(make(features), make(features + 3))
        >>> round(float(result), 3), result.warnings
        (36.0, ())
    """

    distance: float
    protocol: Protocol | None
    real: FeatureStatistics
    fake: FeatureStatistics
    names: tuple[str, str] = ("", "")
    warnings: tuple[str, ...] = ()
    significance: Floor | None = None
    severity: tuple[Standing, ...] = ()
    measure: str = "frechet"

    def __float__(self) -> float:
        """The distance."""
        return self.distance

    def __repr__(self) -> str:
        """The distance, its protocol, both sets, the network and the warnings, line by line."""
        (name, number), *rows = self._rows()
        width = max(len(label) for label, _ in rows)
        lines = [f"{name}: {number}", *(f"  {label:{width}}  {text}" for label, text in rows)]
        return "\n".join(printable(line) for line in lines)

    def _repr_html_(self) -> str:
        """The lines of `repr(result)` as a table for notebooks."""
        (name, number), *rows = self._rows()
        head = f"<tr><th>{html.escape(name)}</th><th>{number}</th></tr>"
        cells = (
            f"<tr><td>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>"
            for label, text in rows
        )
        return f"<table>{head}{''.join(cells)}</table>"

    def _source(self) -> dict[str, str]:
        return dict(self.fake.source) | dict(self.real.source)

    def _rows(self) -> Iterator[tuple[str, str]]:
        source = self._source()
        name = self.protocol.name if self.protocol else source.get("output", "distance")
        yield name, f"{self.distance:.6g}"
        if self.significance:
            yield "null", self.significance.described()
        yield "real", described(self.real, self.names[0])
        yield "generated", described(self.fake, self.names[1])
        yield (
            "network",
            ", ".join(
                [
                    f"{source.get('network', 'unknown')}, output {source.get('output', 'unknown')}",
                    f"weights {source.get('weights_sha256', 'unknown')[:8]}",
                ]
            ),
        )
        for one in self.severity:
            yield "severity", one.described
        for text in self.warnings:
            yield "warning", text

    def summary(self) -> dict[str, Any]:
        """The result as values for JSON."""
        source = self._source()
        source.pop("side", None)
        return {
            "distance": self.distance,
            "measure": self.measure,
            "protocol": self.protocol.name if self.protocol else source.get("protocol"),
            "source": source,
            "real": summary(self.real, self.names[0]),
            "fake": summary(self.fake, self.names[1]),
            **({"significance": self.significance._asdict()} if self.significance else {}),
            **({"severity": [one._asdict() for one in self.severity]} if self.severity else {}),
        }


def described(statistics: FeatureStatistics, name: str) -> str:
    """Describes a set by its path, its videos and its samples in one line."""
    videos, samples = statistics.videos, f"{int(statistics.count)} samples"
    where = f"{name}: " if name else ""
    if not videos.found:
        return f"{where}{samples}, sampled as {dict(statistics.source).get('side', 'unknown')}"
    lost = {"too short": videos.too_short, "unreadable": videos.unreadable}
    counts = "".join(f", {len(names)} {what}" for what, names in lost.items() if names)
    return f"{where}{videos.used} of {videos.found} videos{counts}, {samples}"


def summary(statistics: FeatureStatistics, name: str) -> dict[str, Any]:
    """Describes a set by values for JSON."""
    videos = dataclasses.asdict(statistics.videos)
    return {
        "path": name,
        "samples": int(statistics.count),
        "side": dict(statistics.source).get("side"),
        **videos,
        "unreadable": dict(statistics.videos.unreadable),
    }


def find_warnings(
    distance: str, real: FeatureStatistics, fake: FeatureStatistics, names: tuple[str, str]
) -> list[str]:
    """Finds reasons not to rely on a distance, one sentence each.

    They follow from the provenance of the statistics, which are used as those of real and of
    generated videos called `names`, and from their numbers of samples and their videos.

    Raises:
        ValueError: If the values of a set cannot be those of clips.
    """
    n, m, of = int(real.count), int(fake.count), DISTANCES[distance]
    texts = {
        "the real set is statistics of videos sampled as generated ones": (
            ("side", "fake") in real.source
        ),
        "the generated set is statistics of videos sampled as real ones": (
            ("side", "real") in fake.source
        ),
        f"{n} real and {m} generated samples: a distance depends on their number": (
            n != m and of.kind != "estimate"
        ),
    }
    found = [text for text, holds in texts.items() if holds]
    if few := of.caution(min(n, m), real.dim):
        found.append(few)
    for name, one in zip(names, (real, fake), strict=True):
        found += range_cautions(name, one)
    for adjective, one in (("real", real), ("generated", fake)):
        if lost := one.videos.unreadable:
            found.append(
                f"{len(lost)} of {one.videos.found} {adjective} videos could not be read and were "
                f"left out, such as {': '.join(lost[0])}"
            )
    return found
