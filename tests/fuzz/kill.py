"""Ends the command at random moments, again and again: what comes of it is one unbroken run's.

    python tests/fuzz/kill.py               # 40 times, in about ten minutes on two cores
    python tests/fuzz/kill.py --times 4

Each time `srvp-fd-jax statistics` is started on the same videos and is ended by SIGTERM or SIGKILL
after a random time, until one run is left to finish. Its file must have the bytes of a run that
nobody disturbed.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from clips import moving, write_video

COMMAND = Path(sys.executable).with_name("srvp-fd-jax")
VIDEOS = 1500


def start(videos: Path, output: Path) -> subprocess.Popen[str]:
    """Starts the command."""
    command = [COMMAND, "statistics", videos, "-o", output, "--protocol", "srvp:digits:frame"]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)


def main() -> None:
    """Prints how many runs were ended, and that all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=40, help="how many runs are ended")
    parser.add_argument("--seed", type=int, default=0, help="chooses the moments")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        videos = Path(scratch, "videos")
        videos.mkdir()
        first = write_video(videos / "0.mp4", moving(6, 64, 64))
        for i in range(1, VIDEOS):
            (videos / f"{i}.mp4").hardlink_to(first)

        undisturbed, output = (
            Path(scratch, f"{name}.safetensors") for name in ("undisturbed", "output")
        )
        begun = time.monotonic()
        error = (process := start(videos, undisturbed)).communicate()[1]
        assert process.returncode == 0, error
        seconds = time.monotonic() - begun

        finished = 0
        for i in range(args.times):
            process = start(videos, output)
            time.sleep(rng.uniform(0.2, seconds))
            number = rng.choice([signal.SIGTERM, signal.SIGKILL])
            process.send_signal(number)
            error = process.communicate(timeout=60)[1]
            # A run may have finished, or be in Python's own beginning, where a signal just ends it.
            assert process.returncode in (0, 143, -number), (process.returncode, error)
            if process.returncode == 0:
                assert output.read_bytes() == undisturbed.read_bytes()
                output.unlink()
                finished += 1
            print(f"{i + 1}: {signal.Signals(number).name}, {process.returncode}", flush=True)
        error = (process := start(videos, output)).communicate()[1]
        assert process.returncode == 0, error
        assert output.read_bytes() == undisturbed.read_bytes()
    print(f"{args.times} runs were ended, {finished} of them too late")


if __name__ == "__main__":
    main()
