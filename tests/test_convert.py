"""The command `python -m convert`."""

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

import convert.verify
from convert.__main__ import main
from srvp_fd_jax.networks import srvp, weights
from srvp_fd_jax.networks.srvp import HUB_FOLDERS

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
def hub(checkpoints, cache, monkeypatch):
    """Downloads from the folder, an empty cache, and the datasets asked for."""
    asked = []
    monkeypatch.setattr(
        srvp, "download", lambda name: asked.append(name) or checkpoints / HUB_FOLDERS[name]
    )
    return asked


@pytest.fixture
def no_comparison(monkeypatch):
    """Where it is not the point."""
    monkeypatch.setattr(convert.verify, "largest_differences", lambda *_: {"frame": 0.0})


def assert_fails(capsys, arguments, message):
    """With status 1 and one line on stderr."""
    assert main([str(argument) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert re.search(message, printed.err)
    assert "wrote" not in printed.out
    return printed


def identity(path):
    """Which changes when a file is written again."""
    return path.stat().st_mtime_ns, path.stat().st_ino


def differences(output):
    return {
        name: float(value)
        for name, value in re.findall(r"(\w+) +largest \|torch - flax\| = (\S+)", output)
    }


# A folder.


def test_a_folder_becomes_a_file(folder, out, capsys):
    assert main([str(folder), str(out)]) == 0
    printed = capsys.readouterr()
    found = differences(printed.out)
    assert list(found) == ["frame", "static_content", "dynamics"]
    assert all(0 < difference < 1e-5 for difference in found.values())
    assert printed.out.splitlines()[-1] == f"mine: wrote {out}"
    assert printed.err == ""
    expected, written = srvp.read_checkpoint(folder), weights.load(out)
    assert written.name == "mine"
    assert written.source_sha256 == expected.source_sha256
    assert_same_arrays(written.arrays, expected.arrays)


@pytest.mark.usefixtures("no_comparison")
def test_the_file_lies_beside_the_folder_by_default(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["."]) == 0
    assert weights.load(folder.parent / "mine.safetensors").name == "mine"


@pytest.mark.usefixtures("no_comparison", "hub")
def test_a_folder_named_like_a_dataset_can_be_given(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.rename("kth")
    assert main(["./kth"]) == 0
    assert Path("kth.safetensors").exists()


@pytest.mark.usefixtures("no_comparison")
def test_a_finished_file_is_left_alone_unless_forced(folder, out, capsys):
    assert main([str(folder), str(out)]) == 0
    before = identity(out)
    assert main([str(folder), str(out)]) == 0
    assert identity(out) == before
    assert f"{out} is there already; --force converts it again" in capsys.readouterr().out
    assert main([str(folder), str(out), "--force"]) == 0
    assert identity(out) != before


@pytest.mark.usefixtures("no_comparison")
@pytest.mark.parametrize("change", ["weights", "name", "foreign", "checkpoint"])
def test_a_file_that_holds_something_else_is_kept_unless_forced(folder, out, capsys, change):
    main([str(folder), str(out)])
    if change == "weights":
        write_checkpoint(folder, SMALL, seed=9)
    elif change == "name":
        folder = folder.rename(folder.with_name("other"))
    elif change == "foreign":
        out.write_bytes(b"my thesis")
    else:
        shutil.copy(folder / "model.pt", out)
    before = out.read_bytes()
    capsys.readouterr()
    assert_fails(capsys, [folder, out], f"{out}.*--force replaces")
    assert out.read_bytes() == before
    assert main([str(folder), str(out), "--force"]) == 0
    assert weights.load(out).source_sha256 == srvp.read_checkpoint(folder).source_sha256


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
    folder, out, capsys, monkeypatch, parameter, amount, differing
):
    from_torch = srvp.from_torch

    def corrupted(*arguments):
        arrays = from_torch(*arguments)
        return arrays | {parameter: arrays[parameter] + np.float32(amount)}

    monkeypatch.setattr(srvp, "from_torch", corrupted)
    printed = assert_fails(
        capsys, [folder, out], f"{folder}: the networks differ by more than 0.0001"
    )
    found = differences(printed.out)
    assert {name for name, difference in found.items() if not difference <= 1e-4} == differing
    assert not out.parent.exists()


@pytest.mark.parametrize(("difference", "status"), [(0.99e-4, 0), (1.01e-4, 1)])
def test_the_tolerance(folder, out, monkeypatch, difference, status):
    found = {"frame": 0.0, "static_content": difference, "dynamics": 0.0}
    monkeypatch.setattr(convert.verify, "largest_differences", lambda *_: found)
    assert main([str(folder), str(out)]) == status
    assert out.exists() == (status == 0)


def test_the_comparison_needs_only_the_parts_that_are_used(folder, out):
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
    assert main([str(folder), str(out)]) == 0


# Datasets.


def test_a_dataset_goes_into_the_cache(hub, capsys):
    assert main(["mmnist_stochastic"]) == 0
    path = weights.cached_path("mmnist_stochastic")
    assert f"mmnist_stochastic: wrote {path}" in capsys.readouterr().out
    assert weights.load_weights("mmnist_stochastic").name == "mmnist_stochastic"
    assert main(["mmnist_stochastic"]) == 0
    assert hub == ["mmnist_stochastic"]


@pytest.mark.usefixtures("no_comparison", "hub")
def test_a_dataset_goes_into_a_file(out):
    assert main(["kth", str(out)]) == 0
    assert not weights.cached_path("kth").exists()
    assert weights.load_weights("kth", out).name == "kth"


@pytest.mark.usefixtures("no_comparison")
def test_a_file_of_another_dataset_is_kept(hub, out, capsys):
    assert main(["kth", str(out)]) == 0
    capsys.readouterr()
    assert_fails(capsys, ["bair", out], "holds other weights, of 'kth'; --force replaces them")
    assert hub == ["kth"]
    assert main(["bair", str(out), "--force"]) == 0
    assert weights.load(out).name == "bair"


@pytest.mark.usefixtures("no_comparison")
def test_all_goes_on_after_a_failure_and_later_does_the_rest(hub, capsys, monkeypatch):
    download = srvp.download

    def fail_on_bair(name):
        if name == "bair":
            raise FileNotFoundError("no bair today")
        return download(name)

    with monkeypatch.context() as patch:
        patch.setattr(srvp, "download", fail_on_bair)
        assert main(["--all"]) == 1
    printed = capsys.readouterr()
    assert "error: no bair today\n" in printed.err
    assert "5/5" in printed.err
    done = [name for name in HUB_FOLDERS if weights.cached_path(name).exists()]
    assert done == hub == [name for name in HUB_FOLDERS if name != "bair"]

    before = [identity(weights.cached_path(name)) for name in done]
    assert main(["--all"]) == 0
    assert hub == [*done, "bair"]
    assert weights.cached_path("bair").exists()
    assert [identity(weights.cached_path(name)) for name in done] == before


# What is no checkpoint.


@pytest.mark.parametrize("content", [b"", b"my thesis", b"\x80\x02}."])
def test_a_foreign_model_is_refused(folder, out, capsys, content):
    (folder / "model.pt").write_bytes(content)
    assert_fails(capsys, [folder, out], f"^error: {folder}/model.pt: ")
    assert not out.parent.exists()


class Program:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_checkpoint_that_is_a_program_is_not_run(folder, out, capsys, monkeypatch, layout):
    monkeypatch.chdir(folder)
    state_dict = random_model(SMALL).state_dict() | {"p_z.extra": Program()}
    torch.save(state_dict, "model.pt", _use_new_zipfile_serialization=layout == "zip")
    assert_fails(
        capsys, [folder, out], f"^error: {folder}/model.pt: damaged, or not a pickle of .* asks for"
    )
    assert not out.parent.exists()
    assert not Path("ran").exists()
    torch.load("model.pt", weights_only=False)
    assert Path("ran").exists()


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_truncated_checkpoint_is_refused(folder, out, capsys, layout):
    path = folder / "model.pt"
    state_dict = random_model(SMALL).state_dict()
    torch.save(state_dict, path, _use_new_zipfile_serialization=layout == "zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_fails(capsys, [folder, out], f"^error: {path}: ")
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMALL | {"nf": 8}, "model.pt does not fit .*expected"),
        ({}, "config.json: .*no field 'archi'"),
        (None, "config.json: no such file"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(folder, out, capsys, config, message):
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    assert_fails(capsys, [folder, out], message)


@pytest.mark.parametrize("source", ["none", "digits", "KTH"])
def test_neither_a_folder_nor_a_dataset(tmp_path, capsys, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    message = f"'{source}' is neither a folder or file, nor i3d, nor a dataset .*human"
    assert_fails(capsys, [source], message)


# The command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one SOURCE, or --all"),
        (["kth", "--all"], "name one SOURCE, or --all"),
        (["kth", "."], r"OUT.safetensors: \. is a folder"),
        (["kth", "a", "b"], "unrecognized arguments"),
    ],
)
def test_a_wrong_call_is_told(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert re.search(f"python -m convert: error: {message}", capsys.readouterr().err)


@pytest.mark.parametrize("package", ["torch", "srvp_fd.srvp_model"])
def test_a_missing_package_is_named_once(hub, capsys, monkeypatch, package):
    monkeypatch.delitem(sys.modules, "convert.verify")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match="1"):
        main(["--all"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert f'error: {package} is missing: pip install ".[convert]"' in lines[0]
    assert not hub


def test_the_command_over_the_hub(checkpoints, tmp_path):
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
    assert "5/5" in run.stderr
    assert "Traceback" not in run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    for line, (name, status) in zip(errors, faults.items(), strict=True):
        assert repr(name) in line
        assert str(status) in line


# I3D.


def test_i3d_goes_from_the_package_into_the_cache(cache, capsys):
    assert main(["i3d"]) == 0
    assert f"i3d: wrote {cache / 'i3d.safetensors'}" in capsys.readouterr().out
    assert main(["i3d"]) == 0
    assert "is there already" in capsys.readouterr().out


def test_i3d_of_pytorch_lies_beside_its_file(i3d_weights, tmp_path):
    path = tmp_path / "i3d_pretrained_400.pt"
    torch.save(i3d.state_dict(i3d_weights.arrays), path)
    assert main([str(path)]) == 0
    beside = weights.load(path.with_suffix(".safetensors"))
    assert_same_arrays(beside.arrays, i3d_weights.arrays)


def test_i3d_of_pytorch_is_not_taken_for_that_of_the_package(i3d_weights, tmp_path, out, capsys):
    path = tmp_path / "i3d_pretrained_400.pt"
    torch.save(i3d.state_dict(i3d_weights.arrays), path)
    assert main([str(path), str(out)]) == 0
    assert f"i3d: wrote {out}" in capsys.readouterr().out
    assert_fails(capsys, ["i3d", out], "holds other weights, of 'i3d'")


def test_what_is_no_checkpoint_of_i3d_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert_fails(capsys, [tmp_path / "notes.txt"], "notes.txt: not a PyTorch checkpoint")
