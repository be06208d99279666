"""Our networks and distance against PyTorch on a GPU.

    pip install -e ".[dev]" "jax[cuda12]" torch && python benchmarks/gpu.py

PyTorch must be a build with CUDA. The implementations alternate in one process on inputs that are
on the device, and the table has the medians of 7 turns. PyTorch runs with cuDNN's autotuning, in
the faster of its two memory formats. "float32" is without TF32; "fast" is TF32 in PyTorch and
precision="bfloat16" in our networks. The share of the chip's float32 peak is that of the
operations that XLA counts. The distance is compared with the way of srvp-fd, which takes features
to the host and calls `scipy.linalg.sqrtm`. If JAX or PyTorch sees no GPU, nothing is measured.
"""

import copy
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the memory

import jax
import numpy as np
import scipy.linalg
import torch

from srvp_fd_jax import FeatureStatistics, frechet_distance_from_statistics, load_network
from srvp_fd_jax.networks.weights import load_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import checkpoints
import i3d

TURNS = 7
FLOAT32_PEAK = {"H200": 67e12, "H100": 67e12, "A100": 19.5e12, "L4": 30.3e12, "V100": 15.7e12}

Call = Callable[[], object]


def seconds(calls: dict[str, Call]) -> dict[str, float]:
    """Median times of alternating calls, after a first call each that compiles or tunes."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(TURNS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def torch_calls(name: str, network: torch.nn.Module, x: np.ndarray, device: str) -> dict[str, Call]:
    """Calls of PyTorch's network in both memory formats, on inputs `x` with the channels last."""
    channels_first = torch.from_numpy(x).to(device).movedim(-1, 1)
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d

    def call(network: torch.nn.Module, samples: torch.Tensor) -> None:
        with torch.no_grad():
            network(samples)
        if device == "cuda":
            torch.cuda.synchronize()

    calls: dict[str, Call] = {}
    for suffix, memory_format in (("", torch.contiguous_format), (", channels last", last)):
        samples = channels_first.contiguous(memory_format=memory_format)
        converted = copy.deepcopy(network).to(device, memory_format=memory_format)
        calls[name + suffix] = functools.partial(call, converted, samples)
    return calls


def rates(
    what: str,
    ours: dict[str, Callable[[jax.Array], jax.Array]],
    theirs: torch.nn.Module,
    x: np.ndarray,
    peak: float,
    device: str,
) -> None:
    """Prints the samples per second of one network, in float32 and fast."""
    on_device = jax.device_put(x)
    for setting, network in ours.items():
        fast = setting == "fast"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = fast
        program = jax.jit(lambda network, x: network(x)).lower(network, on_device).compile()
        calls: dict[str, Call] = {
            "ours": lambda p=program, n=network: jax.block_until_ready(p(n, on_device))
        }
        took = seconds(calls | torch_calls("torch", theirs, x, device))
        best = min(s for name, s in took.items() if name != "ours")
        flops = program.cost_analysis()["flops"] / took["ours"]
        share = "" if fast else f"{flops / peak:9.0%} of the float32 peak"
        print(
            f"{what:8}{len(x):6} {setting:8}{len(x) / took['ours']:12.0f}"
            f"{len(x) / best:12.0f}{best / took['ours']:8.2f}{share}",
            flush=True,
        )


def encoders(peak: float, device: str, counts: tuple[int, ...]) -> None:
    """Prints the rates of the encoders of SRVP, with the same random weights."""
    for archi, dataset in (("dcgan", "mmnist_stochastic"), ("vgg", "kth")):
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.write_checkpoint(Path(folder), checkpoints.PUBLISHED[dataset])
            ours = {
                setting: load_network(dataset, folder, precision).module().encoder
                for setting, precision in (("float32", "float32"), ("fast", "bfloat16"))
            }
        theirs = checkpoints.random_model(checkpoints.PUBLISHED[dataset]).encoder.eval()
        for n in counts:
            x = np.random.default_rng(0).random((n, 64, 64, 1), np.float32)
            rates(archi, ours, theirs, x, peak, device)


def video(peak: float, device: str, counts: tuple[int, ...]) -> None:
    """Prints the rates of I3D on clips of 16 frames."""
    ours = {
        setting: load_network("i3d", precision=precision).module()
        for setting, precision in (("float32", "float32"), ("fast", "bfloat16"))
    }
    theirs = i3d.torch_network(load_weights("i3d").arrays)
    for n in counts:
        x = np.random.default_rng(0).uniform(-1, 1, (n, 16, 224, 224, 3)).astype(np.float32)
        rates("i3d", ours, theirs, x, peak, device)


def distances(dimensions: tuple[int, ...]) -> None:
    """Prints the times from features on the device to the distance."""
    rng = np.random.default_rng(0)

    @jax.jit
    def on_device(x: jax.Array, y: jax.Array) -> jax.Array:
        statistics = map(FeatureStatistics.from_features, (x, y))
        return frechet_distance_from_statistics(*statistics)

    for d in dimensions:
        x, y = (jax.device_put(rng.normal(size=(4 * d, d)).astype(np.float32)) for _ in range(2))

        def on_host(x=x, y=y) -> object:
            c1, c2 = (np.cov(np.asarray(f, np.float64), rowvar=False) for f in (x, y))
            return scipy.linalg.sqrtm(c1 @ c2)

        took = seconds(
            {
                "ours": lambda x=x, y=y: jax.block_until_ready(on_device(x, y)),
                "host": on_host,
            }
        )
        ours, host = took["ours"] * 1e3, took["host"] * 1e3
        print(f"distance, d = {d:5}{ours:12.1f} ms{host:12.1f} ms{host / ours:8.2f}", flush=True)


def main() -> None:
    """Prints the tables, or why nothing is measured."""
    if jax.default_backend() != "gpu" or not torch.cuda.is_available():
        print(
            f"nothing measured: JAX runs on {jax.default_backend()}, PyTorch sees "
            f"{torch.cuda.device_count()} GPUs, and both need one"
        )
        return
    torch.backends.cudnn.benchmark = True
    chip = torch.cuda.get_device_name()
    peak = next((p for name, p in FLOAT32_PEAK.items() if name in chip), float("nan"))
    print(f"{chip}, JAX {jax.__version__}, PyTorch {torch.__version__}; samples per second")
    print(f"{'':8}{'':6} {'':8}{'ours':>12}{'torch':>12}{'ratio':>8}")
    encoders(peak, "cuda", (64, 256, 1024))
    video(peak, "cuda", (1, 8, 32))
    distances((128, 400, 2048))


if __name__ == "__main__":
    main()
