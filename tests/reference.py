"""The Fréchet distance by its textbook formula, in more digits than it can cancel."""

import mpmath
import numpy as np

DIGITS = 60


def moments(x: np.ndarray) -> tuple[mpmath.matrix, mpmath.matrix]:
    """Mean and unbiased covariance of features [n, d], to 60 digits."""
    with mpmath.workdps(DIGITS):
        rows = mpmath.matrix(x.astype(np.float64).tolist())
        ones = mpmath.ones(1, rows.rows)
        mean = (ones * rows) / rows.rows
        centred = rows - ones.T * mean
        return mean, (centred.T * centred) / (rows.rows - 1)


def frechet_distance(
    m1: mpmath.matrix, c1: mpmath.matrix, m2: mpmath.matrix, c2: mpmath.matrix
) -> float:
    """‖m₁ − m₂‖² + Tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½) to 60 digits, for small d."""
    with mpmath.workdps(DIGITS):
        eigenvalues, u = mpmath.eigsy(c1)
        root = u * mpmath.diag([mpmath.sqrt(max(e, 0)) for e in eigenvalues]) * u.T
        eigenvalues = mpmath.eigsy(root * c2 * root, eigvals_only=True)
        trace_of_root = sum(mpmath.sqrt(max(e, 0)) for e in eigenvalues)
        difference = m1 - m2
        traces = sum(c1[i, i] + c2[i, i] for i in range(c1.rows))
        return float(mpmath.fdot(difference, difference) + traces - 2 * trace_of_root)


def frechet_distance_float64(x: np.ndarray, y: np.ndarray, ddof: int = 1) -> float:
    """The same of features in float64, for large d.

    Tr (C₁C₂)^½ is the nuclear norm of A Bᵀ for factors of the covariances, which loses 1e-16 of
    the traces only: twice the digits of float32. `test_frechet` holds it to 60 digits.
    """
    m1, a = _factor(x.astype(np.float64), ddof)
    m2, b = _factor(y.astype(np.float64), ddof)
    nuclear_norm = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return ((m1 - m2) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * nuclear_norm


def _factor(x: np.ndarray, ddof: int) -> tuple[np.ndarray, np.ndarray]:
    mean = x.mean(axis=0)
    mean += (x - mean).mean(axis=0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - ddof), mode="r")
