"""Reports on generated videos: the distances, their reliability and some of the clips."""

import base64
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import srvp_fd_jax
from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.evaluation import cautions
from srvp_fd_jax.files import check_writable, write_atomically
from srvp_fd_jax.passes import Collected
from srvp_fd_jax.report import plots
from srvp_fd_jax.report.extrapolation import (
    Curve,
    Limit,
    distance_curve,
    distance_over_time,
    extrapolate,
    jackknife_interval,
)

CLIPS_SHOWN = 4
_HTML_SUFFIX = ".html"


class Findings(NamedTuple):
    """The content of a report for one protocol.

    Attributes:
        real: Statistics and features of the real videos.
        fake: Statistics and features of the generated videos.
        distance: Distance between all clips of both sides.
        interval: 95 % confidence interval of the distance.
        curve: Distances of random subsets of the clips.
        limit: Line that extrapolates the curve to infinitely many clips.
        over_time: Distance at each time step; None if features are not those of single frames.
    """

    real: Collected
    fake: Collected
    distance: float
    interval: tuple[float, float]
    curve: Curve
    limit: Limit
    over_time: Float[np.ndarray, " t"] | None

    @property
    def cautions(self) -> list[str]:
        """Reasons for caution about the distance, see `evaluation.cautions`."""
        real, fake = self.real.result, self.fake.result
        return cautions(real.protocol.distance, real.statistics, fake.statistics)

    @property
    def infinity(self) -> float | None:
        """FD∞, or None if the line is not reliable.

        With no more samples than feature dimensions the bias is not linear in 1/N. A line with a
        negative limit cannot be right, as distances are not negative.
        """
        sides = self.real.result.statistics, self.fake.result.statistics
        enough = all(int(side.count) > side.dim for side in sides)
        return self.limit.infinity if enough and self.limit.infinity >= 0 else None

    def rounded(self, value: float) -> str:
        """Formats a value to two significant digits of the half width of the interval."""
        margin = self.interval[1] - self.distance
        if not margin > 0:
            return f"{value:.4g}"
        decimals = 1 - math.floor(math.log10(margin))
        return f"{round(value, decimals):.{max(decimals, 0)}f}"

    def summary(self) -> dict[str, Any]:
        """The numbers of the report for JSON."""
        return {
            "distance": self.distance,
            "interval": self.interval,
            "fd_infinity": self.infinity,
            "curve": {field: array.tolist() for field, array in self.curve._asdict().items()},
            "over_time": None if self.over_time is None else self.over_time.tolist(),
            "real": self.real.result.summary(),
            "fake": self.fake.result.summary(),
        }


def find(real: Collected, fake: Collected) -> Findings:
    """Computes the content of a report from two sides under the same protocol.

    Raises:
        ValueError: If the two sides are not comparable, or one has fewer than four clips.
    """
    protocol = real.result.protocol
    both = {"real": real.result.statistics, "fake": fake.result.statistics}
    distance = DISTANCES[protocol.distance].between(both)
    rng = np.random.default_rng(0)
    of_real, of_fake = jax.device_put((real.features, fake.features))
    curve = distance_curve(of_real, of_fake, rng, protocol)
    over_time = None
    frames = of_real["features"], of_fake["features"]
    if frames[0].shape[1] > 1:
        over_time = np.asarray(distance_over_time(*frames, protocol))
    return Findings(
        real=real,
        fake=fake,
        distance=float(distance),
        interval=jackknife_interval(of_real, of_fake, rng, protocol),
        curve=curve,
        limit=extrapolate(curve),
        over_time=over_time,
    )


def check_output(output: str) -> None:
    """Checks that a report can be written to `output`, see `write`.

    Raises:
        OSError: If the file or folder cannot be written.
        ValueError: If `output` is neither a name *.html, nor an existing folder, nor ends in "/".
    """
    path = Path(output)
    if path.suffix == _HTML_SUFFIX:
        check_writable(path)
    elif path.is_dir() or (output.endswith("/") and not path.exists()):
        check_writable(path / "any")
    else:
        expected = f'a name *{_HTML_SUFFIX}, an existing folder, or a new folder that ends in "/"'
        raise ValueError(f"output: got {output}, expected {expected}")


def write(output: str, findings: Sequence[Findings], real: str, fake: str) -> None:
    """Writes a report.

    Args:
        output: Name of the HTML file to write, or of a folder for PNG images alone.
        findings: Content of the report, one per protocol.
        real: Path of the real videos, as the page shows it.
        fake: Path of the generated videos, as the page shows it.
    """
    if Path(output).suffix == _HTML_SUFFIX:
        write_atomically(Path(output), page(findings, real, fake).encode(errors="backslashreplace"))
        return
    for one in findings:
        name = one.real.result.protocol.name.replace(":", "_")
        images = {**_plots(one, "png"), **_sheets(one)}
        for kind, image in images.items():
            write_atomically(Path(output) / f"{name}_{kind}.png", image)


def page(findings: Sequence[Findings], real: str, fake: str) -> str:
    """The report as one HTML page that needs no other file; for the arguments see `write`."""
    rows = [
        {
            "protocol": _name(one),
            "distance": one.rounded(one.distance),
            "95 % interval": _interval(one),
            "FD∞": "-" if one.infinity is None else one.rounded(one.infinity),
            "clips (real / generated)": f"{one.real.result.used} / {one.fake.result.used}",
        }
        for one in findings
    ]
    body = [
        "<h1>Fréchet distances between real and generated video</h1>",
        f"<p>Real: <code>{html.escape(real)}</code><br>"
        f"Generated: <code>{html.escape(fake)}</code></p>",
        _table(rows),
        *(_section(one) for one in findings),
        *_clip_sections(findings),
        _READING,
        f"<footer>srvp-fd-jax {srvp_fd_jax.__version__}</footer>",
    ]
    return _PAGE.format(title=html.escape(f"{fake} against {real}"), body="\n".join(body))


def _section(one: Findings) -> str:
    infinity = "" if one.infinity is None else f"; FD∞\u00a0{one.rounded(one.infinity)}"
    captions = {
        "curve": "Distance against the number of clips per side.",
        "time": "Distance between the frames at each time step.",
    }
    figures = "".join(
        f"<figure>{_image(image, 'svg+xml', captions[kind])}"
        f"<figcaption>{captions[kind]}</figcaption></figure>"
        for kind, image in _plots(one, "svg").items()
    )
    return "\n".join(
        [
            f"<section><h2>{html.escape(_name(one))}</h2>",
            f"<p><strong>{one.rounded(one.distance)}</strong> (95 % interval {_interval(one)})"
            f"{infinity}</p>",
            *(f'<p class="caution">{html.escape(text)}</p>' for text in one.cautions),
            f'<div class="columns">{figures}<div><h3>Settings</h3>',
            _table([_settings(one)], across=False),
            "</div><div><h3>Videos</h3>",
            _table([_counts(side, of) for side, of in _sides(one)]),
            *(_omitted(side, of) for side, of in _sides(one)),
            "</div></div></section>",
        ]
    )


def _plots(one: Findings, image_format: plots.ImageFormat) -> dict[str, bytes]:
    clips = one.real.result.used, one.fake.result.used
    images = {
        "curve": plots.plot_curve(
            one.curve, one.limit, one.distance, one.interval, clips, image_format
        )
    }
    if one.over_time is not None:
        step = one.real.result.protocol.real.step
        images["time"] = plots.plot_over_time(one.over_time, step, image_format)
    return images


def _sheets(one: Findings) -> dict[str, bytes]:
    return {f"clips_{side}": plots.contact_sheet(of.shown) for side, of in _sides(one)}


def _clip_sections(findings: Sequence[Findings]) -> Iterator[str]:
    """Yields contact sheets, one section for all protocols that take the same clips."""
    groups: dict[tuple[bytes, ...], list[Findings]] = {}
    for one in findings:
        groups.setdefault(tuple(_sheets(one).values()), []).append(one)
    for sheets, sharing in groups.items():
        frames = len(sharing[0].real.shown[0])
        numbers = ", ".join(str(frame + 1) for frame in plots.shown_frames(frames))
        names = html.escape(", ".join(map(_name, sharing)))
        yield f"<section><h2>Clips as the network saw them</h2><p>{names}</p>"
        for side, sheet in zip(("Real", "Generated"), sheets, strict=True):
            yield f'<h3>{side}</h3><div class="wide">{_image(sheet, "png", f"{side} clips")}</div>'
        yield f"<p>One clip per row: frames {numbers} of {frames}.</p></section>"


def _settings(one: Findings) -> dict[str, str]:
    source = dict(one.real.result.statistics.source)
    return {
        **one.real.result.protocol.described(),
        "frames": source["frames"],
        "weights": source["weights_sha256"],
    }


def _counts(side: str, of: Collected) -> dict[str, str]:
    return {
        "side": side,
        "found": str(of.result.found),
        "used": str(of.result.used),
        "samples": str(int(of.result.statistics.count)),
        "too short": str(len(of.result.too_short)),
        "unreadable": str(len(of.result.unreadable)),
    }


def _omitted(side: str, of: Collected) -> str:
    """Lists the names of videos that gave no clip."""
    lists = {
        "too short": list(of.result.too_short),
        "unreadable": [": ".join(pair) for pair in of.result.unreadable],
    }
    return "".join(
        f"<details><summary>{side}: {len(names)} videos {what}</summary><ul>"
        + "".join(f"<li><code>{html.escape(name)}</code></li>" for name in names)
        + "</ul></details>"
        for what, names in lists.items()
        if names
    )


def _sides(one: Findings) -> tuple[tuple[str, Collected], ...]:
    return ("real", one.real), ("generated", one.fake)


def _name(one: Findings) -> str:
    return one.real.result.protocol.name


def _interval(one: Findings) -> str:
    return " to ".join(map(one.rounded, one.interval))


def _table(rows: Sequence[Mapping[str, str]], *, across: bool = True) -> str:
    """A table with one row per mapping; if not `across`, with one row per item of the only one."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)

    if across:
        lines = [cells("th", list(rows[0])), *(cells("td", list(row.values())) for row in rows)]
    else:
        lines = [cells("th", [key]) + cells("td", [value]) for key, value in rows[0].items()]
    inside = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{inside}</table></div>'


def _image(image: bytes, kind: str, text: str) -> str:
    data = base64.b64encode(image).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/{kind};base64,{data}">'


_READING = """<section><h2>How to read this</h2>
<p>A distance between finitely many clips is biased upwards. Distances between different numbers of
clips, or under different protocols, are therefore not comparable. FD∞ is an estimate without this
bias: the value at 1/N = 0 of a line in 1/N that is fitted to subsets of N clips per side, with N at
least half of the number of clips (Chong and Forsyth 2020, arXiv 1911.07023). FD∞ scatters up to
about twice as much as the distance, and around 0 if both sides have the same distribution. It is
left out if there are no more samples than feature dimensions, or if it would be negative.</p>
<p>The 95 % interval is a confidence interval of the distance at this number of clips, from the
delete-a-group jackknife over clips. It does not apply to FD∞, and it is too wide if both sides have
nearly the same distribution.</p></section>"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 66rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; }}
h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid #ddd; padding-top: 1rem; }}
h3 {{ font-size: 1rem; margin: 1rem 0 .25rem; }}
h1, h2, code, li, td:last-child {{ overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0; }}
th {{ font-weight: 600; color: #555; }}
tr + tr > * {{ border-top: 1px solid #eee; }}
.wide {{ overflow-x: auto; }}
.wide img {{ display: block; min-width: 48rem; max-width: 100%; }}
.columns {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure, .columns > div {{ flex: 1 1 min(100%, 26rem); max-width: 32rem; min-width: 0; margin: 0; }}
figure img {{ width: 100%; }}
figcaption, footer {{ font-size: .85rem; color: #555; }}
.caution {{ border-left: 3px solid #c03a2b; padding-left: .75rem; }}
footer {{ margin-top: 2rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
