"""Draws the figures of the README and the documentation.

    pip install -e ".[dev]" && python docs/make_figures.py

Corruptions of moving digits, as pictures that play, and how far each output of SRVP moves, in
multiples of what a perfect generator gets with as many clips.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from srvp_fd_jax import Calculator
from srvp_fd_jax.demo import corruptions
from srvp_fd_jax.demo.moving_digits import moving_digits

FOLDER = Path(__file__).parent / "figures"
CLIPS, LENGTH = 300, 8
SHOWN = 3  # frames of each clip in the picture

# Of Okabe & Ito's palette, which the colour-blind tell apart.
COLOURS = {"frame": "#0072B2", "static_content": "#D55E00", "dynamics": "#009E73"}
STYLE = {"font.size": 9, "axes.spines.right": False, "axes.spines.top": False}

Clips = np.ndarray


def corrupted(rng: np.random.Generator, clips: Clips) -> dict[str, Clips]:
    """Clips in six corruptions, and as they are."""
    return {
        "perfect": clips,
        "noise": corruptions.add_noise(clips, rng, 0.1),
        "blur": corruptions.blur(clips, 5),
        "standing still": corruptions.freeze(clips, 1),
        "shuffled in time": corruptions.shuffle_time(clips, rng, 1.0),
        "digits that change": moving_digits(rng, len(clips), LENGTH, swapped=2),
        "a digit missing": moving_digits(rng, len(clips), LENGTH, digits=1),
    }


def scorer(real: Clips) -> Callable[[Clips], dict[str, float]]:
    """A function that gives the distances of clips from the real ones."""
    calculator = Calculator("digits")
    frames, clips_only = calculator.only("frame"), calculator.only("static_content", "dynamics")

    def statistics(clips: Clips) -> dict[str, object]:
        return frames.statistics([clips[:, -1]]) | clips_only.statistics([clips])

    reference = statistics(real)
    return lambda clips: {
        output: float(calculator.distance(reference[output], s))
        for output, s in statistics(clips).items()
    }


def draw(sets: dict[str, Clips], distances: dict[str, dict[str, float]]) -> Figure:
    """Frames of each corruption, and under them the distances as multiples of the perfect ones."""
    shown = {name: clips for name, clips in sets.items() if name != "perfect"}
    figure, axes = plt.subplots(2, len(shown), figsize=(10, 3.6), height_ratios=(1, 1.9))
    for (name, clips), picture, bars in zip(shown.items(), *axes, strict=True):
        frames = clips[0, np.linspace(0, LENGTH - 1, SHOWN).astype(int), ..., 0]
        framed = np.pad(frames, [(0, 0), (0, 0), (0, 2)], constant_values=255)
        picture.imshow(np.concatenate(framed, axis=1))
        picture.set_title(name, fontsize=9)
        picture.axis("off")
        ratios = [distances[name][output] / distances["perfect"][output] for output in COLOURS]
        bars.bar(range(3), ratios, color=list(COLOURS.values()))
        bars.axhline(1, color="black", linewidth=0.8)
        bars.set(yscale="log", ylim=(0.5, 60), xticks=[])
        if name != next(iter(shown)):
            bars.set(yticklabels=[])
    axes[1, 0].set_ylabel("distance ÷ that of\na perfect generator")
    axes[1, 0].set_yticks([1, 10], ["1", "10"])
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, list(COLOURS), loc="outside lower center", ncols=3, frameon=False)
    return figure


def measure() -> tuple[dict[str, Clips], dict[str, dict[str, float]]]:
    """The corrupted clips, and their distances from the real ones."""
    rng = np.random.default_rng(0)
    real, clips = (moving_digits(rng, CLIPS, LENGTH) for _ in range(2))
    sets, score = corrupted(rng, clips), scorer(real)
    return sets, {name: score(of_set) for name, of_set in sets.items()}


def main() -> None:
    """Draws all figures."""
    FOLDER.mkdir(exist_ok=True)
    sets, distances = measure()
    plt.rcParams.update(STYLE | {"figure.constrained_layout.use": True, "image.cmap": "gray"})
    draw(sets, distances).savefig(FOLDER / "what_it_sees.png", dpi=110, metadata={"Software": None})
    for name, of_set in sets.items():
        frames = [Image.fromarray(f[..., 0]).resize((128, 128), Image.NEAREST) for f in of_set[0]]
        path = FOLDER / f"{name.replace(' ', '_')}.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=160, loop=0)
        print(name, {output: round(d, 2) for output, d in distances[name].items()})


if __name__ == "__main__":
    main()
