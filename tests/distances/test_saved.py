"""Files of statistics."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import chex
import numpy as np
import pytest
import safetensors.numpy

from srvp_fd_jax import FeatureStatistics, load_statistics
from srvp_fd_jax.distances.provenance import VideoCounts, mark
from srvp_fd_jax.distances.sample import name_keys
from srvp_fd_jax.distances.statistics import of_nothing
from srvp_fd_jax.files.atomic import CHECKSUM

D = 5
FEATURES, VARIANCES = np.random.default_rng(0).random((2, 20, 3, D), np.float32)
VIDEOS = VideoCounts(24, 20, ("short.mp4",), (("damaged.mp4", "no \x1b frames"), ("b", "c")))


def statistics(
    sample: int = 0, vectors: int = 3, mixture: bool = False, **source: object
) -> FeatureStatistics:
    moments = {"features": FEATURES} | ({"variances": VARIANCES} if mixture else {})
    keys = name_keys([str(i) for i in range(20)])
    seen = np.float32([0.1, 0.9])
    made = of_nothing(D, mixture, sample, vectors).fold(moments, None, keys, seen)
    return mark(dataclasses.replace(made, videos=VIDEOS), **source)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "statistics.safetensors"


def read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata without the checksum, which would be what is wrong with any change, and arrays."""
    whole = path.read_bytes()
    metadata = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    del metadata[CHECKSUM]
    return metadata, safetensors.numpy.load(whole)


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize(
    ("sample", "vectors"),
    [(0, 1), (7, 3), (50, 3), (50, 1)],  # of 20 clips of 3 vectors
)
def test_save_and_load(sample: int, vectors: int, mixture: bool, path: Path):
    state = statistics(sample, vectors, mixture, network="kth", output="frame")
    state.save(path)
    for loaded in (FeatureStatistics.load(path), load_statistics(path)):
        chex.assert_trees_all_equal(loaded, state)
        assert (loaded.source, loaded.videos) == (state.source, VIDEOS)
    assert list(path.parent.iterdir()) == [path]
    state.save(path)
    again = path.read_bytes()
    load_statistics(path).save(path)
    assert path.read_bytes() == again


def test_empty_places_of_a_sample_take_no_room(path: Path):
    statistics(2048).save(path)
    assert path.stat().st_size < 6000
    assert load_statistics(path).sample.size == 2048


def test_a_flipped_bit_is_told(path: Path):
    state = statistics(7, network="kth")
    state.save(path)
    whole, told = path.read_bytes(), 0
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
            assert (loaded.source, loaded.videos) == (state.source, VIDEOS)
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
        ({"format_version": "2"}, {}, "format version 2, this release reads 3: make the stat"),
        ({"format_version": "\x1b[31m\n"}, {}, r"format version \\x1b\[31m\\n, this"),
        ({"dim": "4"}, {}, ARRAYS),
        ({"dim": "-5"}, {}, ARRAYS),
        ({"dim": "1" * 5000}, {}, ARRAYS),
        ({"sample_size": "6"}, {}, ARRAYS),  # of 7 clips
        ({"sample_size": "99999999"}, {}, ARRAYS),  # of 6 GB
        ({"sample_size": "many"}, {}, ARRAYS),
        ({"videos": "[" * 100_000}, {}, "its videos"),
        ({"videos": "{}"}, {}, "its videos"),
        ({"videos": "[]"}, {}, "its videos"),
        ({"videos": '{"found": 1e400}'}, {}, "its videos"),
        ({"videos": '{"found": 1, "used": 1, "too_short": 3}'}, {}, "its videos"),
        ({}, {"factor": None}, ARRAYS),
        ({}, {"count_limbs": np.zeros(2, np.float32)}, ARRAYS),
        ({}, {"count_limbs": np.array([-3, -1])}, ARRAYS),
        ({}, {"factor": np.eye(3, dtype=np.float32)}, ARRAYS),
        ({}, {"more": np.eye(3, dtype=np.float32)}, ARRAYS),
        ({}, {"sample.keys": np.zeros((5, 2), np.uint32)}, ARRAYS),
        ({}, {"sample.features": None}, ARRAYS),
        ({}, {"sample.features": np.zeros((7, D), np.float32)}, ARRAYS),
        ({}, {"sample.variances": np.zeros((7, 3, D), np.float32)}, ARRAYS),
    ],
)
def test_wrong_files_are_told(
    of_metadata: Mapping[str, str],
    of_arrays: Mapping[str, np.ndarray | None],
    message: str,
    path: Path,
):
    statistics(7).save(path)
    metadata, arrays = read(path)
    arrays = {name: a for name, a in (arrays | of_arrays).items() if a is not None}
    path.write_bytes(safetensors.numpy.save(arrays, metadata | of_metadata))
    with pytest.raises(ValueError, match=f"{path.name}: .*{message}"):
        load_statistics(path)


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
