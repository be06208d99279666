"""What the figures of the notebooks have in common."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
}
WIDTH = 7.2
"""Width of a figure over two columns, in inches."""

# Of Okabe & Ito's palette, which the colour-blind tell apart; markers tell them apart in grey.
COLOURS = {"frame": "#0072B2", "static_content": "#D55E00", "dynamics": "#009E73"}
MARKERS = {"frame": "o", "static_content": "s", "dynamics": "^"}
GREY = "#777777"


def contact_sheet(clips: Mapping[str, np.ndarray], first: int = 1) -> Figure:
    """Shows clips in rows, one frame after the other.

    Args:
        clips: Clips [T, H, W, 1] by the labels of their rows.
        first: Number of the first frame.
    """
    tiles = np.stack(list(clips.values()))[..., 0]
    n, t, height, width = tiles.shape
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH * n / t * 0.88))
    framed = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=tiles.max())
    sheet = framed.transpose(0, 2, 1, 3).reshape(n * (height + 2), t * (width + 2))
    axes.imshow(sheet, cmap="gray", interpolation="nearest")
    axes.set_yticks((np.arange(n) + 0.5) * (height + 2), list(clips))
    axes.set_xticks((np.arange(t) + 0.5) * (width + 2), range(first, first + t))
    axes.set_xlabel("frame")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
