"""Ends of a command: no process, memory or traceback is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import moving, write_video

COMMAND = Path(sys.executable).with_name("srvp-fd-jax")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many of a few bytes."""
    folder = tmp_path_factory.mktemp("videos")
    first = write_video(folder / "0.mp4", moving(6, 64, 64))
    for i in range(1, 4000):
        (folder / f"{i}.mp4").hardlink_to(first)
    return folder


def children(pid: int) -> set[int]:
    """The children of a process, and their children."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found |= {child} | children(child)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("library", ["numpy", "jaxlib"])
def test_interrupts_in_the_imports_end_the_command(library: str):
    process = subprocess.Popen(
        [sys.executable, "-m", "srvp_fd_jax", "protocols"], stderr=subprocess.PIPE, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: library in maps.read_text())
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "srvp-fd-jax: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("number", "when"),
    [(signal.SIGINT, "starting"), (signal.SIGTERM, "running"), (signal.SIGKILL, "running")],
)
def test_workers_end_with_their_parent(videos: Path, tmp_path: Path, number: int, when: str):
    before = shared_memory()
    output = tmp_path / "a.safetensors"
    command = [COMMAND, "stats", str(videos), "-o", str(output), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--dataset", "digits"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if when == "starting":
        wait_for(lambda: len(children(process.pid)) > 2)  # the workers, and what counts memory
    else:
        wait_for(Path(f"{output}.partial").exists)
    workers = children(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    assert process.returncode == expected[number], error
    wait_for(lambda: not any(map(is_running, workers)), 20)
    wait_for(lambda: shared_memory() <= before)  # also that of other tests
    if number != signal.SIGKILL:
        assert "Traceback" not in error
        assert "leaked" not in error
