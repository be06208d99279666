"""Our encoders and calculator against those of srvp-fd (PyTorch).

    pip install -e ".[dev]" && python benchmarks/encoder.py [dcgan|vgg|start]...

Both packages have the same random weights. Each implementation runs in its own process, and the
processes take turns. The tables have medians of these rows, in frames per second:

- "n per call": `extract_features` from n uint8 frames in NumPy to features on the host. PyTorch's
  encoder gets the same frames and makes them floats, which srvp-fd leaves to its user. The ratio is
  that to the faster of PyTorch's two memory formats.
- "end to end n": from n frames per side to the distance, by the calculator of each package.
- "three of n": from n clips per side, as long as the network needs, to the distances of all three
  comparison types: one call of this package, three of srvp-fd.

"start" times the import, and a process up to its first distance without a cache of compiled
programs, with an empty cache and with a full one. On a GPU that both libraries see, PyTorch runs
with cuDNN's autotuning and without TF32.
"""

import contextlib
import functools
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

DATASETS = {"dcgan": "mmnist_stochastic", "vgg": "kth"}
COUNTS = {"dcgan": (1, 32, 64, 256, 1024), "vgg": (1, 32, 64, 256)}
PAIRS = 7
END_TO_END = {"dcgan": 1024, "vgg": 256}
CLIPS = 129  # the fewest that srvp-fd accepts

Encode = Callable[[np.ndarray], object]
Score = Callable[[np.ndarray, np.ndarray], object]


def ours(folder: Path) -> tuple[Encode, Score, Score]:
    """Encoder of this package, and its calculator for frames and for clips."""
    import jax

    import srvp_fd_jax

    calculator = srvp_fd_jax.FrechetDistanceCalculator(
        json.loads((folder / "dataset.json").read_text()), weights=folder
    )
    return (
        lambda frames: np.asarray(calculator.extract_features(frames)),
        lambda x, y: float(calculator(x, y)),
        lambda x, y: jax.device_get(calculator.distances(x, y)),
    )


def torchs(folder: Path, *, channels_last: bool) -> tuple[Encode, Score, Score]:
    """Encoder and calculators of srvp-fd."""
    import torch

    # `srvp_fd.frechet_distance` is the function, not the module.
    srvp_fd = importlib.import_module("srvp_fd.frechet_distance")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # Replaces the download from the hub.
    srvp_fd.hf_hub_download = lambda *_, filename, **__: str(folder / Path(filename).name)
    dataset = json.loads((folder / "dataset.json").read_text())
    with contextlib.redirect_stdout(sys.stderr):  # srvp-fd prints its downloads
        calculator = srvp_fd.FrechetDistanceCalculator(dataset, device=device)
    encoder = calculator.model.encoder
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    encoder.to(memory_format=memory_format)

    def to_torch(frames: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).to(device).float() / 255
        return images.contiguous(memory_format=memory_format)

    def encode(frames: np.ndarray) -> object:
        with torch.no_grad():
            return encoder(to_torch(frames))[0].cpu().numpy()

    def score(x: np.ndarray, y: np.ndarray) -> float:
        return float(calculator(to_torch(x), to_torch(y)))

    def score_clips(x: np.ndarray, y: np.ndarray) -> list[float]:
        of_x, of_y = (to_torch(np.concatenate(clips)) for clips in (x, y))
        sides = [side.unflatten(0, x.shape[:2]) for side in (of_x, of_y)]
        of_clips = [float(calculator(*sides, kind)) for kind in ("static_content", "dynamics")]
        return [float(calculator(of_x, of_y)), *of_clips]

    return encode, score, score_clips


IMPLEMENTATIONS: dict[str, Callable[[Path], tuple[Encode, Score, Score]]] = {
    "ours": ours,
    "torch": lambda folder: torchs(folder, channels_last=False),
    "torch, channels last": lambda folder: torchs(folder, channels_last=True),
}


def serve(name: str, folder: Path) -> None:
    """Runs the row that each line names; prints the seconds it took and the peak memory."""
    encode, score, score_clips = IMPLEMENTATIONS[name](folder)
    config = json.loads((folder / "config.json").read_text())
    rng = np.random.default_rng(0)
    archi, frame = config["archi"], (64, 64, config["nc"])
    x, y = rng.integers(0, 256, (2, END_TO_END[archi], *frame), np.uint8)
    clips = rng.integers(0, 256, (2, CLIPS, config["nt_inf"], *frame), np.uint8)
    work_of = {str(n): functools.partial(encode, x[:n]) for n in COUNTS[archi]} | {
        "end to end": functools.partial(score, x, y),
        "three of": functools.partial(score_clips, *clips),
    }
    seen = set()
    for line in sys.stdin:
        row = line.strip()
        work = work_of[row]
        if row not in seen:  # compiles or tunes
            work()
            seen.add(row)
        # One call with few frames is too short to be timed.
        calls = max(1, 64 // int(row)) if row.isdecimal() else 1
        start = time.perf_counter()
        for _ in range(calls):
            work()
        seconds = (time.perf_counter() - start) / calls
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


def compare(archi: str, folder: Path) -> None:
    """Prints the rows of one architecture."""
    import checkpoints

    dataset = DATASETS[archi]
    checkpoints.write_checkpoint(folder, checkpoints.PUBLISHED[dataset])
    (folder / "dataset.json").write_text(json.dumps(dataset))
    servers = {
        name: subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--serve", name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in IMPLEMENTATIONS
    }
    sides = 2 * END_TO_END[archi]
    frames_of_clips = 2 * CLIPS * checkpoints.PUBLISHED[dataset]["nt_inf"]
    rows = {str(n): (n, f"{n} per call") for n in COUNTS[archi]} | {
        "end to end": (sides, f"end to end {END_TO_END[archi]}"),
        "three of": (frames_of_clips, f"three of {CLIPS}"),
    }
    for row, (frames, what) in rows.items():
        answers: dict[str, list[list[float]]] = {name: [] for name in servers}
        for _ in range(PAIRS):
            for name, server in servers.items():
                print(row, file=server.stdin, flush=True)
                answers[name].append([float(value) for value in server.stdout.readline().split()])
        seconds = {name: np.median(turns, axis=0)[0] for name, turns in answers.items()}
        theirs = min(seconds[name] for name in seconds if name != "ours")
        rates = "".join(f"{frames / seconds[name]:22.0f}" for name in servers)
        print(f"{archi:6}{what:>16}{rates}{theirs / seconds['ours']:8.2f}", flush=True)
    peaks = "".join(f"{turns[-1][1]:18.0f} MiB" for turns in answers.values())
    print(f"{archi:6}{'peak memory':>16}{peaks}", flush=True)
    for server in servers.values():
        server.stdin.close()
        server.wait()


def start() -> None:
    """Prints the times of imports and of first distances."""
    code = {
        "import srvp_fd_jax": "import srvp_fd_jax",
        "import srvp_fd": "import srvp_fd",
        "first number, digits": "import numpy as np, srvp_fd_jax; x = np.random.default_rng(0)"
        ".integers(0, 256, (2, 256, 64, 64, 1), np.uint8);"
        "print(float(srvp_fd_jax.frechet_distance(*x, 'digits')))",
        "first number, FVD": "import numpy as np, srvp_fd_jax; x = np.random.default_rng(0)"
        ".integers(0, 256, (2, 8, 16, 64, 64, 3), np.uint8);"
        "print(float(srvp_fd_jax.frechet_video_distance(*x)))",
    }
    with tempfile.TemporaryDirectory() as cache:
        settings = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        rows = [
            ("import srvp_fd_jax", {}, "import srvp_fd_jax"),
            ("import srvp_fd", {}, "import srvp_fd"),
            ("first number, digits", {}, "no cache of programs"),
            ("first number, digits", settings, "cold cache"),
            ("first number, digits", settings, "warm cache"),
            ("first number, FVD", {}, "no cache of programs"),
            ("first number, FVD", settings, "cold cache"),
            ("first number, FVD", settings, "warm cache"),
        ]
        for what, settings, name in rows:
            begun = time.perf_counter()
            command = [sys.executable, "-W", "ignore", "-c", code[what]]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | settings)
            print(f"{what:24}{name:24}{time.perf_counter() - begun:8.2f} s", flush=True)


def main(asked: list[str]) -> None:
    """Prints the tables that `asked` names, or all."""
    header = "".join(f"{name:>22}" for name in IMPLEMENTATIONS)
    print(f"{'frames/s':22}{header}{'ratio':>8}")
    for archi in DATASETS:
        if not asked or archi in asked:
            with tempfile.TemporaryDirectory() as folder:
                compare(archi, Path(folder))
    if not asked or "start" in asked:
        start()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
