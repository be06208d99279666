"""Reports on generated videos: the distances, what they are worth, and some of the clips."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import srvp_fd_jax
from srvp_fd_jax.files.atomic import check_writable, write_atomically
from srvp_fd_jax.protocols import Side
from srvp_fd_jax.reports import plots
from srvp_fd_jax.reports.clips import Frames
from srvp_fd_jax.reports.findings import DOUBTFUL, SIGNIFICANT, Findings, rounded

_HTML_SUFFIX = ".html"

_LABELS: dict[Side, str] = {"real": "real", "fake": "generated"}


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
        name = one.protocol.name.replace(":", "_")
        images = {**_plots(one, "png"), **_sheets(one)}
        for kind, image in images.items():
            write_atomically(Path(output) / f"{name}_{kind}.png", image)


def page(findings: Sequence[Findings], real: str, fake: str) -> str:
    """The report as one HTML page that needs no other file; for the arguments see `write`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("srvp_fd_jax", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"playing": _playing, "still": _still, "within": _within}
    return environment.get_template("page.html.jinja").render(
        told=[_told(one, f"plots-{i}") for i, one in enumerate(findings)],
        same_clips=list(_same_clips(findings)),
        paths={"real": real, "generated": fake},
        significant=SIGNIFICANT,
        doubtful=DOUBTFUL,
        version=srvp_fd_jax.__version__,
    )


def _told(one: Findings, prefix: str) -> dict[str, Any]:
    """What the page shows of one protocol, in words and images."""
    from markupsafe import Markup

    label = f"of {one.protocol.name}"
    svg = {
        kind: Markup(plots.inlined(image, f"{prefix}-{kind}", f"{kind} {label}"))
        for kind, image in _plots(one, "svg").items()
    }
    source = dict(one.real.source)
    return {
        "findings": one,
        "name": one.protocol.name,
        **_numbers(one),
        "infinity": "-" if one.infinity is None else _rounded(one, one.infinity),
        "p_value": f"{one.floor.p_value:.2g}",
        "sampled": (one.floor.real, one.floor.fake) != (one.real.videos.used, one.fake.videos.used),
        "of_sample": _rounded(one, one.floor.distance),
        "frames": int(source["frames"]),
        "step": one.protocol.real.step,
        "typical": rounded(one.pairs[0].typical, one.pairs[0].typical / 5),
        "pairs": [(pair, rounded(pair.distance, pair.typical / 5)) for pair in one.pairs],
        "plots": svg,
        "settings": {
            **one.protocol.described(),
            "frames": source["frames"],
            "weights": source["weights_sha256"],
        },
        "sides": {"real": one.real, "generated": one.fake},
    }


def _numbers(one: Findings) -> dict[str, str]:
    floor = one.floor
    margin = (floor.high - floor.low) / 2
    low, high = (rounded(end, margin) for end in (floor.low, floor.high))
    return {
        "distance": _rounded(one, one.distance),
        "interval": " to ".join(_rounded(one, end) for end in one.interval),
        "floor": rounded(floor.mean, margin),
        "floor_range": f"{low} to {high}",
    }


def _rounded(one: Findings, value: float) -> str:
    return rounded(value, (one.interval[1] - one.interval[0]) / 2)


def _plots(one: Findings, image_format: plots.ImageFormat) -> dict[str, bytes]:
    told = _numbers(one)
    labels = (
        f"real and generated: {_rounded(one, one.floor.distance)} ({told['interval']})",
        f"chance: {told['floor']} ({told['floor_range']})",
    )
    images = {"floor": plots.plot_floor(one.floor, one.interval, labels, image_format)}
    if one.along is not None:
        differ = one.along.p_values < SIGNIFICANT
        images["along"] = plots.plot_along(one.along, differ, one.window, image_format)
    images["curve"] = plots.plot_curve(one.curve, one.limit, one.floor, one.interval, image_format)
    return images


def _sheets(one: Findings) -> dict[str, bytes]:
    rows = {
        f"clips_{label}": [one.clips[side][name] for name in one.random[side]]
        for side, label in _LABELS.items()
    }
    rows["nearest"] = [
        clip
        for pair in one.pairs
        for clip in (one.clips["fake"][pair.fake], one.clips["real"][pair.real])
    ]
    return {kind: plots.contact_sheet(clips, "png") for kind, clips in rows.items()}


def _same_clips(findings: Sequence[Findings]) -> Iterator[tuple[str, Findings]]:
    """Yields the names of all protocols that take the same clips, and one of their findings."""
    groups: dict[tuple[bytes, ...], list[Findings]] = {}
    for one in findings:
        shown = tuple(
            one.clips[side][name].tobytes() for side in _LABELS for name in one.random[side]
        )
        groups.setdefault(shown, []).append(one)
    for sharing in groups.values():
        yield ", ".join(one.protocol.name for one in sharing), sharing[0]


def _playing(clip: Frames) -> str:
    return _data(plots.animation(clip))


def _still(clip: Frames) -> str:
    return _data(plots.contact_sheet([clip], "webp"))


def _within(name: str, folder: str) -> str:
    return name.removeprefix(folder).lstrip("/") or name


def _data(image: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(image).decode()}"
