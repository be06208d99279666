"""Relative errors of Fréchet distances, ours and other tools', against 80-bit arithmetic.

    python benchmarks/accuracy.py            # of one update
    python benchmarks/accuracy.py updates    # ours, of 20,000 rows in updates of several sizes

All methods get the same float32 features. The reference is the distance of those features in
NumPy's extended precision (64-bit mantissa): Tr (C₁C₂)^½ is the nuclear norm of A Bᵀ, whose
singular values come from one-sided Jacobi rotations. At d = 2048 that would take an hour, so LAPACK
computes the same in float64, to about 1e-12 of the distance. The other tools' formulas are restated
from their sources, in the precision that the tools use. "neg" marks a negative distance.
"""

import sys
import warnings
from collections.abc import Callable

import jax
import numpy as np
import scipy.linalg

from srvp_fd_jax import (
    FeatureStatistics,
    FrechetDistanceCalculator,
    frechet_distance_from_statistics,
)
from srvp_fd_jax.demo.corruptions import blur
from srvp_fd_jax.demo.moving_digits import moving_digits

Features = np.ndarray


def reference(x: Features, y: Features) -> float:
    """The distance in extended precision, or in float64 for more than 1000 dimensions."""
    if x.shape[1] > 1000:
        (m1, a), (m2, b) = _factor(x), _factor(y)
        nuclear_norm = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    else:
        (m1, a), (m2, b) = _extended_factor(x), _extended_factor(y)
        nuclear_norm = _singular_values(a @ b.T).sum()
    return float(((m1 - m2) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * nuclear_norm)


def _factor(x: Features) -> tuple[np.ndarray, np.ndarray]:
    mean = x.mean(axis=0, dtype=np.float64)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")


def _extended_factor(x: Features) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.longdouble)
    mean = x.mean(axis=0)
    rows = (x - mean) / np.sqrt(np.longdouble(len(x) - 1))
    # Householder QR, since LAPACK has no extended precision.
    n, d = rows.shape
    for k in range(min(n - 1, d)):
        v = rows[k:, k].copy()
        v[0] += np.copysign(np.sqrt((v**2).sum()), v[0])
        if (norm := (v**2).sum()) > 0:
            rows[k:, k:] -= np.outer(2 * v / norm, v @ rows[k:, k:])
    return mean, np.triu(rows[:d]) if n >= d else rows


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    """Singular values by one-sided Jacobi (Hestenes 1958), in disjoint pairs of columns."""
    # From LAPACK's right singular vectors in float64, one or two sweeps are enough.
    v = np.linalg.svd(matrix.astype(np.float64))[2].T.astype(np.longdouble)
    columns = (matrix @ _orthonormalised(v)).T.copy()
    n = len(columns) + len(columns) % 2
    if n != len(columns):
        columns = np.vstack([columns, np.zeros_like(columns[:1])])
    order = np.arange(n)
    for _ in range(4):
        largest = 0.0
        for _ in range(n - 1):
            p, q = columns[order[: n // 2]], columns[order[: n // 2 - 1 : -1]]
            pp, qq, pq = (p * p).sum(1), (q * q).sum(1), (p * q).sum(1)
            significant = np.abs(pq) > 1e-19 * np.sqrt(pp * qq) + 1e-300
            largest = max(largest, float(significant.any()))
            zeta = (qq - pp) / np.where(significant, 2 * pq, 1)
            t = np.copysign(1, zeta) / (np.abs(zeta) + np.sqrt(1 + zeta**2))
            t = np.where(significant, t, 0)[:, None]
            c = 1 / np.sqrt(1 + t**2)
            columns[order[: n // 2]], columns[order[: n // 2 - 1 : -1]] = (
                c * (p - t * q),
                c * (t * p + q),
            )
            order = np.concatenate([order[:1], np.roll(order[1:], 1)])
        if not largest:
            break
    return np.sqrt((columns**2).sum(axis=1))


def _orthonormalised(v: np.ndarray) -> np.ndarray:
    # One Newton-Schulz step squares the error of 1e-15 in the orthonormality of float64 columns.
    return v @ (3 * np.eye(len(v), dtype=np.longdouble) - v.T @ v) / 2


def ours(dtype: type, method: str = "procrustes") -> Callable[[Features, Features], float]:
    """The distance of this package, computed in `dtype`."""

    def distance(x: Features, y: Features) -> float:
        with jax.enable_x64(dtype == np.float64):
            s1, s2 = (FeatureStatistics.from_features(f.astype(dtype)) for f in (x, y))
            return float(frechet_distance_from_statistics(s1, s2, method))

    return distance


def srvp_fd(x: Features, y: Features) -> float:
    """srvp-fd 0.4.1 without its clipping at zero: scipy.linalg.sqrtm in float64."""
    m1, c1, m2, c2 = _moments(x.astype(np.float64), y.astype(np.float64))
    root = scipy.linalg.sqrtm(c1 @ c2).real
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(root))


def torchmetrics(x: Features, y: Features) -> float:
    """FrechetInceptionDistance of torchmetrics: eigenvalues of C₁C₂ in float32."""
    m1, c1, m2, c2 = _moments(x, y)
    trace = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(np.complex64)).real.sum()
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * trace)


def tfgan(x: Features, y: Features) -> float:
    """TFGAN, which the original FVD code uses: two symmetric roots by SVD in float32."""
    m1, c1, m2, c2 = _moments(x, y)

    def root(matrix: np.ndarray, eps: float = 1e-10) -> np.ndarray:
        u, s, vt = np.linalg.svd(matrix)
        return (u * np.where(s < eps, s, np.sqrt(s))) @ vt

    trace = np.trace(root(root(c1) @ c2 @ root(c1)))
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * trace)


def _moments(x: Features, y: Features) -> tuple[np.ndarray, ...]:
    dtype = x.dtype
    moments = (x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    return tuple(moment.astype(dtype) for moment in moments)


METHODS = {
    "ours float32": ours(np.float32),
    "ours float64": ours(np.float64),
    "eigh float32": ours(np.float32, "eigh"),
    "srvp-fd": srvp_fd,
    "torchmetrics": torchmetrics,
    "TFGAN": tfgan,
}


def decaying(d: int, n: int, decay: float, scale: float = 1.0) -> tuple[Features, Features]:
    """Two sets of features whose k-th standard deviation is k^-decay."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x, y = rng.normal(size=(2, n, d)) * np.arange(1, d + 1.0) ** -decay @ directions
    return x.astype(np.float32), (scale * y).astype(np.float32)


def cases() -> dict[str, Callable[[], tuple[Features, Features]]]:
    """Functions that make pairs of feature sets, by name."""
    rng = np.random.default_rng(0)
    calculator = FrechetDistanceCalculator("digits")
    frames = {
        "same": moving_digits(rng, 1000, 5),
        "more": moving_digits(rng, 1000, 5),
    }
    frames["blurred"] = blur(frames["more"], 3)

    def digits(extract: Callable[..., jax.Array], other: str, n: int, part: object) -> object:
        return lambda: tuple(np.asarray(extract(frames[k][:n][part])) for k in ("same", other))

    single = (slice(None), 0)
    return {
        "digits, frame, other clips": digits(calculator.extract_features, "more", 1000, single),
        "digits, frame, blurred": digits(calculator.extract_features, "blurred", 1000, single),
        "digits, content, other clips": digits(calculator.extract_w, "more", 1000, slice(None)),
        "digits, content, 100 clips": digits(calculator.extract_w, "more", 100, slice(None)),
        "digits, frame, equal sets": digits(calculator.extract_features, "same", 1000, single),
        "d=128, decay 0, same law": lambda: decaying(128, 1000, 0),
        "d=128, decay 1, scaled 1.1": lambda: decaying(128, 1000, 1, 1.1),
        "d=128, decay 2, same law": lambda: decaying(128, 1000, 2),
        "d=400, decay 1, same law": lambda: decaying(400, 2048, 1),
        "d=400, decay 2, same law": lambda: decaying(400, 2048, 2),
        "d=400, 100 samples": lambda: decaying(400, 100, 1),
        "d=2048, decay 1, same law": lambda: decaying(2048, 4096, 1),
    }


def updates() -> None:
    """Prints our errors for the same samples of two close sets in updates of several sizes."""

    @jax.jit
    def scanned(batches: Features) -> FeatureStatistics:
        step = lambda s, batch: (s.update(batch), None)  # noqa: E731
        return jax.lax.scan(step, FeatureStatistics.empty(batches.shape[-1]), batches)[0]

    sizes = 20_000, 1000, 200, 20
    print(f"{'rows an update':30}" + "".join(f"{size:>14}" for size in sizes))
    for dim, decay in ((20, 1.0), (128, 0.0), (128, 1.0)):
        rng = np.random.default_rng(0)
        scales = np.arange(1.0, dim + 1) ** -decay
        x, y = (np.float32(rng.normal(size=(20_000, dim)) * scales) for _ in range(2))
        exact, row = reference(x, y), ""
        for size in sizes:
            s1, s2 = (scanned(f.reshape(-1, size, dim)) for f in (x, y))
            got = float(frechet_distance_from_statistics(s1, s2))
            row += f"{abs(got - exact) / exact:14.0e}"
        print(f"{f'd={dim}, decay {decay:g}':30}{row}", flush=True)


def main() -> None:
    """Prints the table."""
    if sys.argv[1:] == ["updates"]:
        return updates()
    warnings.simplefilter("ignore")  # from SciPy for singular matrices
    width = 30
    print(f"{'':{width}}{'distance':>12}" + "".join(f"{name:>14}" for name in METHODS))
    for name, make in cases().items():
        x, y = make()
        exact = 0.0 if np.array_equal(x, y) else reference(x, y)
        # The error of a distance of zero is relative to the traces of the covariances.
        scale = exact or float(np.var(x, axis=0).sum() + np.var(y, axis=0).sum())
        row = ""
        for method in METHODS.values():
            got = method(x, y)
            mark = "neg " if got < 0 else ""
            row += f"{mark + format(abs(got - exact) / scale, '.0e'):>14}"
        print(f"{name:{width}}{exact:12.4g}{row}", flush=True)


if __name__ == "__main__":
    main()
