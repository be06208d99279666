import dataclasses
import re
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from clips import write_video

import srvp_fd_jax
from srvp_fd_jax import DISTANCES, FeatureStatistics, compare, compute
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.features import shards
from srvp_fd_jax.protocols import find_protocol
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.labels import check_names, labels_of_videos
from srvp_fd_jax.significance.null_distribution import find_floor
from srvp_fd_jax.videos.sources import as_videos

PROTOCOL = "srvp:digits:dynamics"


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    real, fake = (moving_digits(rng, n=30, length=6) for _ in range(2))
    return real, fake[:, ::-1].copy()


@pytest.fixture(scope="module")
def expected(clips, digits):
    return float(digits(*clips, "dynamics"))


class Source:
    """A data source, as Grain and TensorFlow Datasets have them."""

    def __init__(self, clips: np.ndarray):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> dict[str, object]:
        return {"video": self.clips[i], "label": 3, "name": "a"}


FORMS = {
    "array": lambda clips, folder: clips,
    "channels first": lambda clips, folder: clips.transpose(0, 1, 4, 2, 3),
    "floats": lambda clips, folder: np.float32(clips) / 255,
    "JAX": lambda clips, folder: jnp.asarray(clips),
    "PyTorch": lambda clips, folder: torch.from_numpy(clips),
    "list of arrays": lambda clips, folder: list(clips),
    "source": lambda clips, folder: Source(clips),
    "array file": lambda clips, folder: saved(clips, folder / "clips.npy"),
    "folder": lambda clips, folder: saved_each(clips, folder)[0].parent,
    "paths": lambda clips, folder: list(map(str, saved_each(clips, folder))),
    "RGB": lambda clips, folder: np.repeat(clips, 3, axis=-1),
    "statistics": lambda clips, folder: statistics(clips),
    "statistics file": lambda clips, folder: saved_statistics(clips, folder / "s.safetensors"),
}


def saved(array, path):
    np.save(path, array)
    return path


def saved_each(clips, folder):
    (folder / "each").mkdir()
    return [saved(clip, folder / "each" / f"{i:02}.npy") for i, clip in enumerate(clips)]


def statistics(clips):
    """Statistics without a sample."""
    calculator = srvp_fd_jax.Calculator("digits").only("dynamics")
    return calculator.statistics([clips])["dynamics"]


def saved_statistics(clips, path):
    statistics(clips).save(path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_number(form, clips, expected, tmp_path):
    real, fake = clips
    result = compute(FORMS[form](real, tmp_path), fake, PROTOCOL)
    assert float(result) == pytest.approx(expected, rel=1e-4)
    assert result.protocol.name == PROTOCOL


@pytest.mark.parametrize("form", ["array", "list of arrays", "array file", "folder"])
def test_skipped_frames_are_skipped_in_all_forms(form, clips, expected, tmp_path):
    given = [np.concatenate([c[:, :1], c[:, :1], c], axis=1) for c in clips]
    result = compute(FORMS[form](given[0], tmp_path), given[1], f"{PROTOCOL}+skip=2")
    assert float(result) == pytest.approx(expected, rel=1e-4)
    assert dict(result.real.source)["frames"] == "6"


def test_both_sides_as_statistics_need_no_network(clips, expected, monkeypatch):
    of_both = list(map(statistics, clips))
    monkeypatch.setattr("srvp_fd_jax.evaluate.load_calculators", None)
    result = compute(*of_both)
    assert float(result) == pytest.approx(expected, rel=1e-4)
    assert str(result).startswith("dynamics: ")


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_several_protocols_in_one_pass(clips, digits):
    names = ["srvp:digits:frame", PROTOCOL, "srvp:digits:frame+distance=frechet_eigh", PROTOCOL]
    results = compute(*clips, names)
    assert [result.protocol.name for result in results] == names
    distances = digits.distances(*clips)
    textbook = srvp_fd_jax.Calculator("digits", distance="frechet_eigh").distances(*clips)
    expected = [distances["frame"], distances["dynamics"], textbook["frame"], distances["dynamics"]]
    assert list(map(float, results)) == pytest.approx(list(map(float, expected)), rel=1e-3)


def test_mp4_files(tmp_path, clips):
    paths = [
        write_video(tmp_path / f"{i}.mp4", np.repeat(clip, 3, axis=-1))
        for i, clip in enumerate(clips[0][:22])
    ]
    progress = []
    with pytest.warns(UserWarning, match="22 of 22 generated videos are real ones too"):
        result = compute(
            paths, tmp_path, PROTOCOL, on_progress=lambda *arguments: progress.append(arguments)
        )
    assert float(result) == pytest.approx(0, abs=1e-4)
    assert (result.real.videos.found, result.real.videos.used) == (22, 22)
    assert progress == [(side, n, 22) for side in ("real", "fake") for n in (0, 16, 22, 22)]


@pytest.mark.filterwarnings(
    "ignore:.*(leave the covariance|depends on their number|could not be read)"
)
def test_a_result_reads_well(clips, tmp_path):
    real, fake = clips
    np.save(tmp_path / "real.npy", real)
    source = [*fake[:20], fake[0, :3], np.zeros((6, 64, 64), "U1")]
    result = compute(tmp_path / "real.npy", source, f"{PROTOCOL}+frames=6")
    lines = str(result).splitlines()
    assert re.fullmatch(r"srvp:digits:dynamics\+frames=6: \d+\.\d+", lines[0])
    assert lines[1] == f"  real       {tmp_path}/real.npy: 30 of 30 videos, 30 samples"
    assert lines[2] == ("  generated  20 of 22 videos, 1 too short, 1 unreadable, 20 samples")
    assert lines[3].startswith("  network    digits, output dynamics, weights 3911fc1c")
    assert lines[4] == (
        "  warning    30 real and 20 generated samples: a distance depends on their number"
    )
    table = result._repr_html_()
    assert lines[6] == (
        "  warning    1 of 22 generated videos could not be read and were left out, such as "
        "fake[21]: got dtype <U1, allowed are uint8 (0 to 255) and floats (0 to 1)"
    )
    assert len(lines) == 7
    assert table.count("<tr>") == len(lines)
    assert f"{float(result):.6g}" in table


def test_markup_in_names_stays_text(clips, tmp_path):
    path = tmp_path / "<b>real.npy"
    np.save(path, clips[0])
    assert "&lt;b&gt;real.npy" in compute(path, clips[1], PROTOCOL)._repr_html_()


def test_videos_in_files_are_taken_from_the_cache(clips, tmp_path):
    np.save(tmp_path / "real.npy", clips[0])
    first, second = (
        compute(tmp_path / "real.npy", clips[1], PROTOCOL, cache=tmp_path / "cache")
        for _ in range(2)
    )
    assert (first.real.videos.cached, second.real.videos.cached) == (False, True)
    assert not second.fake.videos.cached
    assert float(first) == float(second)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"real": "nowhere"}, FileNotFoundError, "nowhere: no such file or folder"),
        ({"real": []}, ValueError, "real: got an empty list"),
        ({"fake": {"a": 1}}, ValueError, "fake: got a dict, expected a path, paths, an array"),
        ({"fake": 3}, ValueError, "fake: got a int, expected a path, paths, an array, statistics"),
        ({"fake": np.zeros((5, 64, 64, 1))}, ValueError, r"fake: got an array of shape \(5, 64, 6"),
        ({"protocol": "fvd"}, ValueError, "protocol: got 'fvd', allowed are tensorflow"),
        ({"protocol": []}, ValueError, "protocol: got an empty list"),
        ({"protocol": PROTOCOL + "+clips=99"}, ValueError, "real: holds 30 videos, protocol .* 99"),
        ({"protocol": PROTOCOL + "+frames=9"}, ValueError, "only 0 of 30 videos gave one; 30 sh"),
        (
            {"real": FeatureStatistics.from_features(np.eye(9), variances=np.eye(9))},
            ValueError,
            "statistics: got feature dimensions 9 and 20",
        ),
    ],
)
def test_wrong_use_is_told(arguments, error, message, clips):
    defaults = {"real": clips[0], "fake": clips[1], "protocol": PROTOCOL}
    with pytest.raises(error, match=message):
        compute(**(defaults | arguments))


def test_statistics_of_another_output_are_refused(clips, digits):
    content = digits.only("static_content").statistics([clips[0]])["static_content"]
    with pytest.raises(ValueError, match="output is 'static_content' of one and 'dynamics' of the"):
        compute(content, clips[1], PROTOCOL)
    with pytest.raises(ValueError, match="got 2 protocols, but statistics have only one"):
        compute(content, clips[1], [PROTOCOL, "srvp:digits:frame"])


def test_statistics_that_know_no_protocol_take_the_divisor_of_the_one_that_is_named():
    rng = np.random.default_rng(0)
    sets = [FeatureStatistics.from_features(rng.normal(size=(50, 4))) for _ in range(2)]
    n = compute(*sets, "cd_fvd")
    expected = srvp_fd_jax.frechet_distance_from_statistics(*sets, ddof=0)
    assert float(n) == pytest.approx(float(expected), rel=1e-6)
    assert float(compute(*sets)) == float(compare(*sets)) != float(n)


@pytest.mark.filterwarnings("ignore:.*depends on their number")
def test_values_that_are_not_finite_are_told(clips):
    real, fake = (np.float32(c) / 255 for c in clips)
    fake[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="fake: got values that are not finite"):
        compute(real, fake, PROTOCOL)
    with pytest.warns(UserWarning, match="1 of 30 generated videos could not be read .* fake.3.: "):
        compute(real, list(fake), PROTOCOL)


def test_values_out_of_range_are_warned_of_once(clips):
    real, fake = (2 * np.float32(c) / 255 - 1 for c in clips)
    with pytest.warns(UserWarning, match="from -1 to 1") as warned:
        compute(real, list(fake), PROTOCOL)
    messages = [str(w.message).split(",")[0] for w in warned]
    assert messages == [f"{side}: got values from -1 to 1" for side in ("real", "fake")]


def test_statistics_without_a_protocol_need_the_name_of_one_for_videos(clips):
    with pytest.raises(ValueError, match="protocol: the statistics do not name theirs"):
        compute(statistics(clips[0]), clips[1])


@pytest.mark.usefixtures("without_type_checks")
def test_a_result_shows_itself_in_a_terminal(clips):
    result = compute(*clips, PROTOCOL)
    assert repr(result) == str(result)
    assert "array" not in repr(result)
    with pytest.raises(ValueError, match="protocol: got 3, expected a name, a Protocol or a list"):
        compute(*clips, 3)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_significance_is_that_of_the_clips(clips, digits):
    real, fake = clips
    result = compute(real, fake, PROTOCOL, significance=True)
    measure = Measure("frechet", 1)
    features = digits.features(np.concatenate(clips))["dynamics"]
    mean, variance = digits.network.architecture.outputs["dynamics"].gaussian(features[:, None])
    moments = {"features": mean, "variances": variance}
    sides = [{k: f[part] for k, f in moments.items()} for part in (slice(30), slice(30, None))]
    expected = find_floor(*sides, measure)
    assert result.significance.distance == pytest.approx(result.distance, rel=1e-5)
    # The clips of a sample have another order, so the random divisions are others.
    assert result.significance.mean == pytest.approx(expected.mean, rel=0.05)
    assert result.significance.p_value == pytest.approx(expected.p_value, abs=0.1)
    assert result.summary()["significance"]["p_value"] == result.significance.p_value
    assert "between 30 real and 30 generated clips, p = 0." in repr(result)
    noisy = compute(real, 255 - fake, PROTOCOL, significance=True)
    assert noisy.significance.p_value == 1 / 200
    same = compute(real[:15], real[15:], PROTOCOL, significance=True)
    assert same.significance.p_value > 0.01
    assert same.significance.low < same.distance < same.significance.high
    assert compute(real, fake, PROTOCOL).significance is None


def saved_sets(clips, tmp_path, protocol, **options):
    """Paths of the statistics of both sets, with samples."""
    paths = []
    for side, of_side in zip(("real", "fake"), clips, strict=True):
        paths.append(tmp_path / f"{side}.safetensors")
        srvp_fd_jax.statistics(of_side, protocol, side=side, **options).save(paths[-1])
    return paths


def test_significance_of_statistics_takes_their_samples(clips, tmp_path):
    paths = saved_sets(clips, tmp_path, PROTOCOL)
    alone = compare(*paths, significance=True)
    assert (alone.significance.real, alone.significance.fake) == (30, 30)
    both = compute(*clips, PROTOCOL, significance=True)
    assert float(alone) == pytest.approx(float(both), rel=1e-5)
    assert alone.significance == pytest.approx(both.significance)
    mixed = compute(paths[0], clips[1], significance=True)
    assert float(mixed) == pytest.approx(float(both), rel=1e-5)
    assert alone.names == tuple(map(str, paths))
    with pytest.raises(ValueError, match="fake: got videos, expected statistics"):
        compare(paths[0], tmp_path)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_significance_needs_samples_and_enough_clips(clips, tmp_path):
    real = saved_statistics(clips[0], tmp_path / "real.safetensors")
    with pytest.raises(ValueError, match="real: got statistics without a sample of clips"):
        compute(real, clips[1], PROTOCOL, significance=True)
    with pytest.raises(ValueError, match="fake: got statistics without a sample of clips"):
        compare(saved_sets(clips, tmp_path, PROTOCOL)[0], statistics(clips[1]), significance=True)
    with pytest.raises(ValueError, match="real: got 3 clips, expected at least 4"):
        compute(clips[0][:3], clips[1][:3], PROTOCOL, significance=True)
    source = (("network", "kth"),)
    other = FeatureStatistics.empty(20, mixture=True, sample=9, source=source)
    with pytest.raises(ValueError, match="network is 'kth' of one and 'digits' of the other"):
        compute(clips[0], other, PROTOCOL, significance=True)


OTHERS = ["jedi", "jedi_unbiased", "kvd", "mind", "precision", "recall", "density", "coverage"]


@pytest.mark.filterwarnings("ignore:.*a distance depends on their number")
def test_numbers_of_samples_matter_for_all_but_unbiased_estimates(clips):
    for name, matter in (("mind", True), ("precision", True), ("kvd", False)):
        result = compute(clips[0], clips[1][:20], f"{PROTOCOL}+distance={name}")
        assert any("depends on their number" in text for text in result.warnings) == matter


@pytest.mark.parametrize("name", OTHERS)
def test_other_distances_are_those_of_the_arrays(clips, name: str):
    expected = srvp_fd_jax.Calculator("digits", distance=name).distances(*clips)
    if DISTANCES[name].size:
        del expected["dynamics"]  # random points of Gaussians, other ones for another order
    protocols = [f"srvp:digits:{output}+distance={name}" for output in expected]
    for output, result in zip(expected, compute(*clips, protocols), strict=True):
        assert float(result) == pytest.approx(float(expected[output]), rel=1e-5, abs=1e-7)
        assert result.protocol.name == f"srvp:digits:{output}+distance={name}"


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_all_distances_share_what_is_cached(clips, tmp_path):
    folder = saved_each(clips[0], tmp_path)[0].parent
    for name in ("", "+distance=jedi", "+distance=kvd"):
        result = compute(folder, clips[1], f"{PROTOCOL}{name}", cache=tmp_path / "cache")
        assert result.real.videos.cached == bool(name)
        assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_saved_statistics_serve_other_distances(clips, tmp_path):
    protocol = "srvp:digits:static_content"
    paths = saved_sets(clips, tmp_path, protocol)
    expected = srvp_fd_jax.Calculator(f"{protocol}+distance=kvd").distances(*clips)
    for result in (
        compare(*paths, distance="kvd"),
        compute(paths[0], clips[1], f"{protocol}+distance=kvd"),
        compute(*paths, f"{protocol}+distance=kvd"),
    ):
        assert float(result) == pytest.approx(float(expected["static_content"]), rel=1e-5)
        assert result.summary()["measure"] == "kvd"


@pytest.mark.filterwarnings("ignore:.*(random ones are compared|leave the covariance)")
@pytest.mark.parametrize("output", ["frame", "dynamics"])
def test_every_way_to_a_distance_of_points_gives_one_number(clips, tmp_path, output, monkeypatch):
    """Also for more frames than are compared, and for random points of Gaussians."""
    small = dataclasses.replace(DISTANCES["kvd"], size=100)
    monkeypatch.setitem(DISTANCES, "kvd", small)
    protocol = f"srvp:digits:{output}+distance=kvd"
    clips = clips[0], 255 - clips[1]  # far from 0, where rounding is relative
    result = compute(*clips, protocol, significance=True)
    assert result.significance.distance == pytest.approx(float(result), rel=1e-5)
    paths = saved_sets(clips, tmp_path, f"srvp:digits:{output}")
    for given in (paths, [paths[0], clips[1]]):
        assert float(compute(*given, protocol)) == pytest.approx(float(result), rel=1e-5)


def test_a_distance_of_more_points_than_the_sample_has_compares_them_all(clips, monkeypatch):
    monkeypatch.setattr(shards, "SAMPLE_SIZE", 20)
    protocol = "srvp:digits:static_content+distance=mind"
    result = compute(*clips, protocol)
    assert result.real.sample.size == DISTANCES["mind"].size > 20
    expected = srvp_fd_jax.Calculator(protocol).distances(*clips)["static_content"]
    assert float(result) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*leave the covariance")
def test_without_a_sample_the_error_says_how_to_make_one(clips, tmp_path):
    real = saved_statistics(clips[0], tmp_path / "real.safetensors")
    with pytest.raises(ValueError, match=r"got statistics without a sample of .*sample=") as error:
        compute(real, clips[1], f"{PROTOCOL}+distance=mind")
    assert str(error.value).startswith(str(real))
    calculator = srvp_fd_jax.Calculator("digits", distance="coverage").only("dynamics")
    with pytest.raises(ValueError, match="x: got 5 samples, a distance needs at least 6"):
        calculator.distances(clips[0][:5], clips[1])
    other = "srvp:digits:static_content+distance=mind"
    of_other = srvp_fd_jax.Calculator(other).statistics([clips[0]])["static_content"]
    with pytest.raises(ValueError, match="output is"):
        compute(of_other, clips[1], f"{PROTOCOL}+distance=mind")


def test_globs_choose_the_sets_of_one_folder(tmp_path):
    rng = np.random.default_rng(0)
    for i, clip in enumerate(moving_digits(rng, 4, 6)):
        np.save(tmp_path / f"{i}_{'gt' if i % 2 else 'pred'}.npy", clip)
    split = {
        kind: [str(path) for path in sorted(tmp_path.glob(f"*_{kind}.npy"))]
        for kind in ("gt", "pred")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two clips are few
        expected = float(compute(split["gt"], split["pred"], "srvp:digits:frame"))
        globs = ("*_gt.npy", "*_pred.npy")
        got = compute(tmp_path, tmp_path, "srvp:digits:frame", match=globs)
    assert float(got) == expected
    with pytest.raises(ValueError, match="match: got 3 globs"):
        compute(tmp_path, tmp_path, "srvp:digits:frame", match=["a", "b", "c"])


def test_folders_that_a_number_of_clips_leaves_out_are_named(tmp_path):
    for name in (f"class{c}/{v}.npy" for c in range(4) for v in range(3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.full((6, 8, 8, 1), 9, np.uint8))
    protocol = find_protocol("srvp:digits:frame+resize=bilinear")

    def find(folder, clips):
        srvp_fd_jax.statistics(folder, dataclasses.replace(protocol, clips=clips))

    with pytest.warns(UserWarning, match="first 5 of 12 videos .* leaves out 2 folders: class2, c"):
        find(tmp_path, 5)
    for clips in (10, None):  # all folders, without a warning
        find(tmp_path, clips)
    for i in range(4):  # a folder of each video
        (tmp_path / "each" / str(i)).mkdir(parents=True)
        np.save(tmp_path / "each" / str(i) / "video.npy", np.full((6, 8, 8, 1), 9, np.uint8))
    find(tmp_path / "each", 2)


def test_sets_that_were_stored_differently_give_a_warning():
    real, fake = (np.random.default_rng(0).random((70, 2, size, size, 1)) for size in (16, 8))
    with pytest.warns(UserWarning, match="stored differently.*real 16×16, generated 8×8"):
        compute(np.float32(real), np.float32(fake), "srvp:digits:frame+resize=bilinear")


@pytest.fixture(scope="module")
def predictions():
    """Clips, and predictions of them that are as good as real clips, but for their brightness."""
    real = moving_digits(np.random.default_rng(2), n=20, length=6)
    return real, (real * 0.9).astype(np.uint8)


FEW = "ignore:.*leave the covariance"


@pytest.mark.filterwarnings(FEW)
def test_predictions_are_compared_with_their_clips(predictions, tmp_path):
    real, fake = predictions
    folders = [tmp_path / name for name in ("real", "fake")]
    for folder, of_side in zip(folders, predictions, strict=True):
        folder.mkdir()
        for i, clip in enumerate(of_side):
            np.save(folder / f"{i}.npy", clip)
    named = compute(*folders, PROTOCOL, significance=True).significance
    assert (named.unit, named.units, named.p_value) == ("pair", 20, 0.005)
    by_index = compute(real, fake, PROTOCOL, significance=True, paired=True).significance
    assert by_index[6:] == named[6:]
    assert by_index[:6] == pytest.approx(named[:6], rel=0.1, abs=0.01)
    alone = compute(real, fake, PROTOCOL, significance=True).significance
    assert alone.unit == "video"
    assert alone.p_value > 0.9
    # Statistics know the names by their keys.
    given = srvp_fd_jax.statistics(folders[0], PROTOCOL)
    assert compute(given, folders[1], significance=True).significance == named


@pytest.mark.filterwarnings("ignore::UserWarning")  # few clips, which repeat
def test_groups_are_those_of_the_function_and_the_labels(predictions, tmp_path):
    real = predictions[0]
    folders = [tmp_path / name for name in ("real", "fake")]
    for folder, of_side in zip(folders, (real[:10], real[10:]), strict=True):
        folder.mkdir()
        for i, clip in enumerate(np.repeat(of_side, 2, axis=0)):  # every clip twice
            np.save(folder / f"{folder.name}{i // 2}_{i % 2}.npy", clip)
    alone = compute(*folders, PROTOCOL, significance=True).significance
    how = {"significance": True, "groups": lambda name: name.split("_")[0]}
    by_name = compute(*folders, PROTOCOL, **how).significance
    assert (by_name.unit, by_name.units) == ("group", 20)
    assert by_name.p_value > alone.p_value
    labels = [f"real{i // 2}" for i in range(20)], np.arange(20) // 2
    arrays = [np.repeat(part, 2, axis=0) for part in (real[:10], real[10:])]
    by_label = compute(*arrays, PROTOCOL, significance=True, groups=labels).significance
    assert by_label.p_value == pytest.approx(by_name.p_value, abs=0.1)
    assert by_label[5:] == by_name[5:]
    by_index = compute(*folders, PROTOCOL, significance=True, paired=True).significance
    assert (by_index.unit, by_index.units) == ("pair", 20)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"paired": True, "significance": False}, "paired: only the test of significance uses it"),
        ({"groups": str, "significance": False}, "groups: only the test of significance uses it"),
        ({"paired": True, "n": 19}, "paired: got 20 real and 19 fake videos"),
        ({"paired": True, "groups": str}, "paired: got groups too"),
        ({"groups": lambda name: None}, r"groups: got None for real\[0\]"),
        ({"groups": ([1] * 20, [2] * 19)}, "groups: got 19 fake labels, expected one for each"),
        ({"groups": [1] * 20}, "groups: got 20 sequences"),
        ({"groups": ([None] * 20, [2] * 20)}, "groups: got None of real"),
        ({"groups": ([[1]] * 20, [2] * 20)}, r"groups: got \[1\] of real"),
        ({"groups": lambda name: "all"}, "groups: got 1 groups of real clips"),
    ],
)
@pytest.mark.filterwarnings(FEW)
def test_units_that_do_not_fit_are_errors(predictions, how, message):
    n, how = how.get("n", 20), {"significance": True} | {k: v for k, v in how.items() if k != "n"}
    with pytest.raises(ValueError, match=message):
        compute(predictions[0], predictions[1][:n], PROTOCOL, **how)


def test_names_that_look_like_pairs_give_a_warning(tmp_path):
    for name in ("real/a/1.npy", "fake/1.npy", "both/1_gt.npy", "both/1_pred.npy", "both/x.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, np.zeros((3, 4, 4, 1), np.uint8))

    def found(**globs):
        return {
            side: as_videos(tmp_path / folder, side, match)
            for side, (folder, match) in globs.items()
        }

    for pairs in (
        found(real=("real", None), fake=("fake", None)),
        found(real=("both", "*_gt.npy"), fake=("both", "*_pred.npy")),
    ):
        with pytest.warns(UserWarning, match="the names suggest 1 pairs"):
            check_names(pairs)
    check_names(found(real=("real/a", None), fake=("fake", None)))  # are pairs
    check_names(found(real=("both", "x*"), fake=("fake", None)))
    clips = np.zeros((2, 3, 4, 4, 1), np.uint8)
    check_names({"real": as_videos(clips, "real"), "fake": as_videos(clips, "fake")})


def test_units_of_statistics_need_videos():
    for name, how in (("groups", {"groups": str}), ("paired", {"paired": True})):
        with pytest.raises(ValueError, match=f"{name}: got statistics, which hold no names"):
            labels_of_videos({"fake": []}, **how)
