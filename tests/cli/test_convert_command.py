"""The command `srvp-fd-jax convert`."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import i3d
import numpy as np
import pytest
import torch
from checkpoints import SMALL, assert_same_arrays, random_model, write_checkpoint
from hub import run_client, serve

from srvp_fd_jax.cli import _conversion
from srvp_fd_jax.networks import weights
from srvp_fd_jax.networks.srvp import checkpoint
from srvp_fd_jax.networks.srvp.checkpoint import HUB_FOLDERS
from srvp_fd_jax.training import checkpoints as runs
from srvp_fd_jax.training.model import SRVPModelArchitecture
from srvp_fd_jax.training.recipes import RECIPES, change
from srvp_fd_jax.training.step import start

pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Small checkpoints, laid out as on the hub."""
    root = tmp_path_factory.mktemp("repository")
    for seed, folder in enumerate(HUB_FOLDERS.values()):
        write_checkpoint(root / folder, SMALL, seed)
    return root


@pytest.fixture
def folder(checkpoints, tmp_path):
    """A copy of one, to be changed."""
    return Path(shutil.copytree(checkpoints / "human", tmp_path / "mine"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "file.safetensors"


@pytest.fixture
def hub(checkpoints, monkeypatch):
    """Downloads from the folder; the names that were downloaded."""
    names = []
    monkeypatch.setattr(
        checkpoint, "download", lambda name: names.append(name) or checkpoints / HUB_FOLDERS[name]
    )
    return names


@pytest.fixture
def no_comparison(monkeypatch):
    """Where it is not the point."""
    monkeypatch.setattr(_conversion, "largest_differences", lambda *_: {"frame": 0.0})


@pytest.fixture
def fails(run):
    """Runs a conversion that ends in one line of error."""

    def fails(*words, message):
        printed = run("convert", *words, status=1)
        assert re.fullmatch(f"srvp-fd-jax: error: .*{message}.*\n", printed.err)
        assert printed.out == ""

    return fails


def identity(path):
    """Which changes when a file is written again."""
    return path.stat().st_mtime_ns, path.stat().st_ino


# A folder.


def test_a_folder_becomes_a_file(run, folder, out):
    printed = run("convert", folder, out)
    found = re.findall(r"mine: (\w+) +largest \|torch - flax\| = (\S+)", printed.out)
    assert [name for name, _ in found] == ["frame", "static_content", "dynamics"]
    assert all(0 < float(difference) < 1e-5 for _, difference in found)
    assert printed.out.splitlines()[-1] == f"mine: wrote {out}"
    assert printed.err == ""
    expected, written = checkpoint.read_checkpoint(folder), weights.load(out)
    assert written.name == "mine"
    assert written.source_sha256 == expected.source_sha256
    assert_same_arrays(written.arrays, expected.arrays)


@pytest.mark.usefixtures("no_comparison", "hub")
def test_paths_are_told_from_names_and_give_the_default(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    run("convert", ".")
    assert weights.load(folder.parent / "mine.safetensors").name == "mine"
    monkeypatch.chdir(tmp_path)
    folder.rename("kth")
    run("convert", "./kth")
    assert Path("kth.safetensors").exists()


@pytest.mark.usefixtures("no_comparison")
def test_a_finished_file_is_written_again_only_by_force(run, folder, out):
    run("convert", folder, out)
    before = identity(out)
    (made,) = run("convert", folder, out, "--json").json["converted"]
    assert made == {"name": "mine", "output": str(out), "differences": {}, "is_new": False}
    assert identity(out) == before
    assert f"mine: wrote {out}" in run("convert", folder, out, "--force").out
    assert identity(out) != before


@pytest.mark.usefixtures("no_comparison")
@pytest.mark.parametrize("other", ["weights", "name", "foreign", "checkpoint"])
def test_a_file_of_other_content_is_replaced_only_by_force(run, fails, folder, out, other):
    run("convert", folder, out)
    if other == "weights":
        write_checkpoint(folder, SMALL, seed=9)
    elif other == "name":
        folder = folder.rename(folder.with_name("other"))
    elif other == "foreign":
        out.write_bytes(b"my thesis")
    else:
        shutil.copy(folder / "model.pt", out)
    before = out.read_bytes()
    fails(folder, out, message=f"{out}.*--force replaces")
    assert out.read_bytes() == before
    run("convert", folder, out, "--force")
    assert weights.load(out).source_sha256 == checkpoint.read_checkpoint(folder).source_sha256


# The comparison with PyTorch.


@pytest.mark.parametrize(
    ("parameter", "amount", "differing"),
    [
        ("encoder.last_conv.norm.bias", 1e-3, {"frame", "static_content", "dynamics"}),
        ("content.output.bias", 1e-3, {"static_content"}),
        ("content.output.bias", np.nan, {"static_content"}),
        ("initial_state.layers.2.bias", 1e-3, {"dynamics"}),
    ],
)
def test_nothing_is_written_where_the_networks_differ(
    run, folder, out, monkeypatch, parameter, amount, differing
):
    from_torch = checkpoint.from_torch

    def corrupted(*arguments):
        arrays = from_torch(*arguments)
        return arrays | {parameter: arrays[parameter] + np.float32(amount)}

    monkeypatch.setattr(checkpoint, "from_torch", corrupted)
    error = run("convert", folder, out, status=1).err
    assert f"error: {folder}: the networks differ by more than 0.0001: " in error
    found = re.findall(r"(\w+) by ([^\s,;]+)", error)
    assert {name for name, value in found if name != "differ" and not float(value) <= 1e-4} == (
        differing
    )
    assert not out.parent.exists()


@pytest.mark.parametrize(("difference", "status"), [(0.99e-4, 0), (1.01e-4, 1)])
def test_the_tolerance(run, folder, out, monkeypatch, difference, status):
    found = {"frame": 0.0, "static_content": difference, "dynamics": 0.0}
    monkeypatch.setattr(_conversion, "largest_differences", lambda *_: found)
    run("convert", folder, out, status=status)
    assert out.exists() == (status == 0)


def test_the_comparison_needs_only_the_parts_that_are_used(run, folder, out):
    """A state dict of DataParallel without the other parts, and a config.json without theirs."""
    parts = ("encoder", "w_proj", "w_inf", "q_y")
    state_dict = {
        f"module.{key}": tensor
        for key, tensor in random_model(SMALL).state_dict().items()
        if key.startswith(parts)
    }
    torch.save(state_dict, folder / "model.pt")
    config = {key: SMALL[key] for key in SMALL if key not in ("nz", "nh_res", "nlayers_res")}
    (folder / "config.json").write_text(json.dumps(config))
    run("convert", folder, out)


# Datasets.


@pytest.mark.usefixtures("no_comparison")
def test_a_dataset_goes_into_the_cache_or_a_file(run, fails, hub, out):
    for _ in range(2):
        run("convert", "mmnist_stochastic")
    assert hub == ["mmnist_stochastic"]
    assert weights.load_weights("mmnist_stochastic").name == "mmnist_stochastic"
    run("convert", "kth", out)
    assert not weights.cached_path("kth").exists()
    assert weights.load_weights("kth", out).name == "kth"
    fails("bair", out, message="other weights, of 'kth'; --force replaces them")
    assert hub == ["mmnist_stochastic", "kth"]
    run("convert", "bair", out, "--force")
    assert weights.load(out).name == "bair"


@pytest.mark.usefixtures("no_comparison")
def test_all_continues_after_a_failure_and_later_does_the_rest(run, hub, monkeypatch):
    download = checkpoint.download

    def fail_on_bair(name):
        if name == "bair":
            raise FileNotFoundError("no bair today")
        return download(name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "download", fail_on_bair)
        error = run("convert", "--all", status=1).err
    assert [line.removeprefix("srvp-fd-jax: error: ") for line in error.splitlines()] == [
        "no bair today",
        "--all: bair could not be converted",
    ]
    done = [name for name in HUB_FOLDERS if weights.cached_path(name).exists()]
    assert done == hub == [name for name in HUB_FOLDERS if name != "bair"]

    before = [identity(weights.cached_path(name)) for name in done]
    run("convert", "--all")
    assert hub == [*done, "bair"]
    assert weights.cached_path("bair").exists()
    assert [identity(weights.cached_path(name)) for name in done] == before


# What is no checkpoint.


class Program:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_checkpoint_that_is_a_program_is_not_run(fails, folder, out, monkeypatch, layout):
    monkeypatch.chdir(folder)
    state_dict = random_model(SMALL).state_dict() | {"p_z.extra": Program()}
    torch.save(state_dict, "model.pt", _use_new_zipfile_serialization=layout == "zip")
    fails(folder, out, message=f"{folder}/model.pt: ")
    assert not out.parent.exists()
    assert not Path("ran").exists()
    torch.load("model.pt", weights_only=False)
    assert Path("ran").exists()


@pytest.mark.parametrize("content", [b"", b"my thesis", b"\x80\x02}.", "half"])
def test_a_damaged_or_foreign_model_is_an_error(fails, folder, out, content):
    path = folder / "model.pt"
    path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content
    )
    fails(folder, out, message=f"{path}: ")
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMALL | {"nf": 8}, "model.pt does not fit .*expected"),
        ({}, "config.json: .*no field 'archi'"),
        (None, "config.json: no such file"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_an_error(fails, folder, out, config, message):
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    fails(folder, out, message=message)


@pytest.mark.parametrize("source", ["none", "digits", "KTH"])
def test_neither_a_folder_nor_a_dataset(fails, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    fails(source, message=f"source: got '{source}', .*human")


# The command line.


def test_wrong_usage(misused, fails, folder, tmp_path):
    assert "one of the arguments SOURCE --all is required" in misused("convert")
    assert "not allowed with" in misused("convert", "kth", "--all")
    assert "unrecognized arguments" in misused("convert", "kth", "a", "b")
    fails(folder, tmp_path, message=f"{tmp_path}: ")


@pytest.mark.parametrize("package", ["torch", "srvp_fd.srvp_model"])
def test_a_missing_package_is_named_once(fails, hub, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    fails("--all", message=f'{package}.*pip install "..convert.".*')
    assert not hub


def test_the_command_in_a_clone_over_the_hub(checkpoints, tmp_path):
    faults = {"bair": 404, "kth": 404, "human": 403}
    with serve(checkpoints) as hub:
        hub.faults.update(faults)
        run = run_client(hub.url, tmp_path, "-m", "convert", "--all")
    assert run.returncode == 1
    for name in HUB_FOLDERS:
        path = tmp_path / "srvp-fd-jax" / f"{name}.safetensors"
        assert path.exists() == (name not in faults)
        assert (f"{name}: wrote {path}" in run.stdout) == (name not in faults)
    assert len(re.findall("largest", run.stdout)) == 3 * 2
    errors = re.findall("^srvp-fd-jax: error: (.*)$", run.stderr, re.MULTILINE)
    for line, (name, status) in zip(errors[:-1], faults.items(), strict=True):
        assert repr(name) in line
        assert str(status) in line


# I3D.


def test_i3d_goes_from_the_package_into_the_cache(run, cache):
    assert f"i3d: wrote {cache / 'i3d.safetensors'}" in run("convert", "i3d").out
    assert "is there already" in run("convert", "i3d").out


def test_i3d_of_pytorch(run, fails, i3d_weights, tmp_path, out):
    path = tmp_path / "i3d_pretrained_400.pt"
    torch.save(i3d.state_dict(i3d_weights.arrays), path)
    run("convert", path)
    beside = weights.load(path.with_suffix(".safetensors"))
    assert_same_arrays(beside.arrays, i3d_weights.arrays)
    assert f"i3d: wrote {out}" in run("convert", path, out).out
    fails("i3d", out, message="other weights, of 'i3d'")
    (tmp_path / "notes.txt").write_text("hello")
    fails(tmp_path / "notes.txt", message="notes.txt: ")


# Models of a user's training.


def test_a_run_becomes_a_checkpoint_of_the_authors_code(run, fails, tmp_path):
    recipe = change(RECIPES["digits"], **{k: v for k, v in SMALL.items() if k != "nx"})
    folder = tmp_path / "model.run"
    with runs.manager(folder) as opened:
        state = start(recipe)
        runs.save(opened, state, {"recipe": recipe.described()}, 20.0)
    written = tmp_path / "model.torch"
    assert f"wrote {written}" in run("convert", folder).out
    assert json.loads((written / "config.json").read_text()) == SMALL
    read = checkpoint.read_checkpoint(written, SRVPModelArchitecture)
    assert read.arrays.keys() == state.arrays.keys()
    for name, array in read.arrays.items():
        np.testing.assert_array_equal(array, state.arrays[name])
    fails(folder, message="checkpoint already; --force replaces it")
    run("convert", folder, "--force")
