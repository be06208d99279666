"""Plots and contact sheets of a report, as the bytes of image files."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from srvp_fd_jax.report.extrapolation import Curve, Limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ImageFormat = Literal["svg", "png"]
Frames = Float[np.ndarray, "t size size c"]

_COLUMNS = 16
_GAP = 2
_SHEET_WIDTH = 1600

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "errorbar.capsize": 3,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "savefig.dpi": 200,
    "svg.hashsalt": "srvp-fd-jax",  # makes names within an image reproducible
}
_BLUE, _LIGHT_BLUE, _RED, _GREY = "#1f5fa8", "#9dbfe3", "#c03a2b", "#888888"


def plot_curve(
    curve: Curve,
    limit: Limit,
    distance: float,
    interval: tuple[float, float],
    clips: tuple[int, int],
    image_format: ImageFormat,
) -> bytes:
    """Plots distance against number of clips.

    Args:
        curve: Distances of random subsets.
        limit: Line that was fitted to the curve.
        distance: Distance of all clips.
        interval: Confidence interval of `distance`.
        clips: Numbers of real and generated clips.
        image_format: "svg" or "png".
    """

    def draw(axes: "Axes") -> None:
        axes.plot(
            np.repeat(curve.sizes, curve.distances.shape[1]),
            curve.distances.ravel(),
            ".",
            color=_LIGHT_BLUE,
            label="random subset",
        )
        axes.plot(
            curve.sizes, curve.distances.mean(axis=1), "o", color=_BLUE, label="mean of the subsets"
        )
        fitted = np.linspace(limit.fitted_from, curve.sizes[-1])
        line = limit.infinity + limit.slope / fitted
        axes.plot(fitted, line, color=_BLUE, label="line in 1/N")
        axes.axhline(limit.infinity, color=_GREY, linestyle="--", label="FD∞, limit of the line")
        # n and m clips have the bias of N clips per side if 1/N = (1/n + 1/m) / 2.
        position = 2 / (1 / clips[0] + 1 / clips[1])
        axes.errorbar(
            [position],
            [distance],
            yerr=np.abs(np.subtract(interval, distance))[:, None],
            fmt="D",
            color=_RED,
            label="all clips, 95 % interval",
        )
        axes.set_xlim(left=0)
        axes.set_xlabel("clips per side, N")
        axes.set_ylabel("squared Fréchet distance")
        axes.legend()

    return _plotted(draw, image_format)


def plot_over_time(
    distances: Float[np.ndarray, " t"], step: int, image_format: ImageFormat
) -> bytes:
    """Plots distance against time step; the clips have every `step`-th frame of the videos."""

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        axes.plot(np.arange(1, len(distances) + 1), distances, "o-", color=_BLUE)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("time step (frames)" if step == 1 else f"time step ({step} frames each)")
        axes.set_ylabel("squared Fréchet distance")

    return _plotted(draw, image_format)


def shown_frames(length: int) -> list[int]:
    """Indices of the frames that a contact sheet shows from clips of this length."""
    columns = min(length, _COLUMNS)
    return [int(frame) for frame in np.linspace(0, length - 1, columns).round()]


def contact_sheet(clips: Sequence[Frames]) -> bytes:
    """A PNG image of clips of one length in [0, 1]: one clip per row, evenly spaced frames."""
    from PIL import Image

    tiles = np.stack(clips)[:, shown_frames(len(clips[0]))]
    framed = np.pad(tiles, [(0, 0), (0, 0), (_GAP, 0), (_GAP, 0), (0, 0)], constant_values=1)
    rows, columns, height, width, channels = framed.shape
    sheet = framed.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    image = Image.fromarray((255 * sheet.clip(0, 1)).round().astype(np.uint8).squeeze())
    image.thumbnail((_SHEET_WIDTH, image.height))
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()


def check_matplotlib() -> None:
    """Raises a `ModuleNotFoundError` that names the extra to install if Matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error}: a report needs the extra "report": pip install "srvp-fd-jax[report]"'
        ) from error


def _plotted(draw: Callable[["Axes"], None], image_format: ImageFormat) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.5), layout="constrained")
        draw(figure.add_subplot())
        metadata = {"Date": None} if image_format == "svg" else None
        figure.savefig(file, format=image_format, metadata=metadata)
    return file.getvalue()
