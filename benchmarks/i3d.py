"""Clips per second and peak memory of I3D, ours and PyTorch's.

    pip install -e ".[dev]" && python benchmarks/i3d.py

Each measurement runs in its own process, so that each has its own peak memory and the threads of
one library do not disturb the other. The processes alternate. PyTorch's network is that of cd-fvd;
the ratio is that to the faster of its two memory formats. Without TF32, on a GPU if both see one.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

BATCHES = (1, 4, 8)
ROUNDS = 3
CALLS = 5


def ours(clips: np.ndarray) -> Callable[[], object]:
    """Our network, as the calculator runs it."""
    import jax

    import srvp_fd_jax

    calculator = srvp_fd_jax.Calculator()
    on_device = jax.device_put(clips)
    return lambda: jax.block_until_ready(calculator.features(on_device))


def torchs(clips: np.ndarray, *, channels_last: bool) -> Callable[[], object]:
    """PyTorch's network with our weights."""
    import i3d
    import torch

    from srvp_fd_jax.networks.weights import load_weights

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    network = i3d.torch_network(load_weights("i3d").arrays).to(device)
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    network = network.to(memory_format=memory_format)
    on_device = torch.from_numpy(clips).to(device).permute(0, 4, 1, 2, 3)
    on_device = on_device.contiguous(memory_format=memory_format)

    def call() -> None:
        with torch.no_grad():
            network(2 * on_device - 1).cpu()

    return call


IMPLEMENTATIONS: dict[str, Callable[[np.ndarray], Callable[[], object]]] = {
    "ours": ours,
    "torch": lambda clips: torchs(clips, channels_last=False),
    "torch, channels last": lambda clips: torchs(clips, channels_last=True),
}


def measure(name: str, batch: int) -> None:
    """Prints the seconds per call and the peak memory of this process in MiB."""
    clips = np.random.default_rng(0).random((batch, 16, 224, 224, 3), np.float32)
    call = IMPLEMENTATIONS[name](clips)
    call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    print(np.median(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Prints the table."""
    print(f"{'clips':>5} {'implementation':22} {'clips/s':>8} {'peak MiB':>9} {'ratio':>6}")
    for batch in BATCHES:
        results: dict[str, list[list[float]]] = {name: [] for name in IMPLEMENTATIONS}
        for _ in range(ROUNDS):
            for name in IMPLEMENTATIONS:
                command = [sys.executable, "-W", "ignore", __file__, name, str(batch)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[name].append([float(x) for x in output.split()])
        seconds = {name: np.median(rows, axis=0)[0] for name, rows in results.items()}
        fastest = min(seconds[name] for name in seconds if name != "ours")
        for name, rows in results.items():
            peak = np.median(rows, axis=0)[1]
            ratio = f"{fastest / seconds[name]:6.2f}" if name == "ours" else ""
            rate = batch / seconds[name]
            print(f"{batch:5} {name:22} {rate:8.2f} {peak:9.0f} {ratio}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        main()
