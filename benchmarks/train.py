"""Steps of training the SRVP model against PyTorch.

    pip install -e ".[dev]" && python benchmarks/train.py [dcgan16|dcgan64|vgg64|vgg64_skips]...

A step is the loss of a batch of clips with 12 frames, its gradient and an update by Adam. Both
packages have the same weights, clips and random draws: the PyTorch model is that of srvp-fd, with
the rest of the authors' code as the tests have it. Each implementation runs in its own process, and
the processes take turns. The table has the medians of the turns in steps per second, their ratio,
the lowest and the highest ratio of one turn, and the peak memory of each process.
"""

import functools
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

FRAMES, TURNS, SECONDS = 12, 7, 2.0

_DCGAN = {
    **{"archi": "dcgan", "nx": 64, "nc": 1, "nhx": 128, "nh_inf": 256, "nlayers_inf": 3},
    **{"nh_res": 512, "nlayers_res": 4, "ny": 20, "nz": 20, "nt_inf": 5, "skipco": False},
}
_VGG = _DCGAN | {"archi": "vgg", "nc": 3, "ny": 50, "nz": 50, "nt_inf": 3, "nf": 64}
CONFIGS: dict[str, tuple[int, dict[str, Any]]] = {
    "dcgan16": (16, _DCGAN | {"nf": 16}),
    "dcgan64": (16, _DCGAN | {"nf": 64}),
    "vgg64": (4, _VGG),
    "vgg64_skips": (4, _VGG | {"skipco": True}),
}
"""Clips per batch and configurations of the models."""


def ours(name: str) -> Callable[[], float]:
    """Makes steps with this package."""
    import jax
    import jax.numpy as jnp
    import optax
    import srvp_oracle
    from flax import nnx

    from srvp_fd_jax.training.objective import objective

    clips, config = CONFIGS[name]
    model = srvp_oracle.model_of(srvp_oracle.untrained_oracle(config), config)
    model.train()
    graph, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    x = jnp.asarray(srvp_oracle.moving_clips(clips, FRAMES, config["nc"]))
    draws = srvp_oracle.random_draws(config, clips, FRAMES, FRAMES)
    adam = optax.adam(3e-4)

    def loss(parameters: Any, statistics: Any) -> Any:
        model = nnx.merge(graph, parameters, statistics, copy=True)
        return objective(model(x, draws), x).loss, nnx.state(model, nnx.BatchStat)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        parameters, statistics, moments = state
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, statistics), slopes = gradient(parameters, statistics)
        changes, moments = adam.update(slopes, moments)
        return (optax.apply_updates(parameters, changes), statistics, moments), value

    # A copy, because buffers that come from PyTorch cannot be donated.
    state = jax.tree.map(jnp.copy, (parameters, statistics, adam.init(parameters)))

    def work() -> float:
        nonlocal state
        state, value = step(state)
        return float(value)

    return work


def torchs(name: str) -> Callable[[], float]:
    """Makes steps with PyTorch."""
    import srvp_oracle
    import torch

    clips, config = CONFIGS[name]
    oracle = srvp_oracle.untrained_oracle(config)
    x = srvp_oracle.to_torch_clips(srvp_oracle.moving_clips(clips, FRAMES, config["nc"]))
    draws = srvp_oracle.random_draws(config, clips, FRAMES, FRAMES)
    draws = type(draws)(*(np.asarray(draw) for draw in draws))
    adam = torch.optim.Adam(oracle.parameters(), lr=3e-4)

    def work() -> float:
        loss = srvp_oracle.objective(oracle(x, draws), x, obs_scale=1.0, beta_z=1.0)["loss"]
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return work


IMPLEMENTATIONS = {"ours": ours, "torch": torchs}


def serve(implementation: str, name: str) -> None:
    """For each line, makes steps for a while; prints the seconds of one, a loss and the memory."""
    work = IMPLEMENTATIONS[implementation](name)
    losses = [work() for _ in range(3)]
    for _ in sys.stdin:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            work()
            steps += 1
        seconds = (time.perf_counter() - start) / steps
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(seconds, losses[-1], peak, flush=True)


def compare(name: str) -> None:
    """Prints the row of one configuration."""
    servers = {
        implementation: subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--serve", implementation, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for implementation in IMPLEMENTATIONS
    }
    answers: dict[str, list[list[float]]] = {implementation: [] for implementation in servers}
    for turn in range(TURNS + 1):
        for implementation, server in servers.items():
            print("step", file=server.stdin, flush=True)
            answer = [float(value) for value in server.stdout.readline().split()]
            if turn:  # while one made its first steps, the other compiled
                answers[implementation].append(answer)
    for server in servers.values():
        server.stdin.close()
        server.wait()
    mine, theirs = (np.array(turns) for turns in answers.values())
    np.testing.assert_allclose(mine[0, 1], theirs[0, 1], rtol=1e-3)  # the third loss
    ratios = theirs[:, 0] / mine[:, 0]
    ratio = np.median(theirs[:, 0]) / np.median(mine[:, 0])
    rates = "".join(f"{1 / np.median(turns[:, 0]):10.2f}" for turns in (mine, theirs))
    peaks = "".join(f"{turns[-1, 2]:10.0f} MiB" for turns in (mine, theirs))
    spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
    print(f"{name:12}{rates}{ratio:8.2f}{spread:>16}{peaks}", flush=True)


def main(asked: list[str]) -> None:
    """Prints the rows that `asked` names, or all."""
    header = "".join(f"{title:>10}" for title in IMPLEMENTATIONS)
    peaks = "".join(f"{title + ', peak':>14}" for title in IMPLEMENTATIONS)
    print(f"{'steps/s':12}{header}{'ratio':>8}{'of a turn':>16}{peaks}")
    for name in CONFIGS:
        if not asked or name in asked:
            compare(name)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main(sys.argv[1:])
