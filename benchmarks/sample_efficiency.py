"""How many clips each distance needs until it ranks two known generators right.

    pip install -e ".[dev]" && OPENBLAS_NUM_THREADS=1 python benchmarks/sample_efficiency.py

Both generators make moving digits with one kind of corruption, which is stronger in one of them. A
draw takes n real clips and n clips of each generator, and is right if the distance of the weaker
corruption to the real clips is the smaller one. The table has the share of right draws in percent
for each n, and the smallest n from which on the share is at least 95 %, beside its ratio to that of
the Fréchet distance. All distances see the same draws. FD∞ is the Fréchet distance extrapolated to
infinitely many clips, as the report does it, within each draw. `frame` sees one random frame of
each clip, in which shuffling shows not at all and dropping hardly.

A second table has the mean distance of the weaker noise as a percentage of that of the largest n,
since a distance may reach its value early and still rank no better.

The pools are independent clips, 20,000 per set for the SRVP model and 320 for I3D. Up to 256 clips
of the SRVP model, no two draws share a clip: there are 200 draws, or as many as the pool gives. FD∞
has at most 80. With more clips, and for I3D, there are at least 40 draws, which overlap: their mean
is unbiased, but it scatters like that of no more than pool / n independent draws (Hoeffding 1963,
J. Am. Stat. Assoc. 58).

The interval of n is from Wilson's 95 % intervals of the shares, with so many draws. It begins at
the smallest n whose upper bound reaches 95 %, and ends at the smallest whose lower bound does; one
number is both. The end takes at least 73 independent draws, and therefore at most 273 clips per
draw of the SRVP model and 4 of I3D.

The strengths were chosen on other clips, so that the Fréchet distance fails with few clips and
succeeds with some dozens or hundreds. Those of noise differ, because the pools do.
It all took half an hour of processor time, which was an hour on two cores that others used as well.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from pools import OUTPUTS, Pools, encode, kept
from tqdm import tqdm

from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.significance.corruptions import CORRUPTIONS
from srvp_fd_jax.significance.draws import ClipFeatures, Measure, between, drawn, state_of
from srvp_fd_jax.significance.extrapolation import Curve, extrapolate

POOL = {"digits": 20_000, "i3d": 320}
FRAMES = {"digits": 8, "i3d": 16}
PAIRS = {
    "digits": (
        ("noise", 10.0, 11.0),
        ("dropped frames", 0.2, 0.5),
        ("shuffled frames", 0.25, 0.5),
    ),
    "i3d": (("noise", 10.0, 12.0), ("dropped frames", 0.2, 0.5)),
}
LIMIT = "FD∞"
DISTANCES = ("frechet", LIMIT, "jedi", "kvd", "mind")
SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
MOST_DRAWS = {LIMIT: 80}  # each takes 26 distances per generator
LEAST_DRAWS, SUBSETS = 40, 5
GOAL = 0.95


class Cell(NamedTuple):
    """What one share of right draws is of."""

    network: str
    output: str
    pair: tuple[str, float, float]
    distance: str
    size: int


def named(network: str, kind: str, strength: float) -> str:
    """Name of a pool."""
    return f"{network}: {kind} {strength:g}"


def make() -> Iterator[tuple[str, str, ClipFeatures]]:
    """Yields the features of all pools, by set and output."""
    rng = np.random.default_rng(0)
    sets = [
        (network, kind, strength)
        for network, pairs in PAIRS.items()
        for kind, *strengths in (("noise", 0.0), *pairs)
        for strength in strengths
    ]
    for network, kind, strength in tqdm(sets, unit="set"):
        clips = list(moving_digits(rng, POOL[network], FRAMES[network]))
        corrupted = np.stack(CORRUPTIONS[kind](clips, strength, rng))
        for output, features in encode(network, corrupted).items():
            yield named(network, kind, strength), output, features


def most_draws(distance: str) -> int:
    """Largest number of draws for a distance."""
    return MOST_DRAWS.get(distance, 200)


def draw(rng: np.random.Generator, pool: int, size: int) -> Int[np.ndarray, "draws n"]:
    """Draws of clips, `pool // size` of which at a time have no clip in common."""
    apart = pool // size
    orders = [
        rng.permutation(pool)[: apart * size].reshape(apart, size)
        for _ in range(-(-LEAST_DRAWS // apart))
    ]
    return np.concatenate(orders)[: max(apart, LEAST_DRAWS)]


@functools.partial(jax.jit, static_argnames="measure")
def distances(
    real: ClipFeatures,
    fake: ClipFeatures,
    draws: Int[Array, "draws 2 n"],
    counting: Bool[Array, "draws subsets 2 n"],
    measure: Measure,
) -> Float[Array, "draws subsets"]:
    """Distances of subsets of draws, of those of their clips where `counting` is True."""

    def of_draw(
        args: tuple[Int[Array, "2 n"], Bool[Array, "subsets 2 n"]],
    ) -> Float[Array, " subsets"]:
        (of_real, of_fake), subsets = args
        sides = drawn(real, of_real), drawn(fake, of_fake)
        if measure.distance == "frechet":
            sides = spanned(*sides)

        def of_subset(counting: Bool[Array, "2 n"]) -> Float[Array, ""]:
            states = (state_of(s, measure, c) for s, c in zip(sides, counting, strict=True))
            return between(*states, measure)

        return jax.lax.map(of_subset, subsets)

    return jax.lax.map(of_draw, (draws, counting))


def spanned(x: ClipFeatures, y: ClipFeatures) -> tuple[ClipFeatures, ClipFeatures]:
    """Coordinates of few clips in the space that they span, where the distance is the same."""
    rows = jnp.concatenate([x["features"], y["features"]])[:, 0]
    if "variances" in x or rows.shape[0] >= rows.shape[1]:
        return x, y
    basis, _ = jnp.linalg.qr(rows.T)
    project = functools.partial(jnp.matmul, precision="highest")
    return {"features": project(x["features"], basis)}, {"features": project(y["features"], basis)}


def subsets(rng: np.random.Generator, draws: int, sizes: list[int]) -> Bool[np.ndarray, "..."]:
    """Random subsets of draws of clips, `SUBSETS` of each size, bool [draws, subsets, 2, n]."""
    ranks = rng.permuted(
        np.tile(np.arange(sizes[-1]), (draws, len(sizes) * SUBSETS, 2, 1)), axis=-1
    )
    return ranks < np.repeat(sizes, SUBSETS)[:, None, None]


def values(
    real: ClipFeatures, fake: ClipFeatures, draws: Int[np.ndarray, "draws 2 n"], distance: str
) -> Float[np.ndarray, " draws"]:
    """Distances, or limits of distances, of draws."""
    number, _, size = draws.shape
    if distance != LIMIT:
        everything = np.ones((number, 1, 2, size), bool)
        return np.asarray(distances(real, fake, draws, everything, Measure(distance, ddof=1)))[:, 0]
    # The sizes to which the library fits its line.
    sizes = np.unique(np.linspace(size / 2, size, 6).round()).astype(int)
    rng = np.random.default_rng(size)
    # All subsets of the full size are the same one.
    counting = subsets(rng, number, sizes.tolist())[:, : 1 - SUBSETS]
    found = np.asarray(distances(real, fake, draws, counting, Measure("frechet", ddof=1)))
    curves = np.pad(found, [(0, 0), (0, SUBSETS - 1)], mode="edge")
    curves = curves.reshape(number, len(sizes), SUBSETS)
    return np.array([extrapolate(Curve(sizes, curve)).infinity for curve in curves])


def ranked(pools: Pools, cell: Cell) -> tuple[float, float]:
    """Share of the draws that are ranked right, and mean distance of the weaker corruption."""
    kind, *strengths = cell.pair
    rng = np.random.default_rng(cell.size)
    of_real, *of_fakes = (
        draw(rng, POOL[cell.network], cell.size)[: most_draws(cell.distance)] for _ in range(3)
    )
    real = pools[named(cell.network, "noise", 0)][cell.output]
    weaker, stronger = (
        values(
            real,
            pools[named(cell.network, kind, strength)][cell.output],
            np.stack([of_real, own], axis=1),
            cell.distance,
        )
        for strength, own in zip(strengths, of_fakes, strict=True)
    )
    return float(np.mean(weaker < stronger)), float(np.mean(weaker))


def wilson(share: float, draws: int) -> tuple[float, float]:
    """95 % interval of a probability (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    z = 1.96
    middle = share + z**2 / (2 * draws)
    margin = z * np.sqrt(share * (1 - share) / draws + (z / (2 * draws)) ** 2)
    return (middle - margin) / (1 + z**2 / draws), (middle + margin) / (1 + z**2 / draws)


def needed(shares: Mapping[int, float]) -> int | None:
    """Smallest size from which on all shares reach the goal."""
    enough = list(itertools.takewhile(lambda n: shares[n] >= GOAL, sorted(shares, reverse=True)))
    return enough[-1] if enough else None


def interval(shares: Mapping[int, float], pool: int, most: int) -> str:
    """Smallest sizes whose upper, and whose lower, bound of the share reaches the goal."""
    bounds = {n: wilson(s, min(most, pool // n)) for n, s in shares.items()}
    high, low = (
        next((str(n) for n in sorted(bounds) if bounds[n][side] >= GOAL), f">{max(bounds)}")
        for side in (0, 1)
    )
    return low if low == high else f"{low} to {high}"


def main() -> None:
    """Prints a row per pair, output and distance."""
    pools = kept(make, __doc__)
    cells = [
        Cell(network, output, pair, distance, size)
        for network, pairs in PAIRS.items()
        for pair in pairs
        for output in OUTPUTS[network]
        for distance in DISTANCES
        for size in SIZES
        if size <= POOL[network] // 5
    ]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        found = executor.map(functools.partial(ranked, pools), cells)
        results = list(zip(cells, tqdm(found, "shares", len(cells)), strict=True))
    rows = [
        (row, {cell.size: of_size for cell, of_size in of_row})
        for row, of_row in itertools.groupby(results, lambda result: result[0][:-1])
    ]
    print(f"{'% of draws right with n =':51}" + "".join(f"{n:>5}" for n in SIZES), end="")
    print(f"{'n for 95 %':>12}{'interval':>14}{'ratio':>7}")
    of_frechet = None
    for (network, output, pair, distance), of_sizes in rows:
        shares = {size: right for size, (right, _) in of_sizes.items()}
        n = needed(shares)
        of_frechet = n if distance == "frechet" else of_frechet
        between = interval(shares, POOL[network], most_draws(distance))
        print(label(output, pair, distance) + percent(shares), end="")
        print(f"{n or f'>{max(shares)}':>12}{between:>14}", end="")
        print(f"{n / of_frechet:7.2g}" if n and of_frechet else f"{'-':>7}")
    print(f"\n{'mean distance, % of that of the largest n':51}" + "".join(f"{n:>5}" for n in SIZES))
    for (_, output, pair, distance), of_sizes in rows:
        if pair[0] == "noise":
            last = of_sizes[max(of_sizes)][1]
            print(label(output, pair[:2], distance), end="")
            print(percent({size: mean / last for size, (_, mean) in of_sizes.items()}))


def label(output: str, pair: tuple[str | float, ...], distance: str) -> str:
    """Beginning of a row."""
    kind, *strengths = pair
    pair_name = f"{kind} {' or '.join(f'{strength:g}' for strength in strengths)}"
    return f"{pair_name:28}{output:15}{distance:8}"


def percent(shares: Mapping[int, float]) -> str:
    """Columns of the sizes."""
    return "".join(f"{f'{100 * shares[n]:.0f}' if n in shares else '':>5}" for n in SIZES)


if __name__ == "__main__":
    main()
