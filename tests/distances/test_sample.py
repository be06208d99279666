import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from srvp_fd_jax import FeatureSample, FeatureStatistics
from srvp_fd_jax.distances import states
from srvp_fd_jax.distances.sample import load_sample, name_keys
from srvp_fd_jax.files import CHECKSUM, read_safetensors, write_safetensors

NAMES = [f"folder/{i:04}.mp4" for i in range(300)]
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((300, 3, 4)).astype(np.float32)
VARIANCES = RNG.random((300, 3, 4)).astype(np.float32)


def empty(size: int = 40, **options) -> FeatureSample:
    return FeatureSample.empty(size, 4, vectors=3, mixture=True, **options)


def streamed(order: np.ndarray, batch: int, size: int = 40) -> FeatureSample:
    sample = empty(size)
    for i in range(0, len(order), batch):
        part = order[i : i + batch]
        names = [NAMES[j] for j in part]
        sample = sample.update(FEATURES[part], VARIANCES[part], names=names)
    return sample


def expected(size: int = 40) -> np.ndarray:
    """Clips with the smallest hashes, sorted by Python."""
    import hashlib

    return np.array(
        sorted(range(300), key=lambda i: hashlib.sha256(NAMES[i].encode()).hexdigest())[:size]
    )


def assert_same(one, other) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


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
    assert_same(streamed(order, 11), whole)
    parts = [streamed(order[i::3], 20) for i in range(3)]
    assert_same(parts[0].merge(parts[1]).merge(parts[2]), whole)
    assert_same(parts[2].merge(parts[1].merge(parts[0])), whole)
    assert_same(jax.tree.map(lambda *x: jnp.stack(x), *parts).reduce(), whole)


def test_merging_samples_of_two_sizes_gives_the_smaller():
    order = np.arange(300)
    assert_same(
        streamed(order[:150], 50, 60).merge(streamed(order[150:], 50, 40)), streamed(order, 300, 40)
    )


def test_fewer_clips_than_places():
    sample = streamed(np.arange(5), 2)
    chosen = sorted(range(5), key=lambda i: tuple(name_keys([NAMES[i]])[0]))
    np.testing.assert_array_equal(sample.moments()["features"], FEATURES[chosen])
    assert_same(sample.merge(empty()), sample)


def test_masked_clips_are_not_in_the_sample():
    mask = np.arange(300) % 3 == 0
    broken = np.where(mask[:, None, None], FEATURES, np.nan)
    got = empty().update(broken, VARIANCES, names=NAMES, mask=mask)
    kept = np.flatnonzero(mask)
    assert_same(got, streamed(kept, 300))


def test_is_uniform_by_places_too():
    sample = FeatureSample.empty(2000, 1)
    for start in range(0, 20_000, 4000):
        sample = sample.update(np.arange(start, start + 4000, dtype=np.float32)[:, None])
    places = np.asarray(sample.moments()["features"]).ravel()
    assert len(set(places)) == 2000
    assert stats.kstest(places / 20_000, "uniform").pvalue > 0.01


def test_places_go_on_beyond_32_bits():
    sample = FeatureSample.empty(4, 1)
    late = jax.tree.map(lambda x: x, sample)
    late = FeatureSample(
        late.keys, late.features, None, jnp.array([2**32 - 2, 5], jnp.uint32), source=late.source
    )
    by_place = {}
    for name, start in (("early", sample), ("late", late)):
        made = start.update(np.arange(4, dtype=np.float32)[:, None])
        by_place[name] = np.asarray(made.keys)
    assert int(made.count) == 5 * 2**32 + 2**32 + 2
    assert not set(map(tuple, by_place["early"])) & set(map(tuple, by_place["late"]))


def test_a_stream_takes_fixed_memory_in_one_program():
    traced = []

    @jax.jit
    def step(sample: FeatureSample, key: jax.Array) -> FeatureSample:
        traced.append(1)
        return sample.update(jax.random.normal(key, (1000, 4)))

    sample = FeatureSample.empty(50, 4)
    for key in jax.random.split(jax.random.key(0), 20):
        sample = step(sample, key)
    assert (int(sample.count), sample.features.shape, len(traced)) == (20_000, (50, 1, 4), 1)


def test_devices_merge_their_samples():
    mesh = Mesh(jax.devices(), ("data",))
    n = 37 * len(jax.devices())
    keys = name_keys(NAMES * 2)[:n]
    features = np.tile(FEATURES, (2, 1, 1))[:n]

    def of_device(features, keys):
        own = FeatureSample.empty(40, 4, vectors=3).offer({"features": features}, keys, None)
        return own.all_reduce("data")

    sharded = jax.shard_map(of_device, mesh=mesh, in_specs=P("data"), out_specs=P())
    whole = FeatureSample.empty(40, 4, vectors=3).offer({"features": features}, keys, None)
    assert_same(sharded(features, keys), whole)
    placed = jax.device_put(features, NamedSharding(mesh, P("data")))
    plain = FeatureSample.empty(40, 4, vectors=3).update(placed, names=(NAMES * 2)[:n])
    assert_same(plain, whole)


def test_is_saved_beside_statistics(tmp_path):
    path = tmp_path / "real.safetensors"
    sample = states.mark(streamed(np.arange(300), 50), network="kth")
    rows = FEATURES.reshape(-1, 4)
    statistics = FeatureStatistics.from_features(rows, variances=VARIANCES.reshape(-1, 4))
    statistics = states.mark(statistics, network="kth")
    states.save(statistics, path, sample)
    assert_same(load_sample(path), sample)
    assert load_sample(path).source == (("network", "kth"),)
    assert_same(FeatureStatistics.load(path), statistics)
    statistics.save(path)
    assert load_sample(path) is None


def test_damaged_samples_are_refused(tmp_path):
    path = tmp_path / "real.safetensors"
    statistics = FeatureStatistics.from_features(np.eye(4))
    states.save(statistics, path, streamed(np.arange(9), 9))
    metadata, arrays = read_safetensors(path, lambda metadata: None)
    arrays["sample.keys"] = arrays["sample.keys"][:5]
    write_safetensors(path, arrays, {k: v for k, v in metadata.items() if k != CHECKSUM})
    with pytest.raises(ValueError, match=r"real.safetensors: the arrays of its sample have"):
        load_sample(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.zeros((2, 4), np.float32)}, r"features: got float32 \(2, 4\), expected"),
        ({"features": np.zeros((2, 3, 4), int)}, r"features: got int64 \(2, 3, 4\), expected fl"),
        ({"variances": None}, "variances: got None, expected those of the mixture"),
        ({"names": ["a"]}, "names: got 1, expected one for each of 2 clips"),
        ({"mask": np.ones(3, bool)}, r"mask: got bool \(3,\), expected bool \(2,\)"),
    ],
)
def test_bad_input(arguments, message):
    fine = {
        "features": np.zeros((2, 3, 4), np.float32),
        "variances": np.ones((2, 3, 4), np.float32),
    }
    with pytest.raises(ValueError, match=message):
        empty().update(**(fine | arguments))


def test_samples_of_other_sources_do_not_merge():
    with pytest.raises(ValueError, match="network is 'kth' of one and 'bair' of the other"):
        empty(source=(("network", "kth"),)).merge(empty(source=(("network", "bair"),)))
    with pytest.raises(ValueError, match="got 3 and 1 vectors per clip"):
        empty().merge(FeatureSample.empty(40, 4, mixture=True))
