"""Converted files, and where weights are looked for."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from checkpoints import SMALL, assert_same_arrays, state_dict_of, write_checkpoint

from srvp_fd_jax import (
    FrechetDistanceCalculator,
    frechet_distance_from_statistics,
    load_network,
)
from srvp_fd_jax.files.atomic import CHECKSUM
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.base import Weights
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.networks.srvp.architecture import SRVPArchitecture
from srvp_fd_jax.networks.srvp.checkpoint import HUB_FOLDERS, from_torch
from srvp_fd_jax.networks.weights import load_weights
from srvp_fd_jax.training.recipes import RECIPES, Recipe

pytestmark = pytest.mark.usefixtures("without_type_checks")

BUNDLED = Path(weights.__file__).parents[1] / "data" / "digits.safetensors"

METADATA = {
    "format_version": "1",
    "network": "srvp",
    "config": json.dumps(SMALL),
    "dataset": "mine",
    "source_sha256": "",
}
"""Metadata of a converted file as it was before there were checksums."""


@pytest.fixture
def file(converted, tmp_path):
    """The small model as a converted file."""
    weights.save(converted, tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


@pytest.fixture
def unpublished(monkeypatch):
    """An error where what was published is asked for."""

    def fail(name):
        raise FileNotFoundError(f"the published weights of {name} were asked for")

    for name, network in NETWORKS.items():
        nowhere = dataclasses.replace(network, find=functools.partial(fail, name))
        monkeypatch.setitem(NETWORKS, name, nowhere)


# Converted files.


def test_a_file_keeps_every_bit(tmp_path, converted):
    bits = np.random.default_rng(0)
    arrays = {
        name: bits.integers(0, 2**32, array.shape, np.uint32).view(np.float32)
        for name, array in converted.arrays.items()
    }
    assert any(np.isnan(array).any() for array in arrays.values())
    path = tmp_path / "new" / "file.safetensors"
    weights.save(dataclasses.replace(converted, arrays=arrays), path)
    loaded = weights.load(path)
    assert_same_arrays(loaded.arrays, arrays)
    for field in ("name", "architecture", "config", "source_sha256"):
        assert getattr(loaded, field) == getattr(converted, field)


def write_as(dtype, path, arrays):
    """A converted file of this type."""
    tensors = {name: torch.tensor(array).to(dtype) for name, array in arrays.items()}
    safetensors.torch.save_file(tensors, path, METADATA)
    return tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path, converted, dtype):
    tensors = write_as(dtype, tmp_path / "file", converted.arrays)
    expected = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    assert_same_arrays(weights.load(tmp_path / "file").arrays, expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int32])
def test_other_types_are_refused_in_one_line(tmp_path, converted, dtype):
    write_as(dtype, tmp_path / "file", converted.arrays)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'file'}.*type") as caught:
        weights.load(tmp_path / "file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 4000


def metadata_of(path):
    with safetensors.safe_open(path, "numpy") as opened:
        return opened.metadata()


@pytest.mark.parametrize(
    ("name", "licence", "attribution"),
    [
        ("kth", "Apache-2.0", "Franceschi"),
        ("mmnist_stochastic", "Apache-2.0", "https://github.com/edouardelasalles/srvp"),
        ("digits", "Apache-2.0", "not the SRVP authors'"),
        ("mine", "see the source checkpoint", "see the source checkpoint"),
    ],
)
def test_a_file_says_what_it_is(small, tmp_path, converted, name, licence, attribution):
    path = tmp_path / "file.safetensors"
    weights.save(dataclasses.replace(converted, name=name), path)
    metadata = metadata_of(path)
    assert metadata.pop("format_version") == "1"
    assert metadata.pop("network") == "srvp"
    assert json.loads(metadata.pop("config")) == SMALL
    assert metadata.pop("dataset") == name
    source = (small / "model.pt").read_bytes()
    assert metadata.pop("source_sha256") == hashlib.sha256(source).hexdigest()
    assert metadata.pop("licence") == licence
    assert attribution in metadata.pop("attribution")
    assert len(metadata.pop("content_sha256")) == 64
    assert not metadata


def test_the_hash_of_weights_is_of_the_arrays_that_were_loaded(file, converted):
    assert weights.load(file).weights_sha256 == converted.weights_sha256
    name = "content.output.bias"
    changed = converted.arrays | {name: converted.arrays[name] + 1}
    metadata = metadata_of(file)
    safetensors.numpy.save_file(changed, file, metadata)
    with pytest.raises(ValueError, match=f"^{file}: .* is damaged or was altered"):
        weights.load(file)
    # As a file of before, which has no checksum.
    del metadata["content_sha256"]
    safetensors.numpy.save_file(changed, file, metadata)
    loaded = weights.load(file)
    assert loaded.source_sha256 == converted.source_sha256
    assert loaded.weights_sha256 != converted.weights_sha256
    assert loaded.weights_sha256 == dataclasses.replace(converted, arrays=changed).weights_sha256


def test_altered_weights_make_statistics_that_are_not_compared(tmp_path):
    bundled = load_weights("digits")
    name = "content.output.bias"
    altered = dataclasses.replace(bundled, arrays=bundled.arrays | {name: -bundled.arrays[name]})
    weights.save(altered, tmp_path / "altered.safetensors")
    intact = FrechetDistanceCalculator("digits")
    others = FrechetDistanceCalculator("digits", weights=tmp_path / "altered.safetensors")
    assert intact.weights_sha256 == bundled.weights_sha256
    with pytest.raises(ValueError, match="weights_sha256 is"):
        frechet_distance_from_statistics(intact.empty()["frame"], others.empty()["frame"])


def test_weights_that_do_not_fit_their_configuration_are_refused(converted):
    name = "encoder.conv.0.conv.kernel"
    with pytest.raises(ValueError, match=rf"{name} has shape \(4,\), expected \(4, 4, 1, 4\)"):
        dataclasses.replace(converted, arrays=converted.arrays | {name: np.zeros(4, np.float32)})


def rewrite(path, **metadata):
    """Changes the metadata of a converted file; None takes an entry away."""
    changed = metadata_of(path) | metadata
    changed["content_sha256"] = None  # as a file of before
    kept = {key: value for key, value in changed.items() if value is not None}
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, kept)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format_version": "2"}, "format version 2, this release reads 1"),
        ({"format_version": "\x1b[31m\n" + "a" * 5000}, r"format version \\x1b\[31m\\naaa"),
        ({"format_version": None}, "not a converted network"),
        ({"network": "other"}, "not a converted network"),
        ({"network": "i3d"}, "config: got .*, expected {'archi': 'i3d'}"),
        ({"config": "{"}, "Expecting property name"),
        ({"config": "[]"}, "got a list, expected an object"),
        ({"config": "{}"}, "no field 'archi'"),
        ({"config": json.dumps(SMALL | {"nf": 8})}, "encoder.conv.0.conv.kernel has shape"),
        ({"config": "[" * 10**5}, "nested too deeply"),
        ({"config": None}, "lacks config"),
        ({"dataset": None, "source_sha256": None}, "lacks dataset, source_sha256"),
    ],
)
def test_a_file_with_other_metadata_is_refused(file, metadata, message):
    rewrite(file, **metadata)
    with pytest.raises(ValueError, match=f"^{file}: .*{message}") as caught:
        weights.load(file)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kept", [0, 7, 200, 0.5, -1])
def test_a_truncated_file_is_refused(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(ValueError, match=f"^{file}: "):
        weights.load(file)


def test_foreign_arrays_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(ValueError, match=f"^{path}: .*or the folder of a checkpoint"):
        weights.load(path)


@pytest.mark.parametrize("name", ["model.pt", "config.json"])
def test_foreign_files_are_refused(small, name):
    with pytest.raises(ValueError, match=f"^{small / name}: .*or the folder of a checkpoint"):
        weights.load(small / name)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")):
        load_weights("kth", tmp_path / "none")


# The bundled model.


def test_the_bundled_model_says_where_it_is_from():
    metadata = metadata_of(BUNDLED)
    config = json.loads(metadata.pop("config"))
    assert config["nf"] == 16
    # Trained by the package's own trainer and recipe, see examples/train_digits.py.
    assert Recipe.from_described(config["training"]["recipe"]) == RECIPES["digits"]
    assert len(metadata.pop(CHECKSUM)) == 64
    assert metadata == {
        "format_version": "1",
        "network": "srvp",
        "dataset": "digits",
        "source_sha256": "a667aa39606c2ad2aa67e1b47bdb7f141570f27077b11ac88572044b282a939f",
        "licence": "Apache-2.0",
        "attribution": "srvp-fd-jax; trained on the UCI handwritten digits of E. Alpaydin and "
        "C. Kaynak (CC BY 4.0); not the SRVP authors' weights",
    }


@pytest.mark.usefixtures("cache", "unpublished")
def test_the_bundled_model_loads_inside_of_jit_and_outlives_it():
    frames = np.random.default_rng(0).random((4, 64, 64, 1), np.float32)
    encode = jax.jit(lambda network, x: network.module().encoder(x))
    outside = encode(load_network("digits"), frames)
    assert np.ptp(outside, axis=0).max() > 0.01
    loaded = []

    @jax.jit
    def load_and_encode(x):
        loaded.append(load_network("digits"))
        return loaded[0].module().encoder(x)

    np.testing.assert_allclose(load_and_encode(frames), outside, atol=1e-5)
    np.testing.assert_array_equal(encode(loaded[0], frames), outside)


# Where weights are looked for.


def save_as(path, name, seed):
    """A converted file unlike those of other seeds."""
    architecture = SRVPArchitecture.from_config(SMALL)
    arrays = from_torch(state_dict_of(SMALL, seed), architecture)
    saved = Weights(name, architecture, arrays, SMALL, f"{seed:064x}")
    weights.save(saved, path)
    return saved


@pytest.mark.usefixtures("unpublished")
@pytest.mark.parametrize("name", ["kth", "digits"])
@pytest.mark.parametrize("kind", [Path, str])
def test_a_file_that_is_given_comes_first(tmp_path, cache, name, kind):
    save_as(cache / f"{name}.safetensors", name, seed=1)
    given = save_as(tmp_path / "given.safetensors", name, seed=2)
    found = load_weights(name, kind(tmp_path / "given.safetensors"))
    assert_same_arrays(found.arrays, given.arrays)


@pytest.mark.usefixtures("unpublished")
@pytest.mark.parametrize("name", ["", "model.pt"])
def test_a_folder_that_is_given_comes_first(tmp_path, cache, name):
    save_as(cache / "kth.safetensors", "kth", seed=1)
    folder = write_checkpoint(tmp_path / "kth", SMALL, seed=2)
    expected = from_torch(state_dict_of(SMALL, 2), SRVPArchitecture.from_config(SMALL))
    assert_same_arrays(load_weights("kth", folder / name).arrays, expected)


@pytest.mark.usefixtures("unpublished")
def test_the_bundled_model_comes_before_the_cache(cache):
    cached = save_as(cache / "digits.safetensors", "digits", seed=1)
    assert load_weights("digits").source_sha256 != cached.source_sha256


@pytest.mark.usefixtures("unpublished")
def test_the_cache_comes_before_what_is_published(cache):
    cached = save_as(cache / "kth.safetensors", "kth", seed=1)
    assert_same_arrays(load_weights("kth").arrays, cached.arrays)


def test_what_is_published_comes_last_and_is_converted_once(small, cache, monkeypatch):
    asked = []

    def find():
        asked.append("kth")
        return small

    monkeypatch.setitem(NETWORKS, "kth", dataclasses.replace(NETWORKS["kth"], find=find))
    first, second = load_weights("kth"), load_weights("kth")
    assert asked == ["kth"]
    assert first.name == second.name == "kth"
    assert_same_arrays(first.arrays, second.arrays)
    assert list(cache.iterdir()) == [cache / "kth.safetensors"]


@pytest.mark.usefixtures("unpublished", "cache")
@pytest.mark.parametrize("name", [*HUB_FOLDERS, "i3d"])
def test_digits_stand_in_for_no_other_model(name):
    with pytest.raises(FileNotFoundError, match=f"published weights of {name} were asked for"):
        load_weights(name)


def test_the_cache_is_where_xdg_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert weights.cached_path("kth") == Path("/elsewhere/srvp-fd-jax/kth.safetensors")
    at_home = Path.home() / ".cache" / "srvp-fd-jax" / "kth.safetensors"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert weights.cached_path("kth") == at_home
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cached_path("kth") == at_home


@pytest.mark.usefixtures("cache", "unpublished")
@pytest.mark.parametrize("name", ["mnist", "", "KTH", "../kth", "i2d"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"^name: got") as caught:
        load_network(name)
    assert all(known in str(caught.value) for known in NETWORKS)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_weights_of_another_known_model_are_refused(tmp_path, kind):
    if kind == "folder":
        path = write_checkpoint(tmp_path / "kth", SMALL)
    else:
        path = tmp_path / "file.safetensors"
        save_as(path, "kth", seed=0)
    with pytest.raises(ValueError, match=f"^weights: {path} holds the model 'kth'.*'bair'"):
        load_network("bair", path)


def test_the_bundled_file_is_refused_as_another_model():
    with pytest.raises(ValueError, match=r"holds the model 'digits'.*'mmnist_stochastic'"):
        load_weights("mmnist_stochastic", BUNDLED)


def test_own_weights_must_be_given():
    with pytest.raises(
        ValueError, match=r"'own' needs the file of weights that `srvp-fd-jax train`"
    ):
        load_network("own")


def test_own_weights_go_under_any_name_and_others_not_under_theirs(tmp_path):
    path = tmp_path / "file.safetensors"
    save_as(path, "own", seed=0)
    assert load_weights("kth", path).name == load_weights("own", path).name == "own"
    with pytest.raises(ValueError, match=r"holds the model 'digits', but 'own' was asked for"):
        load_weights("own", BUNDLED)


@pytest.mark.parametrize("name", ["kth", "digits"])
def test_weights_of_a_model_of_ones_own_go_under_any_name(small, name):
    assert load_network(name, small).architecture == SRVPArchitecture.from_config(SMALL)


def test_a_converted_file_is_known_by_its_content_too(converted, tmp_path):
    weights.save(converted, tmp_path / "without_suffix")
    found = load_weights("kth", tmp_path / "without_suffix")
    assert found.weights_sha256 == converted.weights_sha256


def test_another_file_is_told_apart_from_a_folder(tmp_path):
    (tmp_path / "text.bin").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="neither a converted file nor the folder of a checkpoint"):
        load_weights("kth", tmp_path / "text.bin")
    with pytest.raises(IsADirectoryError, match="a folder, expected a file"):
        load_weights("i3d", tmp_path)
