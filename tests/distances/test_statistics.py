import dataclasses
import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from srvp_fd_jax import (
    FeatureStatistics,
    frechet_distance_from_moments,
    frechet_distance_from_statistics,
)
from srvp_fd_jax.distances.provenance import mark

# Reproducible, and without a deadline that compilation would miss.
settings.register_profile("srvp-fd-jax", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("srvp-fd-jax")

D = 5
FEATURES = (
    np.random.default_rng(0).normal(size=(60, D)) * [3, 1, 1, 0.1, 0.01] + [50, -2, 0, 1, 9]
).astype(np.float32)
VARIANCES = np.random.default_rng(1).uniform(0.1, 2, size=(60, D)).astype(np.float32)
OTHER = (FEATURES[::-1] * 1.2 + 0.3).astype(np.float32)

seeds = st.integers(0, 2**31)

OFFSET = np.float32(1e4)


def statistics(features, variances=None, mask=None) -> FeatureStatistics:
    return FeatureStatistics.from_features(features, mask, variances)


def assert_same(got: FeatureStatistics, features: np.ndarray, variances=None) -> None:
    x = features.astype(np.float64)
    assert int(got.count) == len(x)
    mean = np.float64(got.mean) + np.float64(got.mean_error)
    np.testing.assert_allclose(mean / x.std(axis=0), (x / x.std(axis=0)).mean(axis=0), atol=1e-6)
    expected = np.cov(x, rowvar=False)
    if variances is not None:
        expected += np.diag(variances.astype(np.float64).mean(axis=0))
    # Relative to the spread of the two dimensions, the smallest of which is a hundredth.
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(got.covariance() / scale, expected / scale, atol=3e-6)
    chex.assert_trees_all_close(got.factor, jnp.triu(got.factor))


@pytest.mark.parametrize("variances", [None, VARIANCES], ids=["samples", "mixture"])
def test_moments_are_numpys(variances):
    got = statistics(FEATURES, variances)
    assert_same(got, FEATURES, variances)
    a = got.covariance_factor()
    chex.assert_trees_all_close(a.T @ a, got.covariance(), rtol=1e-4, atol=1e-5)
    n = len(FEATURES)
    if variances is None:
        chex.assert_trees_all_close(
            got.covariance(ddof=0) * n, got.covariance() * (n - 1), rtol=1e-6
        )


@given(seeds)
def test_any_split_in_any_order_with_any_padding_gives_the_one_shot_statistics(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(FEATURES))
    cuts = np.sort(rng.integers(0, len(FEATURES) + 1, rng.integers(1, 6)))
    state = FeatureStatistics.empty(D, mixture=True)
    for rows in np.split(order, cuts):
        # One shape, so one compilation; what does not count may be anything.
        padded = np.full((len(FEATURES), D), rng.choice([np.nan, np.inf, 1e30]), np.float32)
        variances = padded.copy()
        mask = np.zeros(len(FEATURES), bool)
        places = rng.choice(len(FEATURES), len(rows), replace=False)
        padded[places], variances[places], mask[places] = FEATURES[rows], VARIANCES[rows], True
        state = state.update(padded, mask, variances)
    assert_same(state, FEATURES, VARIANCES)


@given(seeds)
def test_any_merge_tree_gives_the_one_shot_statistics(seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(len(FEATURES)).reshape(12, 5)
    forest = [statistics(FEATURES[rows]) for rows in groups] + [FeatureStatistics.empty(D)]
    while len(forest) > 1:
        a, b = (forest.pop(rng.integers(len(forest))) for _ in range(2))
        forest.append(a.merge(b))
    assert_same(forest[0], FEATURES)


def test_reduce_merges_what_is_stacked():
    parts = [statistics(FEATURES[i::4]) for i in range(4)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *parts)
    assert_same(stacked.reduce(), FEATURES)
    assert_same(jax.jit(FeatureStatistics.reduce)(stacked), FEATURES)


def test_scan_carries_statistics():
    def step(state, batch):
        return state.update(batch), None

    state, _ = jax.lax.scan(step, FeatureStatistics.empty(D), FEATURES.reshape(6, 10, D))
    assert_same(state, FEATURES)


@pytest.mark.parametrize(
    "joined",
    [
        FeatureStatistics.merge,
        lambda a, b: jax.tree.map(lambda *x: jnp.stack(x), a, b).reduce(),
        lambda a, b: a.update(OTHER + OFFSET),
    ],
    ids=["merge", "reduce", "update"],
)
@pytest.mark.parametrize("constants", [(0,), (1,), (0, 1)])
def test_constants_of_a_compiled_function_keep_their_second_float(joined, constants):
    x, y = FEATURES + OFFSET, OTHER + OFFSET
    parts = [statistics(x), statistics(y)]

    def distance(*arguments):
        rest = iter(arguments)
        both = joined(*(s if i in constants else next(rest) for i, s in enumerate(parts)))
        return frechet_distance_from_statistics(both, parts[1])

    got = jax.jit(distance)(*(s for i, s in enumerate(parts) if i not in constants))
    expected = reference.frechet_distance_float64(np.concatenate([x, y]), y)
    assert float(got) == pytest.approx(expected, rel=1e-5)


class TestPytree(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_works_under_jit(self):
        def function(x, y):
            return frechet_distance_from_statistics(
                statistics(x).merge(statistics(y)), statistics(y)
            )

        expected = reference.frechet_distance_float64(np.concatenate([FEATURES, OTHER]), OTHER)
        assert float(self.variant(function)(FEATURES, OTHER)) == pytest.approx(expected, rel=1e-5)


# -- properties of the distance


def distance(x, y) -> float:
    return float(
        frechet_distance_from_statistics(statistics(np.float32(x)), statistics(np.float32(y)))
    )


def random_set(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)) + rng.normal(size=4)


@given(seeds)
def test_distance_is_symmetric_invariant_to_rotation_and_scales(seed):
    rng = np.random.default_rng(seed)
    x, y = random_set(rng), random_set(rng)
    expected = distance(x, y)
    assert distance(y, x) == pytest.approx(expected, rel=1e-5)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    shift, scale = rng.normal(size=4), rng.uniform(0.1, 10)
    assert distance(x @ rotation + shift, y @ rotation + shift) == pytest.approx(expected, rel=1e-4)
    assert distance(scale * x, scale * y) == pytest.approx(scale**2 * expected, rel=1e-4)


@given(seeds)
def test_root_of_the_distance_obeys_the_triangle_inequality(seed):
    rng = np.random.default_rng(seed)
    x, y, z = (random_set(rng) for _ in range(3))
    xy, yz, xz = (np.sqrt(distance(*pair)) for pair in ((x, y), (y, z), (x, z)))
    assert xz <= (xy + yz) * (1 + 1e-5)


# -- float32


@functools.cache
def offset_sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = 100 + rng.normal(size=(2, 1000, 40, 16))
    return x.astype(np.float32), y.astype(np.float32)


def test_a_thousand_batches_about_a_mean_of_100_keep_their_digits():
    def stream(batches):
        step = lambda state, batch: (state.update(batch), None)  # noqa: E731
        return jax.lax.scan(step, FeatureStatistics.empty(16), batches)[0]

    x, y = offset_sets()
    got = frechet_distance_from_statistics(*map(jax.jit(stream), (x, y)))
    exact = reference.frechet_distance_float64(x.reshape(-1, 16), y.reshape(-1, 16))
    assert float(got) == pytest.approx(exact, rel=1e-4)


def test_raw_moments_lose_them():
    # E[xxᵀ] − mmᵀ in float32, as a running sum keeps them: the reason for all of this module.
    def raw_moments(batches):
        sums = np.zeros(16, np.float32), np.zeros((16, 16), np.float32)
        for batch in batches:
            sums = sums[0] + batch.sum(axis=0), sums[1] + batch.T @ batch
        n = batches.shape[0] * batches.shape[1]
        mean = sums[0] / n
        return mean, sums[1] / n - np.outer(mean, mean)

    x, y = offset_sets()
    got = frechet_distance_from_moments(*raw_moments(x), *raw_moments(y))
    exact = reference.frechet_distance_float64(x.reshape(-1, 16), y.reshape(-1, 16))
    assert abs(float(got) - exact) > exact


# -- wrong use


NAN = np.where(np.arange(60)[:, None] == 7, np.nan, FEATURES).astype(np.float32)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("of_mixture", "arguments", "message"),
    [
        (False, {"features": FEATURES[:, :4]}, r"features: got shape \(60, 4\), expected \[n, 5\]"),
        (False, {"features": FEATURES.astype(np.int32)}, "features: got dtype int32, expected flo"),
        (False, {"features": NAN}, "features: got values that are not finite"),
        (False, {"variances": VARIANCES}, "variances: got an array, expected None"),
        (True, {"variances": None}, "variances: got None, expected those of the mi"),
        (True, {"variances": -VARIANCES}, "variances: got values that are not finite or negative"),
    ],
)
def test_a_wrong_batch_is_told_and_leaves_the_state_unchanged(
    of_mixture: bool, arguments: dict[str, np.ndarray | None], message: str
):
    state = statistics(FEATURES, VARIANCES if of_mixture else None)
    before = [np.array(leaf) for leaf in jax.tree.leaves(state)]
    with pytest.raises(ValueError, match=message):
        state.update(**({"features": FEATURES} | arguments))
    chex.assert_trees_all_equal(jax.tree.leaves(state), before)


def test_too_few_samples_are_nan_under_jit():
    for n in (0, 1):
        got = jax.jit(frechet_distance_from_statistics)(statistics(FEATURES[:n]), statistics(OTHER))
        assert jnp.isnan(got)


@pytest.mark.parametrize("dtype", [np.float64, jnp.float16, jnp.bfloat16])
def test_state_is_float32_whatever_the_features_are(dtype):
    x = ((FEATURES - FEATURES.mean(axis=0)) / FEATURES.std(axis=0)).astype(dtype)
    got = statistics(x)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {
        np.dtype("uint32"),
        np.dtype("float32"),
    }
    assert_same(got, x.astype(np.float32))


def test_float64_keeps_its_digits():
    with jax.enable_x64(True):
        x, y = FEATURES.astype(np.float64), OTHER.astype(np.float64)
        halves = [statistics(half) for half in np.split(x, 2)]
        got = frechet_distance_from_statistics(halves[0].merge(halves[1]), statistics(y))
        assert got.dtype == jnp.float64
        exact = reference.frechet_distance(*reference.moments(x), *reference.moments(y))
        assert float(got) == pytest.approx(exact, rel=1e-12)


# -- what the statistics know of themselves


def test_the_divisor_is_that_of_the_statistics():
    unmarked = [statistics(x) for x in (FEATURES, OTHER)]
    marked = [mark(s, ddof=0) for s in unmarked]
    biased, unbiased = (
        reference.frechet_distance_float64(FEATURES, OTHER, ddof=ddof) for ddof in (0, 1)
    )
    assert float(frechet_distance_from_statistics(*marked)) == pytest.approx(biased, rel=1e-5)
    assert float(frechet_distance_from_statistics(*unmarked)) == pytest.approx(unbiased, rel=1e-5)
    one_of_them = frechet_distance_from_statistics(marked[0], unmarked[1])
    assert float(one_of_them) == pytest.approx(biased, rel=1e-5)
    asked_for = frechet_distance_from_statistics(*unmarked, ddof=0)
    assert float(asked_for) == pytest.approx(biased, rel=1e-5)
    np.testing.assert_allclose(marked[0].covariance(), np.cov(FEATURES.T, ddof=0), atol=1e-4)
    with pytest.raises(ValueError, match="ddof: got 1, the statistics are marked with 0"):
        frechet_distance_from_statistics(*marked, ddof=1)
    with pytest.raises(ValueError, match="ddof is '0' of one and '1' of the other"):
        frechet_distance_from_statistics(marked[0], mark(unmarked[1], ddof=1))


@pytest.mark.parametrize("ddof", [60, 61])
def test_a_divisor_of_nothing_is_told(ddof: int):
    with pytest.raises(ValueError, match=rf"ddof: got {ddof}, expected less than the 60 samples"):
        statistics(FEATURES).covariance(ddof)
    with pytest.raises(ValueError, match=rf"ddof: got {ddof}, expected less than the 60 samples"):
        frechet_distance_from_statistics(statistics(FEATURES), statistics(OTHER), ddof=ddof)


def test_counts_are_exact_beyond_32_bits(tmp_path: Path):
    many = 2**32 - 30
    state = dataclasses.replace(statistics(FEATURES), count_limbs=jnp.array([many, 0], jnp.uint32))
    assert state.count == many
    assert state.merge(statistics(OTHER)).count == many + 60
    assert state.update(FEATURES).count == many + 60
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[state] * 7)
    np.testing.assert_array_equal(stacked.count, [many] * 7)
    sevenfold = stacked.reduce()
    assert sevenfold.count == 7 * many
    assert sevenfold.merge(sevenfold).count == 14 * many
    assert float(jax.jit(lambda s: s.count)(sevenfold)) == pytest.approx(7 * many, rel=1e-6)
    sevenfold.save(tmp_path / "many")
    assert FeatureStatistics.load(tmp_path / "many").count == 7 * many


def test_reduce_keeps_digits_about_a_large_mean():
    rng = np.random.default_rng(0)
    parts = 1e5 + rng.normal(size=(9, 50, 4)) + np.arange(9)[:, None, None]
    parts = parts.astype(np.float32)
    states = [FeatureStatistics.empty(4), *map(statistics, parts)]
    reduced = jax.tree.map(lambda *x: jnp.stack(x), *states).reduce()
    everything = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(reduced.covariance(), np.cov(everything.T), rtol=1e-5, atol=1e-5)
    mean = np.float64(reduced.mean) + reduced.mean_error
    np.testing.assert_allclose(mean, everything.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_offsets_of_float64_are_subtracted_before_the_cast(masked: bool):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    mask = np.arange(200) < 150 if masked else None
    kept = x[:150] if masked else x
    s1, s2 = (statistics(x + offset, mask=mask) for offset in (1e9, 1e9 + 1))
    assert float(frechet_distance_from_statistics(s1, s2)) == pytest.approx(3, rel=1e-5)
    np.testing.assert_allclose(s1.covariance(), np.cov(kept.T), rtol=1e-5, atol=1e-6)


# -- where statistics are made


def test_updates_wait_for_no_device(monkeypatch: pytest.MonkeyPatch):
    state = FeatureStatistics.empty(D, mixture=True)
    x, v, mask = jnp.asarray(FEATURES), jnp.asarray(VARIANCES), jnp.ones(60, bool)

    def fail(*_: object) -> None:
        raise AssertionError("an array was read")

    monkeypatch.setattr(jax, "device_get", fail)
    monkeypatch.setattr(type(x), "__array__", fail)
    monkeypatch.setattr(type(x), "__bool__", fail)
    state = state.update(x, mask, v).merge(state.update(x, None, v))
    monkeypatch.undo()
    assert state.count == 120


def test_what_no_update_looks_at_is_told_with_the_distance():
    x, v = jnp.asarray(FEATURES), jnp.asarray(VARIANCES)
    mixture = statistics(x, v)
    for wrong in (statistics(x.at[7, 2].set(jnp.nan), v), statistics(x, v.at[7, 2].set(-1e-3))):
        with pytest.raises(ValueError, match="s1: holds values that are not finite"):
            frechet_distance_from_statistics(wrong, mixture)


@pytest.mark.parametrize("mixture", [False, True])
def test_statistics_can_be_donated(mixture: bool):
    step = jax.jit(FeatureStatistics.update, donate_argnums=0)
    arguments = (jnp.asarray(FEATURES), None, jnp.asarray(VARIANCES) if mixture else None)
    state = empty = FeatureStatistics.empty(D, mixture=mixture)
    for _ in range(2):
        state = step(state, *arguments)
    assert empty.mean.is_deleted()
    assert state.count == 120


def test_strict_settings(strict_setting):
    x, v, mask = jnp.asarray(FEATURES), jnp.asarray(VARIANCES), jnp.ones(60, bool)
    with strict_setting:
        plain, mixture = statistics(x), statistics(x, v, mask)
        distance = frechet_distance_from_statistics(mixture.merge(mixture), mixture)
        covariance = plain.covariance()
        from_moments = frechet_distance_from_moments(plain.mean, covariance, plain.mean, covariance)
        empty = FeatureStatistics.empty(D)
    assert (float(distance), float(from_moments)) == pytest.approx((0, 0), abs=0.02)
    assert empty.count == 0


def test_export_for_any_number_of_samples():
    def distance(x, y):
        return frechet_distance_from_statistics(statistics(x), statistics(y))

    (n,) = jax.export.symbolic_shape("n")
    shapes = [jax.ShapeDtypeStruct((n, D), jnp.float32)] * 2
    exported = jax.export.export(jax.jit(distance))(*shapes)
    for k in (30, 60):
        got = exported.call(FEATURES[:k], OTHER[:k])
        chex.assert_trees_all_close(got, distance(FEATURES[:k], OTHER[:k]), rtol=1e-5)


def test_second_derivatives_of_features():
    with jax.enable_x64(True):
        x, y = (jnp.asarray(s[:9, :3], jnp.float64) for s in (FEATURES, OTHER))
        v = jnp.asarray(VARIANCES[:9, :3], jnp.float64)

        def distance(x, v):
            return frechet_distance_from_statistics(statistics(x, v), statistics(y, v), ddof=1)

        direction = jnp.cos(jnp.arange(27.0)).reshape(9, 3)

        def slope(h):
            return jax.grad(distance, (0, 1))(x + h * direction, v - h * direction / 50)

        h = 1e-5
        expected = jax.tree.map(lambda a, b: (a - b) / (2 * h), slope(h), slope(-h))
        for second in (
            jax.jvp(slope, (0.0,), (1.0,))[1],
            tuple(jax.jacrev(lambda h, i=i: slope(h)[i])(0.0) for i in (0, 1)),
        ):
            chex.assert_trees_all_close(second, expected, rtol=1e-6, atol=1e-8)


def test_gradient_at_variances_of_zero():
    with jax.enable_x64(True):
        x, y = (jnp.asarray(s, jnp.float64) for s in (FEATURES, OTHER))
        variances = jnp.asarray(VARIANCES * [0, 1, 0, 1, 1])

        def distance(v):
            return frechet_distance_from_statistics(statistics(x, v), statistics(y, 0 * v))

        gradient = jax.grad(distance)(variances)
        h = 1e-7
        for column in range(D):
            step = jnp.zeros((60, D)).at[:, column].set(h)
            slope = (distance(variances + step) - distance(variances)) / h
            assert float(gradient[:, column].sum()) == pytest.approx(float(slope), rel=1e-4)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"mask": np.ones(1, bool)},
            r"mask: got bool of shape \(1,\), expected bool of shape \(60",
        ),
        ({"mask": np.ones(60)}, r"mask: got float64 of shape \(60,\), expected bool"),
        ({"variances": VARIANCES[:, :1]}, r"variances: got shape \(60, 1\), expected \(60, 5\)"),
        ({"variances": VARIANCES > 1}, "variances: got dtype bool, expected floats"),
        ({"features": FEATURES[:, 0]}, r"features: got shape \(60,\), expected \[n, d\]"),
        ({"features": [[1.0], [2.0, 3.0]]}, "features: got a list, expected an array"),
    ],
)
def test_wrong_shapes_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureStatistics.from_features(**({"features": FEATURES} | arguments))


def test_a_buffer_may_be_filled_again():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(12, 4000, D)).astype(np.float32)
    state, buffer = FeatureStatistics.empty(D), np.empty_like(parts[0])
    for part in parts:
        buffer[:] = part
        state = state.update(buffer)
    buffer[:] = np.nan
    assert_same(state, parts.reshape(-1, D))


STACKED = jax.vmap(FeatureStatistics.from_features)(jnp.asarray(FEATURES).reshape(4, 15, D))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "use",
    [
        lambda path: STACKED.update(FEATURES),
        lambda path: STACKED.merge(STACKED),
        lambda path: STACKED.covariance(),
        lambda path: frechet_distance_from_statistics(STACKED, STACKED),
        lambda path: STACKED.save(path),
        lambda path: STACKED.all_reduce("a"),
    ],
    ids=["update", "merge", "covariance", "distance", "save", "all_reduce"],
)
def test_stacked_statistics_are_told(use, tmp_path: Path):
    with pytest.raises(ValueError, match=r"stacked ones of shape \(4,\): use `jax.vmap`, or"):
        use(tmp_path / "statistics")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_not_stacked_is_not_reduced():
    with pytest.raises(ValueError, match="got 0 leading axes, expected one to reduce"):
        statistics(FEATURES).reduce()


@pytest.mark.usefixtures("without_type_checks")
def test_a_distance_of_features_is_told():
    with pytest.raises(ValueError, match="s2: got a ndarray, expected FeatureStatistics"):
        frechet_distance_from_statistics(statistics(FEATURES), FEATURES)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": int}, "dtype: got int64, allowed are float32 and float64"),
        ({"dtype": jnp.bfloat16}, "dtype: got bfloat16, allowed are float32 and float64"),
        ({"dim": 0}, "dim: got 0, expected at least 1"),
        ({"dim": 2.5}, "dim: got 2.5 of type float, expected an integer"),
        ({"dim": True}, "dim: got True of type bool, expected an integer"),
    ],
)
def test_wrong_empty_statistics_are_told(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        FeatureStatistics.empty(**({"dim": D} | arguments))
