import hashlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from srvp_fd_jax import FeatureStatistics
from srvp_fd_jax.distances.sample import FeatureSample, name_keys

NAMES = [f"folder/{i:04}.mp4" for i in range(300)]
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((300, 3, 4)).astype(np.float32)
VARIANCES = RNG.random((300, 3, 4)).astype(np.float32)


def empty(size: int = 40) -> FeatureSample:
    return FeatureSample.empty(size, 4, vectors=3, mixture=True)


def streamed(order: np.ndarray, batch: int, size: int = 40) -> FeatureSample:
    sample = empty(size)
    for i in range(0, len(order), batch):
        part = order[i : i + batch]
        moments = {"features": FEATURES[part], "variances": VARIANCES[part]}
        sample = sample.offer(moments, name_keys([NAMES[j] for j in part]))
    return sample


def expected(size: int = 40) -> np.ndarray:
    """Clips with the smallest hashes, sorted by Python."""
    return np.array(
        sorted(range(300), key=lambda i: hashlib.sha256(NAMES[i].encode()).hexdigest())[:size]
    )


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_holds_the_clips_with_the_smallest_hashes(batch):
    sample = streamed(np.arange(300) if batch > 1 else np.arange(300)[::-1], batch)
    assert int(sample.count) == 300
    moments = sample.moments()
    np.testing.assert_array_equal(moments["features"], FEATURES[expected()])
    np.testing.assert_array_equal(moments["variances"], VARIANCES[expected()])


def test_order_and_division_do_not_matter():
    whole = streamed(np.arange(300), 300)
    order = np.random.default_rng(1).permutation(300)
    parts = [streamed(order[i::3], 20) for i in range(3)]
    for alike in (
        streamed(order, 11),
        parts[0].merge(parts[1]).merge(parts[2]),
        parts[2].merge(parts[1].merge(parts[0])),
        jax.tree.map(lambda *x: jnp.stack(x), *parts).reduce(),
    ):
        chex.assert_trees_all_equal(alike, whole)


def test_merging_samples_of_two_sizes_gives_the_smaller():
    order = np.arange(300)
    merged = streamed(order[:150], 50, 60).merge(streamed(order[150:], 50, 40))
    chex.assert_trees_all_equal(merged, streamed(order, 300, 40))


def test_fewer_clips_than_places():
    sample = streamed(np.arange(5), 2)
    chosen = sorted(range(5), key=lambda i: tuple(name_keys([NAMES[i]])[0]))
    np.testing.assert_array_equal(sample.moments()["features"], FEATURES[chosen])
    chex.assert_trees_all_equal(sample.merge(empty()), sample)


def test_masked_clips_are_not_in_the_sample():
    mask = np.arange(300) % 3 == 0
    broken = np.where(mask[:, None, None], FEATURES, np.nan)
    got = empty().offer({"features": broken, "variances": VARIANCES}, name_keys(NAMES), mask)
    chex.assert_trees_all_equal(got, streamed(np.flatnonzero(mask), 300))


def test_is_uniform_by_places_too():
    statistics = FeatureStatistics.empty(1, sample=2000)
    for start in range(0, 20_000, 4000):
        statistics = statistics.update(np.arange(start, start + 4000, dtype=np.float32)[:, None])
    places = np.asarray(statistics.sample.moments()["features"]).ravel()
    assert len(set(places)) == 2000
    assert stats.kstest(places / 20_000, "uniform").pvalue > 0.01


def test_places_go_on_beyond_32_bits():
    early = FeatureSample.empty(4, 1, mixture=False)
    counted = jnp.array([2**32 - 2, 5], jnp.uint32)
    late = FeatureSample(early.keys, early.features, None, counted)
    moments = {"features": np.arange(4, dtype=np.float32)[:, None, None]}
    early, late = (start.offer(moments) for start in (early, late))
    assert int(late.count) == 5 * 2**32 + 2**32 + 2
    assert not set(map(tuple, np.asarray(early.keys))) & set(map(tuple, np.asarray(late.keys)))


def test_a_stream_takes_fixed_memory_in_one_program():
    traced = []

    @jax.jit
    def step(statistics: FeatureStatistics, key: jax.Array) -> FeatureStatistics:
        traced.append(1)
        return statistics.update(jax.random.normal(key, (1000, 4)))

    statistics = FeatureStatistics.empty(4, sample=50)
    for key in jax.random.split(jax.random.key(0), 20):
        statistics = step(statistics, key)
    sample = statistics.sample
    assert (int(sample.count), sample.features.shape, len(traced)) == (20_000, (50, 1, 4), 1)


def test_devices_merge_their_samples():
    mesh = Mesh(jax.devices(), ("data",))
    n = 37 * len(jax.devices())
    keys = name_keys(NAMES * 2)[:n]
    features = np.tile(FEATURES, (2, 1, 1))[:n]
    nothing = FeatureStatistics.empty(4, sample=40, vectors=3)

    def of_device(features, keys):
        own = FeatureStatistics.empty(4, sample=40, vectors=3)
        return own.fold({"features": features}, None, keys).all_reduce("data")

    sharded = jax.shard_map(of_device, mesh=mesh, in_specs=P("data"), out_specs=P())
    whole = nothing.fold({"features": features}, None, keys)
    got = sharded(features, keys)
    chex.assert_trees_all_equal(got.sample, whole.sample)
    np.testing.assert_allclose(got.covariance(), whole.covariance(), rtol=1e-5, atol=1e-6)
    placed = jax.device_put(features, NamedSharding(mesh, P("data")))
    chex.assert_trees_all_equal(nothing.fold({"features": placed}, None, keys).sample, whole.sample)


def test_statistics_hold_the_sample_of_their_clips():
    whole = FeatureStatistics.from_features(FEATURES[:, 0], sample=400)
    rows = np.asarray(whole.sample.moments()["features"])[:, 0]
    assert {*map(tuple, rows.tolist())} == {*map(tuple, FEATURES[:, 0].tolist())}
    streamed = FeatureStatistics.empty(4, sample=400)
    for start in range(0, 300, 70):
        streamed = streamed.update(FEATURES[start : start + 70, 0])
    chex.assert_trees_all_equal(streamed.sample, whole.sample)
    merged = streamed.merge(FeatureStatistics.from_features(FEATURES[:, 1], sample=30))
    assert (merged.sample.size, int(merged.sample.count)) == (30, 600)
    assert merged.merge(FeatureStatistics.empty(4)).sample is None
    wide = FeatureStatistics.empty(4, sample=30, vectors=3)
    with pytest.raises(ValueError, match=r"got samples of \[1, 3\] vectors per clip"):
        merged.merge(wide)
    # In float64, in which the moments are exact, the sample is the features' own float32.
    double = FeatureStatistics.from_features(np.float64(FEATURES[:, 0]) + 1e-3, sample=400)
    expected = (np.float64(rows) + 1e-3).astype(np.float32)
    np.testing.assert_array_equal(double.sample.moments()["features"][:, 0], expected)


def test_a_sample_at_all_places_is_beside_the_moments_of_the_clips():
    nothing = FeatureStatistics.empty(4, sample=300, vectors=3)
    own, keys = FEATURES[:, :1], name_keys(NAMES)
    made = nothing.fold({"features": own}, None, keys, along={"features": FEATURES})
    assert (int(made.count), int(made.sample.count)) == (300, 300)
    np.testing.assert_allclose(made.covariance(), np.cov(own[:, 0].T), atol=1e-5)
    np.testing.assert_array_equal(made.sample.moments()["features"], FEATURES[expected(300)])
