import os
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srvp_fd_jax
from srvp_fd_jax import compute, overlap, report
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.sample import FeatureSample, in_order
from srvp_fd_jax.networks.base import Output
from srvp_fd_jax.overlap import Repeats, of_arrays, of_features, of_files, repeats
from srvp_fd_jax.videos.sources import as_videos, find_videos

DYNAMICS = "srvp:digits:dynamics"
GIVEN = 5


@pytest.fixture(scope="module")
def clips() -> tuple[np.ndarray, np.ndarray]:
    """Real clips, and predictions that keep the frames that they were given."""
    rng = np.random.default_rng(0)
    real, other = (moving_digits(rng, n=24, length=GIVEN + 6) for _ in range(2))
    return real, np.concatenate([real[:, :GIVEN], other[:, GIVEN:]], axis=1)


def sample(features: np.ndarray) -> FeatureSample:
    return in_order({"features": jnp.asarray(features[:, None], jnp.float32)})


def write(folder: Path, clips: np.ndarray, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(clips):
        np.save(folder / f"{first + i}.npy", clip)
    return folder


def test_repeats_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    labels = {"real": rng.integers(0, 20, 15).tolist(), "fake": rng.integers(0, 20, 9).tolist()}
    x, y = labels.values()
    assert repeats(labels) == Repeats(
        real=[i for i in range(15) if any(x[i] == x[j] for j in range(15) if j != i)],
        fake=[i for i in range(9) if any(y[i] == y[j] for j in range(9) if j != i)],
        shared=[i for i in range(9) if any(y[i] == x[j] for j in range(15))],
    )


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_features_are_equal_up_to_rounding(size):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 300, 128))
    y[:40] = x[100:140] * (1 + 1e-7 * rng.normal(size=(40, 128)))  # in another order of sums
    y[40:60] = x[:20] * (1 + 1e-3 * rng.normal(size=(20, 128)))  # near, as another encoding is
    y[100:110] = y[90:100]
    x[200:220] = x[200]
    found = of_features("frame", {"real": sample(size * x), "fake": sample(size * y)})
    assert {kind: text.split(" clips")[0] for kind, text in found.items()} == {
        "shared": "40 of 300 generated",
        "real": "20 of 300 real",
        "fake": "20 of 300 generated",
    }


def test_an_offset_of_all_features_is_no_repetition():
    x, y = 1e3 + 1e-2 * np.random.default_rng(3).normal(size=(2, 300, 8))
    y[:30] = x[:30]
    found = of_features("frame", {"real": sample(x), "fake": sample(y)})
    assert {kind: text.split(" clips")[0] for kind, text in found.items()} == {
        "shared": "30 of 300 generated"
    }


def test_a_single_repetition_among_many_clips_is_no_reason_to_warn():
    x, y = np.random.default_rng(2).normal(size=(2, 200, 8))
    y[0] = x[0]
    assert of_features("frame", {"real": sample(x), "fake": sample(y)}) == {}
    y[1] = x[1]
    assert of_features("frame", {"real": sample(x), "fake": sample(y)}).keys() == {"shared"}


def test_dynamics_of_predictions_that_keep_the_given_frames(clips):
    with pytest.warns(UserWarning, match=r"dynamics looks at the first 5 frames.*\+skip") as caught:
        result = compute(*clips, DYNAMICS)
    assert len(caught) == 1
    assert float(result) == pytest.approx(0, abs=1e-5)
    assert "24 of 24 generated clips" in result.warnings[0]
    skipped = compute(*clips, f"{DYNAMICS}+skip={GIVEN}")
    assert skipped.warnings == ()
    cut = [c[:, GIVEN:] for c in clips]
    expected = srvp_fd_jax.frechet_distance(*cut, "digits", "dynamics")
    assert float(skipped) == pytest.approx(float(expected), rel=1e-4)
    assert float(skipped) > 1


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_a_set_against_itself_is_reported_once(clips):
    names = [DYNAMICS, "srvp:digits:frame", "srvp:digits:static_content"]
    with pytest.warns(UserWarning, match="24 of 24 generated clips are equal to") as caught:
        results = compute(clips[0], clips[0].copy(), names)
    assert sum("covariance" not in str(one.message) for one in caught) == 1
    assert ["overlap" in "".join(one.warnings) for one in results] == [False, True, False]


def test_clips_that_repeat_within_a_set(clips):
    twice = np.concatenate([clips[0][:12]] * 2)
    with pytest.warns(UserWarning, match="24 of 24 real clips .* with another one of them"):
        compute(twice, clips[0][:, ::-1], DYNAMICS)


def test_sets_with_files_in_common_are_reported_before_they_are_read(clips, tmp_path, monkeypatch):
    fake = write(tmp_path / "real" / "predictions", clips[0][12:])
    write(tmp_path / "real" / "truth", clips[0][:12])
    monkeypatch.setattr("srvp_fd_jax.evaluate.statistics_of_videos", None)
    with (
        pytest.warns(UserWarning, match="12 of 12 generated videos are real ones too, such as"),
        pytest.raises(TypeError),
    ):
        compute(tmp_path / "real", fake, DYNAMICS)


@pytest.mark.parametrize("way", ["copied", "linked", "hard linked", "by another path"])
def test_the_same_files_are_found_in_every_disguise(way, clips, tmp_path):
    real, fake = write(tmp_path / "real", clips[0]), write(tmp_path / "fake", clips[1][3:])
    for i in range(3):
        source, target = real / f"{i + 5}.npy", fake / f"x{i}.npy"
        if way == "copied":
            shutil.copy(source, target)
        elif way == "linked":
            target.symlink_to(source)
        elif way == "hard linked":
            os.link(source, target)
    videos = {"real": find_videos(real), "fake": find_videos(fake)}
    if way == "by another path":
        paths = [*fake.iterdir(), *(f"{fake}/../real/{i}.npy" for i in range(3))]
        videos["fake"] = as_videos(paths, "fake")
    found = of_files(videos)
    assert found.keys() == {"shared"}
    assert found["shared"].startswith("3 of 24 generated videos are real ones too")


def test_a_file_that_is_given_twice_is_reported(clips, tmp_path):
    files = sorted(write(tmp_path, clips[0][:4]).iterdir())
    found = of_files({"real": as_videos([*files, files[1], files[1]], "real")})
    assert found.keys() == {"real"}
    assert found["real"].startswith("3 of 6 real videos are the same as another one of them, such")
    assert str(files[1]) in found["real"]


def test_rows_folders_of_frames_and_large_files_are_distinct(clips, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", clips[0])
    write(tmp_path / "b", clips[0][:2])
    rows = find_videos(tmp_path / "a.npy")
    assert of_files({"real": rows, "fake": find_videos(tmp_path / "b")}) == {}
    assert of_files({"real": rows, "fake": rows})["shared"].startswith("24 of 24")
    assert of_files({"real": as_videos(clips[0], "real"), "fake": rows}) == {}
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    monkeypatch.setattr(overlap, "_SMALL_FILE", 100)  # the content of larger files is not read
    both = {"real": find_videos(tmp_path / "b"), "fake": find_videos(tmp_path / "c")}
    assert of_files(both) == {}


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_arrays_that_are_equal_where_an_output_looks(make, clips, digits):
    x, y = map(make, clips)
    with pytest.warns(UserWarning, match=r"dynamics looks at the first 5 frames of a clip, which"):
        digits.only("dynamics").distances(x, y)
    calls = {"a part": (x, y[:9]), "the end": (x[:, ::-1], y[:, ::-1])}
    first, last = (Output(1, GIVEN, looks_at) for looks_at in ("first", "last"))
    assert of_arrays("dynamics", first, *calls["a part"])
    assert of_arrays("static_content", last, *calls["the end"])
    assert of_arrays("dynamics", first, *calls["the end"]) is None
    for silent in (x, make(clips[0].copy())):
        assert of_arrays("dynamics", first, x, silent) is None
    one_differs = np.array(clips[1])
    one_differs[-1, 0] //= 2
    assert of_arrays("dynamics", first, x, make(one_differs)) is None
    assert of_arrays("frame", Output(1), x, y) is None


def test_nothing_is_compared_while_a_function_is_traced(clips, digits):
    of_dynamics = digits.only("dynamics")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        traced = jax.jit(lambda x, y: of_dynamics.distances(x, y)["dynamics"])
        assert float(traced(*clips)) == pytest.approx(0, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_a_report_says_so(clips, tmp_path):
    real, fake = write(tmp_path / "real", clips[0]), write(tmp_path / "fake", clips[1])
    text = "24 of 24 generated clips have in common with a real clip"
    with pytest.warns(UserWarning, match=text) as caught:
        report(real, fake, DYNAMICS, tmp_path / "page.html")
    assert len([one for one in caught if text in str(one.message)]) == 1
    assert text in (tmp_path / "page.html").read_text()
