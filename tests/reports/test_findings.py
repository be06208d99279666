import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from srvp_fd_jax.demo import corruptions
from srvp_fd_jax.demo.moving_digits import moving_digits
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.features.shards import load_calculators, statistics_of_videos
from srvp_fd_jax.protocols import find_protocol
from srvp_fd_jax.reports.findings import CLIPS_SHOWN, Findings, find, nearest_pairs, rounded
from srvp_fd_jax.significance.along import Along
from srvp_fd_jax.significance.extrapolation import Limit
from srvp_fd_jax.significance.labels import labels_of_videos
from srvp_fd_jax.significance.null_distribution import Floor
from srvp_fd_jax.videos.sources import as_videos

DIFFERS, SAME = 0.005, 0.4


def made_up(
    distance=3.2,
    p_value=DIFFERS,
    along=None,
    window=1,
    clips=(300, 200),
    infinity=1.0,
    kind="frechet",
    **units,
):
    """Findings of made-up numbers, with these numbers of clips in 4 dimensions."""
    features = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    side = FeatureStatistics.from_features(features)
    places = None
    if along is not None:
        zeros = np.zeros(len(along), np.float32)
        places = Along(np.arange(len(along)), zeros, zeros, zeros, np.array(along))
    return Findings(
        protocol=find_protocol("srvp:digits:frame", distance=kind),
        names=("", ""),
        real=side,
        fake=side,
        distance=distance,
        floor=Floor(1.0, 0.5, 2.0, p_value, distance, *clips, **units),
        interval=(distance - 0.5, distance + 0.5),
        curve=None,
        limit=Limit(infinity, 1.0, 2),
        along=places,
        window=window,
        looks_at="first",
        pairs=(),
        random={},
        clips={},
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "Real and generated differ: 3.2 times the distance that chance gives with 300 real and "
            "200 generated clips (p = 0.005).",
        ),
        (
            {"distance": 0.25, "kind": "recall"},
            "Real and generated differ: 0.25, where chance gives 1, with 300 real and 200 "
            "generated clips (p = 0.005).",
        ),
        (
            {"p_value": 0.01},
            "Real and generated may differ, which more than these 300 real and 200 generated clips "
            "would tell (p = 0.01).",
        ),
        (
            {"p_value": 0.05},
            "Not distinguishable from real with these 300 real and 200 generated clips (p = 0.05).",
        ),
        (
            {"along": [SAME, DIFFERS]},
            "Real and generated differ: 3.2 times the distance that chance gives with 300 real and "
            "200 generated clips (p = 0.005). The clips begin to differ at frame 2, and differ to "
            "their end.",
        ),
        (
            {"p_value": 0.52, "along": [SAME, DIFFERS], "window": 3},
            "The clips begin to differ at frames 2 to 4, and differ to their end. The distance "
            "itself does not tell, which chance may give with these 300 real and 200 generated "
            "clips (p = 0.52).",
        ),
        (
            {"p_value": 0.9, "unit": "pair", "units": 150, "singles": 200},
            "Not distinguishable from real with these 300 real and 200 generated clips (p = 0.9). "
            "The permutation test exchanges the two videos of each of 150 pairs and 200 single "
            "videos.",
        ),
        (
            {"p_value": 0.05, "unit": "group", "units": 8, "smallest_p": 0.029},
            "Not distinguishable from real with these 300 real and 200 generated clips (p = 0.05). "
            "The permutation test exchanges 8 groups of videos. With so few groups no p-value "
            "below 0.029 is possible, so the test cannot show a difference.",
        ),
    ],
)
def test_verdicts(changes, expected):
    assert made_up(**changes).verdict() == expected


@pytest.mark.parametrize(
    ("along", "window", "expected"),
    [
        (
            [SAME, SAME, DIFFERS, DIFFERS],
            5,
            "The clips begin to differ at frames 3 to 7, and differ to their end.",
        ),
        ([SAME, DIFFERS, SAME], 1, "The clips differ first at frame 2."),
        ([DIFFERS, DIFFERS, SAME], 1, "The clips differ first at frame 1."),
        ([DIFFERS, DIFFERS], 1, ""),
        ([SAME, 0.01], 1, ""),
        ([DIFFERS], 5, ""),
        (None, 1, ""),
    ],
)
def test_where_clips_begin_to_differ(along, window, expected):
    assert made_up(along=along, window=window).where() == expected


@pytest.mark.parametrize(
    ("clips", "infinity", "expected"),
    [((5, 6), 1.5, 1.5), ((6, 4), 1.5, None), ((5, 5), -0.1, None), ((5, 5), 0.0, 0.0)],
)
def test_a_limit_that_is_not_to_be_trusted_is_not_given(clips, infinity, expected):
    assert made_up(clips=clips, infinity=infinity).infinity == expected
    assert made_up(clips=clips, infinity=infinity, kind="kvd").infinity is None


@pytest.mark.parametrize(
    ("value", "margin", "expected"),
    [
        (21.96432, 1.84, "22.0"),
        (21.96432, 0.0184, "21.964"),
        (0.0123456, 0.00031, "0.01235"),
        (12345.67, 678.0, "12350"),
        (12345.67, 12.0, "12346"),
        (21.96432, 0.0, "21.96"),
        (21.96432, math.nan, "21.96"),
    ],
)
def test_numbers_have_no_more_digits_than_their_margins_bear(value, margin, expected):
    assert rounded(value, margin) == expected


def test_nearest_pairs_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(size=(n, 3, 5)).astype(np.float32) + 100 for n in (9, 7))
    fake[4] = real[6]  # a copy
    names = {"real": [f"r{i}" for i in range(9)], "fake": [f"f{i}" for i in range(7)]}
    moments = {"real": {"features": jnp.asarray(real)}, "fake": {"features": jnp.asarray(fake)}}
    pairs = nearest_pairs(moments, names)

    def between(x, y):
        return np.sqrt(((x[:, None].astype(float) - y[None]) ** 2).sum(axis=(2, 3)))

    expected, own = between(fake, real), between(real, real)
    np.fill_diagonal(own, np.inf)
    order = expected.min(axis=1).argsort()[:CLIPS_SHOWN]
    assert [pair.fake for pair in pairs] == [f"f{i}" for i in order]
    assert [pair.real for pair in pairs] == [f"r{expected[i].argmin()}" for i in order]
    distances = [pair.distance for pair in pairs]
    np.testing.assert_allclose(distances, expected.min(axis=1)[order], rtol=1e-5)
    assert pairs[0][:3] == ("f4", "r6", 0.0)
    typical = [pair.typical for pair in pairs]
    np.testing.assert_allclose(typical, np.median(own.min(axis=1)), rtol=1e-5)


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    real, perfect = (moving_digits(rng, 100, 10) for _ in range(2))
    return {"real": real, "perfect": perfect, "frozen": corruptions.freeze(perfect, 4)}


def found(real, fake, paired=False):
    protocol = find_protocol("srvp:digits:dynamics")
    (calculator,) = load_calculators([protocol])
    videos = {"real": as_videos(real, "real"), "fake": as_videos(fake, "fake")}
    sides = {
        side: statistics_of_videos(of, [calculator], side, along=True, paired=paired)[protocol]
        for side, of in videos.items()
    }
    labels = labels_of_videos(videos, paired)
    both = sides["real"], sides["fake"]
    return find(*both, protocol, ("", ""), videos, calculator, labels, False, paired)


def test_a_generator_that_freezes_is_told_from_where_it_freezes(clips):
    findings = found(clips["real"], clips["frozen"])
    # The output looks at the first 5 frames, of which the generator freezes only the last one.
    assert (findings.looks_at, findings.window) == ("first", 5)
    assert findings.floor.p_value > 0.1
    assert findings.along.distances[0] == pytest.approx(findings.distance, rel=1e-4)
    np.testing.assert_array_equal(findings.along.places, np.arange(6))
    # From frame 4 on, the windows hold still frames alone.
    assert findings.along.p_values[0] > 0.1
    assert (findings.along.p_values[3:] < 0.01).all()
    assert (findings.along.distances[3:] > findings.along.edge[3:]).all()
    told = re.fullmatch(
        r"The clips begin to differ at frames (\d) to (\d), and differ to their end. The distance "
        r"itself does not tell, which chance may give with these 100 real and .*",
        findings.verdict(),
    )
    first, last = map(int, told.groups())
    assert 1 < first <= 4  # of these five frames more than one repeats the one before
    assert last == first + 4
    assert findings.summary()["along"]["window"] == 5


def test_a_perfect_generator_is_not_told_from_real(clips):
    findings = found(clips["real"], clips["perfect"])
    assert findings.floor.low < findings.distance < findings.floor.high
    assert findings.verdict().startswith("Not distinguishable from real with these 100 real")
    assert findings.where() == ""


def test_shown_clips_are_those_of_their_names(clips):
    fake = clips["perfect"].copy()
    fake[7] = clips["real"][3]
    findings = found(clips["real"], fake)
    copied = findings.pairs[0]
    assert (copied.fake, copied.real) == ("fake[7]", "real[3]")
    assert copied.distance < copied.typical / 100
    assert len(findings.random["fake"]) == CLIPS_SHOWN
    for side, of_side in {"real": clips["real"], "fake": fake}.items():
        shown = {*findings.random[side], *(getattr(pair, side) for pair in findings.pairs)}
        assert findings.clips[side].keys() == shown
        for name, clip in findings.clips[side].items():
            stored = of_side[int(name.removeprefix(f"{side}[").removesuffix("]"))]
            np.testing.assert_allclose(clip, stored / 255, atol=1e-6)


def test_predictions_are_compared_with_their_clips_everywhere(clips):
    real = clips["real"]
    fake = np.concatenate([real[:, :5], (real[:, 5:] * 0.9).astype(np.uint8)], axis=1)
    findings = found(real, fake, paired=True)
    assert (findings.floor.unit, findings.floor.units) == ("pair", 100)
    # The first window holds the frames that both share, and all others hold darker ones.
    assert findings.along.p_values[0] == 1
    assert (findings.along.p_values[1:] == 0.005).all()
    assert found(real, fake).along.p_values[1] > 0.9
    np.testing.assert_allclose(findings.curve.distances, 0, atol=1e-4)
    assert all(
        pair.fake.removeprefix("fake") == pair.real.removeprefix("real") for pair in findings.pairs
    )
