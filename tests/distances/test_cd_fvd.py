import dataclasses
import pickle
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from cdfvd.utils.metric_utils import FeatureStats

from srvp_fd_jax import (
    Calculator,
    FeatureStatistics,
    FrechetDistanceCalculator,
    compare,
    compute,
    frechet_distance_from_moments,
    frechet_distance_from_statistics,
    load_statistics,
)
from srvp_fd_jax.distances import cd_fvd
from srvp_fd_jax.distances.provenance import check_comparable
from srvp_fd_jax.protocols import PROTOCOLS

D = 6


def features(seed: int, n: int = 50, d: int = D, mean: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + mean).astype(np.float32)


def of_cd_fvd(rows: np.ndarray, path: Path, **options: bool) -> Path:
    """Writes the file that cd-fvd itself would."""
    statistics = FeatureStats(**{"capture_mean_cov": True, **options})
    for start in range(0, len(rows), 16):
        statistics.append(rows[start : start + 16])
    statistics.save(path)
    return path


@pytest.mark.parametrize("n", [2, 5, 50])  # of lower rank and of full rank
@pytest.mark.parametrize("options", [{}, {"capture_all": True}])
def test_the_moments_are_those_of_numpy(n: int, options: dict[str, bool], tmp_path: Path):
    rows = features(0, n)
    s = load_statistics(of_cd_fvd(rows, tmp_path / "a.pkl", **options))
    assert isinstance(s, FeatureStatistics)
    assert (int(s.count), s.dim, s.ddof) == (n, D, 0)
    exact = rows.astype(np.float64)
    mean = np.asarray(s.mean, np.float64) + np.asarray(s.mean_error)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-12)
    expected = np.cov(exact.T, ddof=0)
    np.testing.assert_allclose(s.covariance(), expected, rtol=1e-5, atol=1e-5)
    assert {array.dtype.name for array in jax.tree.leaves(s)} == {"float32", "uint32"}
    np.testing.assert_array_equal(s.factor, np.triu(s.factor))


def test_no_digits_are_lost_in_directions_of_little_variance(tmp_path: Path):
    # In float32 the sums would lose all variances below 1e-7 of the largest one.
    scales = np.logspace(0, -5, 40)
    a, b = (features(i, 200, 40, mean=0) * scales.astype(np.float32) for i in range(2))
    files = [of_cd_fvd(rows, tmp_path / f"{i}.pkl") for i, rows in enumerate((a, b))]
    got = frechet_distance_from_statistics(*map(load_statistics, files))
    with jax.enable_x64(True):
        moments = [(x.mean(0), np.cov(x.T, ddof=0)) for x in (np.float64(a), np.float64(b))]
        expected = frechet_distance_from_moments(*moments[0], *moments[1])
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


def test_a_large_mean_costs_no_digits_of_the_distance(tmp_path: Path):
    rows = features(0)
    files = [
        of_cd_fvd(np.float32(np.round(rows * 64) / 64 + offset), tmp_path / f"{offset}.pkl")
        for offset in (4096, 4097)
    ]
    got = frechet_distance_from_statistics(*map(load_statistics, files))
    assert float(got) == pytest.approx(D, rel=1e-5)


def test_pieces_merge_and_are_saved(tmp_path: Path):
    rows = features(0)
    whole = load_statistics(of_cd_fvd(rows, tmp_path / "a.pkl"))
    half = load_statistics(of_cd_fvd(rows[:20], tmp_path / "b.pkl"))
    rest = load_statistics(of_cd_fvd(rows[20:], tmp_path / "c.pkl"))
    both = half.merge(rest)
    assert int(both.count) == 50
    assert float(frechet_distance_from_statistics(whole, both)) < 1e-4
    whole.save(tmp_path / "a.safetensors")
    assert load_statistics(tmp_path / "a.safetensors").source == whole.source


def test_what_is_known_of_a_file(tmp_path: Path):
    source = load_statistics(of_cd_fvd(features(0, 3, 400), tmp_path / "a.pkl")).source
    assert source == (("ddof", "0"), ("network", "i3d"), ("output", "logits"))
    source = load_statistics(of_cd_fvd(features(0), tmp_path / "b.pkl")).source
    assert source == (("ddof", "0"),)


def test_many_samples_are_counted_exactly(tmp_path: Path):
    n = (1 << 40) + 3
    write(tmp_path / "a.pkl", num_items=n, raw_mean=np.zeros(2), raw_cov=n * np.eye(2))
    s = load_statistics(tmp_path / "a.pkl")
    assert int(s.count) == n
    np.testing.assert_allclose(s.covariance(), np.eye(2), rtol=1e-6)


# Where statistics are taken in place of videos.


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Files of two sets."""
    return [of_cd_fvd(features(i), tmp_path / f"{i}.pkl") for i in range(2)]


def test_two_files_are_compared_without_a_network(files: list[Path]):
    expected = float(frechet_distance_from_statistics(*map(load_statistics, files)))
    for arguments in (files, [str(path) for path in files], [*files, "cd_fvd"]):
        assert float(compute(*arguments)) == expected
    assert compute(*files, "cd_fvd").summary()["protocol"] == "cd_fvd"
    with pytest.raises(ValueError, match="ddof is '0' of one and '1' of the other"):
        compute(*files, "tensorflow")
    with pytest.raises(ValueError, match="real: got statistics without a sample of clips"):
        compute(*files, significance=True)


def test_files_are_compared_by_any_distance_of_moments(files: list[Path]):
    result = compare(*files).summary()
    assert result["distance"] == float(compute(*files))
    told = {name: result["real"][name] for name in ("path", "samples", "side", "found")}
    assert told == {"path": str(files[0]), "samples": 50, "side": None, "found": 0}
    assert float(compare(*files, distance="jedi")) > 0
    with pytest.raises(ValueError, match=r"0\.pkl: got statistics without a sample"):
        compare(*files, distance="kvd")


@pytest.mark.filterwarnings("ignore:.*samples:", "ignore:.*leave the covariance")
@pytest.mark.filterwarnings("ignore:1 of 3 generated clips are equal to a real clip")
def test_a_file_against_clips(digits: FrechetDistanceCalculator, tmp_path: Path):
    clips = np.random.default_rng(0).integers(0, 256, (6, 6, 64, 64, 1), np.uint8)
    encoded = np.concatenate(digits.features(clips[:4])["frame"])
    kept = of_cd_fvd(encoded, tmp_path / "a.pkl")
    by_n = dataclasses.replace(PROTOCOLS["srvp:digits:frame"], name="by n", ddof=0)
    result = compute(kept, clips[3:], by_n)
    expected = compute(clips[:4], clips[3:], by_n)
    assert float(result) == pytest.approx(float(expected), rel=1e-4)
    assert result.protocol == by_n
    with pytest.raises(ValueError, match="protocol: the statistics do not name theirs"):
        compute(kept, clips)
    with pytest.raises(ValueError, match="ddof is '0' of one and '1' of the other"):
        compute(kept, clips, "srvp:digits:frame")
    with pytest.raises(ValueError, match="got feature dimensions 6 and "):
        compute(of_cd_fvd(features(0), tmp_path / "b.pkl"), clips, by_n)
    logits = of_cd_fvd(features(0, 3, 400), tmp_path / "c.pkl")
    with pytest.raises(ValueError, match="network is 'i3d' of one and 'digits' of the other"):
        compute(logits, clips, by_n)


@pytest.mark.usefixtures("i3d_weights")
@pytest.mark.parametrize("protocol", ["cd_fvd", "fvd2048_16f"])  # both divide by n
def test_a_file_is_comparable_with_i3d(protocol: str, tmp_path: Path):
    kept = load_statistics(of_cd_fvd(features(0, 3, 400), tmp_path / "a.pkl"))
    (nothing,) = Calculator(PROTOCOLS[protocol]).nothing()
    check_comparable(kept, nothing)


# What is not such a file.


def write(path: Path, **changes: object) -> Path:
    """Writes a file like that of cd-fvd, with entries changed; None leaves an entry out."""
    rows = np.float64(features(0))
    entries = {
        "capture_all": False,
        "capture_mean_cov": True,
        "max_items": None,
        "num_items": len(rows),
        "num_features": D,
        "all_features": [],
        "raw_mean": rows.sum(axis=0),
        "raw_cov": rows.T @ rows,
    }
    entries = {key: value for key, value in (entries | changes).items() if value is not ...}
    path.write_bytes(pickle.dumps(entries))
    return path


def changed(array: np.ndarray, place: object, value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


ROWS = np.float64(features(0))
SUM, PRODUCTS = ROWS.sum(axis=0), ROWS.T @ ROWS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raw_mean": ...}, "no dict with num_items, raw_mean and raw_cov"),
        ({"num_items": ...}, "no dict with num_items, raw_mean and raw_cov"),
        ({"capture_mean_cov": False}, "without capture_mean_cov"),
        ({"raw_mean": None, "raw_cov": None, "num_items": 0}, "holds no sums"),
        ({"num_items": 1}, "num_items is 1, expected"),
        ({"num_items": 0}, "num_items is 0, expected"),
        ({"num_items": -5}, "num_items is -5, expected"),
        ({"num_items": 50.0}, r"num_items is 50\.0, expected"),
        ({"num_items": True}, "num_items is True, expected"),
        ({"num_items": 1 << 64}, "num_items is 18446744073709551616, expected"),
        ({"num_items": np.full(3, 50)}, "num_items is .*, expected"),
        ({"raw_mean": SUM.tolist()}, "raw_mean is not an array of float64"),
        ({"raw_mean": np.float32(SUM)}, "raw_mean is not an array of float64"),
        ({"raw_cov": np.int64(PRODUCTS)}, "raw_cov is not an array of float64"),
        ({"raw_cov": PRODUCTS.astype(object)}, "than bool, int or float"),
        ({"raw_cov": PRODUCTS[:3]}, r"shapes \(6,\) and \(3, 6\)"),
        ({"raw_cov": PRODUCTS.ravel()}, r"shapes \(6,\) and \(36,\)"),
        ({"raw_mean": SUM[None]}, r"shapes \(1, 6\) and \(6, 6\)"),
        ({"raw_mean": SUM[:0], "raw_cov": PRODUCTS[:0, :0]}, r"shapes \(0,\) and \(0, 0\)"),
        ({"raw_mean": changed(SUM, 2, np.nan)}, "not finite"),
        ({"raw_mean": changed(SUM, 2, np.inf)}, "not finite"),
        ({"raw_mean": changed(SUM, 2, 1e300)}, "not finite"),
        ({"raw_cov": changed(PRODUCTS, (2, 2), np.nan)}, "not finite"),
        ({"raw_cov": changed(PRODUCTS, (2, 3), -np.inf)}, "not finite"),
        ({"raw_cov": changed(PRODUCTS, (2, 2), 1e300)}, "too large for float32"),
        ({"raw_cov": changed(PRODUCTS, (2, 3), 7.0)}, "raw_cov is not symmetric"),
        ({"raw_cov": -PRODUCTS}, "negative eigenvalues"),
        ({"raw_cov": changed(PRODUCTS, (2, 2), 0.0)}, "negative eigenvalues"),
        ({"num_items": 3}, "negative eigenvalues"),  # its mean would be too large
    ],
)
def test_bad_entries(changes: dict[str, object], message: str, tmp_path: Path):
    assert_refused(write(tmp_path / "a.pkl", **changes), message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no end"),
        (b"not a pickle", "not a pickle of arrays .* it has the opcode b'n'"),
        (pickle.dumps([1, 2]), "no dict with"),
        (pickle.dumps(3), "no dict with"),
        (pickle.dumps(np.arange(3)), "no dict with"),
        (pickle.dumps({"raw_mean": SUM}), "no dict with"),
        (pickle.dumps({"raw_mean": Path.cwd()}), "asks for 'pathlib"),
        (pickle.dumps({"raw_mean": SUM}, protocol=2), "asks for '_codecs.encode'"),
        (b"PK\3\4" + bytes(100), "the opcode b'P'"),
    ],
)
def test_other_files(data: bytes, message: str, tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    assert_refused(path, message)


def test_cut_short_and_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.pkl")
    data = path.read_bytes()
    for length in (1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert_refused(path, "not a pickle of arrays")
    monkeypatch.setattr(cd_fvd, "_LARGEST", 100)
    path.write_bytes(data)
    assert_refused(path, f"has {len(data)} bytes, at most 100 are read")
    with pytest.raises(FileNotFoundError):
        load_statistics(tmp_path / "missing.pkl")
    (tmp_path / "folder.pkl").mkdir()
    with pytest.raises(IsADirectoryError):
        load_statistics(tmp_path / "folder.pkl")


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_statistics(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(re.sub(re.escape(str(path)), "", str(caught.value))) < 200
