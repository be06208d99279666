"""Marks, comparability, counts and files: what the states of all distances have in common."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import chex
import numpy as np
import pytest
import safetensors.numpy

from srvp_fd_jax import (
    DISTANCES,
    FeatureStatistics,
    frechet_distance_from_statistics,
    load_statistics,
)
from srvp_fd_jax.distances import states
from srvp_fd_jax.files import CHECKSUM

D = 5
FEATURES, OTHER, VARIANCES = np.random.default_rng(0).random((3, 60, D), np.float32)


def statistics(features=FEATURES, variances=None, **source: object) -> FeatureStatistics:
    made = FeatureStatistics.from_features(features, variances=variances)
    return states.mark(made, **source)


# -- marks


def test_marks_are_strings_by_name_of_which_the_last_count():
    marked = states.mark(statistics(network="kth", ddof=1), ddof=0, frames=None)
    assert marked.source == (("ddof", "0"), ("network", "kth"))


def test_merging_keeps_what_is_known_of_either():
    unknown = FeatureStatistics.empty(D)
    kth, bair = (states.mark(unknown, network=name) for name in ("kth", "bair"))
    merged = unknown.merge(states.mark(unknown, precision="float32")).merge(kth)
    assert merged.source == (("network", "kth"), ("precision", "float32"))
    with pytest.raises(ValueError, match="network is 'kth' of one and 'bair'"):
        merged.merge(bair)


def test_real_is_compared_with_fake_and_not_merged():
    real, fake = statistics(side="real"), statistics(OTHER, side="fake")
    expected = float(frechet_distance_from_statistics(statistics(), statistics(OTHER)))
    assert float(frechet_distance_from_statistics(real, fake)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="side is 'real' of one and 'fake' of the other"):
        real.merge(fake)
    assert real.merge(statistics(OTHER)).source == real.source


# -- which two are compared


@pytest.mark.parametrize(
    "use",
    [FeatureStatistics.merge, frechet_distance_from_statistics, states.check_comparable],
    ids=["merge", "distance", "check"],
)
@pytest.mark.parametrize(
    ("of_one", "of_other", "message"),
    [
        ({}, {"features": FEATURES[:, :4]}, "got feature dimensions 5 and 4"),
        ({}, {"variances": VARIANCES}, "one is of a Gaussian mixture and the other is not"),
        (
            {"network": "kth", "output": "frame"},
            {"network": "bair", "output": "frame"},
            "network is 'kth' of one and 'bair' of the other",
        ),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_what_is_not_comparable_is_told(of_one, of_other, message: str, use: Callable[..., Any]):
    with pytest.raises(ValueError, match=message):
        use(statistics(**of_one), statistics(**of_other))


def test_states_of_different_distances_are_not_compared():
    @dataclasses.dataclass(frozen=True)
    class Other(FeatureStatistics):
        pass

    with pytest.raises(ValueError, match="got FeatureStatistics and Other, which no distance"):
        states.check_comparable(statistics(), Other(**vars(statistics())))


# -- how many samples there are


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_samples_are_told(n: int):
    message = f"s2: got {n} samples, a distance needs at least 2"
    with pytest.raises(ValueError, match=message):
        frechet_distance_from_statistics(statistics(), statistics(OTHER[:n]))
    with pytest.raises(ValueError, match=message):
        states.check_counts(DISTANCES["frechet"], {"s1": 60, "s2": np.int64(n)}, D)


def test_fewer_samples_than_dimensions_are_warned_of_wherever_a_distance_is_asked_for():
    with pytest.warns(UserWarning, match="s2: 5 samples for 5 feature dimensions"):
        frechet_distance_from_statistics(statistics(), statistics(OTHER[:5]))


# -- files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "statistics.safetensors"


def read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata without the checksum, which would be what is wrong with any change, and arrays."""
    whole = path.read_bytes()
    metadata = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    del metadata[CHECKSUM]
    return metadata, safetensors.numpy.load(whole)


@pytest.mark.parametrize("variances", [None, VARIANCES], ids=["samples", "mixture"])
def test_save_and_load(variances, path: Path):
    state = statistics(variances=variances, network="kth", output="frame")
    state.save(path)
    for loaded in (FeatureStatistics.load(path), load_statistics(path)):
        assert type(loaded) is FeatureStatistics
        chex.assert_trees_all_equal(loaded, state)
        assert loaded.source == state.source
    assert list(path.parent.iterdir()) == [path]


def test_a_flipped_bit_is_told(path: Path):
    state = statistics(network="kth")
    state.save(path)
    whole, told = path.read_bytes(), 0
    state.save(path)
    assert path.read_bytes() == whole
    rng = np.random.default_rng(0)
    for bit in rng.permutation(8 * len(whole))[:500]:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            loaded = FeatureStatistics.load(path)
        except ValueError:
            told += 1
        else:
            chex.assert_trees_all_equal(loaded, state)
            assert loaded.source == state.source
    assert told > 450


def test_statistics_without_a_checksum_are_read(path: Path):
    statistics().save(path)
    metadata, arrays = read(path)
    path.write_bytes(safetensors.numpy.save(arrays, metadata))
    chex.assert_trees_all_equal(load_statistics(path), statistics())


FOREIGN = "not a file of feature statistics"
ARRAYS = "its arrays have unexpected names, shapes or types"


@pytest.mark.parametrize(
    ("of_metadata", "of_arrays", "message"),
    [
        ({"format": "weights"}, {}, f"{FOREIGN}$"),
        ({"format_version": "1"}, {}, "format version 1, this release reads 2: make the stat"),
        ({"format_version": "9"}, {}, "format version 9, this release reads 2: make the stat"),
        ({"format_version": "\x1b[31m\n"}, {}, r"format version \\x1b\[31m\\n, this"),
        ({"state": "Other"}, {}, "statistics of the kind 'Other', expected FeatureStatistics"),
        ({"state": "\x1b[31m"}, {}, r"statistics of the kind '\\\\x1b\[31m', expected"),
        ({"dim": "4"}, {}, ARRAYS),
        ({"dim": "-5"}, {}, ARRAYS),
        ({"dim": "1" * 5000}, {}, ARRAYS),
        ({}, {"factor": None}, ARRAYS),
        ({}, {"count_limbs": np.zeros(2, np.float32)}, ARRAYS),
        ({}, {"count_limbs": np.array([-3, -1])}, ARRAYS),
        ({}, {"factor": np.eye(3, dtype=np.float32)}, ARRAYS),
        ({}, {"more": np.eye(3, dtype=np.float32)}, ARRAYS),
    ],
)
def test_wrong_files_are_told(
    of_metadata: Mapping[str, str],
    of_arrays: Mapping[str, np.ndarray | None],
    message: str,
    path: Path,
):
    statistics().save(path)
    metadata, arrays = read(path)
    arrays = {name: a for name, a in (arrays | of_arrays).items() if a is not None}
    path.write_bytes(safetensors.numpy.save(arrays, metadata | of_metadata))
    for load in (load_statistics, FeatureStatistics.load):
        with pytest.raises(ValueError, match=f"{path.name}: .*{message}"):
            load(path)


@pytest.mark.parametrize(
    "content", [b"", b"not statistics", lambda whole: whole[:-1]], ids=["empty", "text", "cut"]
)
def test_what_is_no_whole_file_is_told(content: bytes | Callable[[bytes], bytes], path: Path):
    with pytest.raises(FileNotFoundError):
        load_statistics(path)
    statistics().save(path)
    path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path.name}: "):
        load_statistics(path)
