import dataclasses
import pickle
import re

import jax
import pytest

from srvp_fd_jax.protocols import OVERRIDES, PROTOCOLS, Protocol, Sampling, find_protocol

FIRST, RANDOM = Sampling("first"), Sampling("random")


def fields(protocol: Protocol) -> tuple:
    return (
        *(protocol.network, protocol.frames, protocol.clips, protocol.real, protocol.fake),
        *(protocol.drop_below, protocol.resize, protocol.ddof),
    )


def srvp(dataset: str, frames: int | None, real: Sampling, resize: str) -> tuple:
    return (dataset, frames, None, real, FIRST, "span", resize, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tensorflow", ("i3d", None, None, FIRST, FIRST, "span", "bilinear_tf1", 1)),
        ("fvd2048_16f", ("i3d", 16, 2048, RANDOM, FIRST, "steps", "bilinear", 0)),
        ("fvd2048_128f", ("i3d", 128, 2048, RANDOM, FIRST, "steps", "bilinear", 0)),
        (
            "fvd2048_128f_subsample8f",
            ("i3d", 16, 2048, Sampling("random", 8), Sampling("first", 8), "steps", "bilinear", 0),
        ),
        ("cd_fvd", ("i3d", 16, None, RANDOM, RANDOM, "span", "cd_fvd", 0)),
        ("common_metrics", ("i3d", None, None, FIRST, FIRST, "span", "shorter_side", 1)),
        ("srvp:mmnist_stochastic:frame", srvp("mmnist_stochastic", 100, FIRST, "none")),
        ("srvp:mmnist_deterministic:frame", srvp("mmnist_deterministic", 25, FIRST, "none")),
        ("srvp:bair:frame", srvp("bair", 30, FIRST, "none")),
        ("srvp:kth:frame", srvp("kth", 40, RANDOM, "srvp_kth")),
        ("srvp:human:frame", srvp("human", 53, Sampling("random", 8), "srvp_human")),
        ("srvp:digits:frame", srvp("digits", None, FIRST, "none")),
    ],
)
def test_presets(name: str, expected: tuple):
    assert fields(find_protocol(name)) == expected


@pytest.mark.parametrize("name", PROTOCOLS)
def test_all_presets_are_found_by_name(name: str):
    protocol = find_protocol(name)
    assert protocol == PROTOCOLS[name]
    assert protocol.name == name
    if name.startswith("srvp:"):
        _, dataset, output = name.split(":")
        assert (protocol.network, protocol.output) == (dataset, output)
        others = [n for n in PROTOCOLS if n.startswith(f"srvp:{dataset}:")]
        assert len(others) == 3
    else:
        assert (protocol.network, protocol.output) == ("i3d", "logits")
    assert protocol.distance == "frechet"
    assert pickle.loads(pickle.dumps(protocol)) == protocol
    assert jax.tree.leaves(protocol) == []


@pytest.mark.parametrize(
    ("name", "real", "fake"),
    [
        ("tensorflow", 1, 1),
        ("fvd2048_16f", 16, 16),
        ("fvd2048_128f", 128, 128),
        ("fvd2048_128f_subsample8f", 128, 128),
        ("cd_fvd", 16, 16),
        ("srvp:kth:frame", 40, 40),
        ("srvp:human:frame", 417, 53),
        ("tensorflow+frames=4+step=3", 10, 10),
        ("fvd2048_16f+frames=4+step=3", 12, 12),
        ("fvd2048_16f+skip=5", 21, 21),
        ("srvp:human:frame+skip=2", 419, 55),
        ("tensorflow+skip=3", 4, 4),
    ],
)
def test_shortest(name: str, real: int, fake: int):
    protocol = find_protocol(name)
    assert (protocol.shortest("real"), protocol.shortest("fake")) == (real, fake)


def test_overrides_are_of_both_sides_and_in_the_name():
    protocol = find_protocol("fvd2048_16f", clips=256, frames=8, step=2, resize="cd_fvd")
    assert protocol.name == "fvd2048_16f+clips=256+frames=8+resize=cd_fvd+step=2"
    assert (protocol.clips, protocol.frames, protocol.resize) == (256, 8, "cd_fvd")
    assert (protocol.real, protocol.fake) == (Sampling("random", 2), Sampling("first", 2))
    started = find_protocol("fvd2048_16f", start="first")
    assert started.name == "fvd2048_16f+start=first"
    assert started.real == started.fake == FIRST


def test_names_with_overrides_are_found_in_any_order():
    protocol = find_protocol("fvd2048_16f", clips=256, start="first")
    assert find_protocol(protocol.name) == protocol
    assert find_protocol("fvd2048_16f+start=first+clips=256") == protocol
    assert find_protocol("fvd2048_16f+start=first", clips=256) == protocol
    assert find_protocol("fvd2048_16f+start=random+clips=3", clips=256, start="first") == protocol


def test_what_the_preset_has_already_is_not_in_the_name():
    preset = find_protocol("fvd2048_16f")
    assert find_protocol("fvd2048_16f", clips=2048, frames=16, step=1, resize="bilinear") == preset
    assert find_protocol("fvd2048_16f", **dict.fromkeys(OVERRIDES)) == preset
    # "start" is when it is of one side only.
    assert find_protocol("fvd2048_16f", start="random").name == "fvd2048_16f+start=random"


def test_a_skip_is_part_of_the_name_and_of_the_marks():
    protocol = find_protocol("srvp:digits:dynamics", skip=5)
    assert protocol == find_protocol("srvp:digits:dynamics+skip=5")
    assert protocol.name == protocol.marks()["protocol"] == "srvp:digits:dynamics+skip=5"
    assert protocol.described()["skipped first"] == "5"
    assert find_protocol("srvp:digits:dynamics", skip=0) == PROTOCOLS["srvp:digits:dynamics"]
    assert {preset.skip for preset in PROTOCOLS.values()} == {0}
    with pytest.raises(ValueError, match="skip: got -1"):
        dataclasses.replace(protocol, skip=-1)


def test_the_seed_is_not_in_the_name():
    protocol = find_protocol("cd_fvd", seed=7)
    assert protocol == dataclasses.replace(PROTOCOLS["cd_fvd"], seed=7)
    assert find_protocol("cd_fvd+seed=7") == protocol
    assert find_protocol("cd_fvd", seed=0) == PROTOCOLS["cd_fvd"]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("fvd", {}, "protocol: got 'fvd', allowed are tensorflow, fvd2048_16f"),
        ("", {}, "protocol: got ''"),
        ("FVD2048_16f", {}, "protocol: got 'FVD2048_16f'"),
        ("cd_fvd+fps=8", {}, "got '+fps', allowed are +clips, +frames, +step, +skip"),
        ("cd_fvd", {"ddof": 1}, "got '+ddof', allowed are +clips"),
        ("cd_fvd+", {}, "got '+', allowed are"),
        ("cd_fvd+clips", {}, "clips: got '', expected a whole number of at least 1"),
        ("cd_fvd+clips=many", {}, "clips: got 'many', expected a whole number of at least 1"),
        ("cd_fvd+clips=2.5", {}, "clips: got '2.5'"),
        ("cd_fvd", {"clips": 0}, "clips: got 0, expected a whole number of at least 1"),
        ("cd_fvd", {"frames": -16}, "frames: got -16"),
        ("cd_fvd", {"step": 0}, "step: got 0"),
        ("cd_fvd", {"skip": -1}, "skip: got -1, expected a whole number of at least 0"),
        ("cd_fvd", {"seed": -1}, "seed: got -1, expected a whole number of at least 0"),
        ("cd_fvd", {"start": "middle"}, "start: got 'middle', allowed are first, random"),
        ("cd_fvd", {"start": 0}, "start: got 0, allowed are first, random"),
        ("cd_fvd", {"resize": "bicubic"}, "resize: got 'bicubic', allowed are none, bilinear_tf1"),
        ("cd_fvd", {"distance": "eigh"}, "distance: got 'eigh', allowed are frechet, frechet_eigh"),
    ],
)
def test_errors(name: str, overrides: dict, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_protocol(name, **overrides)


def test_parts_of_numbers_are_refused(without_type_checks: None):
    with pytest.raises(ValueError, match=r"clips: got 2.5, expected a whole number"):
        find_protocol("cd_fvd", clips=2.5)


def test_a_distance_is_in_the_name_but_not_in_the_marks_of_statistics():
    protocol = find_protocol("cd_fvd", distance="frechet_eigh", clips=9)
    assert protocol.name == "cd_fvd+clips=9+distance=frechet_eigh"
    assert protocol.distance == "frechet_eigh"
    assert find_protocol(protocol.name) == protocol
    assert protocol.marks() == find_protocol("cd_fvd", clips=9).marks()
    assert protocol.marks()["protocol"] == "cd_fvd+clips=9"


def test_whole_videos_mark_statistics_with_their_length():
    mine = Protocol(name="mine", resize="none", ddof=1)
    assert mine.marks()["frames"] is None
    assert mine.marks(16) == {"ddof": 1, "frames": 16, "protocol": "mine", "resize": "none"}


@pytest.mark.parametrize(
    ("name", "size", "values"),
    [("cd_fvd", "cd_fvd, 224×224", "-1 to 1"), ("srvp:bair:frame", "none, 64×64", "0 to 1")],
)
def test_what_a_network_takes_is_described(name: str, size: str, values: str):
    described = find_protocol(name).described()
    assert (described["resize"], described["values"]) == (size, values)


def test_a_near_name_is_suggested():
    with pytest.raises(ValueError, match=r"got 'fvd2048', allowed are .*; did you mean 'fvd2048_1"):
        find_protocol("fvd2048")


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_rule_for_resizing_is_refused():
    with pytest.raises(ValueError, match="resize: got 'bicubic', allowed are none, bilinear_tf1"):
        dataclasses.replace(PROTOCOLS["tensorflow"], resize="bicubic")
