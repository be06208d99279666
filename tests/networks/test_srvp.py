"""The SRVP networks, and the mapping of their checkpoints from PyTorch."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import (
    FLOATS,
    PUBLISHED,
    SMALL,
    assert_same_arrays,
    at_most,
    random_model,
    state_dict_of,
)
from flax import nnx
from rounding import assert_as_exact

from srvp_fd_jax.networks.base import Weights, parameter_shapes
from srvp_fd_jax.networks.srvp import COMPARISON_TYPES, checkpoint
from srvp_fd_jax.networks.srvp.architecture import SRVP, SRVPArchitecture
from srvp_fd_jax.networks.srvp.checkpoint import from_torch, read_checkpoint
from srvp_fd_jax.networks.srvp.modules import gaussian_from_raw

SMALL_VGG = SMALL | {"archi": "vgg"}


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be changed."""
    return Path(shutil.copytree(small, tmp_path / "small"))


# The architecture.


def test_config_takes_what_it_needs_from_a_checkpoints():
    architecture = SRVPArchitecture.from_config(PUBLISHED["bair"])
    assert (architecture.archi, architecture.nt_inf, architecture.skipco) == ("vgg", 2, True)
    assert architecture.channels == 3


@pytest.mark.parametrize("archi", ["dcgan", "vgg"])
def test_sizes_are_the_configs(archi: str):
    architecture = SRVPArchitecture.from_config(SMALL | {"archi": archi, "nc": 3, "nlayers_inf": 1})

    def features(frames: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        network = SRVP(architecture, rngs=nnx.Rngs(0))
        encodings = network.encoder(frames)
        return encodings, network.content(encodings[None]), network.initial_state(encodings[None])

    encodings, w, q = jax.eval_shape(features, jnp.zeros((2, 64, 64, 3)))
    chex.assert_shape((encodings, w, q), [(2, 16), (1, 8), (1, 6)])


def test_content_ignores_the_order_of_frames_and_the_initial_state_does_not():
    network = SRVP(SRVPArchitecture.from_config(SMALL), rngs=nnx.Rngs(0))
    content, initial_state = network.content, network.initial_state
    encodings = jax.random.normal(jax.random.key(0), (3, 2, 16))
    reverse = encodings[:, ::-1]
    chex.assert_trees_all_close(content(encodings), content(reverse), atol=1e-6)
    difference = initial_state(encodings) - initial_state(reverse)
    assert jnp.abs(difference).max() > 1e-2


def test_long_clips_are_encoded_part_by_part(converted: Weights):
    network = converted.frozen()
    length = 4 * network.architecture.frames_at_once() + 43
    clips = np.random.default_rng(0).random((2, length, 64, 64, 1), np.float32)

    def encodings(clips: jax.Array) -> jax.Array:
        return network.features(clips, ("frame",))["frame"]

    assert "scan[" in str(jax.make_jaxpr(encodings)(clips))
    of_frames = jax.jit(encodings)(clips.reshape(-1, 1, 64, 64, 1))
    assert of_frames.std(axis=0).mean() > 0.01
    expected = of_frames.reshape(2, length, -1)
    chex.assert_trees_all_close(jax.jit(encodings)(clips), expected, atol=1e-6)


def test_gaussian_from_raw_is_torchs():
    raw = np.random.default_rng(0).normal(scale=20, size=(50, 8)).astype(np.float32)
    mean, variance = gaussian_from_raw(jnp.asarray(raw))
    scale = torch.nn.functional.softplus(torch.from_numpy(raw[:, 4:])) + 1e-8
    chex.assert_trees_all_equal(mean, raw[:, :4])
    chex.assert_trees_all_close(variance, (scale**2).numpy(), rtol=1e-5)


# From PyTorch to Flax.


def varied_clips(t: int, channels: int) -> np.ndarray:
    """Noise, noise on a gradient, and a shape that grows, with a white frame at the end."""
    clips = np.random.default_rng(0).random((3, t, 64, 64, channels), np.float32)
    clips[1] *= np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    clips[2] = 0.2
    for frame in range(t):
        clips[2, frame, 10 + 5 * frame : 40, 8 : 20 + 9 * frame] = 0.9
    clips[2, -1] = 1
    return clips


def torchs_features(model: torch.nn.Module, clips: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of clips, as `features` has them, in the model's own type."""
    x = torch.from_numpy(clips).permute(1, 0, 4, 2, 3).to(model.w_inf[0].weight.dtype)
    with torch.no_grad():
        hx, _ = model.encode(x)
        features = {
            "frame": hx.transpose(0, 1),
            "static_content": model.infer_w(hx)[:, None],
            "dynamics": model.infer_y(hx)[1][:, None],
        }
    return {output: tensor.numpy() for output, tensor in features.items()}


@pytest.mark.parametrize("name", ["mmnist_stochastic", "bair", "kth", "human"])
def test_the_features_are_those_of_pytorch(name: str):
    config, model = PUBLISHED[name], random_model(PUBLISHED[name])
    architecture = SRVPArchitecture.from_config(config)
    arrays = from_torch(state_dict_of(config), architecture)
    network = Weights(name, architecture, arrays, config, "").frozen()
    clips = varied_clips(config["nt_inf"], config["nc"])
    features = jax.jit(lambda network, clips: network.features(clips, COMPARISON_TYPES))
    ours = features(network, clips)

    theirs, exact = (torchs_features(model.to(dtype), clips) for dtype in FLOATS)
    for expected in exact.values():
        assert expected.std(0).mean() > 0.01
    assert_as_exact(ours, theirs, exact)


@pytest.mark.parametrize("config", [SMALL, SMALL_VGG])
def test_every_parameter_comes_from_one_of_pytorchs(config: dict[str, Any]):
    state_dict = state_dict_of(config)
    arrays = from_torch(state_dict, SRVPArchitecture.from_config(config))
    used = [
        array
        for key, array in state_dict.items()
        if key.split(".")[0] in ("encoder", "w_proj", "w_inf", "q_y") and array.ndim
    ]
    assert sorted(array.sum() for array in used) == pytest.approx(
        sorted(array.sum() for array in arrays.values()), rel=1e-4, abs=1e-5
    )
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays.values())


@pytest.mark.parametrize("unused", [r"(decoder|dynamics|p_z|inf_z|q_z)\.", ".*num_batches"])
def test_what_is_not_used_may_be_absent(converted: Weights, unused: str):
    whole = state_dict_of(SMALL)
    state_dict = {k: v for k, v in whole.items() if not re.match(unused, k)}
    assert len(state_dict) < len(whole)
    arrays = from_torch(state_dict, SRVPArchitecture.from_config(SMALL))
    assert_same_arrays(arrays, converted.arrays)


def save_as(dtype: torch.dtype, folder: Path) -> None:
    state = random_model(SMALL).state_dict()
    torch.save({k: v.to(dtype) for k, v in state.items()}, folder / "model.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(folder: Path, converted: Weights, dtype: torch.dtype):
    save_as(dtype, folder)
    expected = {k: torch.tensor(v).to(dtype).float().numpy() for k, v in converted.arrays.items()}
    assert_same_arrays(read_checkpoint(folder).arrays, expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int32])
def test_other_types_are_refused_in_one_line(folder: Path, dtype: torch.dtype):
    save_as(dtype, folder)
    with pytest.raises(ValueError, match=f"^{folder}.*type") as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize(
    ("config", "norm"), [(SMALL, "encoder.conv.2.1"), (SMALL_VGG, "encoder.conv.2.1.1")]
)
def test_one_error_names_every_key_that_does_not_fit(config: dict[str, Any], norm: str):
    state_dict = state_dict_of(config)
    del state_dict["w_inf.0.bias"], state_dict[f"{norm}.running_var"]
    state_dict["encoder.conv.9.0.weight"] = state_dict["q_y.module.9.1.bias"] = np.zeros(3)
    state_dict["q_y.module.0.0.weight"] = state_dict["q_y.module.0.0.weight"].T
    state_dict[f"{norm}.weight"] = state_dict[f"{norm}.weight"].astype(np.int64)
    with pytest.raises(ValueError, match="missing") as caught:
        from_torch(state_dict, SRVPArchitecture.from_config(config))
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


def test_a_checkpoint_is_read_whole(small: Path, converted: Weights):
    assert converted.name == "small"
    assert converted.architecture == SRVPArchitecture.from_config(SMALL)
    assert converted.config == SMALL
    model = (small / "model.pt").read_bytes()
    assert converted.source_sha256 == hashlib.sha256(model).hexdigest()
    expected = from_torch(state_dict_of(SMALL), SRVPArchitecture.from_config(SMALL))
    assert_same_arrays(converted.arrays, expected)


def test_the_model_in_a_folder_stands_for_it(small: Path, converted: Weights):
    of_file = read_checkpoint(small / "model.pt")
    assert of_file.name == converted.name
    assert_same_arrays(of_file.arrays, converted.arrays)


def test_the_prefix_of_data_parallel_is_taken_off(folder: Path, converted: Weights):
    torch.save(
        {f"module.{key}": tensor for key, tensor in random_model(SMALL).state_dict().items()},
        folder / "model.pt",
    )
    assert_same_arrays(read_checkpoint(folder).arrays, converted.arrays)


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
def test_a_checkpoint_is_named_after_its_folder(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
):
    shutil.copytree(small, tmp_path / place)
    monkeypatch.chdir(tmp_path / place)
    assert read_checkpoint(".").name == name


@pytest.mark.parametrize("name", ["config.json", "model.pt"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{folder / name}: no such file"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.pt"])
def test_a_folder_or_a_pipe_in_place_of_a_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(IsADirectoryError, match=f"a folder, expected a file: '{folder / name}'"):
        read_checkpoint(folder)
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    with pytest.raises(OSError, match=f"a pipe or a device, expected a file: '{folder / name}'"):
        read_checkpoint(folder)


def test_a_small_file_of_large_tensors_is_refused_before_they_are_written_out(folder: Path):
    # Of the shapes that its config.json asks for, which would take 8 GB.
    config = SMALL | {"nhx": 65536, "nf": 256}
    (folder / "config.json").write_text(json.dumps(config))
    architecture = SRVPArchitecture.from_config(config)
    state = {
        checkpoint._torch_key(name, architecture): torch.ones(()).expand(
            checkpoint._torch_shape(shape)
        )
        for name, shape in parameter_shapes(architecture).items()
    }
    torch.save(state, folder / "model.pt")
    told = r"its tensors take \d{10} bytes when written out, the file has \d+:"
    with at_most(8 << 20), pytest.raises(ValueError, match=told):
        read_checkpoint(folder)


def test_one_line_of_many_problems_ends(folder: Path):
    state = {f"encoder.{i}\n\x1b[31m": torch.ones(1) for i in range(1000)}
    torch.save(state, folder / "model.pt")
    with pytest.raises(
        ValueError, match=r"unexpected encoder.0\\n\\x1b\[31m; .*; and 980 more; missing"
    ) as caught:
        read_checkpoint(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(SMALL | {"nf": "4"}), "nf is '4', expected a positive integer"),
        (json.dumps(SMALL | {"nf": 4.0}), "nf is 4.0, expected a positive integer"),
        (json.dumps(SMALL | {"nt_inf": True}), "nt_inf is True, expected a positive integer"),
        (json.dumps(SMALL | {"nhx": 0}), "nhx is 0, expected a positive integer"),
        (json.dumps(SMALL | {"skipco": "no"}), "skipco is 'no', expected true or false"),
        (json.dumps(SMALL | {"archi": "resnet"}), "archi is 'resnet', allowed are 'dcgan', 'vgg'"),
        (json.dumps(SMALL | {"archi": ["vgg"]}), r"archi is \['vgg'\], allowed are"),
        (json.dumps(SMALL | {"nx": 128}), "nx is 128, both encoders need 64"),
        (json.dumps(SMALL | {"nlayers_inf": 10**7}), "nlayers_inf is 10000000, expected at most"),
        (json.dumps(SMALL | {"nf": 10**4000}), r"nf is 10{79}, expected at most 65536"),
        ('{"nx": ' + "9" * 5000 + "}", "Exceeds the limit"),
        (json.dumps({k: v for k, v in SMALL.items() if k != "nf"}), "no field 'nf'"),
        (json.dumps({"a\nb" * 10_000: 1}), "no field 'archi', got .{400}$"),
        ("[" * 10**5, "nested too deeply"),
        (" " * 2**20 + "{}", "longer than the 1048576 bytes allowed"),
        (json.dumps([SMALL]), "got a list, expected an object"),
        ("nf: 64", "Expecting value"),
        ("\0\udcff", "."),
    ],
)
def test_a_configuration_that_is_none_is_refused(folder: Path, text: str, message: str):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"^{folder}/config.json: .*{message}") as caught:
        read_checkpoint(folder)
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
def test_a_configuration_of_another_network_is_refused(
    folder: Path, change: dict[str, Any], message: str
):
    (folder / "config.json").write_text(json.dumps(SMALL | change))
    fit = f"^{folder}/model.pt does not fit {folder}/config.json: .*{message}"
    with pytest.raises(ValueError, match=fit):
        read_checkpoint(folder)
