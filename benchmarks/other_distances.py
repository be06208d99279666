"""Cost and error of the other distances, beside the code that they are held to.

    pip install -e ".[dev]" && python benchmarks/other_distances.py

Two sets of 2,048 features in 400 dimensions, as those of FVD, with a decaying spectrum. Ours is the
jitted function in float32, from arrays to the distance. The others, in float64 where they take it,
are scikit-learn's kernels as videojedi calls them (JEDi), torch-fidelity (KVD: KID with one subset
of all samples), its code for MIND in NumPy and in PyTorch's float32, and prdc. Both alternate in
one process. The error is relative to the others' number.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch

from srvp_fd_jax import DISTANCES
from srvp_fd_jax.distances.mind import DIRECTIONS, unit_directions
from srvp_fd_jax.distances.prdc import prdc

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracles  # from the tests

N, DIM, TURNS = 2048, 400, 5


def main() -> None:
    """Prints the table."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, DIM + 1.0) ** -0.5
    x, y = (np.float32(rng.normal(size=(N, DIM)) * spectrum + 1) for _ in range(2))
    y = np.float32(1.02) * y

    @jax.jit
    def density(x: jax.Array, y: jax.Array) -> jax.Array:
        return sum(prdc(x, y)).astype(float)

    rows: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
        "jedi": (of_registry("jedi"), oracles.jedi),
        "jedi_unbiased": (of_registry("jedi_unbiased"), oracles.jedi_unbiased),
        "kvd": (of_registry("kvd"), oracles.kvd),
        "mind, NumPy": (of_registry("mind"), oracles.mind),
        "mind, PyTorch": (of_registry("mind"), mind_in_torch),
        "sum of prdc's four": (density, lambda x, y: sum(oracles.prdc_of(x, y).values())),
    }
    print(f"{'':20} {'ours':>9} {'theirs':>9} {'ratio':>6} {'error':>8}")
    for name, (ours, theirs) in rows.items():
        number, expected = float(ours(x, y)), float(theirs(x, y))
        times = [(seconds(ours, x, y), seconds(theirs, x, y)) for _ in range(TURNS)]
        a, b = np.median(times, axis=0)
        error = abs(number / expected - 1)
        print(f"{name:20} {a * 1e3:7.0f}ms {b * 1e3:7.0f}ms {b / a:6.2f} {error:8.0e}", flush=True)


def of_registry(name: str) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    """A distance between arrays of features, jitted."""
    distance = DISTANCES[name]

    @jax.jit
    def between(x: jax.Array, y: jax.Array) -> jax.Array:
        empty = distance.empty(DIM, False, most=N)
        return distance.between({k: empty.fold(f, None, None, 1) for k, f in (("x", x), ("y", y))})

    return between


def mind_in_torch(x: np.ndarray, y: np.ndarray) -> float:
    """As `metric_mind` in torch-fidelity's repository, on our directions."""
    directions = torch.tensor(np.asarray(unit_directions(DIRECTIONS, DIM)))
    projected = [(torch.from_numpy(f) @ directions.T).sort(dim=0)[0] for f in (x, y)]
    return 3 * DIM * float(((projected[0] - projected[1]) ** 2).mean())


def seconds(function: Callable[..., object], x: np.ndarray, y: np.ndarray) -> float:
    """Time of one call."""
    start = time.perf_counter()
    float(function(x, y))  # type: ignore[arg-type]  # a number of any library
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
