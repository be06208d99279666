"""Use inside a training loop: distances as a metric that is carried, and as a loss.

    python examples/training_loop.py

A generator of moving digits that starts wrong (its frames are too dark, by a learned brightness
for each pixel) is trained with optax towards real ones, on all devices that there are. The metric
and the statistics of the real frames are attributes of the model, which the optimiser leaves alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

import srvp_fd_jax
from srvp_fd_jax import FeatureStatistics, FrechetDistanceCalculator
from srvp_fd_jax.videos.moving_digits import moving_digits


class Generator(nnx.Module):
    """A toy generator, and what it is evaluated with."""

    def __init__(self, metric: FrechetDistanceCalculator, real: Float[np.ndarray, "n 64 64 1"]):
        """Starts too dark.

        Args:
            metric: What scores the frames.
            real: Real frames, whose statistics are kept.
        """
        self.brightness = nnx.Param(jnp.full((64, 64, 1), -1.0))
        self.metric = metric
        self.reference = metric.statistics([real])

    def __call__(self, noise: Float[Array, "n 64 64 1"]) -> Float[Array, "n 64 64 1"]:
        """Frames in [0, 1]."""
        return jax.nn.sigmoid(self.brightness[...])[None] * noise


@nnx.jit
def evaluation_step(
    generator: Generator, statistics: FeatureStatistics, noise: Float[Array, "n 64 64 1"]
) -> FeatureStatistics:
    """Folds one batch of generated frames into statistics that the loop carries."""
    return statistics.update(generator.metric.extract_features(generator(noise)))


def main(steps: int = 30, batch: int = 192) -> list[float]:
    """Trains, and returns the evaluated distances, one every ten steps."""
    rng = np.random.default_rng(0)
    real, noise = (np.float32(moving_digits(rng, 4 * batch, 1)[:, 0]) / 255 for _ in range(2))
    generator = Generator(FrechetDistanceCalculator("digits"), real)
    optimizer = nnx.Optimizer(generator, optax.adam(0.1), wrt=nnx.Param)

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    sharding = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        target = jax.device_put(real[:batch], sharding)

        @nnx.jit
        def training_step(
            generator: Generator, optimizer: nnx.Optimizer, noise: Float[Array, "n 64 64 1"]
        ) -> None:
            """One step down the distance between generated and real frames."""
            loss = lambda generator: generator.metric(generator(noise), target)  # noqa: E731
            optimizer.update(generator, nnx.grad(loss)(generator))

        evaluated = []
        for step in range(steps + 1):
            if step % 10 == 0:
                statistics = generator.metric.empty()
                for rows in np.split(noise, 4):
                    statistics = evaluation_step(
                        generator, statistics, jax.device_put(rows, sharding)
                    )
                distance = srvp_fd_jax.frechet_distance_from_statistics(
                    statistics, generator.reference
                )
                evaluated.append(float(distance))
                print(f"step {step:3}: distance {evaluated[-1]:.3f}", flush=True)
            rows = noise[rng.choice(len(noise), batch, replace=False)]
            training_step(generator, optimizer, jax.device_put(rows, sharding))
    return evaluated


if __name__ == "__main__":
    main()
