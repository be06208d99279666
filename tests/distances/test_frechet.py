import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import reference

from srvp_fd_jax import (
    DISTANCES,
    FeatureStatistics,
    frechet_distance_from_moments,
    frechet_distance_from_statistics,
)
from srvp_fd_jax.distances.frechet import Frechet, Method

# Small sets, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*leave the covariance singular")


def spectrum_sets(
    seed: int, d: int, n: int, decay: float, *, scale: float = 1.1, shift: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets whose standard deviations fall off like k^-decay along random directions."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x, y = rng.normal(size=(2, n, d)) * np.arange(1, d + 1.0) ** -decay @ directions
    return x.astype(np.float32), (scale * y + shift).astype(np.float32)


def distance(x: np.ndarray, y: np.ndarray, method: Method = "procrustes") -> float:
    s1, s2 = FeatureStatistics.from_features(x), FeatureStatistics.from_features(y)
    return float(frechet_distance_from_statistics(s1, s2, method))


def trace(x: np.ndarray, y: np.ndarray) -> float:
    return float(x.var(axis=0, ddof=1).sum() + y.var(axis=0, ddof=1).sum())


SMALL_SETS = {
    "well-conditioned": spectrum_sets(0, 6, 40, 0),
    "ill-conditioned": spectrum_sets(1, 6, 40, 4),
    "fewer samples than dimensions": spectrum_sets(2, 8, 4, 0.5),
    "rank one": tuple(x[:, :1] * np.ones((1, 5), np.float32) for x in spectrum_sets(3, 5, 30, 0)),
    "large mean, tiny spread": tuple(
        (100 + 1e-2 * x).astype(np.float32) for x in spectrum_sets(4, 6, 40, 0)
    ),
    "far apart": spectrum_sets(5, 6, 40, 0, shift=30),
}


@pytest.mark.parametrize("case", SMALL_SETS)
def test_float32_equals_sixty_digits(case: str):
    x, y = SMALL_SETS[case]
    exact = reference.frechet_distance(*reference.moments(x), *reference.moments(y))
    assert distance(x, y) == pytest.approx(exact, rel=1e-5)
    assert reference.frechet_distance_float64(x, y) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("decay", [0, 1, 2, 4])
@pytest.mark.parametrize(("d", "n"), [(128, 1000), (128, 64), (300, 900)])
def test_float32_equals_float64_at_full_size(d: int, n: int, decay: float):
    x, y = spectrum_sets(d + n, d, n, decay)
    exact = reference.frechet_distance_float64(x, y)
    assert distance(x, y) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("decay", [1, 1.5, 2, 3])
def test_close_sets_keep_their_digits(decay: float):
    # Sets of one distribution, where the distance is a thousandth of the traces: here a single
    # SVD in float32 is off by up to 1e-2, and the textbook form loses everything.
    x, y = spectrum_sets(7, 300, 2000, decay, scale=1, shift=0)
    exact = reference.frechet_distance_float64(x, y)
    assert distance(x, y) == pytest.approx(exact, rel=1e-5, abs=2e-8 * trace(x, y))


@pytest.mark.parametrize("decay", [0, 2])
@pytest.mark.parametrize("n", [50, 500])
def test_equal_sets_have_distance_zero(n: int, decay: float):
    x, _ = spectrum_sets(8, 128, n, decay)
    shuffled = np.random.default_rng(0).permutation(x)
    for y in (x, shuffled):
        assert 0 <= distance(x, y) < 1e-8 * trace(x, y)
    assert distance(x, x, "eigh") >= 0


@pytest.mark.parametrize(("name", "method"), [("frechet", "procrustes"), ("frechet_eigh", "eigh")])
def test_distances_by_name_are_those_of_the_methods(name: str, method: Method):
    assert DISTANCES[name] == Frechet(method)
    x, y = SMALL_SETS["well-conditioned"]
    named = {"x": FeatureStatistics.from_features(x), "y": FeatureStatistics.from_features(y)}
    assert float(DISTANCES[name].between(named)) == distance(x, y, method)


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_method_is_told():
    with pytest.raises(ValueError, match="method: got 'schur', allowed are procrustes, eigh"):
        Frechet("schur")


def test_known_distances():
    zero, eye = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)
    assert frechet_distance_from_moments(zero, eye, zero + 2, eye) == pytest.approx(12)
    assert frechet_distance_from_moments(zero, eye, zero, 9 * eye) == pytest.approx(12)
    assert frechet_distance_from_moments(zero, 0 * eye, zero, eye) == pytest.approx(3)


@pytest.mark.parametrize(("method", "lost"), [("procrustes", 1e-8), ("eigh", 1e-6)])
def test_moments_equal_sixty_digits(method: Method, lost: float):
    x, y = SMALL_SETS["well-conditioned"]
    m1, c1 = reference.moments(x)
    m2, c2 = reference.moments(y)
    exact = reference.frechet_distance(m1, c1, m2, c2)
    moments = (np.array(m.tolist(), np.float32).squeeze() for m in (m1, c1, m2, c2))
    got = frechet_distance_from_moments(*moments, method=method)
    assert got.dtype == jnp.float32
    # The textbook form loses some roundings of the traces, float32's being 1.2e-7.
    assert float(got) == pytest.approx(exact, rel=1e-6, abs=lost * trace(x, y))


class TestGradients(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_equal_finite_differences(self):
        with jax.enable_x64(True):
            for x, y in (
                SMALL_SETS["well-conditioned"],
                SMALL_SETS["fewer samples than dimensions"],
            ):
                x, y = jnp.asarray(x, jnp.float64), jnp.asarray(y, jnp.float64)
                gradient = self.variant(jax.grad(feature_distance))(x, y)
                assert gradient.dtype == jnp.float64
                chex.assert_trees_all_close(
                    gradient, central_differences(feature_distance, x, y), rtol=1e-5, atol=1e-7
                )

    @chex.variants(with_jit=True, without_jit=True)
    def test_of_moments_equal_finite_differences(self):
        with jax.enable_x64(True):
            # The identity has all eigenvalues equal, where differentiating eigh gives nan.
            for c in (np.eye(3), np.diag([1.0, 4.0, 9.0])):
                m, c, other = np.zeros(3), c, np.array([[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 3]])

                def of_covariance(c, other, m=m):
                    symmetric = (c + c.T) / 2
                    return frechet_distance_from_moments(m, symmetric, m, other)

                gradient = self.variant(jax.grad(of_covariance))(c, other)
                chex.assert_trees_all_close(
                    gradient, central_differences(of_covariance, c, other), rtol=1e-5, atol=1e-7
                )

    @chex.variants(with_jit=True, without_jit=True)
    def test_second_derivatives_equal_differences_of_first_ones(self):
        other = jnp.array([[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 3]])
        rng = np.random.default_rng(0)
        with jax.enable_x64(True):
            for method in ("procrustes", "eigh"):
                # The identity has all eigenvalues equal, where differentiating eigh gives nan.
                for c in (np.eye(3), np.cov(rng.normal(size=(3, 9)))):

                    def of_covariance(c, method=method):
                        c, m = (c + c.T) / 2, jnp.zeros(3)
                        return frechet_distance_from_moments(m, c, m, other, method)

                    expected = central_differences(lambda c, _: jax.grad(of_covariance)(c), c, c)
                    for hessian in (
                        jax.hessian(of_covariance),
                        jax.jacrev(jax.jacrev(of_covariance)),
                        jax.jacfwd(jax.jacfwd(of_covariance)),
                    ):
                        got = self.variant(hessian)(jnp.asarray(c))
                        chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-7)

    def test_second_derivatives_are_nan_where_there_are_none(self):
        singular = jnp.diag(jnp.array([1.0, 2.0, 0.0]))

        def of_covariance(c):
            return frechet_distance_from_moments(jnp.zeros(3), c, jnp.zeros(3), jnp.eye(3))

        chex.assert_tree_all_finite(jax.grad(of_covariance)(singular))
        assert jnp.isnan(jax.hessian(of_covariance)(singular)).any()

    @chex.variants(with_jit=True, without_jit=True)
    def test_finite_in_float32_where_it_is_singular(self):
        gradient = self.variant(jax.grad(feature_distance))
        for x, y in SMALL_SETS.values():
            chex.assert_tree_all_finite(gradient(x, y))
        for x, _ in SMALL_SETS.values():
            at_minimum = gradient(x, x)
            chex.assert_trees_all_close(at_minimum, jnp.zeros_like(at_minimum), atol=1e-3)

    def test_forward_mode_equals_reverse_mode(self):
        with jax.enable_x64(True):
            x, y = (jnp.asarray(s, jnp.float64) for s in SMALL_SETS["well-conditioned"])
            tangent = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
            _, forward = jax.jvp(lambda x: feature_distance(x, y), (x,), (tangent,))
            reverse = jnp.vdot(jax.grad(feature_distance)(x, y), tangent)
            chex.assert_trees_all_close(forward, reverse, rtol=1e-10)


def feature_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    return frechet_distance_from_statistics(
        FeatureStatistics.from_features(x), FeatureStatistics.from_features(y)
    )


def central_differences(f, x, y, h: float = 1e-5) -> np.ndarray:
    f = jax.jit(f)
    gradient = np.zeros((*x.shape, *jax.eval_shape(f, x, y).shape))
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = h
        gradient[index] = (f(x + step, y) - f(x - step, y)) / (2 * h)
    return gradient


# What is wrong is a millionth of the largest entry.
INDEFINITE = np.array([[1e6, 0, 0], [0, 1, 2], [0, 2, 1]])
ASYMMETRIC = np.array([[1e6, 0, 0], [0, 1, 0.5], [0, -0.5, 1]])


@pytest.mark.parametrize("in_jax", [False, True])
@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("mu1", np.zeros((3, 1)), r"mu1: got shape \(3, 1\), expected \[d\]"),
        ("mu2", np.zeros(4), r"mu2: got shape \(4,\), expected \(3,\)"),
        ("sigma1", np.eye(4), r"sigma1: got shape \(4, 4\), expected \(3, 3\)"),
        ("sigma2", np.eye(3) * np.nan, "sigma2: got values that are not finite"),
        ("sigma2", np.triu(np.ones((3, 3))), "sigma2: got a matrix that is not symmetric"),
        ("sigma1", -np.eye(3), "sigma1: got a matrix with negative eigenvalues"),
        ("sigma1", np.diag([1, 1, -1e-3]), "sigma1: got a matrix with negative eigenvalues"),
        ("sigma2", INDEFINITE, "sigma2: got a matrix with negative eigenvalues"),
        ("sigma2", ASYMMETRIC, "sigma2: got a matrix that is not symmetric"),
        ("sigma2", np.eye(3, dtype=int), "sigma2: got dtype int64, expected floats"),
        ("method", "schur", "method: got 'schur', allowed are procrustes, eigh"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_moments_are_told(argument: str, value: object, message: str, in_jax: bool):
    arguments = {"mu1": np.zeros(3), "sigma1": np.eye(3), "mu2": np.ones(3), "sigma2": np.eye(3)}
    if in_jax and argument != "method":
        value, message = jnp.asarray(value), message.replace("int64", "int32")
    with pytest.raises(ValueError, match=message):
        frechet_distance_from_moments(**(arguments | {argument: value}))


def test_indefinite_matrices_are_nan_under_jit():
    m = jnp.zeros(3)
    for wrong in (-jnp.eye(3), jnp.diag(jnp.array([1, 1, -0.1]))):
        assert jnp.isnan(jax.jit(frechet_distance_from_moments)(m, wrong, m, jnp.eye(3)))


def test_covariances_of_rounding_are_let_through():
    rng = np.random.default_rng(0)
    for decay in (1, 2, 4):
        x, y = spectrum_sets(9, 60, 30, decay)  # singular
        moments = (f(s) for s in (x, y) for f in (lambda s: s.mean(0), lambda s: np.cov(s.T)))
        assert np.isfinite(frechet_distance_from_moments(*(np.float32(m) for m in moments)))
    constant = np.cov(rng.normal(size=(50, 3)).T * [[1], [0], [1]])
    assert np.isfinite(frechet_distance_from_moments(np.ones(3), constant, np.ones(3), np.eye(3)))


def test_offsets_of_float64_means_are_subtracted_before_the_cast():
    got = frechet_distance_from_moments(np.full(3, 1e9), np.eye(3), np.full(3, 1e9 + 1), np.eye(3))
    assert float(got) == pytest.approx(3, rel=1e-6)


def test_reference_has_more_digits_than_cancel():
    # The reference itself, on covariances whose distance is known in closed form.
    m = mpmath.matrix(1, 2)
    c1, c2 = mpmath.diag([1, mpmath.mpf("1e-30")]), mpmath.diag([4, mpmath.mpf("4e-30")])
    assert reference.frechet_distance(m, c1, m, c2) == pytest.approx(1)
