"""Downloads from the hub, by processes of their own."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import PUBLISHED, SMALL, assert_same_arrays, write_checkpoint
from hub import COMMIT, run_client, serve
from processes import free_port
from safetensors import safe_open

from srvp_fd_jax.networks.srvp.checkpoint import HUB_FOLDERS, HUB_REPOSITORY, read_checkpoint

LOAD = """
import json
import sys
import time

import numpy as np
import srvp_fd_jax

time.sleep = lambda seconds: None  # of the hub's client, between its attempts
errors = {}
for name in sys.argv[2:]:
    try:
        np.savez(f"{sys.argv[1]}/{name}.npz", **srvp_fd_jax.load_network(name).arrays)
    except Exception as error:
        errors[name] = [type(error).__name__, str(error)]
print(json.dumps({"torch": "torch" in sys.modules, "errors": errors}))
"""


def load_in_a_process(
    url: str, home: Path, out: Path, names: Iterable[str], **environment: str
) -> dict[str, Any]:
    out.mkdir()
    run = run_client(url, home, "-c", LOAD, str(out), *names, **environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for seed, (dataset, folder) in enumerate(HUB_FOLDERS.items()):
        # One of more than a piece of the client's downloads, 10 MB.
        config = PUBLISHED["kth"] | {"nf": 32} if dataset == "kth" else SMALL
        write_checkpoint(root / folder, config, seed)
    return root


def test_the_first_call_downloads_and_the_second_needs_no_hub(repository: Path, tmp_path: Path):
    with serve(repository) as hub:
        first = load_in_a_process(hub.url, tmp_path, tmp_path / "first", HUB_FOLDERS)
        asked = hub.requests
    for folder in HUB_FOLDERS.values():
        for name in ("config.json", "model.pt"):
            assert any(path.endswith(f"resolve/main/{folder}/{name}") for path in asked)
    files = {path.name for path in (tmp_path / "srvp-fd-jax").iterdir()}
    assert files == {f"{dataset}.safetensors" for dataset in HUB_FOLDERS}
    for file in files:
        with safe_open(tmp_path / "srvp-fd-jax" / file, "np") as converted:
            assert converted.metadata()["hub_commit"] == COMMIT
    shutil.rmtree(tmp_path / "hf")
    second = load_in_a_process(hub.url, tmp_path, tmp_path / "second", ["kth", "bair"])
    assert first == second == {"torch": False, "errors": {}}
    for dataset, folder in HUB_FOLDERS.items():
        expected = read_checkpoint(repository / folder)
        assert expected.name == dataset
        assert_same_arrays(read_npz(tmp_path / "first" / f"{dataset}.npz"), expected.arrays)
        if dataset in ("kth", "bair"):
            assert_same_arrays(read_npz(tmp_path / "second" / f"{dataset}.npz"), expected.arrays)


def assert_tells_what_to_do(
    errors: dict[str, tuple[str, str]], dataset: str, home: Path, reason: str
) -> None:
    kind, message = errors[dataset]
    assert kind == "FileNotFoundError"
    assert "\n" not in message
    assert repr(dataset) in message
    assert str(home / "srvp-fd-jax" / f"{dataset}.safetensors") in message
    assert f"`srvp-fd-jax convert {dataset} {dataset}.safetensors`" in message
    assert reason in message


def test_a_hub_that_fails_is_one_error_in_one_line(repository: Path, tmp_path: Path):
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


def test_no_hub_is_one_error_in_one_line(tmp_path: Path):
    url = f"http://127.0.0.1:{free_port()}"
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
def test_without_a_hub_the_error_comes_at_once(repository: Path, tmp_path: Path, kind: str):
    with serve(repository) as hub:
        hub.faults["kth"] = "stall"
        url, environment, reason = {
            "refused": (f"http://127.0.0.1:{free_port()}", {}, "Connection refused"),
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


def blobs(home: Path) -> list[Path]:
    return list((home / "hf").glob("hub/models--*/blobs/*"))


def test_a_damaged_download_is_fetched_again_once(repository: Path, tmp_path: Path):
    with serve(repository) as hub:
        hub.faults.update({"bair": "damaged once", "human": "damaged"})
        names = ["bair", "human"]
        loaded = load_in_a_process(hub.url, tmp_path, tmp_path / "out", names)
        asked = [path for path in hub.requests if path == "/cdn/human/model.pt"]
    expected = read_checkpoint(repository / "bair")
    assert_same_arrays(read_npz(tmp_path / "out" / "bair.npz"), expected.arrays)
    assert loaded["errors"].keys() == {"human"}
    kind, message = loaded["errors"]["human"]
    assert kind == "DamagedError"
    assert "\n" not in message
    digest = hashlib.sha256((repository / "human" / "model.pt").read_bytes()).hexdigest()
    (blob,) = (path for path in blobs(tmp_path) if path.name == digest)
    assert message.startswith(f"{blob} is damaged: on the hub human/model.pt has the SHA-256 ")
    assert f" {digest}, and downloaded again it has the SHA-256" in message
    assert "; delete it" in message
    assert len(asked) == 2


def test_a_file_that_was_damaged_after_its_download_heals(repository: Path, tmp_path: Path):
    with serve(repository) as hub:
        load_in_a_process(hub.url, tmp_path, tmp_path / "first", ["bair"])
        blob = max(blobs(tmp_path), key=lambda path: path.stat().st_size)
        content = blob.read_bytes()
        blob.write_bytes(content[:-200] + b"damage" + content[-194:])
        shutil.rmtree(tmp_path / "srvp-fd-jax")
        offline = {"HF_HUB_OFFLINE": "1"}
        second = load_in_a_process("", tmp_path, tmp_path / "second", ["bair"], **offline)
        (kind, message) = second["errors"]["bair"]
        assert kind == "DamagedError"
        assert message.startswith(f"{blob} is damaged: ")
        assert re.search(r"it could not be downloaded again \(.*Offline.*\); delete it", message)
        third = load_in_a_process(hub.url, tmp_path, tmp_path / "third", ["bair"])
    assert third["errors"] == {}
    assert blob.read_bytes() == content
    expected = read_checkpoint(repository / "bair")
    assert_same_arrays(read_npz(tmp_path / "third" / "bair.npz"), expected.arrays)


def test_offline_the_cache_of_the_hub_serves(repository: Path, tmp_path: Path):
    cached = tmp_path / "hf" / "hub" / f"models--{HUB_REPOSITORY.replace('/', '--')}"
    shutil.copytree(repository / "human", cached / "snapshots" / COMMIT / "human")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    offline = {"HF_HUB_OFFLINE": "1"}
    loaded = load_in_a_process("", tmp_path, tmp_path / "out", ["human", "kth"], **offline)
    assert_tells_what_to_do(loaded["errors"], "kth", tmp_path, "OfflineModeIsEnabled")
    expected = read_checkpoint(repository / "human")
    assert_same_arrays(read_npz(tmp_path / "out" / "human.npz"), expected.arrays)
