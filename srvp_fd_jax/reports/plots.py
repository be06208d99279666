"""Plots, contact sheets and animations of a report, as the bytes of image files."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from srvp_fd_jax.files.inputs import missing_extra
from srvp_fd_jax.significance.along import Along
from srvp_fd_jax.significance.extrapolation import Curve, Limit
from srvp_fd_jax.significance.null_distribution import Floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ImageFormat = Literal["svg", "png"]
SheetFormat = Literal["webp", "png"]
Frames = Float[np.ndarray, "t size size c"]

_COLUMNS = 16
_GAP = 2
_SHEET_WIDTH = 1600
_FRAME_MILLISECONDS = 125
_QUALITY = 80

_INK, _AXIS, _BLUE, _PALE, _RED = "#222222", "#777777", "#1f5fa8", "#9dbfe3", "#c03a2b"

_VARIABLES = {
    _INK: "currentColor",
    _AXIS: "var(--axis)",
    _BLUE: "var(--blue)",
    _PALE: "var(--pale)",
    _RED: "var(--red)",
}
"""Colours in a page, which has light and dark ones, for the colours of a plot."""

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _AXIS,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "errorbar.capsize": 3,
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 1.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _AXIS,
    "xtick.labelcolor": _INK,
    "ytick.color": _AXIS,
    "ytick.labelcolor": _INK,
}


def plot_floor(
    floor: Floor,
    interval: tuple[float, float],
    labels: tuple[str, str],
    image_format: ImageFormat,
) -> bytes:
    """Plots a distance and its interval above the floor and its range.

    Args:
        floor: The distance and the floor.
        interval: Confidence interval of the distance.
        labels: Texts above the distance and above the floor.
        image_format: "svg" or "png".
    """

    def draw(axes: "Axes") -> None:
        axes.barh(0, floor.high - floor.low, 0.34, floor.low, color=_PALE)
        axes.plot([floor.mean] * 2, [-0.17, 0.17], color=_BLUE, linewidth=2)
        margins = np.abs(np.subtract(interval, floor.distance))[:, None]
        axes.errorbar([floor.distance], [1], xerr=margins, fmt="D", color=_RED)
        for height, label in zip((1, 0), labels, strict=True):
            axes.text(0, height + 0.28, label, transform=axes.get_yaxis_transform())
        axes.set_ylim(-0.35, 1.65)
        left, right = min(interval[0], floor.low), max(interval[1], floor.high)
        axes.set_xlim(min(0, 1.06 * left), max(0, 1.06 * right) or 1)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("distance")

    return _plotted(draw, image_format, height=1.75)


def plot_along(
    along: Along,
    differ: Bool[np.ndarray, " places"],
    window: int,
    image_format: ImageFormat,
) -> bytes:
    """Plots distances along the clips beside their floors.

    Args:
        along: The distances and floors.
        differ: At which places the difference is significant.
        window: Number of frames that each distance looks at.
        image_format: "svg" or "png".
    """

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        x = along.places + 1
        axes.fill_between(x, along.floor, along.edge, color=_PALE, linewidth=0, alpha=0.4)
        axes.plot(x, along.edge, "--", color=_AXIS, label="97.5 % of chance")
        axes.plot(x, along.floor, color=_AXIS, label="floor")
        axes.plot(x, along.distances, color=_BLUE, label="distance")
        axes.plot(x[~differ], along.distances[~differ], "o", color=_BLUE, markersize=4)
        if differ.any():
            axes.plot(x[differ], along.distances[differ], "D", color=_RED, label="significant")
        axes.set_ylim(bottom=min(0, along.distances.min(), along.floor.min()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        from_there = "" if window == 1 else f" at which {window} frames begin"
        axes.set_xlabel(f"frame of the clip{from_there}")
        axes.set_ylabel("distance")

    return _plotted(draw, image_format, legend=True)


def plot_curve(
    curve: Curve,
    limit: Limit,
    floor: Floor,
    interval: tuple[float, float],
    image_format: ImageFormat,
) -> bytes:
    """Plots distance against number of clips.

    Args:
        curve: Distances of random subsets.
        limit: Line that was fitted to the curve.
        floor: The distance of all clips that the curve is of, and their numbers.
        interval: Confidence interval of the distance.
        image_format: "svg" or "png".
    """

    def draw(axes: "Axes") -> None:
        axes.plot(
            np.repeat(curve.sizes, curve.distances.shape[1]),
            curve.distances.ravel(),
            ".",
            color=_PALE,
            label="random subset",
        )
        axes.plot(
            curve.sizes, curve.distances.mean(axis=1), "o", color=_BLUE, label="mean of the subsets"
        )
        fitted = np.linspace(limit.fitted_from, curve.sizes[-1])
        line = limit.infinity + limit.slope / fitted
        axes.plot(fitted, line, color=_BLUE, label="line in 1/N")
        axes.axhline(limit.infinity, color=_AXIS, linestyle="--", label="limit of the line")
        # n and m clips have the bias of N clips per side if 1/N = (1/n + 1/m) / 2.
        position = 2 / (1 / floor.real + 1 / floor.fake)
        axes.errorbar(
            [position],
            [floor.distance],
            yerr=np.abs(np.subtract(interval, floor.distance))[:, None],
            fmt="D",
            color=_RED,
            label="all clips, 95 % interval",
        )
        axes.set_xlim(left=0)
        axes.set_xlabel("clips per side, N")
        axes.set_ylabel("distance")

    return _plotted(draw, image_format, legend=True)


def inlined(svg: bytes, name: str, label: str) -> str:
    """A plot as an element of a page, with the colours of the page and its font.

    Args:
        svg: SVG file that one of the functions above made.
        name: Prefix that makes identifiers in the page distinct.
        label: Text for those who do not see the plot.
    """
    from markupsafe import escape

    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    return f'<svg {view[0]} role="img" aria-label="{escape(label)}"{text[text.index(">") :]}'


def shown_frames(length: int) -> list[int]:
    """Indices of the frames that a contact sheet shows from clips of this length."""
    columns = min(length, _COLUMNS)
    return [int(frame) for frame in np.linspace(0, length - 1, columns).round()]


def contact_sheet(clips: Sequence[Frames], image_format: SheetFormat) -> bytes:
    """An image of clips of one length in [0, 1]: one clip per row, evenly spaced frames."""
    tiles = np.stack(clips)[:, shown_frames(len(clips[0]))]
    framed = np.pad(tiles, [(0, 0), (0, 0), (_GAP, 0), (_GAP, 0), (0, 0)], constant_values=1)
    rows, columns, height, width, channels = framed.shape
    sheet = framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    image = _image(_bytes(sheet))
    image.thumbnail((_SHEET_WIDTH, image.height))
    file = io.BytesIO()
    image.save(file, image_format, **({"optimize": True} if image_format == "png" else {}))
    return file.getvalue()


def animation(clip: Frames) -> bytes:
    """A WebP image that plays a clip in [0, 1] again and again, at 8 frames per second."""
    first, *others = map(_image, _bytes(clip))
    file = io.BytesIO()
    first.save(
        file,
        "webp",
        save_all=True,
        append_images=others,
        duration=_FRAME_MILLISECONDS,
        loop=0,
        quality=_QUALITY,
    )
    return file.getvalue()


def _bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    return (255 * values.clip(0, 1)).round().astype(np.uint8)


def _image(pixels: UInt8[np.ndarray, "height width c"]) -> Any:
    from PIL import Image

    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def check_extra() -> None:
    """Raises a `ModuleNotFoundError` that names the extra to install if a part of it is missing."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_extra(error, "a report", "report")) from error


def _plotted(
    draw: Callable[["Axes"], None],
    image_format: ImageFormat,
    height: float = 3.5,
    legend: bool = False,
) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    svg = image_format == "svg"
    # The salt makes the names within an image reproducible.
    style = {**_STYLE, "svg.hashsalt": "srvp-fd-jax"}
    file = io.BytesIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure.add_subplot())
        if legend:
            figure.legend(loc="outside upper left", ncols=2)
        metadata = {"Date": None} if svg else None
        figure.savefig(file, format=image_format, metadata=metadata, transparent=svg)
    return file.getvalue()
