"""Distances in a training loop, as a metric and as a loss.

    python examples/training_loop.py

A generator of moving digits has a learned brightness per pixel, and its frames are too dark at
first. Optax trains it towards real frames on all available devices. The loop collects the distance
to the real frames and the loss as metrics. The calculator that the loss uses is an attribute of the
model, which the optimiser leaves alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from srvp_fd_jax import Calculator, DistanceMetric
from srvp_fd_jax.demo.moving_digits import moving_digits


class Generator(nnx.Module):
    """A toy generator with the calculator of its loss."""

    def __init__(self, calculator: Calculator):
        """Starts with frames that are too dark; the loss compares frames with `calculator`."""
        self.brightness = nnx.Param(jnp.full((64, 64, 1), -1.0))
        self.calculator = calculator

    def __call__(self, noise: Float[Array, "n 64 64 1"]) -> Float[Array, "n 64 64 1"]:
        """Frames in [0, 1]."""
        return jax.nn.sigmoid(self.brightness[...])[None] * noise

    def loss(
        self, noise: Float[Array, "n 64 64 1"], target: Float[Array, "n 64 64 1"]
    ) -> Float[Array, ""]:
        """The distance between generated and real frames."""
        return self.calculator.distances(self(noise), target)["frame"]


@nnx.jit
def evaluation_step(
    generator: Generator,
    metrics: nnx.MultiMetric,
    noise: Float[Array, "n 64 64 1"],
    target: Float[Array, "n 64 64 1"],
) -> None:
    """Adds one batch of generated frames to the metrics."""
    metrics.update(clips=generator(noise), loss=generator.loss(noise, target))


def main(steps: int = 30, batch: int = 192) -> list[float]:
    """Trains the generator and returns the distance after every ten steps."""
    rng = np.random.default_rng(0)
    real, noise = (np.float32(moving_digits(rng, 4 * batch, 1)[:, 0]) / 255 for _ in range(2))
    calculator = Calculator("digits").only("frame")
    generator = Generator(calculator)
    optimizer = nnx.Optimizer(generator, optax.adam(0.1), wrt=nnx.Param)
    metrics = nnx.MultiMetric(
        distance=DistanceMetric(calculator, calculator.statistics([real])),
        loss=nnx.metrics.Average("loss"),
    )

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    sharding = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        target = jax.device_put(real[:batch], sharding)

        @nnx.jit
        def training_step(
            generator: Generator, optimizer: nnx.Optimizer, noise: Float[Array, "n 64 64 1"]
        ) -> None:
            gradient = nnx.grad(lambda generator: generator.loss(noise, target))(generator)
            optimizer.update(generator, gradient)

        evaluated = []
        for step in range(steps + 1):
            if step % 10 == 0:
                metrics.reset()
                for rows in np.split(noise, 4):
                    rows = jax.device_put(rows, sharding)
                    evaluation_step(generator, metrics, rows, target)
                computed = metrics.compute()
                distance, loss = float(computed["distance"]["frame"]), float(computed["loss"])
                evaluated.append(distance)
                print(f"step {step:3}: distance {distance:.3f}, loss {loss:.3f}", flush=True)
            rows = noise[rng.choice(len(noise), batch, replace=False)]
            training_step(generator, optimizer, jax.device_put(rows, sharding))
    return evaluated


if __name__ == "__main__":
    main()
