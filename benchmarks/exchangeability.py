"""Whether p-values are right for clips that depend on each other, and the power that they keep.

    pip install -e ".[dev]" && python benchmarks/exchangeability.py

Features are Gaussian in 4 dimensions. Clips of one source or of one pair have the correlation r.
Each row shows, of 1,000 pairs of sets, the share with p ≤ .01, the share with p ≤ .05 and the mean
p-value, first of a test that takes all clips for independent, then of one that exchanges units. The
right shares under equality are .01 and .05, with standard errors of .003 and .007, and the right
mean p-value is .5. In the rows with a shift, which is .25 standard deviations in every dimension,
larger shares are better.

The last rows have 16 time steps with the correlation .8 between neighbours, 50 clips a set. They
show the share of runs that name any time step, with one test a step and with p-values corrected
for all steps; then the share of runs that name any step before the last 8, where alone there is a
shift of half a standard deviation, and the mean number of those 8 that are named.
"""

import functools
from collections.abc import Hashable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from srvp_fd_jax.significance import along, null_distribution
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.units import Units, find_units, orders, videos

MEASURE = Measure("frechet", 1)
DIM, RUNS, SHIFT, STEPS = 4, 1000, 0.25, 16

Labels = Sequence[Hashable]


def clips(
    rng: np.random.Generator, real: Labels, fake: Labels, r: float, shift: float = 0
) -> tuple[Float[np.ndarray, "runs n d"], Float[np.ndarray, "runs m d"]]:
    """Draws clips in which those of one label have the correlation r."""
    numbers = {label: i for i, label in enumerate(dict.fromkeys([*real, *fake]))}
    common = rng.standard_normal((RUNS, len(numbers), DIM))
    both = [
        np.sqrt(r) * common[:, [numbers[label] for label in of]]
        + np.sqrt(1 - r) * rng.standard_normal((RUNS, len(of), DIM))
        for of in (real, fake)
    ]
    return both[0].astype(np.float32), (both[1] + shift).astype(np.float32)


def p_values(
    real: Float[np.ndarray, "runs n d"], fake: Float[np.ndarray, "runs m d"], units: Units
) -> Float[np.ndarray, " runs"]:
    """p-values of `null_distribution.find_floor` for many pairs of sets with the same units."""
    pooled = np.concatenate([real[:, units.real], fake[:, units.fake]], axis=1)[:, :, None]
    n = len(units.real)
    test = jax.vmap(
        lambda x: null_distribution._divided({"features": x}, n, orders(units), MEASURE)
    )
    found = np.concatenate([jax.jit(test)(part) for part in np.split(pooled, RUNS // 100)])
    return null_distribution.p_values(found[:, 0], np.moveaxis(found[:, 1:], 1, 0), MEASURE)


def row(
    name: str, real: Labels, fake: Labels, r: float, shift: float = 0, *, grouped: bool = False
) -> str:
    """A row of the table."""
    rng = np.random.default_rng([*name.encode()])  # rows are independent
    sets = clips(rng, real, fake, r, shift)
    tests = videos(len(real), len(fake)), find_units(real, fake, grouped=grouped)
    cells = [name.ljust(48)]
    for units in tests:
        p = p_values(*sets, units)
        cells.append(f"{np.mean(p <= 0.01):10.3f}{np.mean(p <= 0.05):7.3f}{p.mean():7.3f}")
    return "".join(cells)


def time_steps(
    rng: np.random.Generator, n: int, shift: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, "n steps d"]:
    """Draws clips whose neighbouring time steps have the correlation .8."""
    noise = rng.standard_normal((n, STEPS, DIM))
    for step in range(1, STEPS):
        noise[:, step] = 0.8 * noise[:, step - 1] + 0.6 * noise[:, step]
    return (noise + shift[:, None]).astype(np.float32)


def named(shift: Float[np.ndarray, " steps"], runs: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Which steps are named in each run with one test a step, and with corrected p-values."""
    rng = np.random.default_rng(0)
    units = videos(50, 50)
    each = functools.partial(along._divided, n=50, orders=orders(units), measure=MEASURE)
    single, corrected = [], []
    for _ in range(runs):
        both = [time_steps(rng, 50, of) for of in (0 * shift, shift)]
        found = np.asarray(each({"features": np.concatenate(both)}))
        single.append(null_distribution.p_values(found[0], found[1:], MEASURE) < 0.01)
        corrected.append(along.corrected(found) < 0.01)
    return np.array(single), np.array(corrected)


def sources(kind: str, sizes: Sequence[int]) -> list[str]:
    """Labels of the clips of several sources."""
    return [f"{kind}{i}" for i, size in enumerate(sizes) for _ in range(size)]


def main() -> None:
    """Prints the table."""
    pairs = [str(i) for i in range(50)]
    some = [f"other{i}" for i in range(20)]
    sizes = np.random.default_rng(1).integers(1, 10, (2, 20)).tolist()
    print(f"{'':48}{'independent':>24}{'units':>24}")
    print(f"{'':48}" + 2 * f"{'p<=.01':>10}{'p<=.05':>7}{'mean':>7}")
    for r in (0, 0.5, 0.8):
        print(row(f"50 pairs, r = {r}", pairs, pairs, r), flush=True)
    print(row("30 pairs and 20 others in each set, r = .8", pairs, pairs[:30] + some, 0.8))
    for size, r in ((5, 0.8), (5, 0)):
        sets = [sources(kind, [size] * 10) for kind in ("real", "fake")]
        print(row(f"10 sources of {size} clips in each set, r = {r}", *sets, r, grouped=True))
    sets = [sources(kind, [2] * 25) for kind in ("real", "fake")]
    print(row("25 clips in each set, every clip twice", *sets, 1, grouped=True), flush=True)
    sets = [sources(kind, of) for kind, of in zip(("real", "fake"), sizes, strict=True)]
    print(row("20 sources of 1 to 9 clips in each set, r = .8", *sets, 0.8, grouped=True))
    sets = [sources("real", [1] * 50), sources("fake", [5] * 50)]
    print(row("50 clips, and 50 sources of 5 clips, r = .8", *sets, 0.8, grouped=True))
    print(row("50 clips, and 50 sources of 5 clips, r = 0", *sets, 0, grouped=True))
    futures = sources("", [5] * 50)
    print(row("50 clips with 5 futures each, r = .8", sources("", [1] * 50), futures, 0.8))
    print(row("20 persons with 5 clips in each set, r = .8", *[sources("", [5] * 20)] * 2, 0.8))
    print("with a shift")
    print(row("50 independent clips in each set", pairs, [f"x{i}" for i in pairs], 0, SHIFT))
    for r in (0, 0.8):
        print(row(f"50 pairs, r = {r}", pairs, pairs, r, SHIFT), flush=True)
    sets = [sources(kind, [5] * 10) for kind in ("real", "fake")]
    print(row("10 sources of 5 clips in each set, r = .5", *sets, 0.5, SHIFT, grouped=True))
    print(row("50 clips with 5 futures each, r = .8", sources("", [1] * 50), futures, 0.8, SHIFT))

    print(f"\n{'16 time steps, p < .01':48}{'each step':>24}{'corrected':>24}")
    both = named(np.zeros(STEPS))
    cells = "".join(f"{of.any(axis=1).mean():24.3f}" for of in both)
    print(f"{'runs that name a step, without a shift':48}{cells}")
    both = named(np.where(np.arange(STEPS) < STEPS // 2, 0, 0.5))
    cells = "".join(f"{of[:, : STEPS // 2].any(axis=1).mean():24.3f}" for of in both)
    print(f"{'runs that name a step before the shift':48}{cells}")
    cells = "".join(f"{of[:, STEPS // 2 :].sum(axis=1).mean():24.2f}" for of in both)
    print(f"{'steps with a shift that are named, of 8':48}{cells}")


if __name__ == "__main__":
    main()
