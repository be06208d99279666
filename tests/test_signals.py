"""Ends of a command: a status of its own and no traceback."""

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


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_videos_are_read_ends_the_command(
    videos: Path, tmp_path: Path, number: int, status: int
):
    output, cache = tmp_path / "a.safetensors", tmp_path / "srvp-fd-jax" / "statistics"
    command = [COMMAND, "statistics", str(videos), "-o", str(output), "--dataset", "digits"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        wait_for(lambda: any(cache.glob("*.safetensors")))
    finally:
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == status, error
    assert "Traceback" not in error
