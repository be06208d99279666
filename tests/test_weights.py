"""Finding weights, mapping them from PyTorch, saving and loading them."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from checkpoints import PUBLISHED, SMALL, at_most, random_model, write_checkpoint
from hub import COMMIT, run_client, serve

from srvp_fd_jax import (
    FrechetDistanceCalculator,
    frechet_distance_from_statistics,
    load_network,
    weights,
)
from srvp_fd_jax.networks.srvp import SRVPConfig
from srvp_fd_jax.weights import (
    DATASETS,
    HUB_FOLDERS,
    HUB_REPOSITORY,
    Weights,
    from_torch,
    load_weights,
)

pytestmark = pytest.mark.usefixtures("without_type_checks")

SMALL_VGG = SMALL | {"archi": "vgg"}

METADATA = {
    "format_version": "1",
    "network": "srvp",
    "config": json.dumps(SMALL),
    "dataset": "mine",
    "source_sha256": "",
}
"""Metadata of a converted file as it was before there were checksums."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small", SMALL)


@pytest.fixture(scope="module")
def converted(small):
    return Weights.from_checkpoint(small)


@pytest.fixture
def folder(small, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copytree(small, tmp_path / "small"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "srvp-fd-jax"


@pytest.fixture
def no_hub(monkeypatch):
    def fail(dataset):
        raise FileNotFoundError(f"the hub was asked for {dataset}")

    monkeypatch.setattr(weights, "download", fail)


def state_dict_of(config, seed=0):
    return {
        name: tensor.numpy() for name, tensor in random_model(config, seed).state_dict().items()
    }


def assert_same_arrays(arrays, others):
    assert arrays.keys() == others.keys()
    for name in arrays:
        assert arrays[name].dtype == others[name].dtype
        assert arrays[name].shape == others[name].shape
        assert arrays[name].tobytes() == others[name].tobytes()


# From PyTorch to Flax.


def varied_clips(t, channels):
    """Noise, noise on a gradient, and a shape that grows, with a white frame at the end."""
    clips = np.random.default_rng(0).random((3, t, 64, 64, channels), np.float32)
    clips[1] *= np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    clips[2] = 0.2
    for frame in range(t):
        clips[2, frame, 10 + 5 * frame : 40, 8 : 20 + 9 * frame] = 0.9
    clips[2, -1] = 1
    return clips


@pytest.mark.parametrize("name", ["mmnist_stochastic", "bair", "kth", "human"])
def test_the_network_is_that_of_pytorch(name):
    config, model = PUBLISHED[name], random_model(PUBLISHED[name])
    state_dict = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    network = (
        Weights(from_torch(state_dict, SRVPConfig.from_dict(config)), config, name, "")
        .frozen()
        .module()
    )
    clips = varied_clips(config["nt_inf"], config["nc"])

    encode = jax.jit(lambda network, frames: network.encoder(frames))
    encodings = encode(network, clips.reshape(-1, *clips.shape[2:])).reshape(*clips.shape[:2], -1)
    ours = encodings, network.content(encodings), network.initial_state(encodings)

    with torch.no_grad():
        hx, _ = model.encode(torch.from_numpy(clips).permute(1, 0, 4, 2, 3))
        theirs = hx.transpose(0, 1), model.infer_w(hx), model.infer_y(hx)[1]
    for our, their in zip(ours, theirs, strict=True):
        assert their.std(0).mean() > 0.01
        np.testing.assert_allclose(our, their.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("config", [SMALL, SMALL_VGG])
def test_every_parameter_comes_from_one_of_pytorchs(config):
    state_dict = state_dict_of(config)
    arrays = from_torch(state_dict, SRVPConfig.from_dict(config))
    used = [
        array
        for key, array in state_dict.items()
        if key.split(".")[0] in ("encoder", "w_proj", "w_inf", "q_y") and array.ndim
    ]
    assert sorted(array.sum() for array in used) == pytest.approx(
        sorted(array.sum() for array in arrays.values()), rel=1e-4, abs=1e-5
    )
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays.values())


def test_parts_that_are_not_used_may_be_absent(converted):
    unused = ("decoder.", "dynamics.", "p_z.", "inf_z.", "q_z.")
    state_dict = {k: v for k, v in state_dict_of(SMALL).items() if not k.startswith(unused)}
    assert len(state_dict) < len(state_dict_of(SMALL))
    arrays = from_torch(state_dict, SRVPConfig.from_dict(SMALL))
    assert_same_arrays(arrays, converted.arrays)


def test_the_counters_of_batch_normalisation_may_be_absent(converted):
    state_dict = {k: v for k, v in state_dict_of(SMALL).items() if "num_batches" not in k}
    assert_same_arrays(from_torch(state_dict, SRVPConfig.from_dict(SMALL)), converted.arrays)


def write_as(dtype, folder, converted):
    """A checkpoint and a converted file, both of this type."""
    state = random_model(SMALL).state_dict()
    torch.save({k: v.to(dtype) for k, v in state.items()}, folder / "model.pt")
    safetensors.torch.save_file(
        {k: torch.tensor(v).to(dtype) for k, v in converted.arrays.items()},
        folder / "file.safetensors",
        METADATA,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(folder, converted, dtype):
    write_as(dtype, folder, converted)
    for loaded in (Weights.from_checkpoint(folder), Weights.load(folder / "file.safetensors")):
        for name, array in loaded.arrays.items():
            assert array.dtype == np.float32
            expected = torch.tensor(converted.arrays[name]).to(dtype).float().numpy()
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int32])
def test_other_types_are_refused_in_one_line(folder, converted, dtype):
    write_as(dtype, folder, converted)
    for path in (folder, folder / "file.safetensors"):
        with pytest.raises(ValueError, match=f"^{path}.*type") as caught:
            load_weights("kth", path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 4000


@pytest.mark.parametrize(
    ("config", "norm"), [(SMALL, "encoder.conv.2.1"), (SMALL_VGG, "encoder.conv.2.1.1")]
)
def test_one_error_names_every_key_that_does_not_fit(config, norm):
    state_dict = state_dict_of(config)
    del state_dict["w_inf.0.bias"], state_dict[f"{norm}.running_var"]
    state_dict["encoder.conv.9.0.weight"] = state_dict["q_y.module.9.1.bias"] = np.zeros(3)
    state_dict["q_y.module.0.0.weight"] = state_dict["q_y.module.0.0.weight"].T
    state_dict[f"{norm}.weight"] = state_dict[f"{norm}.weight"].astype(np.int64)
    with pytest.raises(ValueError, match="missing") as caught:
        from_torch(state_dict, SRVPConfig.from_dict(config))
    assert sorted(str(caught.value).split("; ")) == sorted(
        [
            "missing w_inf.0.bias",
            f"missing {norm}.running_var",
            "unexpected encoder.conv.9.0.weight",
            "unexpected q_y.module.9.1.bias",
            "q_y.module.0.0.weight has shape (32, 8), expected (8, 32)",
            f"{norm}.weight has dtype int64, allowed are float16, bfloat16, float32, float64",
        ]
    )


# Checkpoint folders.


def test_a_checkpoint_is_read_whole(small, converted):
    assert converted.config == SMALL
    assert converted.dataset == "small"
    model = (small / "model.pt").read_bytes()
    assert converted.source_sha256 == hashlib.sha256(model).hexdigest()
    expected = from_torch(state_dict_of(SMALL), SRVPConfig.from_dict(SMALL))
    assert_same_arrays(converted.arrays, expected)


def test_the_prefix_of_data_parallel_is_taken_off(folder, converted):
    torch.save(
        {f"module.{key}": tensor for key, tensor in random_model(SMALL).state_dict().items()},
        folder / "model.pt",
    )
    assert_same_arrays(Weights.from_checkpoint(folder).arrays, converted.arrays)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("mmnist/stochastic", "mmnist_stochastic"),
        ("mmnist/deterministic", "mmnist_deterministic"),
        ("mmnist_stochastic", "mmnist_stochastic"),
        ("snapshots/0123/kth", "kth"),
        ("stochastic", "stochastic"),
        ("my_kth", "my_kth"),
    ],
)
def test_a_checkpoint_is_named_after_its_folder(small, tmp_path, monkeypatch, place, name):
    shutil.copytree(small, tmp_path / place)
    monkeypatch.chdir(tmp_path / place)
    assert Weights.from_checkpoint(".").dataset == name


@pytest.mark.parametrize("name", ["config.json", "model.pt"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{folder / name}: no such file"):
        Weights.from_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.pt"])
def test_a_folder_or_a_pipe_in_place_of_a_file_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(IsADirectoryError, match=f"a folder, expected a file: '{folder / name}'"):
        Weights.from_checkpoint(folder)
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    with pytest.raises(OSError, match=f"a pipe or a device, expected a file: '{folder / name}'"):
        Weights.from_checkpoint(folder)


def test_a_small_file_of_large_tensors_is_refused_before_they_are_written_out(folder):
    # Of the shapes that its config.json asks for, which would take 8 GB.
    config = SMALL | {"nhx": 65536, "nf": 256}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = weights._shapes(SRVPConfig.from_dict(config))
    keys = {name: weights._torch_key(name, SRVPConfig.from_dict(config)) for name in shapes}
    state = {
        keys[name]: torch.ones(()).expand(weights._torch_shape(shape))
        for name, shape in shapes.items()
    }
    torch.save(state, folder / "model.pt")
    told = r"its tensors take \d{10} bytes when written out, the file has \d+:"
    with at_most(8 << 20), pytest.raises(ValueError, match=told):
        Weights.from_checkpoint(folder)


def test_one_line_of_many_problems_ends(folder):
    state = {f"encoder.{i}\n\x1b[31m": torch.ones(1) for i in range(1000)}
    torch.save(state, folder / "model.pt")
    with pytest.raises(
        ValueError, match=r"unexpected encoder.0\\n\\x1b\[31m; .*; and 980 more; missing"
    ) as caught:
        Weights.from_checkpoint(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(SRVPConfig)])
def test_a_missing_field_of_the_configuration_is_named(folder, field):
    config = {key: value for key, value in SMALL.items() if key != field}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"^{folder}/config.json: .*no field '{field}'"):
        Weights.from_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(SMALL | {"nf": "4"}), "nf is '4', expected a positive integer"),
        (json.dumps(SMALL | {"nf": 4.0}), "nf is 4.0, expected a positive integer"),
        (json.dumps(SMALL | {"nt_inf": True}), "nt_inf is True, expected a positive integer"),
        (json.dumps(SMALL | {"nhx": 0}), "nhx is 0, expected a positive integer"),
        (json.dumps(SMALL | {"archi": "resnet"}), "archi is 'resnet', allowed are"),
        (json.dumps(SMALL | {"archi": ["vgg"]}), r"archi is \['vgg'\], allowed are"),
        (json.dumps(SMALL | {"nx": 128}), "nx is 128, both encoders need 64"),
        (json.dumps(SMALL | {"nlayers_inf": 10**7}), "nlayers_inf is 10000000, expected at most"),
        (json.dumps(SMALL | {"nf": 10**4000}), r"nf is 10{79}, expected at most 65536"),
        ('{"nx": ' + "9" * 5000 + "}", "Exceeds the limit"),
        (json.dumps({"a\nb" * 10_000: 1}), "no field 'archi', got .{400}$"),
        ("[" * 10**5, "nested too deeply"),
        ('{"a":' * 10**5, "nested too deeply"),
        (" " * 2**20 + "{}", "longer than the 1048576 bytes allowed"),
        (json.dumps([SMALL]), "got a list, expected an object"),
        (json.dumps("archi"), "got a str, expected an object"),
        ("null", "got a NoneType, expected an object"),
        ("nf: 64", "Expecting value"),
        ("", "Expecting value"),
        ("\0\udcff", "."),
    ],
)
def test_a_configuration_that_is_none_is_refused(folder, text, message):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"^{folder}/config.json: .*{message}") as caught:
        Weights.from_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archi": "vgg"}, "missing encoder.conv.0.0.0.weight"),
        ({"nf": 8}, r"encoder.conv.0.0.weight has shape \(4, 1, 4, 4\), expected \(8, 1, 4, 4\)"),
        ({"nlayers_inf": 4}, "missing q_y.module.3.1.weight"),
        ({"nlayers_inf": 2}, "unexpected q_y.module.2.1.weight"),
        ({"nt_inf": 3}, r"q_y.module.0.0.weight has shape \(8, 32\), expected \(8, 48\)"),
    ],
)
def test_a_configuration_of_another_network_is_refused(folder, change, message):
    (folder / "config.json").write_text(json.dumps(SMALL | change))
    fit = f"^{folder}/model.pt does not fit {folder}/config.json: .*{message}"
    with pytest.raises(ValueError, match=fit):
        Weights.from_checkpoint(folder)


# Converted files.


def test_a_file_keeps_every_bit(tmp_path, converted):
    bits = np.random.default_rng(0)
    arrays = {
        name: bits.integers(0, 2**32, array.shape, np.uint32).view(np.float32)
        for name, array in converted.arrays.items()
    }
    assert any(np.isnan(array).any() for array in arrays.values())
    saved = dataclasses.replace(converted, arrays=arrays)
    saved.save(tmp_path / "new" / "file.safetensors")
    loaded = Weights.load(tmp_path / "new" / "file.safetensors")
    assert_same_arrays(loaded.arrays, arrays)
    for field in ("config", "dataset", "source_sha256"):
        assert getattr(loaded, field) == getattr(converted, field)


@pytest.mark.parametrize(
    ("dataset", "licence", "attribution"),
    [
        ("kth", "Apache-2.0", "Franceschi"),
        ("mmnist_stochastic", "Apache-2.0", "https://github.com/edouardelasalles/srvp"),
        ("digits", "Apache-2.0", "not the SRVP authors'"),
        ("mine", "see the source checkpoint", "see the source checkpoint"),
    ],
)
def test_a_file_says_what_it_is(small, tmp_path, converted, dataset, licence, attribution):
    dataclasses.replace(converted, dataset=dataset).save(tmp_path / "file.safetensors")
    with safetensors.safe_open(tmp_path / "file.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert metadata.pop("format_version") == "1"
    assert metadata.pop("network") == "srvp"
    assert json.loads(metadata.pop("config")) == SMALL
    assert metadata.pop("dataset") == dataset
    source = (small / "model.pt").read_bytes()
    assert metadata.pop("source_sha256") == hashlib.sha256(source).hexdigest()
    assert metadata.pop("licence") == licence
    assert attribution in metadata.pop("attribution")
    assert len(metadata.pop("content_sha256")) == 64
    assert not metadata


def test_the_hash_of_weights_is_of_the_arrays_that_were_loaded(tmp_path, converted):
    path = tmp_path / "file.safetensors"
    converted.save(path)
    assert Weights.load(path).weights_sha256 == converted.weights_sha256
    name = "content.output.bias"
    changed = converted.arrays | {name: converted.arrays[name] + 1}
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(changed, path, metadata)
    with pytest.raises(ValueError, match=f"^{path}: .* is damaged or was altered"):
        Weights.load(path)
    # As a file of before, which has no checksum.
    del metadata["content_sha256"]
    safetensors.numpy.save_file(changed, path, metadata)
    loaded = Weights.load(path)
    assert loaded.source_sha256 == converted.source_sha256
    assert loaded.weights_sha256 != converted.weights_sha256
    assert loaded.weights_sha256 == dataclasses.replace(converted, arrays=changed).weights_sha256


def test_altered_weights_make_statistics_that_are_not_compared(tmp_path):
    bundled = load_weights("digits")
    name = "content.output.bias"
    altered = dataclasses.replace(bundled, arrays=bundled.arrays | {name: -bundled.arrays[name]})
    altered.save(tmp_path / "altered.safetensors")
    intact = FrechetDistanceCalculator("digits")
    others = FrechetDistanceCalculator("digits", weights=tmp_path / "altered.safetensors")
    assert intact.weights_sha256 == bundled.weights_sha256
    with pytest.raises(ValueError, match="weights_sha256 is"):
        frechet_distance_from_statistics(intact.empty(), others.empty())


def test_weights_that_do_not_fit_their_configuration_are_refused(converted):
    name = "encoder.conv.0.conv.kernel"
    with pytest.raises(ValueError, match=rf"{name} has shape \(4,\), expected \(4, 4, 1, 4\)"):
        dataclasses.replace(converted, arrays=converted.arrays | {name: np.zeros(4, np.float32)})


def rewrite(path, **metadata):
    """Changes the metadata of a converted file; None takes an entry away."""
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() | metadata
    metadata["content_sha256"] = None  # as a file of before
    kept = {key: value for key, value in metadata.items() if value is not None}
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, kept)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format_version": "2"}, "format version 2, this release reads 1"),
        ({"format_version": "\x1b[31m\n" + "a" * 5000}, r"format version \\x1b\[31m\\naaa"),
        ({"format_version": None}, "not a converted network"),
        ({"network": "other"}, "not a converted network"),
        ({"config": "{"}, "Expecting property name"),
        ({"config": "[]"}, "got a list, expected an object"),
        ({"config": "{}"}, "no field 'archi'"),
        ({"config": json.dumps(SMALL | {"nf": 8})}, "encoder.conv.0.conv.kernel has shape"),
        ({"config": "[" * 10**5}, "nested too deeply"),
        ({"config": None}, "lacks config"),
        ({"dataset": None, "source_sha256": None}, "lacks dataset, source_sha256"),
    ],
)
def test_a_file_with_other_metadata_is_refused(tmp_path, converted, metadata, message):
    path = tmp_path / "file.safetensors"
    converted.save(path)
    rewrite(path, **metadata)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}") as caught:
        Weights.load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kept", [0, 7, 200, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path, converted, kept):
    path = tmp_path / "file.safetensors"
    converted.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(ValueError, match=f"^{path}: "):
        Weights.load(path)


def test_foreign_files_are_refused(tmp_path, small):
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3, dtype=torch.bfloat16)}, foreign)
    for path in (foreign, small / "model.pt", small / "config.json"):
        with pytest.raises(ValueError, match=f"^{path}: .*or the folder of a checkpoint"):
            Weights.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")):
        load_weights("kth", tmp_path / "none")


# The bundled model.


def test_the_bundled_model_says_where_it_is_from():
    path = Path(weights.__file__).parent / "data" / "digits.safetensors"
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata.pop("config"))["nf"] == 16
    assert metadata == {
        "format_version": "1",
        "network": "srvp",
        "dataset": "digits",
        "source_sha256": "98611342ea97eea604837d38821572b282639f4174efeb99b0bc5444c91c59d2",
        "licence": "Apache-2.0",
        "attribution": "srvp-fd-jax; trained on the UCI handwritten digits of E. Alpaydin and "
        "C. Kaynak (CC BY 4.0); not the SRVP authors' weights",
    }


@pytest.mark.usefixtures("cache", "no_hub")
def test_the_bundled_model_loads_inside_of_jit_and_outlives_it():
    frames = np.random.default_rng(0).random((4, 64, 64, 1), np.float32)
    encode = jax.jit(lambda network, x: network.encoder(x))
    outside = encode(load_network("digits"), frames)
    assert np.ptp(outside, axis=0).max() > 0.01
    loaded = []

    @jax.jit
    def load_and_encode(x):
        loaded.append(load_network("digits"))
        return loaded[0].encoder(x)

    np.testing.assert_allclose(load_and_encode(frames), outside, atol=1e-5)
    np.testing.assert_array_equal(encode(loaded[0], frames), outside)


# Where weights are looked for.


def save_as(path, dataset, seed):
    """A converted file unlike those of other seeds."""
    arrays = from_torch(state_dict_of(SMALL, seed), SRVPConfig.from_dict(SMALL))
    saved = Weights(arrays, SMALL, dataset, f"{seed:064x}")
    saved.save(path)
    return saved


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("dataset", ["kth", "digits"])
def test_a_file_that_is_given_comes_first(tmp_path, cache, dataset):
    save_as(cache / f"{dataset}.safetensors", dataset, seed=1)
    given = save_as(tmp_path / "given.safetensors", dataset, seed=2)
    for path in (tmp_path / "given.safetensors", str(tmp_path / "given.safetensors")):
        assert_same_arrays(load_weights(dataset, path).arrays, given.arrays)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["", "model.pt"])
def test_a_folder_that_is_given_comes_first(tmp_path, cache, name):
    save_as(cache / "kth.safetensors", "kth", seed=1)
    folder = write_checkpoint(tmp_path / "kth", SMALL, seed=2)
    expected = from_torch(state_dict_of(SMALL, 2), SRVPConfig.from_dict(SMALL))
    assert_same_arrays(load_weights("kth", folder / name).arrays, expected)


@pytest.mark.usefixtures("no_hub")
def test_the_bundled_model_comes_before_the_cache(cache):
    cached = save_as(cache / "digits.safetensors", "digits", seed=1)
    assert load_weights("digits").source_sha256 != cached.source_sha256


@pytest.mark.usefixtures("no_hub")
def test_the_cache_comes_before_the_hub(cache):
    cached = save_as(cache / "kth.safetensors", "kth", seed=1)
    assert_same_arrays(load_weights("kth").arrays, cached.arrays)


def test_the_hub_comes_last_and_is_asked_once(small, cache, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "download", lambda dataset: asked.append(dataset) or small)
    first, second = load_weights("kth"), load_weights("kth")
    assert asked == ["kth"]
    assert first.dataset == second.dataset == "kth"
    assert_same_arrays(first.arrays, second.arrays)
    assert list(cache.iterdir()) == [cache / "kth.safetensors"]


@pytest.mark.usefixtures("no_hub", "cache")
@pytest.mark.parametrize("dataset", HUB_FOLDERS)
def test_digits_stand_in_for_no_other_model(dataset):
    with pytest.raises(FileNotFoundError, match=f"the hub was asked for {dataset}"):
        load_weights(dataset)


def test_the_cache_is_where_xdg_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert weights.cached_path("kth") == Path("/elsewhere/srvp-fd-jax/kth.safetensors")
    at_home = Path.home() / ".cache" / "srvp-fd-jax" / "kth.safetensors"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert weights.cached_path("kth") == at_home
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cached_path("kth") == at_home


@pytest.mark.usefixtures("cache", "no_hub")
@pytest.mark.parametrize("name", ["mnist", "", "KTH", "../kth", "i2d"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"^name: got") as caught:
        load_network(name)
    assert all(known in str(caught.value) for known in DATASETS)
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
    path = Path(weights.__file__).parent / "data" / "digits.safetensors"
    with pytest.raises(ValueError, match=r"holds the model 'digits'.*'mmnist_stochastic'"):
        load_weights("mmnist_stochastic", path)


@pytest.mark.parametrize("name", ["kth", "digits"])
def test_weights_of_a_model_of_ones_own_go_under_any_name(small, name):
    assert load_network(name, small).config == SRVPConfig.from_dict(SMALL)


# The hub, in processes of their own.

LOAD = """
import json
import sys
import time

import numpy as np
from flax import nnx
import srvp_fd_jax

time.sleep = lambda seconds: None  # of the hub's client, between its attempts
errors = {}
for name in sys.argv[2:]:
    try:
        state = nnx.to_flat_state(nnx.state(srvp_fd_jax.load_network(name)))
        arrays = {".".join(map(str, path)): np.asarray(v.get_value()) for path, v in state}
        np.savez(f"{sys.argv[1]}/{name}.npz", **arrays)
    except Exception as error:
        errors[name] = [type(error).__name__, str(error)]
print(json.dumps({"torch": "torch" in sys.modules, "errors": errors}))
"""


def load_in_a_process(url, home, out, names, **environment):
    out.mkdir()
    run = run_client(url, home, "-c", LOAD, str(out), *names, **environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def read_npz(path):
    with np.load(path) as arrays:
        return dict(arrays)


def unused_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    for seed, (dataset, folder) in enumerate(HUB_FOLDERS.items()):
        # One of more than a piece of the client's downloads, 10 MB.
        config = PUBLISHED["kth"] | {"nf": 32} if dataset == "kth" else SMALL
        write_checkpoint(root / folder, config, seed)
    return root


def test_the_first_call_downloads_and_the_second_needs_no_hub(repository, tmp_path):
    with serve(repository) as hub:
        first = load_in_a_process(hub.url, tmp_path, tmp_path / "first", HUB_FOLDERS)
        asked = hub.requests
    for folder in HUB_FOLDERS.values():
        for name in ("config.json", "model.pt"):
            assert any(path.endswith(f"resolve/main/{folder}/{name}") for path in asked)
    files = {path.name for path in (tmp_path / "srvp-fd-jax").iterdir()}
    assert files == {f"{dataset}.safetensors" for dataset in HUB_FOLDERS}
    shutil.rmtree(tmp_path / "hf")
    second = load_in_a_process(hub.url, tmp_path, tmp_path / "second", ["kth", "bair"])
    assert first == second == {"torch": False, "errors": {}}
    for dataset, folder in HUB_FOLDERS.items():
        expected = Weights.from_checkpoint(repository / folder)
        assert expected.dataset == dataset
        assert_same_arrays(read_npz(tmp_path / "first" / f"{dataset}.npz"), expected.arrays)
        if dataset in ("kth", "bair"):
            assert_same_arrays(read_npz(tmp_path / "second" / f"{dataset}.npz"), expected.arrays)


def assert_tells_what_to_do(errors, dataset, home, reason):
    kind, message = errors[dataset]
    assert kind == "FileNotFoundError"
    assert "\n" not in message
    assert repr(dataset) in message
    assert str(home / "srvp-fd-jax" / f"{dataset}.safetensors") in message
    assert f"`python -m convert {dataset} {dataset}.safetensors`" in message
    assert reason in message


def test_a_hub_that_fails_is_one_error_in_one_line(repository, tmp_path):
    faults = {
        "mmnist/stochastic": (404, "404"),
        "mmnist/deterministic": (500, "500"),
        "bair": ("cut", "RemoteProtocolError"),
        "kth": (403, "403"),
        "human": ("xet", "404 Not Found"),
    }
    with serve(repository) as hub:
        hub.faults.update({folder: fault for folder, (fault, _) in faults.items()})
        loaded = load_in_a_process(hub.url, tmp_path, tmp_path / "out", HUB_FOLDERS)
    for dataset, folder in HUB_FOLDERS.items():
        assert_tells_what_to_do(loaded["errors"], dataset, tmp_path, faults[folder][1])
    assert not (tmp_path / "srvp-fd-jax").exists()


def test_no_hub_is_one_error_in_one_line(tmp_path):
    url = f"http://127.0.0.1:{unused_port()}"
    loaded = load_in_a_process(url, tmp_path, tmp_path / "out", ["kth", "digits"])
    assert_tells_what_to_do(loaded["errors"], "kth", tmp_path, "Connection refused")
    assert (tmp_path / "out" / "digits.npz").exists()
    assert not (tmp_path / "srvp-fd-jax").exists()


TIMED = """
import json
import sys
import time

import srvp_fd_jax

load_network = srvp_fd_jax.load_network  # imports JAX
begun = time.perf_counter()
try:
    load_network(sys.argv[1])
except Exception as error:
    told = [type(error).__name__, str(error)]
print(json.dumps([told, time.perf_counter() - begun]))
"""


@pytest.mark.parametrize("kind", ["refused", "without a name", "offline", "silent"])
def test_without_a_hub_the_error_comes_at_once(repository, tmp_path, kind):
    with serve(repository) as hub:
        hub.faults["kth"] = "stall"
        url, environment, reason = {
            "refused": (f"http://127.0.0.1:{unused_port()}", {}, "Connection refused"),
            "without a name": ("http://hub.invalid", {}, "ConnectError"),
            "offline": (hub.url, {"HF_HUB_OFFLINE": "1"}, "OfflineModeIsEnabled"),
            # By default it is ten seconds that a hub is waited for.
            "silent": (hub.url, {"HF_HUB_ETAG_TIMEOUT": "1"}, "ReadTimeout"),
        }[kind]
        run = run_client(url, tmp_path, "-c", TIMED, "kth", **environment)
    told, seconds = json.loads(run.stdout.splitlines()[-1])
    assert_tells_what_to_do({"kth": told}, "kth", tmp_path, reason)
    # A tenth of a second on a machine that does nothing else; with the hub client's own tries again
    # it would be half a minute.
    assert seconds < 5


def blobs(home):
    return list((home / "hf").glob("hub/models--*/blobs/*"))


def test_a_damaged_download_is_fetched_again_once(repository, tmp_path):
    with serve(repository) as hub:
        hub.faults.update({"bair": "damaged once", "human": "damaged"})
        names = ["bair", "human"]
        loaded = load_in_a_process(hub.url, tmp_path, tmp_path / "out", names)
        asked = [path for path in hub.requests if path == "/cdn/human/model.pt"]
    expected = Weights.from_checkpoint(repository / "bair")
    assert_same_arrays(read_npz(tmp_path / "out" / "bair.npz"), expected.arrays)
    assert loaded["errors"].keys() == {"human"}
    kind, message = loaded["errors"]["human"]
    assert kind.endswith("DamagedError")
    assert "\n" not in message
    digest = hashlib.sha256((repository / "human" / "model.pt").read_bytes()).hexdigest()
    (blob,) = (path for path in blobs(tmp_path) if path.name == digest)
    assert message.startswith(f"{blob} is damaged: on the hub human/model.pt has the SHA-256 ")
    assert f" {digest}, and downloaded again it has the SHA-256" in message
    assert "; delete it" in message
    assert len(asked) == 2


def test_a_file_that_was_damaged_after_its_download_heals(repository, tmp_path):
    with serve(repository) as hub:
        load_in_a_process(hub.url, tmp_path, tmp_path / "first", ["bair"])
        blob = max(blobs(tmp_path), key=lambda path: path.stat().st_size)
        content = blob.read_bytes()
        blob.write_bytes(content[:-200] + b"damage" + content[-194:])
        shutil.rmtree(tmp_path / "srvp-fd-jax")
        offline = {"HF_HUB_OFFLINE": "1"}
        second = load_in_a_process("", tmp_path, tmp_path / "second", ["bair"], **offline)
        (kind, message) = second["errors"]["bair"]
        assert kind.endswith("DamagedError")
        assert message.startswith(f"{blob} is damaged: ")
        assert re.search(r"it could not be downloaded again \(.*Offline.*\); delete it", message)
        third = load_in_a_process(hub.url, tmp_path, tmp_path / "third", ["bair"])
    assert third["errors"] == {}
    assert blob.read_bytes() == content
    expected = Weights.from_checkpoint(repository / "bair")
    assert_same_arrays(read_npz(tmp_path / "third" / "bair.npz"), expected.arrays)


def test_offline_the_cache_of_the_hub_serves(repository, tmp_path):
    cached = tmp_path / "hf" / "hub" / f"models--{HUB_REPOSITORY.replace('/', '--')}"
    shutil.copytree(repository / "human", cached / "snapshots" / COMMIT / "human")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    offline = {"HF_HUB_OFFLINE": "1"}
    loaded = load_in_a_process("", tmp_path, tmp_path / "out", ["human", "kth"], **offline)
    assert_tells_what_to_do(loaded["errors"], "kth", tmp_path, "OfflineModeIsEnabled")
    expected = Weights.from_checkpoint(repository / "human")
    assert_same_arrays(read_npz(tmp_path / "out" / "human.npz"), expected.arrays)
