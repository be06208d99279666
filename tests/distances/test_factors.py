import chex
import jax
import jax.numpy as jnp
import numpy as np

from srvp_fd_jax.distances import factors

ROWS = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)


class TestFactors(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_triangular_factor(self):
        for n in (2, 7, 30):
            rows = jnp.asarray(ROWS[:n])
            r = self.variant(factors.triangular_factor)(rows)
            chex.assert_shape(r, (7, 7))
            chex.assert_trees_all_close(r, jnp.triu(r))
            chex.assert_trees_all_close(r.T @ r, rows.T @ rows, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_covariance_factor(self):
        rows = jnp.asarray(ROWS[:4])
        a = self.variant(factors.covariance_factor)(rows.T @ rows)
        chex.assert_trees_all_close(a.T @ a, rows.T @ rows, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_add_diagonal(self):
        a = factors.triangular_factor(jnp.asarray(ROWS[:4]))
        variances = jnp.arange(7.0)
        t = self.variant(factors.add_diagonal)(a, variances)
        chex.assert_trees_all_close(t, jnp.triu(t))
        chex.assert_trees_all_close(t.T @ t, a.T @ a + jnp.diag(variances), atol=1e-5)


def test_solve_sylvester_leaves_out_what_belongs_to_zeros():
    a = jnp.diag(jnp.array([0.0, 0.0, 1.0, 3.0]))
    k = jnp.asarray(ROWS[:4, :4] + ROWS[:4, :4].T)
    x = factors.solve_sylvester(a, k)
    chex.assert_trees_all_close((a @ x + x @ a).at[:2, :2].set(k[:2, :2]), k, atol=1e-5)
    chex.assert_trees_all_close(x[:2, :2], jnp.zeros((2, 2)))


def test_an_indefinite_matrix_has_no_factor():
    assert jnp.isnan(jax.jit(factors.covariance_factor)(jnp.diag(jnp.array([1, 1, -0.1])))).all()
