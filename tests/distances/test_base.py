"""Marks, comparability and counts of statistics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from srvp_fd_jax import DISTANCES, FeatureStatistics, frechet_distance_from_statistics
from srvp_fd_jax.distances.base import check_counts
from srvp_fd_jax.distances.provenance import check_comparable, mark

D = 5
FEATURES, OTHER, VARIANCES = np.random.default_rng(0).random((3, 60, D), np.float32)


def statistics(features=FEATURES, variances=None, **source: object) -> FeatureStatistics:
    made = FeatureStatistics.from_features(features, variances=variances)
    return mark(made, **source)


# -- marks


def test_marks_are_strings_by_name_of_which_the_last_count():
    marked = mark(statistics(network="kth", ddof=1), ddof=0, frames=None)
    assert marked.source == (("ddof", "0"), ("network", "kth"))


def test_merging_keeps_what_is_known_of_either():
    unknown = FeatureStatistics.empty(D)
    kth, bair = (mark(unknown, network=name) for name in ("kth", "bair"))
    merged = unknown.merge(mark(unknown, precision="float32")).merge(kth)
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
    [FeatureStatistics.merge, frechet_distance_from_statistics, check_comparable],
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


# -- how many samples there are


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_samples_are_told(n: int):
    message = f"s2: got {n} samples, a distance needs at least 2"
    with pytest.raises(ValueError, match=message):
        frechet_distance_from_statistics(statistics(), statistics(OTHER[:n]))
    with pytest.raises(ValueError, match=message):
        check_counts(DISTANCES["frechet"], {"s1": 60, "s2": np.int64(n)}, D)


def test_fewer_samples_than_dimensions_are_warned_of_wherever_a_distance_is_asked_for():
    with pytest.warns(UserWarning, match="s2: 5 samples for 5 feature dimensions"):
        frechet_distance_from_statistics(statistics(), statistics(OTHER[:5]))
